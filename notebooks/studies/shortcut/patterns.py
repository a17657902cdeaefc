"""Scores of units by what they show of a target: its class means, not the weights of a probe.

A probe's coefficient is a filter: it may be large for a unit that knows nothing and only cancels the noise of another.
What a unit shows is its pattern: for classes, their means. Haufe et al. 2014, NeuroImage 87:96-110.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbutils.stats.erasure import expect_classes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def class_spread(features: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Return how far class means of each unit lie apart `[C]`: the standard deviation of the means, each weighed alike.

    Args:
        features: `[items, C]`.
        targets: `[items]`, classes, two or more.

    Raises:
        ValueError: shapes that do not correspond, or one class only.
    """
    features, targets = expect_classes(features, targets)
    return np.stack([features[targets == each].mean(0) for each in np.unique(targets)]).std(0)


def pattern_scores(features: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Return each unit's pattern `[C]`: `class_spread` in its own standard deviations; 0 for one that never moves.

    Args, raises: as for `class_spread`.
    """
    spread, features = class_spread(features, targets), np.asarray(features, dtype=np.float64)
    scale = features.std(0)
    moves = scale > 1e-9 * np.abs(features).max(0)  # the mean of equal numbers can be off in its last digit
    return np.divide(spread, scale, out=np.zeros_like(spread), where=moves)


def pattern_weight_scores(features: ArrayLike, targets: ArrayLike, weight: ArrayLike) -> NDArray[np.float64]:
    """Return how far the target moves the logits through each unit `[C]`: `class_spread` times |weight|.

    Args:
        features, targets: as for `class_spread`.
        weight: `[C]`, of the head.

    Raises:
        ValueError: as for `class_spread`.
    """
    return class_spread(features, targets) * np.abs(np.asarray(weight, dtype=np.float64))
