"""Checks of the arguments of drawing functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


def expect_columns(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Check that a table has these columns and at least one row.

    Raises:
        KeyError: a column is missing.
        ValueError: there are no rows.
    """
    if missing := [column for column in columns if column not in table]:
        raise KeyError(f"expected columns {', '.join(columns)}, got none called {missing}")
    if table.empty:
        raise ValueError(f"expected at least one row of {', '.join(columns)}, got an empty table")


def expect_shape(name: str, array: ArrayLike, shape: tuple[int | str, ...]) -> np.ndarray:
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


def expect_rgb(name: str, array: ArrayLike, shape: tuple[int | str, ...]) -> np.ndarray:
    """Return `array` as `expect_shape` does, if its values lie in [0, 1].

    Raises:
        ValueError: the shape differs, or a value lies outside [0, 1] by more than rounding.
    """
    array = expect_shape(name, array, shape)
    if array.size and (array.min() < -1e-6 or array.max() > 1 + 1e-6):
        raise ValueError(f"expected RGB in [0, 1] in {name}, got {array.min():.3g} to {array.max():.3g}")
    return np.clip(array, 0, 1)
