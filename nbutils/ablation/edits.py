"""Frozen edits that put values in place of activations, and the edits of many sites at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nbutils.hooks import Edit
from nbutils.sites import Site


@dataclass(frozen=True, eq=False)
class Replace:
    """Edit that puts a value in place of an activation, or of the units of the site where it stands.

    Args:
        value: a number; or a tensor of the site's part, `[1, ...]` for all items or `[items, ...]` for each its own.
        whole: the tensor is one of the whole activation, of which the site takes its part.
    """

    value: Tensor | float = 0.0
    whole: bool = False

    def at(self, site: Site) -> Edit:
        """Return the edit of the site's part."""

        def put(part: Tensor) -> Tensor:
            value = torch.as_tensor(self.value, dtype=part.dtype, device=part.device)
            value = site.select(value) if self.whole and value.ndim else value
            return _fitting(value, part, site).clone()

        return put


@dataclass(frozen=True, eq=False)
class ReplaceEach:
    """Edit that puts a value of its own in place of each unit of the group where it stands.

    Args:
        values: `[units, items, ...]`, or `[units, 1, ...]` for all items; without the axis of the units.
    """

    values: Tensor

    def at(self, site: Site) -> Edit:
        """Return the edit of the group's part."""

        def put(part: Tensor) -> Tensor:
            if self.values.ndim != part.ndim:
                raise ValueError(
                    f"values {tuple(self.values.shape)} of units cannot stand in for {tuple(part.shape)}, {site.name}"
                )
            return _fitting(self.values.movedim(0, site.units_axis(part)).to(part), part, site)

        return put


def _fitting(value: Tensor, part: Tensor, site: Site) -> Tensor:
    """Return a value as a view of the shape of a site's part.

    Raises:
        ValueError: values of other items than the pass has, or of another shape.
    """
    if value.ndim not in (0, part.ndim):  # what broadcasts from the last axis on could mean another axis
        raise ValueError(f"a value {tuple(value.shape)} cannot stand in for {tuple(part.shape)}, {site.name}")
    if value.ndim and len(value) not in (1, len(part)):
        if len(part) == 1 and torch.equal(value, value[:1].expand_as(value)):
            return stand_in(value[:1], part)  # what all items share
        raise ValueError(
            f"values of {len(value)} items cannot stand in for {site.name} in a pass of {len(part)}: give edits "
            "for the items of each batch"
        )
    return stand_in(value, part)


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
    sites: Iterable[str | Site], values: Mapping[Any, Tensor | float] | Tensor | None = None
) -> dict[Site, Replace | ReplaceEach]:
    """Return the edits that replace sites: what `nbutils.edit` takes.

    Args:
        sites: what to replace, names of modules among them.
        values: as from `gather`: by site, or by module for all of its units. As from `src_ablations`: a row or an entry
            per site. None: zeros.

    Returns:
        One edit per place; units of one place go together.

    Raises:
        ValueError: a site without a value, a number of rows that is not that of the sites, a unit twice, or a place
            replaced as a whole and unit by unit.

    >>> import nbutils as nb, torch
    >>> model, sites = torch.nn.Linear(2, 3), [nb.Site("", 0), nb.Site("", 2)]
    >>> with nb.edit(model, nb.edits(sites, torch.ones(2, 1))):
    ...     model(torch.zeros(1, 2))[0, [0, 2]].tolist()
    [1.0, 1.0]
    """
    found: dict[Site, Replace | ReplaceEach] = {}
    groups: dict[Site, list[tuple[Site, Any, bool]]] = {}
    chosen = [Site.of(place) for place in sites]
    if not isinstance(values, Tensor):
        chosen = list(dict.fromkeys(chosen))  # one named twice has one value
    elif len(values) != len(chosen):
        raise ValueError(f"a row for each of the {len(chosen)} sites is needed; got values {tuple(values.shape)}")
    for i, site in enumerate(chosen):
        value, own = (values[i], True) if isinstance(values, Tensor) else _value(site, values)
        groups.setdefault(site.whole, []).append((site, value, own))
    for whole, members in groups.items():
        if len(members) > 1 and any(site.unit is None for site, _, _ in members):
            raise ValueError(f"{whole.name} is to be replaced as a whole and unit by unit; give one or the other")
        units = [unit for site, _, _ in members for unit in site.indices]
        if len(set(units)) < len(units):
            raise ValueError(f"a unit of {whole.name} is to be replaced twice: {sorted(units)}")
        numbers = [
            (site, float(value)) for site, value, _ in members if not isinstance(value, Tensor) or not value.ndim
        ]
        tensors = [(site, value, own) for site, value, own in members if isinstance(value, Tensor) and value.ndim]
        for number in dict.fromkeys(number for _, number in numbers):
            found[_group(whole, [site for site, own in numbers if own == number])] = Replace(number)
        shared = [site for site, _, own in tensors if not own]
        if shared:  # all of them take their part of one value
            found[_group(whole, shared)] = Replace(next(value for _, value, own in tensors if not own), whole=True)
        single = [(site, value) for site, value, own in tensors if own and isinstance(site.unit, int)]
        if len(single) > 1 and len({tuple(value.shape) for _, value in single}) == 1:
            found[_group(whole, [site for site, _ in single])] = ReplaceEach(
                torch.stack([value for _, value in single])
            )
            single = []
        found |= {site: Replace(value) for site, value in single}
        found |= {site: Replace(value) for site, value, own in tensors if own and not isinstance(site.unit, int)}
    return found


def _group(whole: Site, sites: list[Site]) -> Site:
    """Return the units of some sites of one place as one site."""
    if len(sites) == 1:
        return sites[0]
    return replace(whole, unit=tuple(unit for site in sites for unit in site.indices))


def _value(site: Site, values: Mapping[Any, Tensor | float] | None) -> tuple[Tensor | float, bool]:
    """Return a site's value, and whether it is its own, not one of the whole place."""
    if values is None:
        return 0.0, False
    for key, own in ((site, True), (site.whole, False), (site.module, False)):
        if key in values and (key != site.module or site.whole == Site(site.module, axis=site.axis)):
            return values[key], own and site.unit is not None
    raise ValueError(f"no value for {site}; there are values for {', '.join(map(str, values)) or 'none'}")
