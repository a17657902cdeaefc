"""What is read off a network in place of ablating it, and how well that ranks units by what ablation does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbutils.ablation.types import AblationType
from nbutils.graphs.residual import residual_graph
from nbutils.graphs.scores import attribution_scores, exact_scores
from nbutils.graphs.task import EdgeTask
from nbutils.sweeps.predictors import attribute
from studies.across.cases import Case, Layer
from studies.circuits.graph import transformer_graph
from studies.shortcut.patterns import class_spread, pattern_scores
from studies.shortcut.probes import channel_scores, fit_probe

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

READ = ("probe coefficient", "class-mean pattern", "pattern × weight", "weight change")
RUN = {
    "magnitude": "magnitude",
    "gradient × change": "gradient",
    "integrated gradients": "integrated",
    "random": "random",
}
"""Predictors of `nb.attribute`: name -> method."""
PREDICTORS = (*READ, *RUN)
EDGES = "attribution on edges"


def read_off(case: Case, layer: Layer) -> dict[str, NDArray[np.float64]]:
    """Return what activations and weights alone say about a layer's units, by predictor, `[units]` each.

    The probe is study 03's: a logistic regression on standardised activations; its score the norm over classes. The
    pattern is the spread of class means in standard deviations of the unit (Haufe et al. 2014); times weight it is the
    spread itself, times the norm of the weights that read the unit.
    """
    activations, classes = case.activations(layer).numpy(), case.concept.numpy()
    return {
        "probe coefficient": channel_scores(fit_probe(activations, classes, C=0.1)),
        "class-mean pattern": pattern_scores(activations, classes),
        "pattern × weight": class_spread(activations, classes) * layer.reads.double().numpy(),
        "weight change": layer.moved.double().numpy(),
    }


def predictions(case: Case, kind: AblationType, *, seed: int = 0) -> pd.DataFrame:
    """Return every predictor of what ablating each unit does: a row per unit, as in `unit_effects`.

    Args:
        kind: what replaces units; only the gradients ask for it.
        seed: of the random predictor.
    """
    import pandas as pd

    by_layer = [read_off(case, layer) for layer in case.layers]
    found = {name: np.concatenate([one[name] for one in by_layer]) for name in READ}
    units = dict(enumerate(case.sites))
    for name, method in RUN.items():
        frame = attribute(
            case.model, units, case.loader, case.metric, kind, method=method, steps=6, seed=seed  # type: ignore[arg-type]
        )  # fmt: skip
        found[name] = frame.value.to_numpy()
    return pd.DataFrame(found)


def spearman(scores: ArrayLike, truth: ArrayLike) -> float:
    """Return Spearman's rank correlation of sizes, 0 where the scores do not vary; by scipy."""
    from scipy.stats import spearmanr

    scores, truth = np.abs(np.asarray(scores, dtype=float)), np.abs(np.asarray(truth, dtype=float))
    if np.ptp(scores) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(spearmanr(scores, truth).statistic)


def league(predicted: pd.DataFrame, effect: pd.Series) -> pd.Series:
    """Return each predictor's Spearman correlation with the size of the exact effect, within layers.

    The mean over layers, weighted by their units: predictors need not compare units of different layers.

    Args:
        predicted: as from `predictions`.
        effect: of each unit, indexed by layer and unit, as a column of `unit_effects`.
    """
    import pandas as pd

    groups = effect.groupby(level="layer", sort=False).indices
    sizes = np.array([len(rows) for rows in groups.values()])
    return pd.Series(
        {
            name: np.average(
                [spearman(predicted[name].to_numpy()[rows], effect.to_numpy()[rows]) for rows in groups.values()],
                weights=sizes,
            )
            for name in predicted
        }
    )


def edge_task(case: Case, kind: AblationType) -> EdgeTask | None:
    """Return a case's network as a graph of sources and destinations, or None where it has no residual stream."""
    if case.name == "residual MLP":
        graph = residual_graph(case.model, case.pairs.clean, embedding="embed", blocks=4)
        return EdgeTask(case.model, graph, case.loader, kind, case.metric)
    if case.name == "induction":
        net = case.model.get_submodule("net")
        graph = transformer_graph(net, case.pairs.clean)  # type: ignore[arg-type]
        return EdgeTask(net, graph, case.loader, kind, lambda logits, batch: case.metric(logits[:, -1], batch))
    return None


def edge_league(case: Case, kind: AblationType) -> float:
    """Return Spearman's correlation of attribution with the exact effect over edges; NaN without a residual stream."""
    task = edge_task(case, kind)
    return np.nan if task is None else spearman(attribution_scores(task), exact_scores(task))
