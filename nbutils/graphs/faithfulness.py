"""How well the circuits that scores stand for do, over all sizes: the measures of the MIB benchmark.

Faithfulness of a circuit C: f(C) = (m(C) − m(∅)) / (m(M) − m(∅)), with m(C) the mean metric where every edge outside C
is ablated, M the whole model and ∅ everything ablated. Mueller et al. 2025, arXiv 2504.13151; completeness after Wang
et al. 2022, arXiv 2211.00593.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nbutils.graphs.scores import circuit_masks
from nbutils.graphs.task import EdgeTask, evaluate

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of all edges, the benchmark's


def circuit_curve(
    task: EdgeTask, scores: Tensor, shares: Sequence[float] = SHARES, *, memory: int | None = None
) -> pd.DataFrame:
    """Return the faithfulness of the circuits that keep the edges of the largest scores, whatever their sign.

    Args:
        scores: `[edges]`.
        shares: of all edges, in [0, 1]; each circuit keeps that many, rounded.
        memory: as for `evaluate`.

    Returns:
        A row per circuit: `share`, `edges`, `faithfulness`, and `without`: that of the model with the circuit's edges
        ablated and all others kept. A complete circuit leaves 0 without it.

    Raises:
        ValueError: a share outside [0, 1]; or everything ablated gives the metric of the whole model.
    """
    import pandas as pd

    if any(not 0 <= share <= 1 for share in shares):
        raise ValueError(f"shares of the edges lie in [0, 1]; got {list(shares)}")
    kept = [round(share * len(scores)) for share in shares]
    circuits = circuit_masks(scores, kept)
    ends = torch.stack([torch.zeros(len(scores)), torch.ones(len(scores))])
    means = evaluate(task, torch.cat([ends, circuits, 1 - circuits]), memory=memory).double().mean(1).cpu()
    whole, nothing = means[0], means[1]
    if whole == nothing:
        raise ValueError(f"with everything ablated the metric is that of the whole model, {whole:.4g}: nothing to keep")
    faithful, without = ((means[2:] - nothing) / (whole - nothing)).chunk(2)
    columns = {"share": list(shares), "edges": kept, "faithfulness": faithful.numpy(), "without": without.numpy()}
    return pd.DataFrame(columns)


def circuit_performance_ratio(shares: ArrayLike, faithfulness: ArrayLike) -> float:
    """Return CPR: the area under faithfulness over the share of edges kept, from 0 to 1. Higher is better.

    Args:
        shares: `[circuits]`, increasing, up to 1. From 0 to the first the curve is that of the first.
        faithfulness: `[circuits]`, finite.

    Raises:
        ValueError: otherwise.
    """
    return _area(*_curve(shares, faithfulness))


def circuit_model_distance(shares: ArrayLike, faithfulness: ArrayLike) -> float:
    """Return CMD: the area between faithfulness and 1 over the share of edges kept. 0 is best.

    It counts circuits that do better than the model as well, and where the curve crosses 1 both sides.

    Args, raises: as for `circuit_performance_ratio`.
    """
    x, y = _curve(shares, faithfulness)
    crossing = np.flatnonzero((y[:-1] - 1) * (y[1:] - 1) < 0)
    at = x[crossing] + (1 - y[crossing]) * (x[crossing + 1] - x[crossing]) / (y[crossing + 1] - y[crossing])
    return _area(np.insert(x, crossing + 1, at), np.abs(1 - np.insert(y, crossing + 1, 1.0)))


def _curve(shares: ArrayLike, values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(shares, float), np.asarray(values, float)
    if x.shape != y.shape or x.ndim != 1 or not len(x) or (np.diff(x) <= 0).any() or x[0] < 0 or x[-1] != 1:
        raise ValueError(f"a curve has increasing shares in [0, 1], the last 1, and a value at each; got {x}, {y}")
    if not np.isfinite(y).all():
        raise ValueError(f"a curve needs finite values; got {y}")
    return (x, y) if x[0] == 0 else (np.insert(x, 0, 0.0), np.insert(y, 0, y[0]))


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.trapezoid(y, x))
