"""Read and replace activations inside a block; nothing outlives it.

`capture` records what modules put out, `edit` replaces it with the result of a `Tensor -> Tensor` callable. On exit,
after an exception too, the model's hooks, weights, buffers and training modes are what they were.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Edit = Callable[[Tensor], Tensor]

_HELD = ("_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks")  # dicts of a module


class UnusedEditWarning(UserWarning):
    """An edit was asked for, but its module never ran inside the block."""


def submodule(model: nn.Module, name: str) -> nn.Module:
    """Return the module at a dotted path.

    Raises:
        KeyError: there is none; the message lists the nearest names.
    """
    modules = dict(model.named_modules())
    if name in modules and name:
        return modules[name]
    names = [candidate for candidate in modules if candidate]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:5]
    raise KeyError(f"no module {name!r} in {type(model).__name__}; nearest: {', '.join(near) or 'it has none'}")


@contextmanager
def capture(model: nn.Module, *names: str) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of modules.

    Args:
        model: any module.
        names: dotted module paths, e.g. `"bottleneck"`.

    Yields:
        A dict that each forward pass fills anew: name -> output. The tensors are copies that keep their gradient, so
        a later in-place operation of the model does not change them.

    Raises:
        KeyError: a name is not a module of the model.
        TypeError: a captured module puts out something other than a tensor.
    """
    captured: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[..., None]:
        def record(_module: nn.Module, _inputs: object, output: object) -> None:
            captured[name] = _tensor(name, output).clone()

        return record

    with _restored(model):
        handles = []
        try:
            for name in names:
                handles.append(submodule(model, name).register_forward_hook(recorder(name)))
            yield captured
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def edit(model: nn.Module, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Replace the outputs of modules by `edits[name](output)`.

    Args:
        model: any module.
        edits: dotted module path -> callable that keeps the shape.

    Warns:
        UnusedEditWarning: an edit's module did not run inside the block.

    Raises:
        KeyError: a name is not a module of the model.
        TypeError: a module puts out, or an edit returns, something other than a tensor.
        ValueError: an edit changes the shape.
    """
    unused = set(edits)

    def editor(name: str, function: Edit) -> Callable[..., Tensor]:
        def replace(_module: nn.Module, _inputs: object, output: object) -> Tensor:
            unused.discard(name)
            before = _tensor(name, output)
            after = function(before)
            if not isinstance(after, Tensor):
                raise TypeError(f"the edit at {name!r} must return a tensor; it returned {type(after).__name__}")
            if after.shape != before.shape:
                raise ValueError(
                    f"the edit at {name!r} must keep the shape {tuple(before.shape)}; it returned {tuple(after.shape)}"
                )
            return after

        return replace

    with _restored(model):
        handles = []
        try:
            for name, function in edits.items():
                handles.append(submodule(model, name).register_forward_hook(editor(name, function)))
            yield
        finally:
            for handle in handles:
                handle.remove()
    # Reached only when the block raised nothing: a failing block has a better message than this one.
    if unused:
        warnings.warn(
            f"the edit at {', '.join(sorted(unused))} never ran; was the model called inside the block?",
            UnusedEditWarning,
            stacklevel=3,
        )


def _tensor(name: str, output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"{name!r} must put out a tensor to be captured or edited; it put out {type(output).__name__}")
    return output


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Put hooks, weights, buffers and training modes back on exit: which tensors there are, and what is in them."""
    modules = [
        (module, module.training, {name: dict(getattr(module, name)) for name in _HELD}) for module in model.modules()
    ]
    tensors = {tensor: tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers())}
    try:
        yield
    finally:
        for module, mode, held in modules:
            module.training = mode
            for name, content in held.items():
                getattr(module, name).clear()
                getattr(module, name).update(content)
        with torch.no_grad():
            for tensor, saved in tensors.items():
                if (tensor.dtype, tensor.device, tensor.shape) != (saved.dtype, saved.device, saved.shape):
                    tensor.data = saved  # `model.half()` and its like keep the tensor and change what it is
                elif not torch.equal(tensor, saved):
                    tensor.copy_(saved)
