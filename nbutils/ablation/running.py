"""One runner: a model in eval mode on batches of any kind, what is at some sites shown on the way, and checked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nbutils import batches as kinds
from nbutils.batches import Batch
from nbutils.hooks import submodule, unchanged, watch
from nbutils.sites import Site

UNMET = (
    "another module may call its `forward` or use its weight directly (as attention does with its output projection, "
    "of which the attention module's output is what it puts out), or this path is not taken"
)
TOLERANCE = 0.05  # of the norm; eight bits, or items that differ in how a kernel cuts them up, stay below
See = Callable[[Site, Tensor], None]


class Runner:
    """Runs a model on batches, and shows each site's tensor, `[items, ...]`, once per batch. `running` makes it."""

    def __init__(self, model: nn.Module, sites: Iterable[Site], see: See) -> None:
        self._model, self._see = model, see
        self._sites = {site: site.on(model) for site in sites}
        self._runs = dict.fromkeys(self._sites, 0)
        self._lengths: dict[Site, int] = {}
        self._some: dict[Site, Tensor] = {}  # what is there for the items that are run again alone
        self._items, self._checked, self._checking, self._thread = 0, False, False, threading.get_ident()
        if every := [site for site in self._sites if site.call == "every"]:
            raise ValueError(f"one run of a module is meant: {every[0]!r} needs a number as its call")

    def __call__(self, batch: Batch) -> Any:
        """Run the model on one batch and return its answer.

        Raises:
            TypeError: a batch of another kind, or no tensor at a site.
            ValueError: a module that does not run exactly once, or items on another axis than 0.
        """
        answer = self._run(batch)
        if not self._checked:
            self._check(batch)
        return answer

    def _run(self, batch: Batch) -> Any:
        self._items = kinds.count(batch)
        self._runs.update(dict.fromkeys(self._runs, 0))
        answer = kinds.run(self._model, batch)
        for site, times in self._runs.items():
            if times != 1 and site.call is None:
                hint = f"give Site({site.module!r}, call=…), 0 to {times - 1}" if times else UNMET
                raise ValueError(
                    f"{site.module!r} must run once in a forward pass, so that it is clear which tensor is meant; "
                    f"it ran {times} times: {hint}"
                )
            if site.call is not None and times <= int(site.call):
                raise ValueError(f"{site.module!r} ran {times} times in a forward pass, and has no call {site.call}")
        return answer

    def _check(self, batch: Batch) -> None:
        """Run some items alone: what is there for them must be the same, and its axis 0 follow their number, or stay 1.

        Raises:
            ValueError: axis 0 is not the items, or an item depends on the others.
        """
        first, lengths, some = self._items, dict(self._lengths), dict(self._some)
        index = _few(first)
        self._checking = True
        try:
            self._run(kinds.select(batch, index))
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"the model runs on {first} items, and not on {len(index)} of them: axis 0 of all tensors of a batch "
                f"must be the items, and their number free; got {kinds.shapes(batch)}"
            ) from error
        finally:
            self._checking = False
        for site, length in lengths.items():
            if (length, self._lengths[site]) not in ((first, len(index)), (1, 1)):
                raise ValueError(
                    f"{site.name} has {length} on axis 0 for {first} items and {self._lengths[site]} for {len(index)}: "
                    "axis 0 must be the items"
                )
            before, after = some[site], self._some[site]
            if self._lengths[site] == 1:  # shared by all items
                before = before[:1]
                if before.shape != after.shape:
                    raise ValueError(
                        f"{site.name} is {tuple(before.shape)} for {first} items and {tuple(after.shape)} for "
                        f"{len(index)}: axis 0 must be the items, or 1 for what all items share"
                    )
            if differ(before, after):
                raise ValueError(
                    f"{site.name} has other values for {len(index)} items alone than for the same among {first}: axis "
                    "0 must be the items, each by itself, and nothing drawn at random"
                )
        self._checked = True
        self._some.clear()

    def watchers(self) -> tuple[dict[str, Callable[..., None]], dict[str, Callable[..., None]]]:
        """Return what `nbutils.hooks.watch` calls back, by module: for outputs, and for inputs."""
        outputs: dict[str, Callable[..., None]] = {}
        inputs: dict[str, Callable[..., None]] = {}
        for name in dict.fromkeys(site.module for site in self._sites):
            here = [site for site in self._sites if site.module == name]
            put_out = [site for site in here if site.part == "output"]
            taken = [site for site in here if site.part == "input"]
            if put_out:
                outputs[name] = partial(self._meet_all, put_out)
            if taken:
                inputs[name] = self._input_watcher(submodule(self._model, name), taken)
        return outputs, inputs

    def _meet_all(self, sites: list[Site], output: object) -> None:
        for site in sites:
            self._met(site, site.take(output))

    def _input_watcher(self, module: nn.Module, sites: list[Site]) -> Callable[..., None]:
        def see(*arguments: Any, **keywords: Any) -> None:
            for site in sites:
                key = site.argument(module, arguments, keywords)
                self._met(site, arguments[key] if isinstance(key, int) else keywords[key])

        return see

    def _met(self, site: Site, tensor: Tensor) -> None:
        if threading.get_ident() != self._thread:  # someone else's pass
            return
        self._runs[site] += 1
        if self._runs[site] != 1 + int(site.call or 0):
            return
        length = self._lengths[site] = len(tensor) if tensor.ndim else 0
        if not self._checked:
            few = _few(self._items) if length == self._items and not self._checking else torch.arange(length)
            self._some[site] = tensor.detach().index_select(0, few.to(tensor.device)) if tensor.ndim else tensor
        if self._checking:
            return
        tensor = tensor.detach()  # a view of a weight requires gradients, without a graph too
        if length not in (1, self._items):
            raise ValueError(
                f"{site.name} is {tuple(tensor.shape)} for {self._items} items: axis 0 must be the items, or 1 for "
                "what all items share"
            )
        self._see(site, tensor if length == self._items else tensor.expand(self._items, *tensor.shape[1:]))


def _few(items: int) -> torch.Tensor:
    """Return which items are run again alone: another number of them than before."""
    return torch.arange(2) if items > 2 else torch.arange(items + 1) % items


def differ(one: Tensor, other: Tensor) -> bool:
    """Return whether values of the same items are others: by more than kernels for another number of items do."""
    if one.shape != other.shape or not one.is_floating_point():
        return False
    one, other = one.double(), other.double()
    return bool((one - other).norm() > TOLERANCE * one.norm())  # False for NaN


def answer(model: nn.Module, batch: Batch, item: int | str | None = None) -> Tensor:
    """Return the tensor that a model answers to a batch.

    Args, raises: as for `answered`.
    """
    return answered(model, kinds.run(model, batch), item)


def answered(model: nn.Module, given: object, item: int | str | None = None) -> Tensor:
    """Return the tensor that a model answers with, from what it put out.

    Args:
        item: which of several it is, its place or its key. None: the tensor itself, what is called `logits`, or the
            only tensor.

    Raises:
        TypeError: there is none, or there are several and it is not said which.
    """
    if isinstance(given, Tensor) or item is not None:
        return Site("", item=item).take(given)
    named: dict[Any, Any] = dict(given) if isinstance(given, Mapping) else {}
    if isinstance(given, tuple | list):
        named = dict(zip(getattr(given, "_fields", range(len(given))), given, strict=True))
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if "logits" in tensors:
        return tensors["logits"]
    if len(tensors) != 1:
        told = f"tensors at {', '.join(map(repr, tensors))}: give item=, one of them" if tensors else "no tensor"
        raise TypeError(
            "a model answers with one tensor, or with several of which one is called 'logits'; "
            f"{type(model).__name__} puts out a {type(given).__name__} with {told}"
        )
    return next(iter(tensors.values()))


@contextmanager
def running(model: nn.Module, sites: Iterable[Site], see: See) -> Iterator[Runner]:
    """Give a runner; the model is in eval mode, without gradients, and left as it was.

    Args:
        model: any module.
        sites: places, whole: units do not count.
        see: called with a site and the tensor there, `[items, ...]`: the very one, not a copy,
            unless all items share it.

    Raises:
        KeyError: no such module.
        ValueError: a module that puts items on another axis, or cannot be hooked.
    """
    runner = Runner(model, sites, see)
    outputs, inputs = runner.watchers()
    with watch(model, outputs, inputs=inputs), unchanged(model), torch.no_grad():
        try:
            model.eval()
        except NotImplementedError as error:
            raise ValueError(
                f"{type(model).__name__} has no eval mode, as one that was exported: use the model from before "
                f"({error})"
            ) from error
        yield runner
