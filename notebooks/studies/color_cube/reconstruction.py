"""Reconstruction errors, colour by colour, and whether they sit where a concept is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each item over its channels: `[..., channels]` twice -> `[...]`."""
    return (output - target).square().mean(-1)


def error_correlation(
    error: ArrayLike,
    similarity: ArrayLike,
    power: float = 1.0,
    method: Literal["pearson", "spearman"] = "pearson",
) -> NDArray[np.float64]:
    """Return the correlation of errors with similarity^power, for many models at once.

    No p-value: the items are points of a grid, as many as one likes; the seed is the unit of inference
    (`nbutils.stats.uncertainty`).

    Args:
        error: `[..., items]`, e.g. one row a model.
        similarity: `[items]`, 0 or more.
        power: exponent; Spearman's correlation does not depend on it.
        method: correlation of values, or of ranks.

    Returns:
        `[...]`; NaN where the errors do not vary.

    Raises:
        ValueError: shapes do not fit, or an unknown method.
    """
    error, similarity = np.asarray(error, dtype=float), np.asarray(similarity, dtype=float)
    if similarity.ndim != 1 or error.shape[-1:] != similarity.shape:
        raise ValueError(f"errors [..., items] and similarity [items] expected; got {error.shape}, {similarity.shape}")
    x, y = similarity**power, error
    if method == "spearman":
        from scipy.stats import rankdata

        x, y = rankdata(similarity), rankdata(error, axis=-1)
    elif method != "pearson":
        raise ValueError(f"method must be 'pearson' or 'spearman'; got {method!r}")
    x = x - x.mean()
    y = y - y.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (y @ x) / (np.linalg.norm(x) * np.linalg.norm(y, axis=-1))
