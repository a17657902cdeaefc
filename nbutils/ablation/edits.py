"""Frozen edits that put values in place of units, and the edits of many sites at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from nbutils.ablation.sites import Site
from nbutils.hooks import Edit


@dataclass(frozen=True, eq=False)
class Replace:
    """Edit that puts a value in place of units, and leaves the others as they are.

    Args:
        units: indices on `axis`; None for the whole activation.
        value: a number, or a tensor that broadcasts to the activation: `[1, ...]` for all items, `[items, ...]` for
            each its own.
        axis: the axis of the units.
    """

    units: tuple[int, ...] | None
    value: Tensor | float = 0.0
    axis: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        value = torch.as_tensor(self.value, dtype=x.dtype, device=x.device)
        value = stand_in(value, x)
        if self.units is None:
            return value.clone()
        index = torch.tensor(self.units, dtype=torch.long, device=x.device)  # of no units, too
        return x.index_copy(self.axis, index, value.index_select(self.axis, index))


@dataclass(frozen=True, eq=False)
class ReplaceEach:
    """Edit that puts a value of its own in place of each of some units.

    Args:
        units: indices on `axis`.
        values: `[units, items, ...]`, or `[units, 1, ...]` for all items; without the axis of the units.
        axis: the axis of the units.
    """

    units: tuple[int, ...]
    values: Tensor
    axis: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        index = torch.tensor(self.units, dtype=torch.long, device=x.device)  # of no units, too
        like = x.index_select(self.axis, index)
        axis = self.axis % x.ndim
        if self.values.ndim != x.ndim:
            raise ValueError(f"values {tuple(self.values.shape)} cannot stand in for units of {tuple(x.shape)}")
        return x.index_copy(self.axis, index, stand_in(self.values.movedim(0, axis).to(x), like))


def stand_in(value: Tensor, x: Tensor) -> Tensor:
    """Return a value as a view of an activation's shape.

    Raises:
        ValueError: it does not broadcast to that.
    """
    try:
        return value.expand_as(x)
    except RuntimeError:
        raise ValueError(f"a value {tuple(value.shape)} cannot stand in for an activation {tuple(x.shape)}") from None


def edits(
    sites: Iterable[Site], values: Mapping[str, Tensor] | Mapping[Site, Tensor] | Tensor | None = None
) -> dict[str, Edit]:
    """Return one frozen edit a module that replaces its sites' units.

    Args:
        sites: what to replace; those of one module must share their axis.
        values: by module as from `gather`, where a module without one is replaced by zeros; or by source as from
            `src_ablations`, a row or an entry a site.

    Raises:
        ValueError: sites of one module on several axes, a number of rows that is not that of the sites, a whole module
            among its units where values go by source.
    """
    sites = list(sites)
    if isinstance(values, Tensor) and len(values) != len(sites):
        raise ValueError(f"a row for each of the {len(sites)} sites is needed; got values {tuple(values.shape)}")
    rows: list[Tensor] | None = None  # a site each
    by_module: Mapping[str, Tensor] = {}
    if isinstance(values, Tensor):
        rows = list(values)
    elif values and isinstance(next(iter(values)), Site):
        rows = [cast("Mapping[Site, Tensor]", values)[site] for site in sites]
    elif values:
        by_module = cast("Mapping[str, Tensor]", values)
    grouped: dict[str, list[int]] = {}
    for i, site in enumerate(sites):
        grouped.setdefault(site.module, []).append(i)
    found: dict[str, Edit] = {}
    for module, members in grouped.items():
        axes = {sites[i].axis for i in members}
        if len(axes) > 1:
            raise ValueError(f"the sites of {module!r} must share one axis; got {sorted(axes)}")
        axis = axes.pop()
        units = tuple(unit for i in members if (unit := sites[i].unit) is not None)
        whole = len(units) < len(members)
        if rows is None:
            chosen = None if whole else tuple(sorted(set(units)))
            found[module] = Replace(chosen, by_module.get(module, 0.0), axis)
        elif not whole:
            found[module] = ReplaceEach(units, torch.stack([rows[i] for i in members]), axis)
        elif len(members) == 1:
            found[module] = Replace(None, rows[members[0]])
        else:
            raise ValueError(f"{module!r} is to be replaced as a whole and unit by unit; give one or the other")
    return found
