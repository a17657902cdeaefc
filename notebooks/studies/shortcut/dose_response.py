"""One number for a curve over K, fixed before the curve is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def area_under_k(ks: Sequence[int], values: ArrayLike) -> NDArray[np.float64]:
    """Return the area under values over log2(1 + K), by trapezoids, divided by the length of that axis.

    It is a mean over the grid in units of `values`: a curve of 0.05 everywhere has the area 0.05. On this axis
    each doubling of K weighs the same, and K = 0 has its place; the best K of a curve is never picked.

    Args:
        ks: the grid, increasing, two or more; the same for all curves of a comparison.
        values: `[..., ks]`, in any unit.

    Raises:
        ValueError: a grid that does not increase or does not fit the values.
    """
    grid, heights = np.asarray(ks), np.asarray(values, dtype=np.float64)
    if grid.ndim != 1 or len(grid) < 2 or (np.diff(grid) <= 0).any() or grid[0] < 0 or heights.shape[-1:] != grid.shape:
        raise ValueError(
            f"values [..., ks] over increasing ks are needed; got {list(heights.shape)} over {grid.tolist()}"
        )
    axis = np.log2(1 + grid)
    return np.trapezoid(heights, axis, axis=-1) / (axis[-1] - axis[0])
