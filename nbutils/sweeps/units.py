"""Replace every unit in turn, search for the few that matter, and swap whole layers between two models.

All of them take `inputs`, name -> `[items, ...]`, and `measures`, name -> (input name, wanted classes): the share of
items whose largest logit is at the wanted class, items with the class `IGNORED` left out. That serves clean accuracy
("clean", labels), robust accuracy ("triggered", labels), and attack success, where the target class does not count:
("triggered", `torch.where(labels == target, IGNORED, target)`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nbutils import atomic, progress
from nbutils.ablation.sites import Site
from nbutils.ablation.values import AblationType
from nbutils.hooks import edit
from nbutils.identity import Identifier
from nbutils.sweeps.chains import Chain, Replay, engine

if TYPE_CHECKING:
    import pandas as pd


IGNORED = -1  # the wanted class of an item that a measure leaves out
MEMORY = 500_000_000  # bytes
SWEPT = (AblationType.ZERO, AblationType.RESAMPLE, AblationType.TOKENWISE_MEAN_CLEAN)  # what a sweep can replace by
SAVE_SECONDS = 5.0  # between two writes of a store
Layers = Mapping[str, str | Site] | Sequence[str]
Inputs = Mapping[str, Tensor]
Measures = Mapping[str, tuple[str, Tensor]]


def sweep_units(
    model: nn.Module,
    layers: Layers,
    inputs: Inputs,
    measures: Measures,
    ablation: AblationType = AblationType.ZERO,
    *,
    reference: Inputs | None = None,
    ablated: Sequence[Site] = (),
    memory: int = MEMORY,
    store: str | Path | None = None,
    label: str = "ablating units",
) -> pd.DataFrame:
    """Replace each unit of each layer on all inputs, one unit at a time, and measure.

    Exact: the logits are those of one full forward a unit, to rounding. Networks of convolutions, linear layers, ReLU
    and max-pooling take a fast path (`nbutils.sweeps.chains`), others one forward a unit from what precedes the
    layer. The model runs in eval mode and is left as it was.

    Args:
        model: inputs -> logits `[items, classes]`.
        layers: label -> module path, or a `Site` for units on another axis than 1; or the paths alone.
        inputs, measures: see the module's text. Inputs that no measure uses are skipped.
        ablation: what replaces a unit's activation, the output of the layer's module.
        reference: input name -> inputs that the replacement comes from: the items' twins for `RESAMPLE`, the clean
            data for a mean; not used by `ZERO`.
        ablated: units of these layers that are replaced throughout.
        memory: most bytes to work with, the inputs and the model not counted.
        store: JSON file that keeps what is done; a later call with the same arguments goes on from there.
        label: of the progress bar.

    Returns:
        A tidy frame: `layer`, `unit`, `measure`, `value`, `n` (items that count), one row a unit and measure.

    Raises:
        KeyError: no such module or input.
        ValueError: arguments that do not fit each other, a memory below what one item needs, or a store that holds
            another sweep.
    """
    sites = _sites(layers)
    _check(inputs, measures, ablation, reference)
    kept = None if store is None else _Store(Path(store), model, sites, inputs, measures, ablation, reference, ablated)
    counts = _count(model, sites, inputs, measures, ablation, reference, ablated, memory, label, kept)
    return _frame(
        ("layer", "unit", "measure", "value", "n"),
        (
            (layer, unit, name, hits / n, n)
            for layer, site in sites.items()
            for unit in range(len(counts[site.module][next(iter(measures))]))
            for name in measures
            for hits, n in [(counts[site.module][name][unit], _items(measures[name]))]
        ),
    )


def measure(
    model: nn.Module,
    inputs: Inputs,
    measures: Measures,
    ablated: Sequence[Site] = (),
    ablation: AblationType = AblationType.ZERO,
    *,
    reference: Inputs | None = None,
    memory: int = MEMORY,
) -> pd.DataFrame:
    """Measure a model with units replaced, none by default.

    Args, raises: as for `sweep_units`.

    Returns:
        A tidy frame: `measure`, `value`, `n`.
    """
    _check(inputs, measures, ablation, reference)
    hits = dict.fromkeys(measures, 0)
    with edit(model, {}), torch.no_grad():
        model.eval()
        runner = engine(model, ablated, _sample(inputs, measures))
        for _, items, x, values in _chunks(runner, ablated, inputs, measures, ablation, reference, memory):
            chosen = runner.logits(x, ablated, values).argmax(-1)
            for measured, wanted in items.items():
                hits[measured] += int((chosen == wanted).sum())
    rows = ((name, hits[name] / _items(measures[name]), _items(measures[name])) for name in measures)
    return _frame(("measure", "value", "n"), rows)


def greedy_units(
    model: nn.Module,
    layers: Layers,
    inputs: Inputs,
    measures: Measures,
    lower: str,
    drop: float = 0.95,
    ablation: AblationType = AblationType.ZERO,
    *,
    reference: Inputs | None = None,
    protect: str | None = None,
    margin: float = 0.01,
    limit: int = 10,
    memory: int = MEMORY,
) -> pd.DataFrame:
    """Replace, one after the other, the unit that lowers a measure most, until it has dropped far enough.

    Give it the selection split and nothing else: `measure` then reports the units found on items that did not choose
    them. Of equals the first wins, in the order of the layers.

    Args:
        lower: the measure to bring down.
        drop: share of its first value that must go, in (0, 1].
        protect: a measure that may not fall: units that would take it more than `margin` below its first value are
            passed over. Without it the search may end a backdoor by breaking the network.
        margin: in [0, 1].
        limit: most units to take.
        others: as for `sweep_units`.

    Returns:
        The path, tidy: `step`, `layer`, `unit`, `measure`, `value`, `n`; step 0 is the model as it is, without layer
        or unit. The search ends early where no unit that may be taken lowers the measure.

    Raises:
        KeyError, ValueError: as for `sweep_units`; and for an unknown `lower` or `protect`, or a `drop` out of range.
    """
    for name in (lower, protect):
        if name is not None and name not in measures:
            raise KeyError(f"no measure {name!r}; there are {', '.join(measures)}")
    if not 0 < drop <= 1:
        raise ValueError(f"drop must lie in (0, 1]; got {drop}")
    import pandas as pd

    sites = _sites(layers)
    options = {"reference": reference, "memory": memory}
    start = measure(model, inputs, measures, (), ablation, **options)
    path = [start.assign(step=0, layer=None, unit=pd.NA)]
    first = start.set_index("measure")["value"]
    value = first[lower]
    goal = (1 - drop) * value
    taken: list[Site] = []
    while value > goal and len(taken) < limit:
        label = f"unit {len(taken) + 1}"
        swept = sweep_units(model, layers, inputs, measures, ablation, ablated=taken, label=label, **options)
        candidates = swept[swept["measure"] == lower]
        if protect is not None:
            kept = swept[swept["measure"] == protect]["value"].to_numpy() >= first[protect] - margin - 1e-12
            candidates = candidates[kept]
        if candidates.empty or candidates["value"].min() >= value:
            break
        best = candidates.loc[candidates["value"].idxmin()]
        value = best["value"]
        site = sites[best["layer"]]
        taken.append(Site(site.module, int(best["unit"]), site.axis))
        same = (swept["layer"] == best["layer"]) & (swept["unit"] == best["unit"])
        path.append(swept[same].assign(step=len(taken)))
    found = pd.concat([part.astype({"unit": "Int64", "layer": "string"}) for part in path], ignore_index=True)
    return found[["step", "layer", "unit", "measure", "value", "n"]]


# Counting -------------------------------------------------------------------------------------------------------------

Counts = dict[str, dict[str, list[int]]]  # module path -> measure -> hits of each unit


def _count(
    model: nn.Module,
    sites: Mapping[str, Site],
    inputs: Inputs,
    measures: Measures,
    ablation: AblationType,
    reference: Inputs | None,
    ablated: Sequence[Site],
    memory: int,
    label: str,
    store: _Store | None,
) -> Counts:
    """Return the hits of every unit; the store, if any, is kept up to date and gone on from."""
    counts, done = ({}, {}) if store is None else store.load()
    layers = list(sites.values())
    saved = time.monotonic()
    total = sum(len(inputs[name]) for name in _used(measures))
    with edit(model, {}), torch.no_grad(), progress.bar(total, label) as bar:
        model.eval()
        bar.update(sum(done.values()))
        runner = engine(model, [*layers, *ablated], _sample(inputs, measures))
        for name, wanted, x, values in _chunks(
            runner, [*layers, *ablated], inputs, measures, ablation, reference, memory, done
        ):
            # Closed at once when the sweep is stopped, because the model is edited until then.
            with closing(runner.unit_logits(x, layers, ablated, values)) as found:
                for path, first, logits in found:
                    chosen = logits.max(-1).indices  # [units, items]; a tenth of what `argmax` takes here
                    for measured, classes in wanted.items():
                        hits = counts.setdefault(path, {}).setdefault(measured, [])
                        hits += [0] * (first + len(chosen) - len(hits))
                        for unit, more in enumerate((chosen == classes).sum(1).tolist(), first):
                            hits[unit] += more
            done[name] = done.get(name, 0) + len(x)
            bar.update(len(x))
            if store is not None and time.monotonic() - saved > SAVE_SECONDS:
                store.save(counts, done)
                saved = time.monotonic()
    if store is not None:
        store.save(counts, done)
    return counts


def _chunks(
    runner: Chain | Replay,
    sites: Sequence[Site],
    inputs: Inputs,
    measures: Measures,
    ablation: AblationType,
    reference: Inputs | None,
    memory: int,
    done: Mapping[str, int] | None = None,
) -> Iterable[tuple[str, dict[str, Tensor], Tensor, dict[str, Tensor]]]:
    """Yield (input name, measure -> wanted classes, inputs, values of the replacement), a few items at a time."""
    size = runner.plan(memory)
    paths = sorted({site.module for site in sites})
    means: dict[int, dict[str, Tensor]] = {}  # by identity: several inputs usually share one reference
    for name in _used(measures):
        here = {measured: wanted for measured, (source, wanted) in measures.items() if source == name}
        source = (reference or {}).get(name)
        values: dict[str, Tensor] = {}
        start = (done or {}).get(name, 0)
        if ablation is AblationType.TOKENWISE_MEAN_CLEAN and paths and start < len(inputs[name]):
            if id(source) not in means:
                means[id(source)] = _means(runner, paths, source, size)
            values = means[id(source)]
        for first in range(start, len(inputs[name]), size):
            items = slice(first, first + size)
            if ablation is AblationType.RESAMPLE and paths:
                values = runner.outputs(source[items], paths)
            yield name, {key: wanted[items] for key, wanted in here.items()}, inputs[name][items], values


def _means(runner: Chain | Replay, paths: Sequence[str], source: Tensor, size: int) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for x in source.split(size):
        for path, output in runner.outputs(x, paths).items():
            dtypes[path] = output.dtype
            sums[path] = sums[path] + runner.mean(output) if path in sums else runner.mean(output)
    return {path: (total / len(source)).to(dtypes[path]) for path, total in sums.items()}


def _sites(layers: Layers) -> dict[str, Site]:
    named = layers if isinstance(layers, Mapping) else {path: path for path in layers}
    sites = {name: site if isinstance(site, Site) else Site(site) for name, site in named.items()}
    paths = [site.module for site in sites.values()]
    if isinstance(layers, str) or not sites or len(set(paths)) < len(paths):
        raise ValueError(f"layers are one or more different modules, by label or by path; got {layers!r}")
    return sites


def _check(inputs: Inputs, measures: Measures, ablation: AblationType, reference: Inputs | None) -> None:
    if not measures:
        raise ValueError("give at least one measure")
    if ablation not in SWEPT:
        raise ValueError(f"a sweep replaces by {', '.join(kind.name for kind in SWEPT)}; got {ablation.name}")
    for name, (source, wanted) in measures.items():
        if source not in inputs:
            raise KeyError(f"measure {name!r} is on input {source!r}; there are {', '.join(inputs)}")
        if wanted.shape != (len(inputs[source]),) or wanted.is_floating_point() or not (wanted != IGNORED).any():
            raise ValueError(
                f"measure {name!r} needs one class an item of {source!r}, as integers [{len(inputs[source])}] of which "
                f"some are not {IGNORED}; got {wanted.dtype} {tuple(wanted.shape)}"
            )
    if ablation is AblationType.ZERO:
        return
    for name in _used(measures):
        source = (reference or {}).get(name)
        if source is None or not len(source):
            raise ValueError(f"{ablation.name} needs reference[{name!r}]: the inputs that the replacement comes from")
        if ablation is AblationType.RESAMPLE and source.shape != inputs[name].shape:
            raise ValueError(
                f"RESAMPLE needs a twin an item; reference[{name!r}] is {tuple(source.shape)}, "
                f"the inputs are {tuple(inputs[name].shape)}"
            )


def _used(measures: Measures) -> list[str]:
    return list(dict.fromkeys(source for source, _ in measures.values()))


def _sample(inputs: Inputs, measures: Measures) -> Tensor:
    return inputs[_used(measures)[0]][:1]


def _items(measured: tuple[str, Tensor]) -> int:
    return int((measured[1] != IGNORED).sum())


def _frame(columns: Sequence[str], rows: Iterable[tuple[object, ...]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(columns))


# The store ------------------------------------------------------------------------------------------------------------


class _Store:
    """What a sweep has counted so far, in a file that is always whole; and whose sweep it is."""

    def __init__(self, path: Path, model: nn.Module, *arguments: object) -> None:
        self.path = path
        names = ("model", "layers", "inputs", "measures", "ablation", "reference", "ablated units")
        identifier = Identifier()
        self.sweep = {name: identifier.of(part, name) for name, part in zip(names, (model, *arguments), strict=True)}

    def load(self) -> tuple[Counts, dict[str, int]]:
        """Return (counts, input name -> items done).

        Raises:
            ValueError: the file holds something else, or another sweep; the message says what differs.
        """
        if not self.path.exists():
            return {}, {}
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            sweep, counts, done = found["sweep"], found["counts"], found["done"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self.path} does not hold a sweep of units; give another file") from None
        differ = [name for name, digest in self.sweep.items() if sweep.get(name) != digest]
        if differ:
            raise ValueError(f"{self.path} holds another sweep: other {', '.join(differ)}; give another file")
        return counts, done

    def save(self, counts: Counts, done: Mapping[str, int]) -> None:
        atomic.write(self.path, json.dumps({"sweep": self.sweep, "done": done, "counts": counts}))
