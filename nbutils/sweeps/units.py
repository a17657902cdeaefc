"""Measure a model with each unit replaced in turn, with given units replaced, or as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nbutils import progress
from nbutils.ablation.types import AblationType
from nbutils.hooks import unchanged
from nbutils.sites import Site
from nbutils.sweeps import engines
from nbutils.sweeps.measures import Measures

if TYPE_CHECKING:
    import pandas as pd

MEMORY = 500_000_000  # bytes
SWEPT = (AblationType.ZERO, AblationType.RESAMPLE, AblationType.TOKENWISE_MEAN_CLEAN)  # what a sweep can replace by
Layers = Mapping[str, str | Site] | Sequence[str]


def sweep(
    model: nn.Module,
    layers: Layers,
    measures: Measures,
    ablation: AblationType = AblationType.ZERO,
    *,
    reference: Mapping[str, Tensor] | None = None,
    ablated: Sequence[Site] = (),
    memory: int = MEMORY,
    label: str = "ablating units",
) -> pd.DataFrame:
    """Replace each unit of each layer on all inputs, one unit at a time, and measure.

    Exact: the logits are those of one full forward per unit, to rounding. Networks of convolutions, linear layers, ReLU
    and max-pooling take a fast path (`nbutils.sweeps.chains`), others one forward per unit from what precedes the
    layer. The model runs in eval mode and is left as it was.

    Args:
        model: inputs -> logits `[items, classes]`.
        layers: label -> module path, or a `Site` for units on another axis than 1; or the paths alone.
        measures: shares of items, on named inputs.
        ablation: what replaces a unit's activation, the output of the layer's module: zero, a mean, or a twin's.
        reference: name of inputs -> inputs that the replacement comes from: the items' twins for `RESAMPLE`, the clean
            data for a mean; not used by `ZERO`.
        ablated: units of these layers to replace throughout.
        memory: upper bound in bytes, without the inputs and the model.
        label: of the progress bar.

    Returns:
        A tidy frame: `layer`, `unit`, `measure`, `value`, `n` (items that count), one row per unit and measure.

    Raises:
        KeyError: no such module.
        ValueError: arguments that do not fit each other, or a memory below what one item needs.

    >>> import torch, nbutils as nb
    >>> from nbutils.sweeps.measures import Measures
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False))
    >>> _ = torch.nn.init.eye_(model[0].weight)
    >>> measures = Measures({"x": torch.eye(3)}, {"accuracy": ("x", torch.arange(3))})
    >>> nb.sweep(model, {"output": "0"}, measures).value.round(2).tolist()
    [1.0, 0.67, 0.67]
    """
    sites = named_sites(layers)
    _check(measures, ablation, reference)
    counts = _count_hits(model, list(sites.values()), measures, ablation, reference, ablated, memory, label)
    return _frame(
        ("layer", "unit", "measure", "value", "n"),
        (
            (layer, unit, name, hits / n, n)
            for layer, site in sites.items()
            for unit in range(len(counts[site.module][next(iter(measures.wanted))]))
            for name in measures.wanted
            for hits, n in [(counts[site.module][name][unit], measures.count(name))]
        ),
    )


def measure(
    model: nn.Module,
    measures: Measures,
    ablated: Sequence[Site] = (),
    ablation: AblationType = AblationType.ZERO,
    *,
    reference: Mapping[str, Tensor] | None = None,
    memory: int = MEMORY,
) -> pd.DataFrame:
    """Measure a model with units replaced, none by default.

    Args, raises: as for `sweep`.

    Returns:
        A tidy frame: `measure`, `value`, `n`.
    """
    _check(measures, ablation, reference)
    hits = dict.fromkeys(measures.wanted, 0)
    with unchanged(model), torch.no_grad():
        model.eval()
        runner = engines.choose(model, ablated, measures.sample)
        for wanted, x, values in _chunks(runner, ablated, measures, ablation, reference, memory):
            chosen = runner.logits(x, ablated, values).argmax(-1)
            for name, classes in wanted.items():
                hits[name] += int((chosen == classes).sum())
    rows = ((name, hits[name] / measures.count(name), measures.count(name)) for name in measures.wanted)
    return _frame(("measure", "value", "n"), rows)


def named_sites(layers: Layers) -> dict[str, Site]:
    """Return label -> site of layers that are given by label or by path.

    Raises:
        ValueError: no layer, or one module twice.
    """
    named = layers if isinstance(layers, Mapping) else {path: path for path in layers}
    sites = {name: site if isinstance(site, Site) else Site(site) for name, site in named.items()}
    paths = [site.module for site in sites.values()]
    if isinstance(layers, str) or not sites or len(set(paths)) < len(paths):
        raise ValueError(f"layers are one or more different modules, by label or by path; got {layers!r}")
    return sites


def _count_hits(
    model: nn.Module,
    layers: Sequence[Site],
    measures: Measures,
    ablation: AblationType,
    reference: Mapping[str, Tensor] | None,
    ablated: Sequence[Site],
    memory: int,
    label: str,
) -> dict[str, dict[str, list[int]]]:
    """Return module path -> measure -> hits of each unit."""
    counts: dict[str, dict[str, list[int]]] = {}
    every = [*layers, *ablated]
    total = sum(len(measures.inputs[name]) for name in measures.used)
    with unchanged(model), torch.no_grad(), progress.bar(total, label) as bar:
        model.eval()
        runner = engines.choose(model, every, measures.sample)
        for wanted, x, values in _chunks(runner, every, measures, ablation, reference, memory):
            # Closed at once when the sweep is stopped, because the model is edited until then.
            with closing(runner.unit_logits(x, layers, ablated, values)) as found:
                for path, first, logits in found:
                    chosen = logits.max(-1).indices  # [units, items]; a tenth of what `argmax` takes here
                    for name, classes in wanted.items():
                        hits = counts.setdefault(path, {}).setdefault(name, [])
                        hits += [0] * (first + len(chosen) - len(hits))
                        for unit, more in enumerate((chosen == classes).sum(1).tolist(), first):
                            hits[unit] += more
            bar.update(len(x))
    return counts


def _chunks(
    runner: engines.Engine,
    sites: Sequence[Site],
    measures: Measures,
    ablation: AblationType,
    reference: Mapping[str, Tensor] | None,
    memory: int,
) -> Iterator[tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]]:
    """Yield (measure -> wanted classes, inputs, values of the replacement), a few items at a time."""
    size = runner.plan(memory)
    if size < 1:
        raise ValueError(f"memory={memory} bytes is less than one item needs; give at least {runner.least}")
    paths = sorted({site.module for site in sites})
    sources = reference or {}
    means: dict[int, dict[str, Tensor]] = {}  # by identity: several inputs usually share one reference
    for name in measures.used:
        inputs, wanted = measures.inputs[name], measures.on(name)
        values: dict[str, Tensor] = {}
        if ablation is AblationType.TOKENWISE_MEAN_CLEAN and paths and len(inputs):
            source = sources[name]
            if id(source) not in means:
                means[id(source)] = _mean_outputs(runner, paths, source, size)
            values = means[id(source)]
        for first in range(0, len(inputs), size):
            items = slice(first, first + size)
            if ablation is AblationType.RESAMPLE and paths:
                values = runner.outputs(sources[name][items], paths)
            yield {key: classes[items] for key, classes in wanted.items()}, inputs[items], values


def _mean_outputs(runner: engines.Engine, paths: Sequence[str], source: Tensor, size: int) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for x in source.split(size):
        for path, output in runner.outputs(x, paths).items():
            dtypes[path] = output.dtype
            sums[path] = sums[path] + runner.mean(output) if path in sums else runner.mean(output)
    return {path: (total / len(source)).to(dtypes[path]) for path, total in sums.items()}


def _check(measures: Measures, ablation: AblationType, reference: Mapping[str, Tensor] | None) -> None:
    if ablation not in SWEPT:
        raise ValueError(f"a sweep replaces by {', '.join(kind.name for kind in SWEPT)}; got {ablation.name}")
    if ablation is AblationType.ZERO:
        return
    for name in measures.used:
        source, inputs = (reference or {}).get(name), measures.inputs[name]
        if source is None or not len(source):
            raise ValueError(f"{ablation.name} needs reference[{name!r}]: the inputs that the replacement comes from")
        if ablation is AblationType.RESAMPLE and source.shape != inputs.shape:
            raise ValueError(
                f"RESAMPLE needs a twin per item; reference[{name!r}] is {tuple(source.shape)}, "
                f"the inputs are {tuple(inputs.shape)}"
            )


def _frame(columns: Sequence[str], rows: Iterable[tuple[object, ...]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(columns))
