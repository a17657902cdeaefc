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


@dataclass(frozen=True)
class Whitening:
    """What erasures of several concepts from the same features have in common: their axes, found once.

    Attributes:
        mean: `[C]`.
        standard: `[items, kept]`, the features in coordinates that are uncorrelated and of variance 1.
        there, back: `[C, kept]`; `(x - mean) @ there` are coordinates, `coordinates @ back.T + mean` features.
    """

    mean: NDArray[np.float64]
    standard: NDArray[np.float64]
    there: NDArray[np.float64]
    back: NDArray[np.float64]

    @classmethod
    def of(cls, features: ArrayLike) -> Whitening:
        """Whiten features `[items, C]`; directions in which they do not vary are left out."""
        features = np.asarray(features, dtype=np.float64)
        mean = features.mean(0)
        centred = features - mean
        variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
        kept = variances > _RELATIVE * variances.max()
        scale, axes = np.sqrt(variances[kept]), axes[:, kept]
        return cls(mean, centred @ (axes / scale), axes / scale, axes * scale)

    def eraser(self, concept: ArrayLike) -> Eraser:
        """Return LEACE of a concept `[items, numbers]`, such as one-hot classes or a quantity."""
        removes, reads = self.axes(concept)
        return Eraser(self.mean, removes @ reads.T)

    def erased(self, concept: ArrayLike, weight: ArrayLike) -> NDArray[np.float64]:
        """Return the change `[C]` of a linear function's weights `[C]` that the erasure of a concept makes.

        After x → x − P(x − mean) the function w·x is (w − Pᵀw)·x plus a constant; this is Pᵀw. It spares the matrix P
        where many concepts are erased under one head.
        """
        removes, reads = self.axes(concept)
        return reads @ (removes.T @ np.asarray(weight, dtype=np.float64))

    def axes(self, concept: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return V and U `[C, rank]`, what erasing a concept `[items, numbers]` removes and reads: P = VUᵀ."""
        concept = np.asarray(concept, dtype=np.float64)
        covariance = self.standard.T @ (concept - concept.mean(0)) / len(concept)  # (kept, numbers)
        directions, sizes, _ = np.linalg.svd(covariance, full_matrices=False)
        directions = directions[:, sizes > 1e-8 * max(1.0, sizes.max())]
        return self.back @ directions, self.there @ directions


def one_hot(targets: ArrayLike) -> NDArray[np.float64]:
    """Return classes `[items]` as columns `[items, classes]`."""
    targets = np.asarray(targets)
    return (targets[:, None] == np.unique(targets)).astype(np.float64)


def expect_classes(features: ArrayLike, targets: ArrayLike) -> tuple[NDArray[np.float64], NDArray]:
    """Return features `[items, C]` and their classes `[items]` as arrays.

    Raises:
        ValueError: shapes that do not correspond, or one class only.
    """
    features, targets = np.asarray(features, dtype=np.float64), np.asarray(targets)
    if features.ndim != 2 or targets.shape != features.shape[:1] or len(np.unique(targets)) < 2:
        raise ValueError(
            "features [items, C] and targets [items] of two classes or more are needed; "
            f"got {list(features.shape)} and {list(targets.shape)} of {len(np.unique(targets))}"
        )
    return features, targets


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
    features, targets = expect_classes(features, targets)
    return Whitening.of(features).eraser(one_hot(targets))
