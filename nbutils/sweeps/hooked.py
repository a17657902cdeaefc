"""Answers with units replaced, for any model: one whole hooked forward for each row. What other engines must equal."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from torch import Tensor, nn

from nbutils import batches, devices
from nbutils.batches import Batch
from nbutils.hooks import edit
from nbutils.sweeps.rows import Exchange, Fixed, Row, Values, by_place

ITEMS = 256  # at a time, on the processor

Answer = Callable[[Any, int], Tensor]  # what a model answered, number of items -> the tensor that metrics are of


def items_at_most(model: nn.Module) -> int:
    """Return how many items to take at a time, whatever the memory: more than the processor's are fast elsewhere."""
    return ITEMS if devices.of(model).type == "cpu" else 1 << 62


class Hooked:
    """Any model, run as a whole.

    Attributes:
        least: bytes that one item needs.
    """

    def __init__(self, model: nn.Module, widths: dict[Any, int], fixed: Fixed, answer: Answer, least: int) -> None:
        self.model, self.least = model, least
        self._widths, self._fixed, self._answer = widths, fixed, answer

    def most(self, memory: int) -> int:
        """As `Chain.most`."""
        return min(items_at_most(self.model), memory // max(1, self.least))

    def work(self, inputs: Batch, values: Values) -> tuple[Batch, Values]:
        """As `Chain.work`."""
        return inputs, values

    def outputs(self, work: tuple[Batch, Values], rows: Sequence[Row]) -> Generator[Tensor, None, None]:
        """As `Chain.outputs`."""
        inputs, values = work
        items = batches.count(inputs)
        with edit(self.model, self._fixed.edits(values)):
            for place, some in by_place(rows):
                exchange = Exchange(place, values[place], (), self._widths[place])
                with edit(self.model, {place: exchange}):
                    for row in some:
                        exchange.units = row.units
                        answered = batches.run(self.model, inputs)
                        exchange.check()
                        yield self._answer(answered, items)[None]

    def intact(self, inputs: Batch, values: Values) -> Tensor:
        """Return what the model answers with no more replaced than what is fixed."""
        with edit(self.model, self._fixed.edits(values)):
            return self._answer(batches.run(self.model, inputs), batches.count(inputs))
