"""What stands in for the sources of a graph under an ablation type: a row per source, for one batch or for all.

Source document: the ablation-activations page of auto-circuit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor, nn

from nbutils.ablation.running import running
from nbutils.ablation.types import AblationType
from nbutils.ablation.values import Where, gather, mask_of, of_batch
from nbutils.batches import Batch
from nbutils.data.pairs import PairLoader
from nbutils.sites import Site


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

    One forward pass per batch, in eval mode; the model is left as it was. What is returned is detached, and a copy.

    Args:
        model: any module.
        sites: the sources: names of modules, or sites (heads, channels).
        sample: one batch; the `PairLoader` where the type needs a dataset.
        ablation_type: what replaces the activations.
        stack: True for one tensor, False for a dictionary, None for a tensor where the sources have one shape and a
            dictionary where they do not.
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
        rows = _rows(model, chosen, sample, ablation_type, mask_of(where, sample))
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
) -> dict[int, Tensor | dict[Site, Tensor]]:
    """Return what replaces each source on every batch of a loader.

    Args:
        model: any module.
        sites: the sources.
        loader: the pairs.
        ablation_type: what replaces the activations. `ZERO` runs on the clean inputs.
        clean_corrupt: on which inputs of a batch, for the types that depend on the batch (RESAMPLE and the two means
            over a batch); None for the others.
        where: as for `gather`.

    Returns:
        Batch key -> `[sources, batch, ...]`; or site -> `[batch, ...]` where the sources have several shapes. The
        values of a mean over the dataset are views of one tensor.

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
        mean = src_ablations(model, sites, loader, ablation_type, where=where)
        return {batch.key: _for_items(mean, len(batch)) for batch in loader}
    return {
        batch.key: src_ablations(
            model,
            sites,
            batch.corrupt if clean_corrupt == "corrupt" else batch.clean,
            ablation_type,
            where=where,
        )
        for batch in loader
    }


def _for_items(mean: Tensor | dict[Site, Tensor], items: int) -> Tensor | dict[Site, Tensor]:
    """Return a mean over a dataset as views, one for each item of a batch."""
    if isinstance(mean, Tensor):
        return mean.expand(-1, items, *mean.shape[2:])
    return {site: row.expand(items, *row.shape[1:]) for site, row in mean.items()}


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
        value, repeated = of_batch(output, ablation, members[whole][0][1], mask)  # one for all heads of a module
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


def _firsts(sites: Sequence[Site], rows: Sequence[Tensor]) -> list[tuple[Site, Tensor]]:
    """Return the first source of each shape."""
    first = {tuple(row.shape): (site, row) for site, row in zip(reversed(sites), reversed(rows), strict=True)}
    return list(first.values())[::-1]


def _kind(sample: object) -> str:
    return f"a tensor {tuple(sample.shape)}" if isinstance(sample, Tensor) else f"a {type(sample).__name__}"
