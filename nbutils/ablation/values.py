"""What stands in for activations under an ablation type: for each site, over batches; or for each source of a graph.

`gather` and `src_ablations` watch the model run (`nbutils.ablation.running`), in eval mode, and leave it as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from nbutils import batches as kinds
from nbutils.ablation.edits import stand_in
from nbutils.ablation.running import running
from nbutils.ablation.types import AblationType
from nbutils.batches import Batch
from nbutils.data.pairs import PairLoader
from nbutils.sites import Site

Where = str | Callable[[Any], Tensor]


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
        `[items, ...]` for what depends on the batch. For a unit its part alone.

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
    collect = _over_dataset if ablation.needs == "dataset" else _over_batches
    found = collect(model, list(wholes), ablation, _inputs(batches, ablation), where)
    return {place: site.on(model).select(found[site.whole]) for place, site in places.items()}


def _over_batches(
    model: nn.Module, sites: Sequence[Site], ablation: AblationType, batches: Iterable[Batch], where: Where | None
) -> dict[Site, Tensor]:
    """Return what stands in at whole places, for the items of all batches in a row: site -> `[items, ...]`."""
    parts: dict[Site, list[Tensor]] = {site: [] for site in sites}
    resolved = {site: site.on(model) for site in sites}
    mask: list[Tensor | None] = [None]

    def add(site: Site, tensor: Tensor) -> None:
        value, repeated = _of_batch(tensor, ablation, resolved[site], mask[0])
        parts[site].append(value if repeated else value.clone())  # what comes after may write into it

    with running(model, sites, add) as run:
        for batch in batches:
            mask[0] = _mask(where, batch)
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
            mask[0] = _mask(where, batch)
            run(batch)
    if not totals:
        raise ValueError(f"{ablation.name} needs inputs to take the activations from; got none")
    return {site: ablation.finish(total).to(like[site].dtype) for site, total in totals.items()}


def _of_batch(output: Tensor, ablation: AblationType, site: Site, mask: Tensor | None) -> tuple[Tensor, bool]:
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


def _mask(where: Where | None, batch: Any) -> Tensor | None:
    if where is None:
        return None
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


@overload
def src_ablations(
    model: nn.Module,
    sites: Sequence[str | Site],
    sample: Batch | PairLoader,
    ablation_type: AblationType = ...,
    *,
    stack: Literal[True],
    where: Where | None = ...,
) -> Tensor: ...


@overload
def src_ablations(
    model: nn.Module,
    sites: Sequence[str | Site],
    sample: Batch | PairLoader,
    ablation_type: AblationType = ...,
    *,
    stack: Literal[False],
    where: Where | None = ...,
) -> dict[Site, Tensor]: ...


@overload
def src_ablations(
    model: nn.Module,
    sites: Sequence[str | Site],
    sample: Batch | PairLoader,
    ablation_type: AblationType = ...,
    *,
    stack: None = None,
    where: Where | None = ...,
) -> Tensor | dict[Site, Tensor]: ...


def src_ablations(
    model: nn.Module,
    sites: Sequence[str | Site],
    sample: Batch | PairLoader,
    ablation_type: AblationType = AblationType.RESAMPLE,
    *,
    stack: bool | None = None,
    where: Where | None = None,
) -> Tensor | dict[Site, Tensor]:
    """Return what replaces each source under an ablation type.

    One forward pass per batch, in eval mode; the model is left as it was. The result is detached and safe from later
    in-place operations of the model.

    Args:
        model: any module.
        sites: the sources: names of modules, or sites (heads, channels).
        sample: one batch; the `PairLoader` where the type needs a dataset.
        ablation_type: what replaces the activations.
        stack: True for one tensor, False for a dictionary, None for a tensor if the sources have one shape.
        where: as for `gather`.

    Returns:
        `[sources, batch, ...]`, rows in the order of `sites`; or site -> `[batch, ...]`. A mean over the dataset has a
        batch of 1, which broadcasts to any. Zeros and means over a batch are repeated for each of its items, as views.

    Raises:
        KeyError: no such module; the message lists the nearest names.
        ValueError: no sites, a sample that is not what the type needs, a unit or axis that does not exist, a module
            that does not run exactly once, or sources of several shapes with `stack=True`.

    >>> import nbutils as nb, torch
    >>> model = torch.nn.Linear(2, 3)
    >>> nb.src_ablations(model, [nb.Site("", 0), nb.Site("", 2)], torch.randn(4, 2)).shape
    torch.Size([2, 4])
    """
    chosen = [Site.of(place) for place in sites]
    if not chosen:
        raise ValueError("give at least one source to ablate")
    if ablation_type.needs == "dataset":
        if not isinstance(sample, PairLoader):
            raise ValueError(f"{ablation_type.name} is taken over a dataset: give a PairLoader; got {_kind(sample)}")
        values = gather(model, chosen, ablation_type, sample, where=where)
        rows: list[Tensor] | Tensor = [values[site] for site in chosen]
    else:
        if isinstance(sample, PairLoader):
            raise ValueError(f"{ablation_type.name} takes one batch of inputs; got {_kind(sample)}")
        rows = _rows(model, chosen, sample, ablation_type, _mask(where, sample))
    shapes = {tuple(row.shape) for row in rows}
    if stack is False or (stack is None and len(shapes) > 1):
        return dict(zip(chosen, rows, strict=True))
    if len(shapes) > 1:
        found = ", ".join(f"{site.name} {tuple(row.shape)}" for site, row in _firsts(chosen, list(rows)))
        raise ValueError(f"sources of unequal shape cannot be stacked: {found}; with stack=False they come by site")
    if isinstance(rows, Tensor):
        return rows
    if any(row.stride(0) for row in rows if row.ndim):
        return torch.stack(list(rows))
    # Zeros and means repeat themselves over the batch: stacked before they are repeated.
    return torch.stack([row[:1] for row in rows]).expand(-1, len(rows[0]), *rows[0].shape[1:])


def batch_src_ablations(
    model: nn.Module,
    sites: Sequence[str | Site],
    loader: PairLoader,
    ablation_type: AblationType = AblationType.RESAMPLE,
    clean_corrupt: Literal["clean", "corrupt"] | None = None,
    *,
    where: Where | None = None,
) -> dict[int, Tensor]:
    """Return what replaces each source on every batch of a loader.

    Args:
        model: any module.
        sites: the sources, of one shape.
        loader: the pairs.
        ablation_type: what replaces the activations. `ZERO` runs on the clean inputs.
        clean_corrupt: on which inputs of a batch, for the types that depend on the batch (RESAMPLE and the two means
            over a batch); None for the others.
        where: as for `gather`.

    Returns:
        Batch key -> `[sources, batch, ...]`. The values of a mean over the dataset are views of one tensor.

    Raises:
        KeyError, ValueError: as for `src_ablations`; and ValueError for a `clean_corrupt` that is missing, or given
            where it has no meaning.

    >>> import nbutils as nb, torch
    >>> model, pairs = torch.nn.Linear(2, 3), nb.Pairs(torch.randn(5, 2), torch.randn(5, 2), torch.zeros(5))
    >>> values = nb.batch_src_ablations(model, [""], nb.PairLoader(pairs, 3), clean_corrupt="corrupt")
    >>> {key: tuple(value.shape) for key, value in values.items()}
    {0: (1, 3, 3), 1: (1, 2, 3)}
    """
    batch_specific = ablation_type.needs == "batch"
    if batch_specific and clean_corrupt not in ("clean", "corrupt"):
        raise ValueError(
            f"{ablation_type.name} depends on the batch: say clean_corrupt='clean' or 'corrupt'; got {clean_corrupt!r}"
        )
    if not batch_specific and clean_corrupt is not None:
        raise ValueError(f"{ablation_type.name} does not take clean_corrupt; got {clean_corrupt!r}")
    if not isinstance(loader, PairLoader):
        raise ValueError(f"ablations of every batch need a PairLoader; got {_kind(loader)}")
    if ablation_type.needs == "dataset":
        mean = src_ablations(model, sites, loader, ablation_type, stack=True, where=where)
        return {batch.key: mean.expand(-1, len(batch), *mean.shape[2:]) for batch in loader}
    return {
        batch.key: src_ablations(
            model,
            sites,
            batch.corrupt if clean_corrupt == "corrupt" else batch.clean,
            ablation_type,
            stack=True,
            where=where,
        )
        for batch in loader
    }


def _rows(
    model: nn.Module, sites: list[Site], sample: Batch, ablation: AblationType, mask: Tensor | None
) -> list[Tensor] | Tensor:
    """Return each source's replacement `[batch, ...]` from one batch; as one tensor where it could be written so."""
    rows: dict[int, Tensor] = {}
    room: list[Tensor] = []  # one tensor for all, made when the first source has run: no second copy to stack them
    inside: set[int] = set()
    members: dict[Site, list[tuple[int, Site]]] = {}
    for i, site in enumerate(sites):
        members.setdefault(site.whole, []).append((i, site.on(model)))

    def take(whole: Site, output: Tensor) -> None:
        for _, site in members[whole]:
            site.select(output)  # refuses a unit that does not exist before a reduction trips over it
        value, repeated = _of_batch(output, ablation, members[whole][0][1], mask)  # one for all heads of a module
        for i, site in members[whole]:
            part = site.select(value)
            if repeated:
                rows[i] = part
                continue
            if not room:
                room.append(part.new_empty(len(sites), *part.shape))
            if room[0].shape[1:] == part.shape and room[0].dtype == part.dtype:
                room[0][i] = part
                rows[i] = room[0][i]
                inside.add(i)
            else:
                rows[i] = part.clone()

    with running(model, members, take) as run:
        run(sample)
    return room[0] if len(inside) == len(sites) else [rows[i] for i in range(len(rows))]


def _inputs(batches: Iterable[Batch] | PairLoader, ablation: AblationType) -> Iterator[Batch]:
    if isinstance(batches, PairLoader):
        if ablation.needs != "dataset":
            raise ValueError(f"{ablation.name} takes batches of inputs, clean or corrupt; got a PairLoader")
        for pairs in batches:
            yield from ablation.inputs(pairs)
    else:
        yield from kinds.each(batches)


def _firsts(sites: Sequence[Site], rows: Sequence[Tensor]) -> list[tuple[Site, Tensor]]:
    """Return the first source of each shape."""
    first = {tuple(row.shape): (site, row) for site, row in zip(reversed(sites), reversed(rows), strict=True)}
    return list(first.values())[::-1]


def _kind(sample: object) -> str:
    return f"a tensor {tuple(sample.shape)}" if isinstance(sample, Tensor) else f"a {type(sample).__name__}"
