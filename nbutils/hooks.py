"""Read and replace activations inside a block: the only place that registers a hook.

`capture` keeps what modules put out, `edit` replaces it with the result of a `Tensor -> Tensor` callable, `watch` calls
back. Each removes its own hooks at the end of its block, after an exception too, and touches nothing else: weights that
are trained inside stay trained, and hooks of others stay. `unchanged` is for what else a block may do to a model.
"""

from __future__ import annotations

import difflib
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Edit = Callable[[Tensor], Tensor]


class UnusedEditWarning(UserWarning):
    """An edit was asked for, but its module never ran inside the block."""


def submodule(model: nn.Module, name: str) -> nn.Module:
    """Return the module at a dotted path; the model itself has none.

    Raises:
        KeyError: there is none; the message lists the nearest names.
    """
    if name:
        try:
            return model.get_submodule(name)
        except AttributeError:
            pass
    names = [candidate for candidate, _ in model.named_modules() if candidate]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:5]
    raise KeyError(f"no module {name!r} in {type(model).__name__}; nearest: {', '.join(near) or 'it has none'}")


class _Captured(dict[str, Tensor]):
    def __missing__(self, name: str) -> Tensor:
        raise KeyError(f"{name!r} has no output of the last forward pass; there are {', '.join(self) or 'none'}")


@contextmanager
def capture(model: nn.Module, *names: str) -> Iterator[dict[str, Tensor]]:
    """Keep the outputs of modules.

    Args:
        model: any module.
        names: dotted module paths, e.g. `"bottleneck"`.

    Yields:
        A dict that each forward pass of the model fills anew: name -> output. Where the pass has a graph the tensors
        are in it, so `torch.autograd.grad(metric, captured[name])` is the gradient at the activation. They are the
        block's own: a later in-place operation of the model does not change them. Passes that another thread makes
        are not seen.

    Raises:
        KeyError: a name is not a module of the model; or, on reading, one that did not run in the last pass.
        TypeError: a captured module puts out something other than a tensor.
        ValueError: a captured module runs more than once in a forward pass: which output is meant?
    """
    captured, thread, passing = _Captured(), threading.get_ident(), False

    def begin(_module: nn.Module, _inputs: object) -> None:
        nonlocal passing
        if threading.get_ident() == thread:
            captured.clear()
            passing = True

    def end(_module: nn.Module, _inputs: object, _output: object) -> None:
        nonlocal passing
        if threading.get_ident() == thread:
            passing = False

    def keeper(name: str) -> Callable[..., Tensor | None]:
        def keep(_module: nn.Module, _inputs: object, output: object) -> Tensor | None:
            # In a backward pass a checkpointed segment runs again: not a pass of the model.
            if threading.get_ident() != thread or torch._C._current_graph_task_id() != -1:
                return None
            # Outside a pass of the whole model, part of it is called by hand, as often as one likes.
            if passing and name in captured:
                raise ValueError(f"{name!r} must run once in a forward pass to be captured; it ran again")
            kept = captured[name] = _tensor(name, output).clone()
            # What goes on depends on what is kept, and is another tensor: what comes after may write into it.
            return kept.clone() if kept.requires_grad else None

        return keep

    modules = [(name, submodule(model, name)) for name in names]
    with ExitStack() as handles:
        handles.enter_context(model.register_forward_pre_hook(begin))
        handles.enter_context(model.register_forward_hook(end, always_call=True))
        for name, module in modules:
            handles.enter_context(module.register_forward_hook(keeper(name)))
        yield captured


@contextmanager
def edit(
    model: nn.Module, edits: Mapping[str, Edit] | None = None, *, inputs: Mapping[str, Edit] | None = None
) -> Iterator[None]:
    """Replace the outputs of modules by `edits[name](output)`, or their first inputs by `inputs[name](input)`.

    Args:
        model: any module. Whoever runs it meets the edits, from another thread too.
        edits: dotted module path -> callable that keeps the shape.
        inputs: likewise, for the first argument of a module.

    Warns:
        UnusedEditWarning: an edit's module did not run inside the block.

    Raises:
        KeyError: a name is not a module of the model.
        TypeError: a module puts out or takes, or an edit returns, something other than a tensor.
        ValueError: an edit changes the shape.
    """
    edits, inputs = edits or {}, inputs or {}
    unused = {*edits, *(f"the input of {name}" for name in inputs)}

    def editor(name: str, function: Edit) -> Callable[..., Tensor]:
        def replace(_module: nn.Module, _inputs: object, output: object) -> Tensor:
            unused.discard(name)
            return _edited(f"the edit at {name!r}", function, _tensor(name, output))

        return replace

    def input_editor(name: str, function: Edit) -> Callable[..., tuple[object, ...]]:
        def replace(_module: nn.Module, arguments: tuple[object, ...]) -> tuple[object, ...]:
            unused.discard(f"the input of {name}")
            first = arguments[0] if arguments else None
            if not isinstance(first, Tensor):
                raise TypeError(
                    f"{name!r} must take a tensor as its first positional argument, to have it edited; "
                    f"got {type(first).__name__ if arguments else 'no positional argument'}"
                )
            return (_edited(f"the edit at the input of {name!r}", function, first), *arguments[1:])

        return replace

    before = [(submodule(model, name), input_editor(name, function)) for name, function in inputs.items()]
    after = [(submodule(model, name), editor(name, function)) for name, function in edits.items()]
    with ExitStack() as handles:
        for module, input_hook in before:
            handles.enter_context(module.register_forward_pre_hook(input_hook))
        for module, hook in after:
            handles.enter_context(module.register_forward_hook(hook))
        yield
    # Reached only when the block raised nothing: a failing block has a better message than this one.
    if unused:
        warnings.warn(
            f"the edit at {', '.join(sorted(unused))} never ran; was the model called inside the block?",
            UnusedEditWarning,
            stacklevel=3,
        )


@contextmanager
def watch(
    model: nn.Module,
    outputs: Mapping[str, Callable[[Any], object]] | None = None,
    *,
    inputs: Mapping[str, Callable[..., object]] | None = None,
) -> Iterator[None]:
    """Call back whenever a module runs, and change nothing: to count runs, note shapes, or stop early by an exception.

    Args:
        model: any module.
        outputs: dotted module path -> called with what the module put out: the very object, not a copy.
        inputs: dotted module path -> called with the module's arguments, before it runs.

    Raises:
        KeyError: a name is not a module of the model.
    """

    def seer(callback: Callable[[Any], object]) -> Callable[..., None]:
        def see(_module: nn.Module, _inputs: object, output: object) -> None:
            callback(output)

        return see

    def input_seer(callback: Callable[..., object]) -> Callable[..., None]:
        def see(_module: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object]) -> None:
            callback(*arguments, **keywords)

        return see

    before = [(submodule(model, name), input_seer(callback)) for name, callback in (inputs or {}).items()]
    after = [(submodule(model, name), seer(callback)) for name, callback in (outputs or {}).items()]
    with ExitStack() as handles:
        for module, hook in before:
            handles.enter_context(module.register_forward_pre_hook(hook, with_kwargs=True))
        for module, hook in after:
            handles.enter_context(module.register_forward_hook(hook))
        yield


@contextmanager
def unchanged(model: nn.Module, weights: bool = False) -> Iterator[None]:
    """Leave a model as it was, whatever happens in the block: training modes and buffers, and torch's random numbers.

    Args:
        model: any module; random numbers are those of the processor and of the model's devices.
        weights: parameters, too: a copy of them is held.
    """
    modes = [(module, module.training) for module in model.modules()]
    kinds = ("_buffers", "_parameters") if weights else ("_buffers",)
    holders: list[dict[str, Tensor | None]] = [getattr(module, kind) for module, _ in modes for kind in kinds]
    held = [dict(holder) for holder in holders]
    saved = {tensor: tensor.detach().clone() for content in held for tensor in content.values() if tensor is not None}
    with _random_numbers(model):
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for holder, content in zip(holders, held, strict=True):
                holder.clear()
                holder.update(content)
            with torch.no_grad():
                for tensor, value in saved.items():
                    if (tensor.dtype, tensor.device, tensor.shape) != (value.dtype, value.device, value.shape):
                        tensor.data = value  # `model.half()` and its like keep the tensor and change what it is
                    elif not torch.equal(tensor, value):
                        tensor.copy_(value)


@contextmanager
def _random_numbers(model: nn.Module) -> Iterator[None]:
    """Put torch's random number generators back."""
    devices = {tensor.device for tensors in (model.parameters(), model.buffers()) for tensor in tensors}
    kinds = {device.type for device in devices if hasattr(getattr(torch, device.type, None), "get_rng_state")} - {"cpu"}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([]))
        for kind in kinds:
            indices = sorted(device.index for device in devices if device.type == kind)
            stack.enter_context(torch.random.fork_rng(indices, device_type=kind))
        yield


def _edited(place: str, function: Edit, before: Tensor) -> Tensor:
    after = function(before)
    if not isinstance(after, Tensor):
        raise TypeError(f"{place} must return a tensor; it returned {type(after).__name__}")
    if after.shape != before.shape:
        raise ValueError(f"{place} must keep the shape {tuple(before.shape)}; it returned {tuple(after.shape)}")
    return after


def _tensor(name: str, output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"{name!r} must put out a tensor to be captured or edited; it put out {type(output).__name__}")
    return output
