"""What stands in for activations under an ablation type: for each site, over batches.

`gather` watches the model run (`nbutils.ablation.running`), in eval mode, and leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nbutils import batches as kinds
from nbutils.ablation.edits import stand_in
from nbutils.ablation.running import running
from nbutils.ablation.types import AblationType, Where
from nbutils.batches import Batch
from nbutils.data.pairs import PairLoader
from nbutils.sites import Site


def gather(
    model: nn.Module,
    sites: Iterable[str | Site],
    ablation: AblationType,
    batches: Iterable[Batch] | PairLoader = (),
    *,
    where: Where | None = None,
) -> dict[Any, Tensor]:
    """Return what replaces sites under an ablation type: what `edits` takes.

    Means over a dataset are summed in float64 batch by batch, so memory does not grow with the data, and neither the
    batch size nor an unequal last batch shows in them. The model runs in eval mode and is left as it was.

    Args:
        model: any module.
        sites: places, names of modules among them.
        ablation: what replaces activations; one that needs nothing does not touch `batches`.
        batches: a list of batches or a `DataLoader`: the twins, in order, for `RESAMPLE`; the inputs to average over;
            or for a mean over a dataset a `PairLoader`, of which the type takes the clean inputs, the corrupt ones or
            both.
        where: for means: which positions of a batch count, booleans (or 0 and 1) `[items, positions]`: the key of a
            batch's mask, e.g. `"attention_mask"`, or a callable of the batch.

    Returns:
        Each site, as it was given -> what `Replace` puts there: a number, or `[1, ...]` for a mean over a dataset,
        `[items, ...]` for what depends on the batch. For a unit its part alone. `MEAN` and `OPTIMAL` have length 1 at
        positions, too. Under `OPTIMAL` every site is one of its own: a module has one vector, found for all units
        together, a unit a number, found for it alone.

    Raises:
        KeyError: no such module.
        TypeError: a batch of another kind, or no tensor at a site.
        ValueError: no data, a module that does not run exactly once, items on another axis than 0, outputs of several
            shapes where one is needed, a mask that does not fit, or a `PairLoader` for a type that takes inputs.

    >>> import nbutils as nb, torch
    >>> model = torch.nn.Linear(2, 3)
    >>> values = nb.gather(model, [nb.Site("", 1)], nb.AblationType.TOKENWISE_MEAN_CLEAN, [torch.randn(8, 2)])
    >>> with nb.edit(model, nb.edits(list(values), values)):
    ...     model(torch.randn(4, 2))[:, 1].unique().numel()
    1
    """
    places: dict[Any, Site] = {place: Site.of(place) for place in sites}
    wholes = dict.fromkeys(site.whole for site in places.values())
    if ablation.needs == "nothing":
        for site in places.values():
            site.on(model)
        return {place: torch.tensor(ablation.constant) for place in places}
    if ablation.site_by_site:
        fitted = ablation.fit(model, list(dict.fromkeys(places.values())), _again(batches), where)
        return {place: fitted[site] for place, site in places.items()}
    collect = _over_dataset if ablation.needs == "dataset" else _over_batches
    found = collect(model, list(wholes), ablation, _inputs(batches, ablation), where)
    return {place: site.on(model).select(found[site.whole]) for place, site in places.items()}


def gather_alone(
    model: nn.Module,
    sites: Iterable[Site],
    ablation: AblationType,
    batches: Iterable[Batch] | PairLoader = (),
    *,
    together: Iterable[Site] = (),
    where: Where | None = None,
) -> dict[Site, Tensor]:
    """Return one value of each whole place, of which each unit takes its part where it is replaced alone.

    For most types that is the value of the whole place. Under one that is found site by site (`OPTIMAL`) it is put
    together from those of the units; units that are not asked for are NaN.

    Args:
        sites: units and groups; a site without a unit stands for each of its units.
        together: sites that are replaced as they are: one without a unit as a whole.
        others: as for `gather`.

    Returns:
        Whole place -> what stands in there, as from `gather`.

    Raises:
        KeyError, TypeError, ValueError: as for `gather`; and ValueError for sites that share units, under a type that
            is found site by site.
    """
    alone, joint = list(dict.fromkeys(sites)), list(dict.fromkeys(together))
    wholes = list(dict.fromkeys(site.whole for site in (*alone, *joint)))
    if not ablation.site_by_site:
        return gather(model, wholes, ablation, batches, where=where)
    data = _again(batches)
    like = gather(model, wholes, AblationType.MEAN, data, where=where)
    # Sites that name one place in several ways have one value.
    places = {whole: replace(whole, axis=whole.on(model).units_axis(like[whole])) for whole in wholes}
    members: dict[Site, dict[Site, Tensor]] = {place: {} for place in places.values()}
    for site in alone:
        place, mean = places[site.whole], like[site.whole]
        for unit in place.each(mean) if site.unit is None else [replace(place, unit=site.unit)]:
            members[place][unit] = mean
    for site in joint:
        members[places[site.whole]][replace(places[site.whole], unit=site.unit)] = like[site.whole]
    for place, here in members.items():
        taken = [unit for site in here for unit in site.indices]
        if len(here) > 1 and (place in here or len(set(taken)) < len(taken)):
            raise ValueError(
                f"{ablation.name} is found for each site alone, and sites of {place.name} share units: one unit would "
                "have several values; replace them in calls of their own"
            )
    own = gather(model, [site for here in members.values() for site in here], ablation, data, where=where)
    found: dict[Site, Tensor] = {}
    for place, here in members.items():
        for site, mean in here.items():
            found[place] = _with_part(found.get(place), own[site], site, mean)
    return {whole: found[place] for whole, place in places.items()}


def _with_part(value: Tensor | None, part: Tensor, site: Site, like: Tensor) -> Tensor:
    """Return the value of a whole place with a site's part in it; units without one are NaN."""
    if site.unit is None:
        return part
    if value is None:
        axis = site.units_axis(like)
        shape = list(part.unsqueeze(axis).shape if isinstance(site.unit, int) else part.shape)
        shape[axis] = like.shape[axis]
        value = part.new_full(shape, torch.nan)
    return site.exchange(value, part)


def _over_batches(
    model: nn.Module, sites: Sequence[Site], ablation: AblationType, batches: Iterable[Batch], where: Where | None
) -> dict[Site, Tensor]:
    """Return what stands in at whole places, for the items of all batches in a row: site -> `[items, ...]`."""
    parts: dict[Site, list[Tensor]] = {site: [] for site in sites}
    resolved = {site: site.on(model) for site in sites}
    mask: list[Tensor | None] = [None]

    def add(site: Site, tensor: Tensor) -> None:
        value, repeated = of_batch(tensor, ablation, resolved[site], mask[0])
        parts[site].append(value if repeated else value.clone())  # what comes after may write into it

    with running(model, sites, add) as run:
        for batch in batches:
            mask[0] = mask_of(where, batch)
            run(batch)
    if not all(parts.values()):
        raise ValueError(f"{ablation.name} needs inputs to take the activations from; got none")
    return {site: torch.cat(part) for site, part in parts.items()}


def _over_dataset(
    model: nn.Module, sites: Sequence[Site], ablation: AblationType, batches: Iterable[Batch], where: Where | None
) -> dict[Site, Tensor]:
    """Return what stands in at whole places, from all batches: site -> `[1, ...]`."""
    totals: dict[Site, Any] = {}
    like: dict[Site, Tensor] = {}
    resolved = {site: site.on(model) for site in sites}
    mask: list[Tensor | None] = [None]

    def add(site: Site, tensor: Tensor) -> None:
        like.setdefault(site, tensor.new_empty(0))
        part = _reduced(tensor, ablation, resolved[site], mask[0])
        try:
            totals[site] = ablation.combine(totals[site], part) if site in totals else part
        except (RuntimeError, ValueError):
            raise ValueError(
                f"{ablation.name} needs activations of one shape; {site.name} is {tuple(tensor.shape[1:])} per item "
                "in one batch and has another shape in an earlier one"
            ) from None

    with running(model, sites, add) as run:
        for batch in batches:
            mask[0] = mask_of(where, batch)
            run(batch)
    if len(totals) < len(sites):
        raise ValueError(f"{ablation.name} needs inputs to take the activations from; got none")
    return {site: ablation.finish(total).to(like[site].dtype) for site, total in totals.items()}


def of_batch(output: Tensor, ablation: AblationType, site: Site, mask: Tensor | None) -> tuple[Tensor, bool]:
    """Return what stands in for an output, in its shape, and whether it repeats itself from item to item as a view."""
    if output.stride(0) == 0:  # it repeats itself, as a view of a weight: the model's, which can change
        output = output.clone()
    if ablation.needs == "nothing":
        value = torch.as_tensor(ablation.constant)
    else:
        value = _reduced(output, ablation, site, mask)
    value = stand_in(value.to(output), output)
    return value, value.stride(0) == 0


def _reduced(output: Tensor, ablation: AblationType, site: Site, mask: Tensor | None) -> Any:
    return ablation.reduce(output, site) if mask is None else ablation.reduce(output, site, _placed(mask, output, site))


def mask_of(where: Where | None, batch: Any) -> Tensor | None:
    """Return which positions of a batch count, booleans `[items, positions]`, or None for all.

    Raises:
        KeyError: the batch has no such key.
        ValueError: no booleans, or none that is true.
    """
    if where is None:
        return None
    if isinstance(where, str) and (not isinstance(batch, Mapping) or where not in batch):
        there = ", ".join(map(repr, batch)) if isinstance(batch, Mapping) else f"it is a {type(batch).__name__}"
        raise KeyError(f"where={where!r} is no key of what the model runs on: {there}; give a key, or a callable of it")
    mask = batch[where] if isinstance(where, str) else where(batch)
    if not isinstance(mask, Tensor) or not ((mask == 0) | (mask == 1)).all() or not mask.any():
        raise ValueError(f"where says which positions count, by booleans of which some are true; got {mask!r}")
    return mask.bool()


def _placed(mask: Tensor, output: Tensor, site: Site) -> Tensor:
    """Return a mask `[items, positions]` as one that broadcasts to an output."""
    axes = (0, *site.position_axes(output))
    if mask.shape != tuple(output.shape[axis] for axis in axes):
        raise ValueError(
            f"where is {tuple(mask.shape)}, and {site.name} is {tuple(output.shape)} with items and positions on axes "
            f"{axes}: the lengths must agree"
        )
    shape = [output.shape[axis] if axis in axes else 1 for axis in range(output.ndim)]
    return mask.reshape(shape).to(output.device)


def _again(batches: Iterable[Batch] | PairLoader) -> Sequence[Batch] | PairLoader:
    """Return batches that can be run through more than once, the same each time."""
    return batches if isinstance(batches, PairLoader) else list(kinds.each(batches))


def _inputs(batches: Iterable[Batch] | PairLoader, ablation: AblationType) -> Iterator[Batch]:
    if isinstance(batches, PairLoader):
        if ablation.needs != "dataset":
            raise ValueError(f"{ablation.name} takes batches of inputs, clean or corrupt; got a PairLoader")
        for pairs in batches:
            yield from ablation.inputs(pairs)
    else:
        yield from kinds.each(batches)
