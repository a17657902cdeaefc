"""Read and replace activations inside a block: the only place that registers a hook.

`capture` keeps what is at a place, `edit` replaces it with the result of a `Tensor -> Tensor` callable, `watch` calls
back. A place is a module's name, for its output, or a `Site`. Each removes its own hooks at the end of its block, after
an exception too, and touches nothing else: weights that are trained inside stay trained, and hooks of others stay.
`unchanged` is for what else a block may do to a model.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nbutils.sites import Site, submodule

Edit = Callable[[Tensor], Tensor]
Place = str | Site


@runtime_checkable
class PlacedEdit(Protocol):
    """An edit that depends on the place where it stands."""

    def at(self, site: Site) -> Edit:
        """Return the edit for a site, whose axis is that of the model's module."""


class UnusedEditWarning(UserWarning):
    """An edit was asked for, but its module never ran inside the block."""


class _Captured(dict[Place, Tensor]):
    def __missing__(self, place: Place) -> Tensor:
        there = ", ".join(map(str, self)) or "none"
        raise KeyError(f"{place!r} has no output of the last forward pass; there are {there}")


@contextmanager
def capture(model: nn.Module, *places: Place) -> Iterator[dict[Place, Tensor]]:
    """Keep what is at some places.

    Args:
        model: any module.
        places: names of modules, e.g. `"bottleneck"`, or sites.

    Yields:
        A dict that each forward pass of the model fills anew: place -> tensor. Where the pass has a graph the tensors
        are in it, so `torch.autograd.grad(metric, captured[place])` is the gradient at the activation. They are the
        block's own: a later in-place operation of the model does not change them. Passes that another thread makes
        are not seen.

    Raises:
        KeyError: a name is not a module of the model; or, on reading, one that did not run in the last pass.
        TypeError: there is no tensor at a place, or several.
        ValueError: a module runs more than once in a forward pass (which output is meant?), or cannot be hooked.

    >>> import nbutils as nb, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    >>> with nb.capture(model, "0", nb.Site("1", 2)) as seen:
    ...     _ = model(torch.zeros(4, 2))
    >>> seen["0"].shape, seen[nb.Site("1", 2)].shape
    (torch.Size([4, 3]), torch.Size([4]))
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

    def keeper(place: Place, site: Site) -> Edit:
        def keep(tensor: Tensor) -> Tensor:
            # In a backward pass a checkpointed segment runs again: not a pass of the model.
            if threading.get_ident() != thread or torch._C._current_graph_task_id() != -1:
                return tensor
            # Outside a pass of the whole model, part of it is called by hand, as often as one likes.
            if passing and place in captured:
                raise ValueError(f"{place!r} must run once in a forward pass to be captured; it ran again")
            kept = captured[place] = site.select(tensor).clone()
            # What goes on depends on what is kept, and is another tensor: what comes after may write into it.
            return site.exchange(tensor, kept.clone()) if kept.requires_grad else tensor

        return keep

    sites = [(place, Site.of(place).on(model)) for place in places]
    with ExitStack() as handles:
        handles.enter_context(_hookable(model, [site for _, site in sites]))
        handles.enter_context(model.register_forward_pre_hook(begin))
        handles.enter_context(model.register_forward_hook(end, always_call=True))
        for place, site in sites:
            handles.enter_context(_registered(model, site, keeper(place, site)))
        yield captured


@contextmanager
def edit(model: nn.Module, edits: Mapping[Any, Edit | PlacedEdit]) -> Iterator[None]:
    """Replace what is at some places by `edits[place](tensor)`.

    Args:
        model: any module. Whoever runs it meets the edits, from another thread too.
        edits: name of a module or site -> callable that keeps the shape. That of a unit takes its part alone.

    Warns:
        UnusedEditWarning: an edit's module did not run inside the block.

    Raises:
        KeyError: a name is not a module of the model.
        TypeError: there is no tensor at a place, or an edit returns something else.
        ValueError: an edit changes the shape, or a module cannot be hooked.

    >>> import nbutils as nb, torch
    >>> model = torch.nn.Linear(2, 3)
    >>> with nb.edit(model, {nb.Site("", 1): torch.zeros_like}):
    ...     bool((model(torch.randn(4, 2))[:, 1] == 0).all())
    True
    """
    unused = {Site.of(place): None for place in edits}

    def editor(site: Site, place: Site, function: Edit | PlacedEdit) -> Edit:
        known = function.at(site) if isinstance(function, PlacedEdit) else function

        def replace(tensor: Tensor) -> Tensor:
            unused.pop(place, None)
            before = site.select(tensor)
            after = known(before)
            if not isinstance(after, Tensor):
                raise TypeError(f"the edit at {site.name} must return a tensor; it returned {type(after).__name__}")
            if after.shape != before.shape:
                raise ValueError(
                    f"the edit at {site.name} must keep the shape {tuple(before.shape)}; "
                    f"it returned {tuple(after.shape)}"
                )
            return site.exchange(tensor, after)

        return replace

    sites = [(Site.of(place), Site.of(place).on(model), function) for place, function in edits.items()]
    with ExitStack() as handles:
        handles.enter_context(_hookable(model, [site for _, site, _ in sites]))
        for place, site, function in sites:
            handles.enter_context(_registered(model, site, editor(site, place, function)))
        yield
    # Reached only when the block raised nothing: a failing block has a better message than this one.
    if unused:
        warnings.warn(
            f"the edit at {', '.join(site.name for site in unused)} never ran; was the model called inside the block?",
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
        outputs: name of a module -> called with what the module put out: the very object, not a copy.
        inputs: name of a module -> called with the module's arguments, before it runs.

    Raises:
        KeyError: a name is not a module of the model.
        ValueError: a module cannot be hooked.
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
        handles.enter_context(_hookable(model, [Site(name) for name in (*(inputs or ()), *(outputs or ()))]))
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

    >>> import nbutils as nb, torch
    >>> model = torch.nn.Dropout()
    >>> with nb.unchanged(model):
    ...     _ = model.eval()
    >>> model.training
    True
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


def _registered(model: nn.Module, site: Site, function: Edit) -> torch.utils.hooks.RemovableHandle:
    """Have a function exchange the tensor at a site, all of its units; the function may return the very tensor."""

    def after(_module: nn.Module, _inputs: object, output: Any) -> Any:
        tensor = site.take(output)
        changed = function(tensor)
        return None if changed is tensor else site.put(output, changed)

    def before(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        key = site.argument(module, arguments, keywords)
        tensor = arguments[key] if isinstance(key, int) else keywords[key]
        changed = function(tensor)
        if changed is tensor:
            return None
        if isinstance(key, int):
            return (*arguments[:key], changed, *arguments[key + 1 :]), keywords
        return arguments, {**keywords, key: changed}

    module = submodule(model, site.module)
    if site.part == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


# What runs other code than the modules' ----------------------------------------------------------------------------


class _Unfused:
    """Keeps torch's fused attention, which runs no hooks, off while any block of whatever thread asks for it."""

    def __init__(self) -> None:
        self._lock, self._blocks, self._before = threading.Lock(), 0, True

    def __enter__(self) -> None:
        with self._lock:
            if not self._blocks:
                self._before = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            self._blocks += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                torch.backends.mha.set_fastpath_enabled(self._before)


_unfused = _Unfused()


@contextmanager
def _hookable(model: nn.Module, sites: list[Site]) -> Iterator[None]:
    """Make a model run its modules one by one, so that hooks are met.

    Raises:
        ValueError: a module inside a scripted one, which runs without Python.
    """
    compiled = fused = False
    for module in model.modules():
        compiled |= "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
        fused |= isinstance(module, nn.MultiheadAttention)
    for site in sites:
        path = site.module.split(".") if site.module else []
        for depth in range(len(path)):
            outer = submodule(model, ".".join(path[:depth]))
            if isinstance(outer, torch.jit.ScriptModule):
                raise ValueError(
                    f"{site.module!r} lies in {'.'.join(path[:depth]) or 'the model'!r}, which is scripted: it runs "
                    "without Python, and no hook is met; use the model that was scripted"
                )
    with ExitStack() as stack:
        if compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if fused:
            stack.enter_context(_unfused)
        yield
