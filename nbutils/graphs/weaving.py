"""Hooks of a patch in the right order: it sees what sources write after everyone else, and patches before anyone.

An edit inside or around the block is then met: at a source before the patch sees it, at what a destination reads or
computes after the patch. What is left, an edit between them, is found by whoever is told who else has hooks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from weakref import WeakSet

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from nbutils.hooks import Edit, edit, watch
from nbutils.sites import Site, submodule

See = Callable[..., object]

_patched: WeakSet[nn.Module] = WeakSet()


@contextmanager
def woven(
    model: nn.Module,
    *,
    written: Mapping[Site, See],
    read: Mapping[Site, See],
    patches: Mapping[Site, Edit],
    begin: Callable[[list[str]], None],
) -> Iterator[None]:
    """Hook a patch into a model.

    Args:
        model: the graph's.
        written: called with the tensor at a site, all of its units, after all other hooks there; one a module and part.
        read: likewise, before all other hooks there.
        patches: replace what is at a site before all other hooks there.
        begin: called as a pass of the model begins, with the names of the modules that may change what is on the way:
            where others have hooks, or dropout is on.

    Raises:
        ValueError: edges of the model are being patched already.
    """
    if model in _patched:
        raise ValueError("edges of this model are being patched already: give one mask for all of them")
    modules = {site.module: submodule(model, site.module) for site in (*written, *read, *patches)}
    hooked = list({model, *modules.values()})
    late: set[int] = set()
    early: set[int] = set()
    own: set[int] = set()

    def order(*_arguments: Any, **_keywords: Any) -> None:
        for module in modules.values():
            for hooks in (_ordered(module._forward_pre_hooks), _ordered(module._forward_hooks)):
                for key in [key for key in hooks if key in late]:
                    hooks.move_to_end(key)
                for key in [key for key in hooks if key in early][::-1]:
                    hooks.move_to_end(key, last=False)
        begin([name or "the model" for name, module in model.named_modules() if _changes(module, own)])

    _patched.add(model)
    try:
        with (
            _noted(hooked, _watching(model, written), late, own),
            _noted(hooked, _watching(model, read), early, own),
            _noted(hooked, edit(model, patches), early, own),
            _noted(hooked, watch(model, inputs={"": order}), own),
        ):
            yield
    finally:
        _patched.discard(model)


@contextmanager
def _noted(modules: list[nn.Module], block: AbstractContextManager[object], *sets: set[int]) -> Iterator[None]:
    """Enter a block, and note the keys of the hooks that it registers on some modules."""
    before = _all_keys(modules)
    with block:
        for keys in sets:
            keys |= _all_keys(modules) - before
        yield


def _watching(model: nn.Module, sites: Mapping[Site, See]) -> AbstractContextManager[None]:
    """Return the block in which functions are called with the tensors at sites."""

    def output(site: Site, see: See) -> Callable[[object], object]:
        return lambda value: see(site.take(value))

    def argument(site: Site, see: See) -> Callable[..., object]:
        module = submodule(model, site.module)

        def met(*arguments: Any, **keywords: Any) -> None:
            key = site.argument(module, arguments, keywords)
            see(arguments[key] if isinstance(key, int) else keywords[key])

        return met

    outputs = {site.module: output(site, see) for site, see in sites.items() if site.part == "output"}
    inputs = {site.module: argument(site, see) for site, see in sites.items() if site.part == "input"}
    return watch(model, outputs, inputs=inputs)


def _changes(module: nn.Module, own: set[int]) -> bool:
    """Return whether others have hooks on a module, or it is a dropout that is on."""
    dropping = module.training and isinstance(module, _DropoutNd) and module.p > 0
    return dropping or not _keys(module) <= own


def _ordered(hooks: dict[int, Callable[..., Any]]) -> OrderedDict[int, Callable[..., Any]]:
    if not isinstance(hooks, OrderedDict):
        raise TypeError(f"this torch keeps hooks in a {type(hooks).__name__}, where their order cannot be changed")
    return hooks


def _keys(module: nn.Module) -> set[int]:
    return {*module._forward_pre_hooks, *module._forward_hooks}


def _all_keys(modules: list[nn.Module]) -> set[int]:
    return {key for module in modules for key in _keys(module)}
