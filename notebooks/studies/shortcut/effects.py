"""Answers of channels to one change, measured on twins with that difference alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def channel_effects(features: ArrayLike, twins: ArrayLike, *, scale: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return the mean absolute change of each channel `[C]` from items to their twins.

    With twins of another stain this is S_c, the truth behind a shortcut score; with twins of other nuclei, M_c.

    Args:
        features: `[items, C]`.
        twins: `[items, C]`, in the same order.
        scale: `[C]`, units of each channel's change, e.g. its standard deviation over the training set. Scores of
            standardised features do not know a channel's own scale. A scale of 0 is a channel that never moves: its
            effect is 0.

    Raises:
        ValueError: shapes that do not correspond.
    """
    features, twins = np.asarray(features, dtype=np.float64), np.asarray(twins, dtype=np.float64)
    if features.shape != twins.shape or features.ndim != 2:
        raise ValueError(f"one twin per item is needed, [items, C]; got {list(features.shape)} and {list(twins.shape)}")
    effects = np.abs(twins - features).mean(0)
    if scale is None:
        return effects
    scale = np.asarray(scale, dtype=np.float64)
    return np.divide(effects, scale, out=np.zeros_like(effects), where=scale > 0)


@dataclass(frozen=True)
class SpearmanAgreement:
    """Spearman's rank correlation of two scores over channels, and its two-sided p-value."""

    rho: float
    p_value: float


def spearman_agreement(scores: ArrayLike, truth: ArrayLike) -> SpearmanAgreement:
    """Return the agreement of two scores `[C]` on the order of channels; by scipy.

    Raises:
        ValueError: shapes that do not correspond, or a score with the same value for every channel.
    """
    from scipy.stats import spearmanr

    scores, truth = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if scores.shape != truth.shape or scores.ndim != 1:
        raise ValueError(f"two scores per channel are needed; got {list(scores.shape)} and {list(truth.shape)}")
    if np.ptp(scores) == 0 or np.ptp(truth) == 0:
        raise ValueError("a score that is the same for every channel has no order to compare")
    found = spearmanr(scores, truth)
    return SpearmanAgreement(float(found.statistic), float(found.pvalue))
