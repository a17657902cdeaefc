"""What a forward pass does before the first place that is patched: it is not done again but answered.

A batch runs once, clean. In later passes over it every module that had finished when the first patched module started
gives back what it gave then. That holds for modules that run once, put out tensors and are called in the same order
whatever is patched; `Order` finds which do, and `answering` counts their calls.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from nbutils import batches
from nbutils.batches import Batch
from nbutils.hooks import watch


class PrefixWarning(UserWarning):
    """What precedes the patched edges could not be answered from a clean run: the whole model ran for each edge set."""


class OrderError(RuntimeError):
    """Modules ran in another order, or not as often, as in the clean run."""


@dataclass
class Run:
    """What a module did in one forward pass; times count the starts and ends of all modules."""

    calls: int = 0
    started: int = 0
    finished: int = 0
    output: Any = None
    nbytes: int = 0
    largest: int = 0
    inputs: tuple[object, ...] = ()
    passes: bool = False  # puts out the very tensor that it takes: cheaper than to answer


@dataclass(frozen=True)
class Order:
    """When the modules of a model run, and which of them can give back what they gave.

    Attributes:
        started, finished: module path -> time, of the modules that run once.
        per_item: path -> for each tensor that the module puts out, whether its axis 0 is the items (else all items
            share it); of the modules that can be answered.
        bytes_of: path -> bytes per item of what the module puts out.
        largest: bytes per item of the largest tensor that a module puts out.
    """

    started: Mapping[str, int]
    finished: Mapping[str, int]
    per_item: Mapping[str, tuple[bool, ...]]
    bytes_of: Mapping[str, float]
    largest: float

    @classmethod
    def of(cls, model: nn.Module, batch: Batch) -> Order:
        """Run a model on two and on three items of a batch. It must be in eval mode and runs without gradients."""
        items = batches.count(batch)
        two, three = (record(model, batches.select(batch, torch.arange(n) % items), None) for n in (2, 3))
        modules = dict(model.named_modules())
        once = {path: run for path, run in two.items() if run.calls == 1 and three[path].calls == 1}
        per_item = {}
        for path, run in once.items():
            # What has hooks would run them again on what it gives back.
            hooked = modules[path]._forward_hooks or modules[path]._forward_pre_hooks
            flags = _per_item(run.output, three[path].output)
            scripted = isinstance(modules[path], torch.jit.ScriptModule)
            if flags is not None and not (hooked or scripted or run.passes):
                per_item[path] = flags
        return cls(
            {path: run.started for path, run in once.items()},
            {path: run.finished for path, run in once.items()},
            per_item,
            {path: run.nbytes / 2 for path, run in once.items()},
            max((run.largest for run in two.values()), default=0) / 2,
        )

    def nbytes(self, moments: Iterable[int]) -> int:
        """Return the bytes per item that are kept to answer from some moments on."""
        return int(sum(self.bytes_of[path] for path in {path for moment in moments for path in self.before(moment)}))

    def before(self, moment: int) -> list[str]:
        """Return the modules to be answered for what starts at a moment: none that lies in another of them."""
        found: dict[str, None] = {}
        for path in self.per_item:  # outer modules come first
            outer = path.split(".")
            inside = any(".".join(outer[:depth]) in found for depth in range(1, len(outer)))
            if not inside and self.finished[path] < moment:
                found[path] = None
        return list(found)

    def agrees(self, runs: Mapping[str, Run]) -> bool:
        """Return whether modules ran in this order in another pass."""
        return all(
            runs[path].calls == 1 and (runs[path].started, runs[path].finished) == (start, self.finished[path])
            for path, start in self.started.items()
        )


def record(
    model: nn.Module, batch: Batch, keep: Iterable[str] | None, answers: list[Any] | None = None
) -> dict[str, Run]:
    """Run a model and return what each of its modules did, by path.

    Args:
        keep: modules whose outputs are copied; None: the outputs' shapes are kept, of all.
        answers: the model's own output is appended to it.
    """
    clock, kept = count(), None if keep is None else set(keep)
    runs: dict[str, Run] = {path: Run() for path, _ in model.named_modules() if path}

    def start(run: Run, *inputs: object, **_keywords: object) -> None:
        run.calls += 1
        run.inputs = inputs
        run.started = next(clock)

    def finish(path: str, output: Any) -> None:
        run = runs[path]
        run.finished = next(clock)
        run.passes, run.inputs = any(output is one for one in run.inputs), ()
        if kept is None:
            tensors = leaves(output)
            run.output = None if tensors is None else [tuple(tensor.shape) for tensor in tensors]
            sizes = [tensor.nbytes for tensor in tensors or ()]
            run.nbytes, run.largest = sum(sizes), max(sizes, default=0)
        elif path in kept:
            run.output = mapped(output, Tensor.clone)

    ends = {path: partial(finish, path) for path in runs}
    with watch(model, ends, inputs={path: partial(start, run) for path, run in runs.items()}):
        output = batches.run(model, batch)
    if answers is not None:
        answers.append(output)
    return runs


@dataclass
class Prefix:
    """A clean run of one batch, and passes over the same batch that begin where something is patched.

    Attributes:
        output: what the model put out.
        nbytes: of all that is kept.
    """

    model: nn.Module
    order: Order
    kept: Mapping[str, Any]
    output: Any
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.nbytes = sum(tensor.nbytes for value in self.kept.values() for tensor in leaves(value) or ())

    @classmethod
    def of(cls, model: nn.Module, batch: Batch, order: Order, moments: Iterable[int]) -> Prefix:
        """Run a batch, and keep what the modules gave that are answered from some moments on.

        Raises:
            OrderError: the modules run in another order than on the items that the order is from.
        """
        keep = {path for moment in moments for path in order.before(moment)}
        answers: list[Any] = []
        runs = record(model, batch, keep, answers)
        if not order.agrees(runs):
            raise OrderError("the order in which modules run depends on the inputs")
        return cls(model, order, {path: runs[path].output for path in keep}, answers[0])

    @contextmanager
    def answering(self, moment: int, times: int) -> Iterator[None]:
        """Have the modules that finished before a moment give back what they gave, on the batch repeated.

        Raises:
            OrderError: at the end, one of them was not called exactly once.
        """
        modules = {path: self.model.get_submodule(path) for path in self.order.before(moment)}
        calls = dict.fromkeys(modules, 0)

        def stand_in(path: str) -> Callable[..., Any]:
            flags = self.order.per_item[path]

            def give(*_inputs: object, **_keywords: object) -> Any:
                calls[path] += 1
                each = iter(flags)  # what comes after may write into what is given: always a copy
                return mapped(self.kept[path], lambda tensor: _repeated(tensor, times if next(each) else 1))

            return give

        own = {path: vars(module).get("forward") for path, module in modules.items()}
        try:
            for path, module in modules.items():
                module.forward = stand_in(path)
            yield
        finally:
            for path, forward in own.items():
                del modules[path].forward
                if forward is not None:
                    modules[path].forward = forward
        for path, times_called in calls.items():
            if times_called != 1:
                raise OrderError(f"{path!r} ran once in the clean run, and {times_called} times in one that is patched")


def leaves(value: Any) -> list[Tensor] | None:
    """Return the tensors in what a module put out; None where there is anything that cannot be copied."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    try:
        mapped(value, note)
    except TypeError:
        return None
    return found


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return what a module put out with a function applied to its tensors.

    Raises:
        TypeError: it holds something else than tensors, numbers and text in tuples, lists and mappings.
    """
    if isinstance(value, Tensor):
        return function(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        made = copy.copy(value)
        for key, part in value.items():
            made[key] = mapped(part, function)  # type: ignore[index]  # dicts and ModelOutputs can be written to
        return made
    if isinstance(value, tuple | list):
        parts = [mapped(part, function) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    raise TypeError(f"a {type(value).__name__} cannot be copied")


def _per_item(two: list[tuple[int, ...]] | None, three: list[tuple[int, ...]] | None) -> tuple[bool, ...] | None:
    """Return for each tensor whether axis 0 follows the number of items; None where another axis does."""
    if two is None or three is None or len(two) != len(three):
        return None
    flags = []
    for a, b in zip(two, three, strict=True):
        if a != b and ((a[:1], b[:1]) != ((2,), (3,)) or a[1:] != b[1:]):
            return None
        flags.append(a != b)
    return tuple(flags)


def _repeated(tensor: Tensor, times: int) -> Tensor:
    return tensor.clone() if times == 1 else tensor.repeat(times, *[1] * (tensor.ndim - 1))
