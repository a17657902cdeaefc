"""The rows of a sweep: which units are replaced in each, and by what."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from nbutils.ablation.edits import stand_in
from nbutils.hooks import Edit
from nbutils.sites import Site

Values = Mapping[Site, Tensor | float]  # whole place -> what stands in: a number, `[1, ...]` or `[items, ...]`


@dataclass(frozen=True, eq=False)
class Row:
    """What is replaced at one time.

    Attributes:
        label: of its site.
        place: the whole site, its axis counted from the front.
        units: indices on that axis.
        shown: what the frame says for them.
    """

    label: Hashable
    place: Site
    units: tuple[int, ...] | range
    shown: int | str


def by_place(rows: Sequence[Row]) -> Iterator[tuple[Site, list[Row]]]:
    """Yield the rows of each place, as they lie beside each other."""
    for place, some in groupby(rows, lambda row: row.place):
        yield place, list(some)


@dataclass(eq=False)
class Exchange:
    """Edit at a whole place: some of its units get their part of a value.

    Attributes:
        place: the whole site.
        value: a number, `[1, ...]` or `[items, ...]`.
        units: which; may change from one run to the next. None: all.
        width: how many units there must be; None: any number.
        ran: how often it was asked.
    """

    place: Site
    value: Tensor | float
    units: Sequence[int] | None = None
    width: int | None = None
    ran: int = field(default=0, init=False)

    def __call__(self, tensor: Tensor) -> Tensor:
        self.ran += 1
        if self.units is None:
            return self._whole(tensor).clone()
        axis = self.place.units_axis(tensor)
        if self.width is not None and tensor.shape[axis] != self.width:
            raise ValueError(
                f"{self.place.name} has {tensor.shape[axis]} units in this batch and {self.width} in the first: a row "
                "would not mean the same in both"
            )
        index = torch.tensor(self.units, device=tensor.device)
        if not isinstance(self.value, Tensor) or not self.value.ndim:
            return tensor.index_fill(axis, index, float(self.value))
        return tensor.index_copy(axis, index, self._whole(tensor).index_select(axis, index))

    def _whole(self, tensor: Tensor) -> Tensor:
        return stand_in(torch.as_tensor(self.value, dtype=tensor.dtype, device=tensor.device), tensor)

    def check(self) -> None:
        """Raise a ValueError unless the place was met once since the last check."""
        if self.ran != 1:
            raise ValueError(
                f"{self.place.module!r} must run once in a forward pass, so that it is clear which tensor is meant; "
                f"it ran {self.ran} times"
            )
        self.ran = 0


@dataclass(frozen=True, eq=False)
class Fixed:
    """Units that are replaced throughout.

    Attributes:
        units: whole place -> indices; None for all of it.
    """

    units: Mapping[Site, tuple[int, ...] | None] = field(default_factory=dict)

    def edits(self, values: Values) -> dict[Any, Edit]:
        """Return what `nbutils.hooks.edit` takes."""
        return {place: Exchange(place, values[place], units) for place, units in self.units.items()}


def part(values: Values, items: slice, of: int) -> dict[Site, Tensor | float]:
    """Return what stands in for some of the `of` items."""
    return {
        place: value[items] if isinstance(value, Tensor) and value.ndim and len(value) == of > 1 else value
        for place, value in values.items()
    }
