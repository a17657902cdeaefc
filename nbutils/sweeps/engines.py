"""The engines of a sweep: for each place the fastest that can give its answers, and was seen to give the right ones.

An engine is trusted once it has been compared with one whole hooked forward per row, on a few items and rows of each
place. One that fails gives way to that forward, with a warning.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nbutils import batches
from nbutils.batches import Batch
from nbutils.sites import Site
from nbutils.sweeps.chains import Chain
from nbutils.sweeps.hooked import Answer, Hooked
from nbutils.sweeps.pooled import Pooled
from nbutils.sweeps.recording import Mismatch, is_hooked
from nbutils.sweeps.replay import Replay
from nbutils.sweeps.rows import Fixed, Row, Values, by_place, part
from nbutils.sweeps.steps import BETWEEN, LINEAR

COMPARED = 2  # items on which an engine is compared
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the largest answer; of shorter numbers:
CLOSE_SHORT = 2e-2


class EngineWarning(UserWarning):
    """A sweep takes longer than it could, because a fast engine is not to be trusted or cannot read the model."""


class Engine(Protocol):
    """What gives the answers of rows; see `nbutils.sweeps.chains.Chain` for what its methods mean.

    `outputs` is gone through to its end, or closed, before anything else runs the model.
    """

    least: int

    def most(self, memory: int) -> int: ...

    def work(self, inputs: Batch, values: Values) -> Any: ...

    def outputs(self, work: Any, rows: Sequence[Row]) -> Generator[Tensor, None, None]: ...


class Engines:
    """The engine of each place, on inputs of one shape."""

    def __init__(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        fixed: Fixed,
        answer: Answer,
        inputs: Batch,
        values: Values,
        widths: dict[Site, int],
        *,
        of_differences: bool = False,
    ) -> None:
        """Choose them, and compare each with a hooked forward.

        Args:
            model: in eval mode.
            rows: of one place beside each other.
            fixed: what is replaced throughout.
            answer: which tensor of what the model answers is meant.
            inputs: of one batch.
            values: what stands in, for these inputs.
            widths: place -> number of units.
            of_differences: whether nothing but differences between logits counts.
        """
        count = batches.count(inputs)
        some = batches.select(inputs, slice(0, COMPARED))
        replay = Replay(model, widths, fixed, answer, some)
        self.hooked = Hooked(model, widths, fixed, answer, replay.least)
        chain = None
        if rows and all(isinstance(leaf, LINEAR + BETWEEN) for leaf in replay.leaves):
            chain = Chain.of(model, batches.select(inputs, slice(0, 1)), fixed)
            if chain is None:
                _say_why(model)
        self.of: dict[Site, Engine] = {}
        self._right: dict[Site, Tensor] = {}  # answers of hooked forwards to compare with
        for place, mine in by_place(rows):
            engine: Engine = self.hooked
            if chain is not None and chain.holds(mine):
                engine = chain
            elif replay.ends_linearly(place) and (pooled := Pooled.of(model, place, fixed, answer, replay.least, some)):
                engine = pooled
                pooled.of_differences = of_differences
            elif replay.holds(mine):
                engine = replay
            fault = self._fault(engine, mine, some, part(values, slice(0, COMPARED), count))
            if fault is not None and engine is not replay and engine is not self.hooked and replay.holds(mine):
                self._distrust(place, engine, fault)
                engine = replay
                fault = self._fault(engine, mine, some, part(values, slice(0, COMPARED), count))
            if fault is not None:
                self._distrust(place, engine, fault)
                engine = self.hooked
            self.of[place] = engine
        self._check_in_turn(rows, some, part(values, slice(0, COMPARED), count))
        self._right.clear()
        replay.keep(place for place, engine in self.of.items() if engine is replay)

    def most(self, memory: int) -> int:
        """Return how many items to take at a time; 0 where one needs more than `memory` bytes."""
        return min((engine.most(memory) for engine in self.of.values()), default=self.hooked.most(memory))

    @property
    def least(self) -> int:
        """Bytes that one item needs."""
        return max((engine.least for engine in self.of.values()), default=self.hooked.least)

    def outputs(
        self, works: dict[int, Any], inputs: Batch, values: Values, rows: Sequence[Row]
    ) -> Generator[Tensor, None, None]:
        """Yield the answers of rows, some at a time in their order `[rows, items, ...]`.

        Args:
            works: what is the same for all rows, filled here; empty for other inputs.
            inputs: what the model runs on.
            values: what stands in.
            rows: of one place beside each other.
        """
        for place, mine in by_place(rows):
            done = 0
            engine = self.of[place]
            try:
                for found in self._some(engine, works, inputs, values, mine):
                    done += len(found)
                    yield found
            except Mismatch as fault:
                self._distrust(place, engine, str(fault))
                self.of[place] = self.hooked
                yield from self._some(self.hooked, works, inputs, values, mine[done:])

    @staticmethod
    def _some(
        engine: Engine, works: dict[int, Any], inputs: Batch, values: Values, rows: Sequence[Row]
    ) -> Generator[Tensor, None, None]:
        if id(engine) not in works:
            works[id(engine)] = engine.work(inputs, values)
        # Closed at once when the sweep is stopped, because the model is edited until then.
        with closing(engine.outputs(works[id(engine)], rows)) as found:
            yield from found

    def _check_in_turn(self, rows: Sequence[Row], inputs: Batch, values: Values) -> None:
        """Compare once more, all places in their order and with what they share, as in a sweep.

        A module that keeps something where another finds it (an attribute, a list) has it from the rows of the place
        before when `Replay` does not run it.
        """
        works: dict[int, Any] = {}
        replayed = {place: engine for place, engine in self.of.items() if isinstance(engine, Replay)}
        if len(self.of) < 2 or not replayed:
            return
        for place, mine in by_place(rows):
            some = _drawn(mine)
            try:
                found = torch.cat(list(self._some(self.of[place], works, inputs, values, some)))
                fault = self._differ(found, some, inputs, values) if place in replayed else None
            except Mismatch as mismatch:
                fault = str(mismatch)
            if fault is not None:
                self._distrust(place, self.of[place], f"after rows of other places {fault}: modules keep something")
                self.of |= dict.fromkeys(replayed, self.hooked)
                return

    def _fault(self, engine: Engine, rows: list[Row], inputs: Batch, values: Values) -> str | None:
        """Return how an engine differs from a hooked forward on the first row, the last and one drawn; None: not."""
        if engine is self.hooked:
            return None
        some = _drawn(rows)
        try:
            found = torch.cat(list(self._some(engine, {}, inputs, values, some)))
        except Exception as fault:
            list(self._some(self.hooked, {}, inputs, values, some))  # a fault of the model's own is raised as it is
            return f"it raises {type(fault).__name__}: {fault}" if not isinstance(fault, Mismatch) else str(fault)
        return self._differ(found, some, inputs, values, isinstance(engine, Pooled) and engine.of_differences)

    def _differ(
        self, found: Tensor, rows: list[Row], inputs: Batch, values: Values, of_differences: bool = False
    ) -> str | None:
        """Return how answers differ from those of a hooked forward; None: not.

        Raises:
            ValueError: a hooked forward gives other answers each time.
        """
        place = rows[0].place
        if place not in self._right:
            self._right[place] = torch.cat(list(self._some(self.hooked, {}, inputs, values, rows)))
        expected = self._right[place]
        fault = (
            _difference(found - found[..., :1], expected - expected[..., :1])
            if of_differences and found.shape == expected.shape
            else _difference(found, expected)
        )
        if fault is not None:
            again = torch.cat(list(self._some(self.hooked, {}, inputs, values, rows)))
            if _difference(again, expected) is not None:
                raise ValueError(
                    "the model answers the same inputs in another way each time: it draws random numbers in eval mode, "
                    "writes into its inputs, or keeps something from one pass to the next; rows could not be compared"
                )
        return fault

    def _distrust(self, place: Site, engine: Engine, fault: str) -> None:
        _warn(
            f"{place.name}: the engine {type(engine).__name__} is not used, because {fault}; rows there take a whole "
            "forward each, or one from what precedes"
        )


def _drawn(rows: Sequence[Row]) -> list[Row]:
    """Return the first row, the last and one drawn."""
    drawn = random.Random(len(rows)).randrange(len(rows))
    return [rows[at] for at in sorted({0, drawn, len(rows) - 1})]


def _difference(found: Tensor, expected: Tensor) -> str | None:
    """Return how answers differ from those that are right; None: not, but for rounding."""
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return f"it answers {found.dtype} {tuple(found.shape)} where {expected.dtype} {tuple(expected.shape)} is right"
    if not expected.is_floating_point():
        return None if torch.equal(found, expected) else "its answers are others"
    scale = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 1.0
    close = CLOSE.get(expected.dtype, CLOSE_SHORT) * scale
    if torch.allclose(found, expected, rtol=0, atol=close, equal_nan=True):
        return None
    return f"its answers differ by up to {(found - expected).abs().nan_to_num(torch.inf).max().item():.3g}"


def _say_why(model: nn.Module) -> None:
    """Warn of what keeps a model, whose modules are those of a chain, from being read as one."""
    named = list(model.named_modules())
    if found := [name for name, m in named if is_hooked(m)]:
        _warn(f"hooks are left on {_names(found)}: they are met, by a slower engine; remove those that nobody needs")
    elif found := [name for name, m in named if "_orig_mod" in m._modules]:
        _warn(f"{_names(found)} is compiled, and runs without that here, by a slower engine; give the original model")
    elif any(isinstance(m, torch.jit.ScriptModule) for _, m in named):
        return  # its forward is its own
    elif found := [name for name, m in named if "forward" in vars(m)]:
        _warn(f"the forward of {_names(found)} was replaced: it is called, by a slower engine; put the original back")


def _names(found: list[str]) -> str:
    return ", ".join(repr(name) if name else "the model" for name in found[:3]) + ", …" * (len(found) > 3)


def _warn(message: str) -> None:
    warnings.warn(message, EngineWarning, stacklevel=2)
