"""Reading weights from untrusted files: code in them is never run, and a mismatch is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class StateError(ValueError):
    """A file of weights cannot be used: the message names the file, and the parameter where there is one."""


def read_weights(path: str | Path) -> dict:
    """Read what `torch.save` or safetensors wrote: a dictionary of tensors, or of dictionaries and lists of them.

    Args:
        path: `.safetensors`, or any other name for a file that `torch.save` made.

    Raises:
        FileNotFoundError: there is no such file.
        StateError: the file is damaged, holds anything but tensors and containers, or no dictionary.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a state dict at {path}; there is no such file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise StateError(f"{path} is not a whole safetensors file ({error})") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader meets damaged files with exceptions of many types
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise StateError(
            f"{path} could not be read as a state dict without running code from it; "
            f"expected tensors by name, saved by torch.save(model.state_dict(), ...) or safetensors ({reason[0]})"
        ) from None
    if not isinstance(content, dict):
        raise StateError(f"{path}: expected a state dict (tensors by name); got {type(content).__name__}")
    return content


def load_weights(model: nn.Module, found: Mapping[str, object], path: str | Path) -> None:
    """Copy a state dict into a model of exactly these parameters and buffers.

    Args:
        model: changed in place, and only if everything fits.
        found: tensors by name, as read from `path`.
        path: named in errors.

    Raises:
        StateError: one is missing, unknown, no tensor, of the wrong shape or kind, or not finite.
    """
    own = model.state_dict()
    unknown = [name for name in found if name not in own]
    for name, expected in own.items():
        if name not in found:
            got = f"has {unknown[0]!r} instead" if unknown else f"has {len(found)} of the {len(own)} parameters"
            raise StateError(f"{path}: expected a parameter {name!r} of shape {tuple(expected.shape)}; the file {got}")
        # A buffer may count, e.g. how many batches a normalisation has seen.
        counts = not expected.is_floating_point()
        check_tensor(found[name], repr(name), tuple(expected.shape), path, whole=counts)
    if unknown:
        raise StateError(f"{path}: {unknown[0]!r} is no parameter of this network; {_nearest(unknown[0], own)}")
    model.load_state_dict(found)


def fill(model: Model, path: str | Path) -> Model:
    """Load a file of weights into a network, all of it or nothing, and return it in eval mode.

    Args, raises: as for `read_weights` and `load_weights`.
    """
    load_weights(model, read_weights(path), path)
    return model.eval()


def check_tensor(tensor: object, name: str, shape: tuple[int, ...], path: str | Path, *, whole: bool = False) -> None:
    """Refuse what is not a tensor of finite real numbers, or whole ones, of this shape.

    Raises:
        StateError: names the file, `name` and what is wrong.
    """
    if not isinstance(tensor, Tensor):
        raise StateError(f"{path}: {name} must be a tensor; got {type(tensor).__name__}")
    if tensor.is_nested or tensor.is_meta or tensor.layout != torch.strided:
        found = "a nested one" if tensor.is_nested else "one without values" if tensor.is_meta else tensor.layout
        raise StateError(f"{path}: {name} must be a dense tensor; got {found}")
    if tensor.shape != shape:
        raise StateError(f"{path}: {name} must have shape {shape}; got {tuple(tensor.shape)}")
    if tensor.is_floating_point() == whole or tensor.is_complex() or not tensor.isfinite().all():
        kind, others = ("whole", "") if whole else ("finite real", " with others among them")
        raise StateError(f"{path}: {name} must hold {kind} numbers; got {tensor.dtype}{others}")


def _nearest(name: str, names: Iterable[str]) -> str:
    return f"nearest: {', '.join(get_close_matches(name, names, n=3, cutoff=0.0))}"
