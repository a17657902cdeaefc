"""What stand-ins show: effects of units under each, how they rank them, and how far from the data they lead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nbutils.ablation.edits import edits
from nbutils.ablation.optimal import Optimal
from nbutils.ablation.types import AblationType
from nbutils.ablation.values import gather
from nbutils.batches import Batch
from nbutils.hooks import capture, edit
from nbutils.sites import Site
from nbutils.sweeps.units import measure, sweep
from studies.across.cases import Case, Layer

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

REFERENCE = "optimal"
RIDGE = 0.01  # of the mean variance of a layer's units, added to each: silent units then have a distance, too


def stand_ins(case: Case, steps: int = 12) -> list[AblationType]:
    """Return the nine stand-ins: the seven of study 05, the mean over data and positions, and the optimal constant.

    Args:
        steps: of the optimal constant's search.
    """
    optimal = Optimal(loss="kl" if case.answers else "squared", steps=steps, rate=0.4, fold=32)
    return [*AblationType, AblationType.MEAN, optimal]


def unit_values(case: Case, kind: AblationType) -> dict[Site, Tensor]:
    """Return what stands in for each unit on all of a case's pairs in one batch."""
    if kind.site_by_site:
        return gather(case.model, case.sites, kind, case.loader)
    if kind.needs == "batch":
        inputs = [kind.inputs(batch)[0] for batch in case.loader]
        return gather(case.model, case.sites, kind, inputs)
    return gather(case.model, case.sites, kind, case.loader)


def loss_without(case: Case, ablated: Sequence[Site], values: Mapping[Site, Tensor]) -> float:
    """Return the mean loss on all pairs with some units replaced together."""
    with torch.no_grad(), edit(case.model, edits(ablated, values)):
        return float(case.loss(case.model(case.pairs.clean), case.pairs).mean())


def unit_effects(case: Case, kinds: Sequence[AblationType], constants: Mapping[Site, Tensor]) -> pd.DataFrame:
    """Return what ablating each unit adds to the loss: a row per unit, a column per kind, by its value.

    Args:
        constants: what a kind that is found unit by unit (the optimal constant) puts in each unit's place.
    """
    import pandas as pd

    intact = measure(case.model, case.loader, case.metric).value.item()
    found = {}
    for kind in kinds:
        if kind.site_by_site:
            found[kind.value] = [loss_without(case, [site], constants) - intact for site in case.sites]
            continue
        swept = sweep(case.model, dict(enumerate(case.sites)), case.loader, case.metric, kind)
        found[kind.value] = swept.value.to_numpy() - intact
    layers = [layer.site.module for layer in case.layers for _ in range(len(layer))]
    units = [unit for layer in case.layers for unit in range(len(layer))]
    return pd.DataFrame(found, index=pd.MultiIndex.from_arrays([layers, units], names=["layer", "unit"]))


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    """Return Kendall's τ-b, which counts pairs that are tied in either as neither for nor against; by scipy.

    NaN where one of them does not vary.
    """
    from scipy.stats import kendalltau

    return float(kendalltau(np.asarray(a), np.asarray(b)).statistic)


def rank_agreement(effects: pd.DataFrame, reference: str = REFERENCE, places: int = 6) -> pd.DataFrame:
    """Return how each kind ranks units by the size of their effects, against a reference.

    Args:
        effects: as from `unit_effects`.
        reference: one of its columns.
        places: decimals, relative to the largest effect of a column: what differs by less is tied.

    Returns:
        A row per kind: `tau` (τ-b), `tied` (share of pairs tied in either), `effect` (mean size of the effects),
        `zeros` (share of units without any).
    """
    import pandas as pd

    sizes = effects.abs()
    rounded = (sizes / sizes.max().clip(lower=1e-30)).round(places)
    rows = {}
    for kind in effects:
        pairs = np.triu_indices(len(effects), 1)
        tied = [np.equal.outer(column := rounded[name].to_numpy(), column)[pairs] for name in (kind, reference)]
        rows[kind] = {
            "tau": kendall(rounded[kind], rounded[reference]),
            "tied": float((tied[0] | tied[1]).mean()),
            "effect": float(sizes[kind].mean()),
            "zeros": float((rounded[kind] == 0).mean()),
        }
    return pd.DataFrame(rows).T


def departure(activations: Tensor, replaced: Tensor, spread: tuple[Tensor, Tensor]) -> Tensor:
    """Return how far a layer is from the data with each unit replaced, `[units]`: 1 is as far as the data themselves.

    The mean squared Mahalanobis distance, over that of the rows as they are. It is that of what the next layer takes
    in, as far as its weights are invertible: a linear map does not change it.

    Args:
        activations: `[n, units]`.
        replaced: `[n, units]` or `[1, units]`, what stands in for each unit, one at a time.
        spread: mean `[units]` and inverse covariance `[units, units]` of the data, as from `spread_of`.
    """
    mean, precision = spread
    centred = activations - mean
    pulled = centred @ precision
    own = (pulled * centred).sum(1)
    step = replaced - activations
    moved = own[:, None] + 2 * step * pulled + step.square() * precision.diagonal()
    return moved.mean(0) / own.mean()


def spread_of(activations: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Return the mean `[units]` and the inverse of the covariance `[units, units]`, each variance a little larger.

    Args:
        activations: `[n, units]`, in double precision.
        ridge: what is added, as a share of the mean variance.
    """
    mean = activations.mean(0)
    covariance = (activations - mean).T @ (activations - mean) / len(activations)
    scale = covariance.diagonal().mean().clamp_min(1e-12)
    return mean, torch.linalg.inv(covariance + ridge * scale * torch.eye(len(mean), dtype=mean.dtype))


def departures(
    case: Case, kinds: Sequence[AblationType], constants: Mapping[Site, Tensor], most: int = 4096
) -> pd.DataFrame:
    """Return how far each stand-in leads from the data, for each unit: 1 where as far as the data themselves.

    Args:
        constants: what a kind that is found unit by unit puts in each unit's place.
        most: rows, items and positions, that a layer's distances are taken over.

    Returns:
        As `unit_effects`.
    """
    import pandas as pd

    found: dict[str, list[Tensor]] = {kind.value: [] for kind in kinds}
    for layer in case.layers:
        clean = _rows(case, layer, case.pairs.clean)
        step = max(1, len(clean) // most)
        spread = spread_of(torch.cat([_rows(case, layer, x) for x in (case.readings.clean, case.readings.corrupt)]))
        for kind in kinds:
            values = _values(case, layer, kind, constants if kind.site_by_site else None)
            values = values if len(values) == 1 else values[::step]
            found[kind.value].append(departure(clean[::step], values, spread))
    return pd.DataFrame({kind: torch.cat(parts).numpy() for kind, parts in found.items()})


def _rows(case: Case, layer: Layer, inputs: Batch) -> Tensor:
    """Return a layer's activations `[items · positions, units]`."""
    with torch.no_grad(), capture(case.model, layer.site) as seen:
        case.model(inputs)
    return _flat(seen[layer.site], layer)


def _flat(tensor: Tensor, layer: Layer) -> Tensor:
    return tensor.movedim(layer.site.units_axis(tensor), -1).flatten(0, -2).double()


def _values(case: Case, layer: Layer, kind: AblationType, constants: Mapping[Site, Tensor] | None) -> Tensor:
    """Return what stands in for a layer's units, `[items · positions, units]`, or one row for all."""
    if kind.needs == "nothing":
        return torch.full((1, len(layer)), kind.constant, dtype=torch.float64)
    with torch.no_grad(), capture(case.model, layer.site) as seen:
        case.model(case.pairs.clean)
    like = seen[layer.site]
    if constants is not None:
        return torch.stack([constants[layer.unit(number)].flatten()[:1] for number in range(len(layer))], 1).double()
    if kind.needs == "dataset":
        value = gather(case.model, [layer.site], kind, case.loader)[layer.site]
    else:
        inputs = [kind.inputs(batch)[0] for batch in case.loader]
        value = gather(case.model, [layer.site], kind, inputs)[layer.site]
    return _flat(value.expand_as(like), layer)
