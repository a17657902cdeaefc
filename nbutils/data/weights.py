"""Reading weights from untrusted files: code in them is never run, and a mismatch is named.

Files come as other trainers save them. The weights may lie in a dictionary of the file, and their names may begin with
what wrapped the network. Such a dictionary is read, and such a beginning taken off, where everything then fits.
"""

from __future__ import annotations

import pickle  # for the name of its error alone
import re
import threading
import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from nbutils.data import kinds, nested
from nbutils.data.nested import StateError

__all__ = ["LeftAsideWarning", "StateError", "check_tensor", "fill", "find_state", "load_weights", "read_weights"]

Model = TypeVar("Model", bound=nn.Module)

_HOW = "expected tensors by name, saved by torch.save(model.state_dict(), ...) or safetensors"
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
# Values that trainers keep beside weights. Their classes are not made: an empty object takes the place of each.
_BESIDE = re.compile(
    r"argparse\.Namespace|pathlib\.\w+|pathlib\._local\.\w+|_codecs\.encode"
    r"|numpy\._?core\.multiarray\.(scalar|_reconstruct)|numpy\.(dtype|ndarray)|numpy\.dtypes\.\w+"
)
_allowing = threading.Lock()  # torch has one list of what a file may name


class LeftAsideWarning(UserWarning):
    """A file holds other tensors beside the weights, such as an average or an optimizer's."""


def read_weights(path: str | Path) -> dict:
    """Read what `torch.save` or safetensors wrote: a dictionary of tensors, or of dictionaries and lists of them.

    Args:
        path: a file of either kind, whatever its name: its first bytes tell.

    Raises:
        FileNotFoundError: there is no such file.
        StateError: the file is damaged, of another kind (which is named), holds anything but tensors, numbers and
            containers, or no dictionary.
    """
    path = Path(path)
    if path.is_dir():
        raise StateError(f"expected a file of weights at {path}; it is a folder")
    if not path.is_file():
        raise FileNotFoundError(f"expected a state dict at {path}; there is no such file")
    if kinds.is_safetensors(path):
        return _read_safetensors(path)
    if not kinds.is_saved_by_torch(path):
        kind = kinds.describe(path) or "cut short or damaged, or of an unknown kind"
        raise StateError(f"{path} is {kind}; {_HOW}")
    content = _read_saved(path)
    if not isinstance(content, dict):
        raise StateError(f"{path}: expected a state dict (tensors by name); got {type(content).__name__}")
    return content


def load_weights(model: nn.Module, found: Mapping[str, object], path: str | Path) -> None:
    """Copy a state dict into a model of exactly these parameters and buffers.

    Args:
        model: changed in place, and only if everything fits. Counts of batches (`num_batches_tracked`) may be missing.
        found: what was read from `path`: tensors by name, or such a dictionary among others (see `find_state`).
        path: named in errors.

    Raises:
        StateError: one is missing, unknown, no tensor, of the wrong shape or kind, or not finite; or two dictionaries
            fit.

    Warns:
        LeftAsideWarning: dictionaries with other tensors lie beside.
    """
    state = find_state(model, found, path)
    own, where = model.state_dict(), state.where
    unknown = [name for name in state.tensors if name not in own]
    for name, expected in own.items():
        if name not in state.tensors:
            if nested.is_count(name):
                continue
            nearest = _nearest(name, map(str, unknown)).removeprefix("nearest: ")
            got = f"has {nearest} instead" if unknown else f"has {len(state.tensors)} of the {len(own)} parameters"
            raise StateError(f"{where}: expected a parameter {name!r} of shape {tuple(expected.shape)}; the file {got}")
        # A buffer may count, e.g. how many batches a normalisation has seen.
        counts = not expected.is_floating_point()
        check_tensor(state.tensors[name], repr(name), tuple(expected.shape), where, whole=counts, dtype=expected.dtype)
    if unknown:
        raise StateError(f"{where}: {unknown[0]!r} is no parameter of this network; {_nearest(str(unknown[0]), own)}")
    model.load_state_dict(own | state.tensors)
    if state.aside:
        others = ", ".join(map(repr, state.aside))
        warnings.warn(f"{path}: {state.key!r} is read; {others} are not", LeftAsideWarning, stacklevel=2)


def find_state(model: nn.Module, found: Mapping[str, object], path: str | Path) -> nested.State:
    """Return the dictionary that fits a model best, with its names as the model has them.

    Args, raises: as for `load_weights`; but shapes and values of the best one are not checked.
    """
    return nested.choose(model.state_dict(), found, path)


def fill(model: Model, path: str | Path) -> Model:
    """Load a file of weights into a network, all of it or nothing, and return it in eval mode.

    Args, raises, warns: as for `read_weights` and `load_weights`.
    """
    load_weights(model, read_weights(path), path)
    return model.eval()


def check_tensor(
    tensor: object,
    name: str,
    shape: tuple[int, ...],
    path: str | Path,
    *,
    whole: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """Refuse what is not a tensor of finite real numbers, or whole ones, of this shape.

    Args:
        tensor: the value.
        name: of it, for the message.
        shape: expected.
        path: of the file, for the message.
        whole: whether whole numbers are expected.
        dtype: what the numbers become: they must be finite in it too.

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
    numbers = tensor if whole or dtype is None or not tensor.is_floating_point() else tensor.to(dtype)
    if tensor.is_floating_point() == whole or tensor.is_complex() or not numbers.isfinite().all():
        kind, others = ("whole", "") if whole else ("finite real", " with others among them")
        raise StateError(f"{path}: {name} must hold {kind} numbers; got {tensor.dtype}{others}")


class _Unread:
    """Takes the place of a value whose class is not made."""

    def __init__(self, *_: object) -> None: ...
    def __setstate__(self, _: object) -> None: ...


def _read_safetensors(path: Path) -> dict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise StateError(f"{path} is cut short or damaged: no whole safetensors file ({error})") from None


def _read_saved(path: Path) -> object:
    """Read a file of `torch.save`; torch's own words are not repeated, for they advise to run what is in the file."""
    try:
        damaged_member = kinds.damaged_member(path)
    except Exception as error:  # as below
        raise StateError(f"{path} is cut short or damaged ({error}); {_HOW}") from None
    if damaged_member:
        raise StateError(f"{path} is damaged: the checksum of {damaged_member} is not that of its bytes; {_HOW}")
    beside: set[str] = set()
    while True:
        try:
            with path.open("rb") as file:  # of a path torch would go by the name
                if not beside:
                    return torch.load(file, map_location="cpu", weights_only=True)
                with _allowing, torch.serialization.safe_globals([(_Unread, name) for name in sorted(beside)]):
                    return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # the reader meets damaged files with exceptions of many types
            named = _GLOBAL.search(str(error))
            wanted = named[1].rstrip(".") if named else None
            damaged = not isinstance(error, pickle.UnpicklingError)
        if wanted and _BESIDE.fullmatch(wanted) and wanted not in beside:
            beside.add(wanted)
            continue
        if damaged:
            raise StateError(f"{path} is cut short or damaged; {_HOW}")
        reason = f"it holds an object of {wanted}" if wanted else "it holds objects of other kinds"
        raise StateError(f"{path} could not be read as a state dict without running code from it: {reason}; {_HOW}")


def _nearest(name: str, names: Iterable[str]) -> str:
    return f"nearest: {', '.join(map(repr, get_close_matches(name, list(names), n=3, cutoff=0.0)))}"
