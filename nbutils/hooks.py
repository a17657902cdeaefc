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
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nbutils.eager import eager
from nbutils.passes import Passes, backward
from nbutils.seeding import kept
from nbutils.sites import Site, submodule

Edit = Callable[[Tensor], Tensor]
Place = str | Site


class PlacedEdit(Protocol):
    """An edit that depends on the place where it stands.

    It does not write into its argument, and what it returns for a whole place nobody else holds: no copies are made.
    """

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
        ValueError: a module runs more than once in a forward pass and no `call` says which run is meant, or cannot be
            hooked.

    >>> import nbutils as nb, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    >>> with nb.capture(model, "0", nb.Site("1", 2)) as seen:
    ...     _ = model(torch.zeros(4, 2))
    >>> seen["0"].shape, seen[nb.Site("1", 2)].shape
    (torch.Size([4, 3]), torch.Size([4]))
    """
    captured, thread, passes = _Captured(), threading.get_ident(), Passes()

    def begin(_module: nn.Module, _inputs: object) -> None:
        if threading.get_ident() == thread and not passes.running:
            captured.clear()

    def keeper(place: Place, site: Site) -> Edit:
        def keep(tensor: Tensor) -> Tensor:
            # In a backward pass a checkpointed segment runs again: not a pass of the model.
            if threading.get_ident() != thread or backward() or not passes.meant(site, place):
                return tensor
            kept = captured[place] = site.select(tensor).clone()
            # What goes on depends on what is kept, and is another tensor: what comes after may write into it.
            return site.exchange(tensor, kept.clone()) if kept.requires_grad else tensor

        return keep

    sites = {place: _checked(model, Site.of(place)) for place in places}
    for place, (_, site) in sites.items():
        if site.call == "every":
            raise ValueError(f"a capture is of one run: {place!r} needs a number as its call")
    with ExitStack() as handles:
        handles.enter_context(eager)
        handles.enter_context(model.register_forward_pre_hook(begin))
        handles.enter_context(model.register_forward_pre_hook(passes.begin))
        for place, (module, site) in sites.items():
            handles.enter_context(_registered(module, site, keeper(place, site)))
        handles.enter_context(model.register_forward_hook(passes.end, always_call=True))
        handles.enter_context(passes)
        yield captured


@contextmanager
def edit(model: nn.Module, edits: Mapping[Any, Edit | PlacedEdit]) -> Iterator[None]:
    """Replace what is at some places by `edits[place](tensor)`.

    Args:
        model: any module. Whoever runs it meets the edits, from another thread too.
        edits: name of a module or site -> callable that keeps shape and dtype. That of a unit takes its part alone.
            What it is given is its own to write into, and what it returns is copied.

    Warns:
        UnusedEditWarning: an edit's module did not run inside the block.

    Raises:
        KeyError: a name is not a module of the model.
        TypeError: there is no tensor at a place, or an edit returns something else.
        ValueError: an edit changes the shape or dtype, one place is given twice, a module runs more than once in a
            forward pass and no `call` says which run is meant, or cannot be hooked.

    >>> import nbutils as nb, torch
    >>> model = torch.nn.Linear(2, 3)
    >>> with nb.edit(model, {nb.Site("", 1): torch.zeros_like}):
    ...     bool((model(torch.randn(4, 2))[:, 1] == 0).all())
    True
    """
    unused = {Site.of(place): None for place in edits}
    passes = Passes()

    def editor(site: Site, place: Site, function: Edit | PlacedEdit) -> Edit:
        placed = hasattr(function, "at")  # a tenth of the time of `isinstance`, which reads the protocol
        known: Edit = function.at(site) if placed else function  # type: ignore[union-attr, assignment]

        def replace(tensor: Tensor) -> Tensor:
            if not passes.meant(site, place):
                return tensor
            unused.pop(place, None)
            before = site.select(tensor) if placed else site.select(tensor).clone()
            after = known(before)
            _check_kept(before, after, site)
            # What comes after may write into it, and whoever made it may hold it.
            own = placed or after is before or site.unit is not None
            return site.exchange(tensor, after if own else after.clone())

        return replace

    sites = [(Site.of(place), *_checked(model, Site.of(place)), function) for place, function in edits.items()]
    if len({site for _, _, site, _ in sites}) < len(sites):
        raise ValueError(f"a place is edited twice: {', '.join(map(repr, edits))}")
    with ExitStack() as handles:
        handles.enter_context(eager)
        handles.enter_context(model.register_forward_pre_hook(passes.begin))
        for place, module, site, function in sites:
            handles.enter_context(_registered(module, site, editor(site, place, function)))
        handles.enter_context(model.register_forward_hook(passes.end, always_call=True))
        handles.enter_context(passes)
        yield
    # Reached only when the block raised nothing: a failing block has a better message than this one.
    if unused:
        warnings.warn(
            f"the edit at {', '.join(site.name for site in unused)} never ran; was the model called inside the block? "
            "A module whose `forward` or weight is used directly runs no hooks",
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

    before = [(_hookable(model, name), input_seer(callback)) for name, callback in (inputs or {}).items()]
    after = [(_hookable(model, name), seer(callback)) for name, callback in (outputs or {}).items()]
    with ExitStack() as handles:
        handles.enter_context(eager)
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
    # What a scripted module holds cannot be put in another place; its values can change.
    plain = [module for module, _ in modes if not isinstance(module, torch.jit.ScriptModule)]
    holders: list[dict[str, Tensor | None]] = [getattr(module, kind) for module in plain for kind in kinds]
    held = [dict(holder) for holder in holders]
    tensors = (*model.buffers(), *(model.parameters() if weights else ()))
    saved = {tensor: tensor.detach().clone() for tensor in tensors}
    with _random_numbers(model):
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for holder, content in zip(holders, held, strict=True):
                if list(map(id, holder.values())) != list(map(id, content.values())) or list(holder) != list(content):
                    holder.clear()  # only where needed: another thread may be reading
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
        stack.enter_context(kept())
        for kind in kinds:
            indices = sorted(device.index for device in devices if device.type == kind)
            stack.enter_context(torch.random.fork_rng(indices, device_type=kind))
        yield


def _check_kept(before: Tensor, after: object, site: Site) -> None:
    """Refuse what is no tensor of the shape, dtype and device that it stands in for."""
    if not isinstance(after, Tensor):
        raise TypeError(f"the edit at {site.name} must return a tensor; it returned {type(after).__name__}")
    if after.shape != before.shape:
        raise ValueError(
            f"the edit at {site.name} must keep the shape {tuple(before.shape)}; it returned {tuple(after.shape)}"
        )
    if (after.dtype, after.device) != (before.dtype, before.device):
        raise ValueError(
            f"the edit at {site.name} must keep {before.dtype} on {before.device}; "
            f"it returned {after.dtype} on {after.device}"
        )


def _registered(module: nn.Module, site: Site, function: Edit) -> torch.utils.hooks.RemovableHandle:
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

    if site.part == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def _checked(model: nn.Module, site: Site) -> tuple[nn.Module, Site]:
    """Return a site's module, if it can be hooked, and the site as the module makes it."""
    return _hookable(model, site.module), site.on(model)


def _hookable(model: nn.Module, name: str) -> nn.Module:
    """Return a module that meets hooks when the model runs.

    Raises:
        KeyError: no such module.
        ValueError: the module or one around it is scripted, or runs as copies on several devices.
    """
    around: Any = model
    path = "the model"
    for part in (*name.split("."), ""):
        if isinstance(around, torch.jit.ScriptModule):
            what = "the model" if around is model else repr(path)
            raise ValueError(
                f"{f'{name!r} lies in {what}, which' if part else what} is scripted: it runs without Python, and no "
                "hook is met; use the model that was scripted"
            )
        if isinstance(around, nn.DataParallel) and len(around.device_ids) > 1:
            raise ValueError(f"{path!r} runs as copies on {len(around.device_ids)} devices; use its `module`")
        if part:
            around, path = getattr(around, part, None), part if around is model else f"{path}.{part}"
    return submodule(model, name)
