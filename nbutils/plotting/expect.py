"""Checks of the arrays that pictures are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    pass


def expect_shape(name: str, array: np.ndarray, shape: tuple[int | str, ...]) -> np.ndarray:
    """Return `array` as floats if it has the shape; letters stand for any size.

    Raises:
        ValueError: it has another shape, or a number is not finite; says which was expected and which came.
    """
    array = np.asarray(array, dtype=float)
    fits = array.ndim == len(shape) and all(
        isinstance(want, str) or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"expected {name} of shape [{', '.join(map(str, shape))}], got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"expected finite numbers in {name}, got {int((~np.isfinite(array)).sum())} others")
    return array
