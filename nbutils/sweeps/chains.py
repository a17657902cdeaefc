"""Answers with any one unit replaced, fast: for networks of convolutions, linear layers, ReLU and max-pooling.

`Chain` takes such a network as a list of steps. Up to the next linear step, what follows a layer treats its channels
separately, and that step is linear in each of them: replacing a channel changes the step's output by its weights times
the channel's change. So the network up to there runs once for all units, and only what comes after it runs again,
several units at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nbutils.batches import Batch
from nbutils.sites import Site
from nbutils.sweeps.rows import Fixed, Row, Values, by_place
from nbutils.sweeps.steps import Affine, Step, read

# On the processor:
ITEMS = 32  # a row of 128 bytes; larger batches leave the core's own cache
GROUP_BYTES = 2_000_000  # worked on for one group of units: about a core's own cache

_Pins = dict[int, tuple[Tensor, list[int] | slice]]  # step -> what units of its output are replaced by, and which


@dataclass(frozen=True, eq=False)
class _Work:
    """What is the same for all rows: every step's output, what stands in, and what is replaced throughout."""

    kept: list[Tensor]
    values: Values
    pins: _Pins


class Chain:
    """A model taken as steps. Activations are `[groups, channels, positions, items]`.

    Attributes:
        at: module path -> number of its step, for the layers whose units can be replaced.
        least: bytes that one item needs.
    """

    def __init__(self, steps: list[tuple[str, Step]], sample: Tensor, fixed: Fixed) -> None:
        self.steps = [step for _, step in steps]
        self._fixed = fixed
        self._affine = {at: step for at, step in enumerate(self.steps) if isinstance(step, Affine)}
        self.at = {steps[at][0]: at for at in self._affine}
        self._next = {at: min((other for other in self._affine if other > at), default=None) for at in self._affine}
        columns, outputs, x = [], [], self._enter(sample)
        for step in self.steps:
            unfolded = step.columns(x, x.shape[1]) if isinstance(step, Affine) and step.index is not None else None
            columns.append(0 if unfolded is None else unfolded.nbytes)
            x = step(x)
            outputs.append(x.nbytes)
        # Three times: the inputs', the twins', and the changes'.
        self._item_bytes = 3 * (sum(columns) + sum(outputs))
        # Of one unit, from a step's output on; the first step's output is never a unit's.
        self._tail_bytes = [sum(outputs[at:]) + sum(columns[at + 1 :]) for at in range(len(outputs))]
        self.least = self._item_bytes + self._tail_bytes[0]
        self._cached = sample.device.type == "cpu"  # elsewhere few large products are fast
        self._room = GROUP_BYTES

    @classmethod
    def of(cls, model: nn.Module, sample: Batch, fixed: Fixed) -> Chain | None:
        """Return the model as a chain, or None where it is not one; `sample` is one item `[1, ...]`."""
        steps = read(model, sample) if isinstance(sample, Tensor) else None
        chain = None if steps is None or not isinstance(sample, Tensor) else cls(steps, sample, fixed)
        return chain if chain is not None and all(map(chain.has, fixed.units)) else None

    def has(self, place: Site) -> bool:
        """Return whether units lie there: channels of a convolution, or neurons of a linear layer."""
        return place.module in self.at and (place.part, place.item, place.axis) == ("output", None, 1)

    def holds(self, rows: Sequence[Row]) -> bool:
        """Return whether it can give the answers of a place's rows."""
        return self.has(rows[0].place) and all(len(row.units) == 1 for row in rows)

    def most(self, memory: int) -> int:
        """Return how many items to take at a time so that no more than `memory` bytes are worked on.

        0 where one item needs more: `least` says how much.
        """
        items = memory // self.least
        if self._cached:
            items = min(ITEMS, items)
        elif items > 1:  # half of it for groups of units
            items = min(items, max(1, memory // (2 * self._item_bytes)))
        self._room = memory - items * self._item_bytes
        if self._cached:
            self._room = min(GROUP_BYTES, self._room)
        return items

    def work(self, inputs: Batch, values: Values) -> _Work:
        """Return what is the same for all rows."""
        assert isinstance(inputs, Tensor)
        pins: _Pins = {}
        for place, units in self._fixed.units.items():
            at = self.at[place.module]
            pins[at] = self._laid_out(at, values[place]), slice(None) if units is None else list(units)
        return _Work(self._run(self._enter(inputs), pins), values, pins)

    def outputs(self, work: _Work, rows: Sequence[Row]) -> Generator[Tensor, None, None]:
        """Yield what the model answers, some rows at a time, in their order: `[rows, items, classes]`."""
        for place, some in by_place(rows):
            at = self.at[place.module]
            units = [row.units[0] for row in some]
            for answers in self._replace_each(at, units, self._laid_out(at, work.values[place]), work):
                yield answers[:, :, 0].transpose(1, 2)

    def _replace_each(self, at: int, units: list[int], value: Tensor, work: _Work) -> Generator[Tensor, None, None]:
        output, after = work.kept[at], self._next[at]
        channels, items = output.shape[1], output.shape[-1]
        value = value.expand(1, channels, output.shape[2], -1)
        tail = self._tail_bytes[at if after is None else after]
        group = max(1, min(len(units), self._room // (items * tail)))
        if after is None:
            for first in range(0, len(units), group):
                some = torch.tensor(units[first : first + group], device=output.device)
                x = output.expand(len(some), *output.shape[1:]).clone()
                x[torch.arange(len(some), device=x.device), some] = value[0, some]
                yield self._run(x, work.pins, at + 1)[-1] if at + 1 < len(self.steps) else x
            return
        step = self._affine[after]
        change = value
        before = output
        for between in self.steps[at + 1 : after]:
            change, before = between(change), between(before)
        columns = step.columns(change - before, channels)[0]  # [channels, kernel, out positions · items]
        weight = step.weight.unflatten(1, (channels, -1)).transpose(0, 1).contiguous()
        if units != list(range(channels)):
            columns, weight = columns[units], weight[units]
        base = work.kept[after].flatten(2)
        room = base.new_empty(group, *base.shape[1:])  # taken once: fresh pages cost more than the sums
        for first in range(0, len(units), group):
            count = min(group, len(units) - first)
            some_rows = slice(first, first + count)
            x = torch.baddbmm(base.expand(count, -1, -1), weight[some_rows], columns[some_rows], out=room[:count])
            x = x.view(count, base.shape[1], -1, items)
            self._pin(x, after, work.pins)
            yield self._run(x, work.pins, after + 1)[-1] if after + 1 < len(self.steps) else x

    def _run(self, x: Tensor, pins: _Pins, start: int = 0) -> list[Tensor]:
        kept = []
        for at in range(start, len(self.steps)):
            x = self.steps[at](x)
            self._pin(x, at, pins)
            kept.append(x)
        return kept

    @staticmethod
    def _pin(x: Tensor, at: int, pins: _Pins) -> None:
        if at in pins:  # in place: x is the fresh output of an affine step
            value, units = pins[at]
            x[:, units] = value.expand(1, *x.shape[1:3], -1)[:, units]

    def _laid_out(self, at: int, value: Tensor | float) -> Tensor:
        """Return a value of a module's output `[items, channels, ...]` as `[1, channels, positions, items]`."""
        step = self._affine[at]
        if not isinstance(value, Tensor) or not value.ndim:
            return step.bias.new_full((1, 1, 1, 1), float(value))
        value = (value[..., None] if value.ndim == 2 else value.flatten(2)).to(step.bias)
        if step.places is not None:
            value = value.index_select(2, step.places)
        return value.permute(1, 2, 0).contiguous()[None]

    @staticmethod
    def _enter(x: Tensor) -> Tensor:
        channels = x.shape[1]
        return x.reshape(len(x), -1).T.contiguous().view(1, channels, -1, len(x))
