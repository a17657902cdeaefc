"""What stands in for an activation: the estimator gathers it once, a frozen edit puts it there.

Two ways to ask, one mechanism. `gather` gives values by module, `src_ablations` by source: one row a `Site`, which may
be a head or a channel of a module. Either goes into `edits`:
`with edit(model, edits(sites, src_ablations(model, sites, sample, ablation))): model(x)`. For the weights of a unit
there is `zero_weights`. Source document of the seven types: the ablation-activations page of auto-circuit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from nbutils.ablation.sites import Site
from nbutils.data.pairs import PairBatch, PairLoader
from nbutils.hooks import Edit, submodule

Model = TypeVar("Model", bound=nn.Module)


class AblationType(Enum):
    """What replaces an activation.

    RESAMPLE: the activation on the item's twin, the input that corresponds to it. ZERO: zeros.
    BATCH_TOKENWISE_MEAN: the mean over a batch, at each position (pixel, token) by itself.
    BATCH_ALL_TOK_MEAN: the mean over a batch and its positions; which axes those are, `Site` says.
    TOKENWISE_MEAN_CLEAN, TOKENWISE_MEAN_CORRUPT, TOKENWISE_MEAN_CLEAN_AND_CORRUPT: the mean over all clean inputs of a
    dataset, all corrupt ones, or both, at each position by itself.
    """

    RESAMPLE = "resample"
    ZERO = "zero"
    BATCH_TOKENWISE_MEAN = "batch, tokenwise mean"
    BATCH_ALL_TOK_MEAN = "batch, mean over tokens"
    TOKENWISE_MEAN_CLEAN = "tokenwise mean, clean"
    TOKENWISE_MEAN_CORRUPT = "tokenwise mean, corrupt"
    TOKENWISE_MEAN_CLEAN_AND_CORRUPT = "tokenwise mean, clean and corrupt"

    @property
    def over_dataset(self) -> bool:
        """Whether the value is a mean over a whole dataset of pairs."""
        return self.name.startswith("TOKENWISE_MEAN")

    @property
    def batch_specific(self) -> bool:
        """Whether the value depends on the batch: one must then say whether on its clean or its corrupt inputs."""
        return not self.over_dataset and self is not AblationType.ZERO

    def inputs(self, batch: PairBatch) -> list[Tensor]:
        """Return those inputs of a batch that a mean over the dataset is taken over."""
        clean = [batch.clean] * (self is not AblationType.TOKENWISE_MEAN_CORRUPT)
        return clean + [batch.corrupt] * (self is not AblationType.TOKENWISE_MEAN_CLEAN)


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
        value = _stand_in(value, x)
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
        return x.index_copy(self.axis, index, _stand_in(self.values.movedim(0, axis).to(x), like))


def _stand_in(value: Tensor, x: Tensor) -> Tensor:
    try:
        return value.expand_as(x)
    except RuntimeError:
        raise ValueError(f"a value {tuple(value.shape)} cannot stand in for an activation {tuple(x.shape)}") from None


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
    if ablation is AblationType.ZERO:
        for name in modules:
            Site(name).resolve(model)
        return {}
    sums: dict[str, Tensor] = {}
    parts: dict[str, list[Tensor]] = {name: [] for name in modules}
    dtypes: dict[str, torch.dtype] = {}
    items = 0

    def add(name: str, output: Tensor) -> None:
        dtypes[name] = output.dtype
        if ablation.over_dataset:
            total = output.sum(0, keepdim=True, dtype=torch.float64)
            if name in sums and sums[name].shape != total.shape:
                raise ValueError(
                    f"{ablation.name} needs activations of one shape; {name!r} put out "
                    f"{tuple(sums[name].shape[1:])} an item, then {tuple(total.shape[1:])}"
                )
            sums[name] = sums[name].add_(total) if name in sums else total
        elif ablation is AblationType.RESAMPLE:
            parts[name].append(output.clone())  # what comes after may write into it
        else:
            parts[name].append(_batch_mean(output, ablation, Site(name)).expand_as(output))

    with _running(model, {name: lambda output, name=name: add(name, output) for name in modules}) as run:
        for batch in _inputs(batches, ablation):
            run(batch)
            items += len(batch)
        if not items:
            raise ValueError(f"{ablation.name} needs inputs to take the activations from; got none")
    if ablation.over_dataset:
        return {name: (total / items).to(dtypes[name]) for name, total in sums.items()}
    return {name: torch.cat(part) for name, part in parts.items()}


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
        sample: a batch of inputs; the `PairLoader` for a mean over the dataset (`AblationType.over_dataset`).
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
    if ablation_type.over_dataset:
        if not isinstance(sample, PairLoader):
            raise ValueError(f"{ablation_type.name} is a mean over a dataset: give a PairLoader; got {_kind(sample)}")
        values = gather(model, _modules(sites), ablation_type, sample)
        rows = [site.select(values[site.module]) for site in sites]
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
        found = ", ".join(f"{site.module!r} {tuple(row.shape)}" for site, row in _firsts(sites, rows))
        raise ValueError(f"sources of unequal shape cannot be stacked: {found}; with stack=False they come by site")
    if isinstance(rows, Tensor):
        return rows
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
    if ablation_type.batch_specific and clean_corrupt not in ("clean", "corrupt"):
        raise ValueError(
            f"{ablation_type.name} depends on the batch: say clean_corrupt='clean' or 'corrupt'; got {clean_corrupt!r}"
        )
    if not ablation_type.batch_specific and clean_corrupt is not None:
        raise ValueError(f"{ablation_type.name} does not take clean_corrupt; got {clean_corrupt!r}")
    if not isinstance(loader, PairLoader):
        raise ValueError(f"ablations of every batch need a PairLoader; got {_kind(loader)}")
    if ablation_type.over_dataset:
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
        means: dict[tuple[int, ...], Tensor] = {}  # one for all heads of a module
        for i, site in enumerate(sites):
            if site.module != module:
                continue
            part = site.select(output)
            if ablation is AblationType.ZERO:
                rows[i] = part.new_zeros(()).expand(part.shape)
            elif ablation is not AblationType.RESAMPLE:
                kind = (site.axis, *(site.positions or ()))
                if kind not in means:
                    means[kind] = _batch_mean(output, ablation, site)
                rows[i] = site.select(means[kind]).expand(part.shape)
            else:
                if not room:
                    room.append(part.new_empty(len(sites), *part.shape))
                if room[0].shape[1:] == part.shape and room[0].dtype == part.dtype:
                    room[0][i] = part
                    rows[i] = room[0][i]
                    inside.add(i)
                else:
                    rows[i] = part.clone()

    with _running(model, {name: lambda output, name=name: take(name, output) for name in _modules(sites)}) as run:
        run(sample)
    return room[0] if len(inside) == len(sites) else [rows[i] for i in range(len(rows))]


def _batch_mean(output: Tensor, ablation: AblationType, site: Site) -> Tensor:
    """Return the mean over a batch, and over positions where the type says so, axes kept."""
    axes = (0, *site.position_axes(output)) if ablation is AblationType.BATCH_ALL_TOK_MEAN else (0,)
    shape = [1 if axis == 0 else size for axis, size in enumerate(output.shape)]
    return output.mean(axes, keepdim=True).expand(shape)


@contextmanager
def _running(model: nn.Module, watchers: Mapping[str, Callable[[Tensor], None]]) -> Iterator[Callable[[Tensor], None]]:
    """Give a function that runs the model in eval mode and shows each module's output to its watcher.

    Not by `capture`, which copies outputs that are only to be averaged, and all weights, which this cannot change.

    Raises:
        KeyError: no such module.
        TypeError: a module puts out something other than a tensor.
        ValueError: a module that does not run exactly once in a forward pass: which output is meant?
    """
    runs = dict.fromkeys(watchers, 0)
    modules = dict(model.named_modules())
    modes = [(module, module.training) for module in modules.values()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    handles = []

    def watching(name: str, watch: Callable[[Tensor], None]) -> Callable[..., None]:
        def see(_module: nn.Module, _inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                raise TypeError(f"a source must put out a tensor; {name!r} put out {type(output).__name__}")
            runs[name] += 1
            if runs[name] == 1:
                watch(output)

        return see

    def run(inputs: Tensor) -> None:
        runs.update(dict.fromkeys(runs, 0))
        model(inputs)
        for name, times in runs.items():
            if times != 1:
                raise ValueError(f"a source must run once in a forward pass; {name!r} ran {times} times")

    try:
        for name, watch in watchers.items():
            module = modules[name] if name and name in modules else submodule(model, name)
            handles.append(module.register_forward_hook(watching(name, watch)))
        model.eval()
        with torch.no_grad():
            yield run
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, saved in buffers:
                buffer.copy_(saved)


def _inputs(batches: Iterable[Tensor] | PairLoader, ablation: AblationType) -> Iterator[Tensor]:
    if isinstance(batches, PairLoader):
        if not ablation.over_dataset:
            raise ValueError(f"{ablation.name} takes batches of inputs, clean or corrupt; got a PairLoader")
        for batch in batches:
            yield from ablation.inputs(batch)
    else:
        yield from batches


def _modules(sites: Iterable[Site]) -> list[str]:
    return list(dict.fromkeys(site.module for site in sites))


def _firsts(sites: Sequence[Site], rows: Sequence[Tensor]) -> list[tuple[Site, Tensor]]:
    """Return the first source of each shape."""
    first = {tuple(row.shape): (site, row) for site, row in zip(reversed(sites), reversed(rows), strict=True)}
    return list(first.values())[::-1]


def _kind(sample: object) -> str:
    return f"a tensor {tuple(sample.shape)}" if isinstance(sample, Tensor) else f"a {type(sample).__name__}"


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
    by_source = isinstance(values, Tensor) or (bool(values) and isinstance(next(iter(values)), Site))
    if isinstance(values, Tensor) and len(values) != len(sites):
        raise ValueError(f"a row for each of the {len(sites)} sites is needed; got values {tuple(values.shape)}")
    grouped: dict[str, list[int]] = {}
    for i, site in enumerate(sites):
        grouped.setdefault(site.module, []).append(i)
    found: dict[str, Edit] = {}
    for module, members in grouped.items():
        axes = {sites[i].axis for i in members}
        if len(axes) > 1:
            raise ValueError(f"the sites of {module!r} must share one axis; got {sorted(axes)}")
        units = [sites[i].unit for i in members]
        if not by_source:
            chosen = None if None in units else tuple(sorted(set(units)))
            found[module] = Replace(chosen, (values or {}).get(module, 0.0), axes.pop())
            continue
        rows = [values[i] if isinstance(values, Tensor) else values[sites[i]] for i in members]
        if None not in units:
            found[module] = ReplaceEach(tuple(units), torch.stack(rows), axes.pop())
        elif len(units) == 1:
            found[module] = Replace(None, rows[0])
        else:
            raise ValueError(f"{module!r} is to be replaced as a whole and unit by unit; give one or the other")
    return found


def zero_weights(model: Model, sites: Iterable[Site]) -> Model:
    """Return a copy in which the weights *and* the bias of units are zero.

    Their outputs are then exactly 0, the same as `ZERO` at the output; with the bias left in place they would not be.

    Args:
        model: any module.
        sites: units (on axis 1) of `nn.Conv2d` or `nn.Linear` modules; a site without a unit means all of them.

    Raises:
        KeyError, ValueError: as for `Site.resolve`; and ValueError for another kind of module or axis.
    """
    model = copy.deepcopy(model)
    for site in sites:
        layer = site.resolve(model)
        if not isinstance(layer, nn.Conv2d | nn.Linear) or site.axis != 1:
            raise ValueError(
                f"weights belong to units of a Conv2d or Linear on axis 1; got {site} at a {type(layer).__name__}"
            )
        rows = slice(None) if site.unit is None else site.unit
        with torch.no_grad():
            layer.weight[rows] = 0
            if layer.bias is not None:
                layer.bias[rows] = 0
    return model
