"""Scores of units by what they show of a target: its class means, not the weights of a probe.

A probe's coefficient is a filter: it may be large for a unit that knows nothing and only cancels the noise of another.
What a unit shows is its pattern: for classes, their means. Haufe et al. 2014, NeuroImage 87:96-110.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

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
    features, targets = np.asarray(features, dtype=np.float64), np.asarray(targets)
    classes = np.unique(targets)
    if features.ndim != 2 or targets.shape != features.shape[:1] or len(classes) < 2:
        raise ValueError(
            "features [items, C] and targets [items] of two classes or more are needed; "
            f"got {list(features.shape)} and {list(targets.shape)} of {len(classes)}"
        )
    return np.stack([features[targets == each].mean(0) for each in classes]).std(0)


def pattern_scores(features: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Return each unit's pattern `[C]`: `class_spread` in its own standard deviations; 0 for one that never moves.

    Args, raises: as for `class_spread`.
    """
    spread, scale = class_spread(features, targets), np.asarray(features, dtype=np.float64).std(0)
    return np.divide(spread, scale, out=np.zeros_like(spread), where=scale > 0)


def pattern_weight_scores(features: ArrayLike, targets: ArrayLike, weight: ArrayLike) -> NDArray[np.float64]:
    """Return how far the target moves the logits through each unit `[C]`: `class_spread` times |weight|.

    Args:
        features, targets: as for `class_spread`.
        weight: `[C]`, of the head.

    Raises:
        ValueError: as for `class_spread`.
    """
    return class_spread(features, targets) * np.abs(np.asarray(weight, dtype=np.float64))
