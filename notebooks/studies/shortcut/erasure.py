"""Erase everything linear about a concept from features, and change them no more than that takes.

The closed form of LEACE (Belrose et al. 2023, arXiv 2306.03819), in a page: no dependency is needed for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_RELATIVE = 1e-10  # directions with less than this share of the greatest variance count as without any


@dataclass(frozen=True)
class Eraser:
    """A fitted erasure: x → x − P(x − mean).

    Attributes:
        mean: `[C]`.
        projection: `[C, C]`, P, of rank at most the number of classes less one.
    """

    mean: NDArray[np.float64]
    projection: NDArray[np.float64]

    def __call__(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return features `[items, C]` without the concept."""
        features = np.asarray(features, dtype=np.float64)
        return features - (features - self.mean) @ self.projection.T


def fit_eraser(features: ArrayLike, targets: ArrayLike) -> Eraser:
    """Fit LEACE: of all affine maps after which no linear probe beats a constant, the one that moves features least.

    P = W⁺ Q W, where W whitens the features and Q projects on the columns of W·Cov(features, one-hot targets). On the
    data it was fitted on, features and targets are uncorrelated afterwards. Belrose et al. 2023, arXiv 2306.03819,
    theorem 4.3.

    Args:
        features: `[items, C]`.
        targets: `[items]`, classes.

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
    mean = features.mean(0)
    centred = features - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = variances > _RELATIVE * variances.max()
    scale, axes = np.sqrt(variances[kept]), axes[:, kept]
    concept = (targets[:, None] == classes).astype(np.float64)
    whitened = (axes / scale).T @ (centred.T @ (concept - concept.mean(0))) / len(centred)  # (kept, classes)
    directions, sizes, _ = np.linalg.svd(whitened, full_matrices=False)
    directions = directions[:, sizes > 1e-8 * max(1.0, sizes.max())]
    return Eraser(mean, (axes * scale) @ directions @ directions.T @ (axes / scale).T)
