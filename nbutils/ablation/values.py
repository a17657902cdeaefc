"""What stands in for activations under an ablation type: by module, or by source.

`gather` gives values by module, `src_ablations` by source: one row a `Site`, which may be a head or a channel of a
module. Both watch the model run, in eval mode, and leave it as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from nbutils.ablation.edits import stand_in
from nbutils.ablation.sites import Site
from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairLoader
from nbutils.hooks import unchanged, watch


def gather(
    model: nn.Module, modules: Sequence[str], ablation: AblationType, batches: Iterable[Tensor] | PairLoader
) -> dict[str, Tensor]:
    """Return what replaces the outputs of modules under an ablation type.

    Means over a dataset are summed in float64 batch by batch, so memory does not grow with the data, and neither the
    batch size nor an unequal last batch shows in them. The model runs in eval mode and is left as it was.

    Args:
        model: any module.
        modules: dotted module paths.
        ablation: `ZERO` needs no data and does not touch `batches`.
        batches: inputs `[items, ...]`: the twins, in order, for `RESAMPLE`; for a mean over a dataset a `PairLoader`,
            of which the type takes the clean inputs, the corrupt ones or both, or simply the inputs to average over.

    Returns:
        Module path -> value for `Replace`: `[1, ...]` for a mean over a dataset, `[items, ...]` for `RESAMPLE` and the
        means over each batch; empty for `ZERO`.

    Raises:
        KeyError: no such module.
        ValueError: no data, a module that does not run exactly once, outputs of several shapes, or a `PairLoader` for a
            type that takes inputs.
    """
    sites = {name: Site(name) for name in modules}
    if ablation.needs == "nothing":
        for site in sites.values():
            site.resolve(model)
        return dict.fromkeys(sites, torch.tensor(ablation.constant)) if ablation.constant else {}
    if ablation.needs == "dataset":
        found = _over_dataset(model, sites.values(), ablation, _inputs(batches, ablation))
        return {name: found[site] for name, site in sites.items()}
    parts: dict[str, list[Tensor]] = {name: [] for name in sites}

    def add(name: str, output: Tensor) -> None:
        value, repeated = _of_batch(output, ablation, sites[name])
        parts[name].append(value if repeated else value.clone())  # what comes after may write into it

    with _running(model, {name: partial(add, name) for name in sites}) as run:
        for batch in _inputs(batches, ablation):
            run(batch)
        if not all(parts.values()):
            raise ValueError(f"{ablation.name} needs inputs to take the activations from; got none")
    return {name: torch.cat(part) for name, part in parts.items()}


def _over_dataset(
    model: nn.Module, sites: Iterable[Site], ablation: AblationType, batches: Iterable[Tensor]
) -> dict[Site, Tensor]:
    """Return what stands in at whole modules, from all batches: site -> `[1, ...]`."""
    by_module: dict[str, list[Site]] = {}
    for site in sites:
        by_module.setdefault(site.module, []).append(site)
    totals: dict[Site, Any] = {}
    like: dict[str, Tensor] = {}  # shape and type of an item's activation
    items = 0

    def add(module: str, output: Tensor) -> None:
        one = like.setdefault(module, output.new_empty(output.shape[1:], device="meta"))
        if one.shape != output.shape[1:]:
            raise ValueError(
                f"{ablation.name} needs activations of one shape; {module!r} put out "
                f"{tuple(one.shape)} an item, then {tuple(output.shape[1:])}"
            )
        for site in by_module[module]:
            part = ablation.reduce(output, site)
            totals[site] = ablation.combine(totals[site], part) if site in totals else part

    with _running(model, {module: partial(add, module) for module in by_module}) as run:
        for batch in batches:
            run(batch)
            items += len(batch)
        if not items:
            raise ValueError(f"{ablation.name} needs inputs to take the activations from; got none")
        return {
            site: stand_in(ablation.finish(total, items).to(like[site.module].dtype), like[site.module][None])
            for site, total in totals.items()
        }


def _of_batch(output: Tensor, ablation: AblationType, site: Site) -> tuple[Tensor, bool]:
    """Return what stands in for an output, in its shape, and whether it repeats itself from item to item as a view."""
    value = torch.as_tensor(ablation.constant) if ablation.needs == "nothing" else ablation.reduce(output, site)
    value = stand_in(value.to(output), output)
    return value, value.stride(0) == 0


@overload
def src_ablations(
    model: nn.Module,
    sites: Sequence[Site],
    sample: Tensor | PairLoader,
    ablation_type: AblationType = ...,
    *,
    stack: Literal[True],
) -> Tensor: ...


@overload
def src_ablations(
    model: nn.Module,
    sites: Sequence[Site],
    sample: Tensor | PairLoader,
    ablation_type: AblationType = ...,
    *,
    stack: Literal[False],
) -> dict[Site, Tensor]: ...


@overload
def src_ablations(
    model: nn.Module,
    sites: Sequence[Site],
    sample: Tensor | PairLoader,
    ablation_type: AblationType = ...,
    *,
    stack: None = None,
) -> Tensor | dict[Site, Tensor]: ...


def src_ablations(
    model: nn.Module,
    sites: Sequence[Site],
    sample: Tensor | PairLoader,
    ablation_type: AblationType = AblationType.RESAMPLE,
    *,
    stack: bool | None = None,
) -> Tensor | dict[Site, Tensor]:
    """Return what replaces each source under an ablation type.

    One forward pass a batch, in eval mode; the model is left as it was, whatever happens. What is returned is detached
    and safe from later in-place operations of the model.

    Args:
        model: any module.
        sites: the sources: outputs of modules, or units of them (heads, channels).
        sample: a batch of inputs; the `PairLoader` where the type needs a dataset.
        ablation_type: what replaces the activations.
        stack: True for one tensor, False for a dictionary, None for a tensor where the sources have one shape and a
            dictionary where they do not.

    Returns:
        `[sources, batch, ...]`, rows in the order of `sites`; or site -> `[batch, ...]`. A mean over the dataset has a
        batch of 1, which broadcasts to any. Zeros and means over a batch are repeated for each of its items, as views.

    Raises:
        KeyError: no such module; the message lists the nearest names.
        ValueError: no sites, a sample that is not what the type needs, a unit or axis that does not exist, a module
            that does not run exactly once, or sources of several shapes with `stack=True`.
    """
    sites = list(sites)
    if not sites:
        raise ValueError("give at least one source to ablate")
    if ablation_type.needs == "dataset":
        if not isinstance(sample, PairLoader):
            raise ValueError(f"{ablation_type.name} is taken over a dataset: give a PairLoader; got {_kind(sample)}")
        wholes = [replace(site, unit=None) for site in sites]
        values = _over_dataset(model, dict.fromkeys(wholes), ablation_type, _inputs(sample, ablation_type))
        rows: list[Tensor] | Tensor = [site.select(values[whole]) for site, whole in zip(sites, wholes, strict=True)]
    else:
        if not isinstance(sample, Tensor):
            raise ValueError(f"{ablation_type.name} takes one batch of inputs, a tensor; got {_kind(sample)}")
        if not len(sample):
            raise ValueError(f"{ablation_type.name} needs inputs to take the activations from; got none")
        rows = _rows(model, sites, sample, ablation_type)
    shapes = {tuple(row.shape) for row in rows}
    if stack is False or (stack is None and len(shapes) > 1):
        return dict(zip(sites, rows, strict=True))
    if len(shapes) > 1:
        found = ", ".join(f"{site.module!r} {tuple(row.shape)}" for site, row in _firsts(sites, list(rows)))
        raise ValueError(f"sources of unequal shape cannot be stacked: {found}; with stack=False they come by site")
    if isinstance(rows, Tensor):
        return rows
    if any(row.stride(0) for row in rows if row.ndim):
        return torch.stack(list(rows))
    # Zeros and means repeat themselves over the batch: stacked before they are repeated.
    return torch.stack([row[:1] for row in rows]).expand(-1, len(rows[0]), *rows[0].shape[1:])


def batch_src_ablations(
    model: nn.Module,
    sites: Sequence[Site],
    loader: PairLoader,
    ablation_type: AblationType = AblationType.RESAMPLE,
    clean_corrupt: Literal["clean", "corrupt"] | None = None,
) -> dict[int, Tensor]:
    """Return what replaces each source on every batch of a loader.

    Args:
        model: any module.
        sites: the sources, of one shape.
        loader: the pairs.
        ablation_type: what replaces the activations. `ZERO` runs on the clean inputs.
        clean_corrupt: on which inputs of a batch, for the types that depend on the batch (RESAMPLE and the two means
            over a batch); None for the others.

    Returns:
        Batch key -> `[sources, batch, ...]`. The values of a mean over the dataset are views of one tensor.

    Raises:
        KeyError, ValueError: as for `src_ablations`; and ValueError for a `clean_corrupt` that is missing, or given
            where it has no meaning.
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
        mean = src_ablations(model, sites, loader, ablation_type, stack=True)
        return {batch.key: mean.expand(-1, len(batch), *mean.shape[2:]) for batch in loader}
    return {
        batch.key: src_ablations(
            model, sites, batch.corrupt if clean_corrupt == "corrupt" else batch.clean, ablation_type, stack=True
        )
        for batch in loader
    }


def _rows(model: nn.Module, sites: list[Site], sample: Tensor, ablation: AblationType) -> list[Tensor] | Tensor:
    """Return each source's replacement `[batch, ...]` from one batch; as one tensor where it could be written so."""
    rows: dict[int, Tensor] = {}
    room: list[Tensor] = []  # one tensor for all, made when the first source has run: no second copy to stack them
    inside: set[int] = set()

    def take(module: str, output: Tensor) -> None:
        values: dict[Site, tuple[Tensor, bool]] = {}  # one for all heads of a module
        for i, site in enumerate(sites):
            if site.module != module:
                continue
            whole = replace(site, unit=None)
            site.select(output)  # refuses a unit that does not exist before a reduction trips over it
            if whole not in values:
                values[whole] = _of_batch(output, ablation, site)
            value, repeated = values[whole]
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

    with _running(model, {name: partial(take, name) for name in dict.fromkeys(s.module for s in sites)}) as run:
        run(sample)
    return room[0] if len(inside) == len(sites) else [rows[i] for i in range(len(rows))]


@contextmanager
def _running(model: nn.Module, watchers: Mapping[str, Callable[[Tensor], None]]) -> Iterator[Callable[[Tensor], None]]:
    """Give a function that runs the model in eval mode and shows each module's output to its watcher.

    Not by `capture`, which copies outputs that are only to be averaged.

    Raises:
        KeyError: no such module.
        TypeError: a module puts out something other than a tensor.
        ValueError: a module that does not run exactly once in a forward pass: which output is meant?
    """
    runs = dict.fromkeys(watchers, 0)

    def see(name: str, output: object) -> None:
        if not isinstance(output, Tensor):
            raise TypeError(f"a source must put out a tensor; {name!r} put out {type(output).__name__}")
        runs[name] += 1
        if runs[name] == 1:
            watchers[name](output)

    def run(inputs: Tensor) -> None:
        runs.update(dict.fromkeys(runs, 0))
        model(inputs)
        for name, times in runs.items():
            if times != 1:
                raise ValueError(f"a source must run once in a forward pass; {name!r} ran {times} times")

    with watch(model, {name: partial(see, name) for name in watchers}), unchanged(model), torch.no_grad():
        model.eval()
        yield run


def _inputs(batches: Iterable[Tensor] | PairLoader, ablation: AblationType) -> Iterator[Tensor]:
    if isinstance(batches, PairLoader):
        if ablation.needs != "dataset":
            raise ValueError(f"{ablation.name} takes batches of inputs, clean or corrupt; got a PairLoader")
        for batch in batches:
            yield from ablation.inputs(batch)
    else:
        yield from batches


def _firsts(sites: Sequence[Site], rows: Sequence[Tensor]) -> list[tuple[Site, Tensor]]:
    """Return the first source of each shape."""
    first = {tuple(row.shape): (site, row) for site, row in zip(reversed(sites), reversed(rows), strict=True)}
    return list(first.values())[::-1]


def _kind(sample: object) -> str:
    return f"a tensor {tuple(sample.shape)}" if isinstance(sample, Tensor) else f"a {type(sample).__name__}"
