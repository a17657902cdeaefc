"""How alike colours are, how badly they are reconstructed, and whether the two go together."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


def hsv_similarity(hsv: ArrayLike, anchor: ArrayLike) -> NDArray[np.float64]:
    """Return the similarity of colours to an anchor, in [0, 1].

    The product of three factors: hue similarity (1 at the anchor's hue, falling linearly with the angle to 0 at 90°
    and beyond), 1 − |ΔS|, and 1 − |ΔV|. Greys have no hue, so hue similarity counts with the mean vibrancy (S·V) of the
    two colours, and as 1 for the rest. Source document: Ex 2.9.1 (angular, hemispheric, vibrancy-weighted).

    Args:
        hsv: `[..., 3]`, hue in turns, saturation and value in [0, 1].
        anchor: `[3]`, likewise.

    Returns:
        `[...]`.
    """
    hue, saturation, value = np.moveaxis(np.asarray(hsv, dtype=float), -1, 0)
    anchor_hue, anchor_saturation, anchor_value = np.asarray(anchor, dtype=float)
    turns = np.abs(hue - anchor_hue) % 1.0
    degrees = 360 * np.minimum(turns, 1 - turns)
    near = np.maximum(0.0, 1 - degrees / 90)
    vibrancy = (saturation * value + anchor_saturation * anchor_value) / 2
    hue_factor = vibrancy * near + (1 - vibrancy)
    return hue_factor * (1 - np.abs(saturation - anchor_saturation)) * (1 - np.abs(value - anchor_value))


def rgb_similarity(rgb: ArrayLike, anchor: ArrayLike) -> NDArray[np.float64]:
    """Return `hsv_similarity` `[...]` of RGB colours `[..., 3]` in [0, 1] to an anchor in HSV `[3]`."""
    from skimage.color import rgb2hsv

    return hsv_similarity(rgb2hsv(np.asarray(rgb, dtype=float)), anchor)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error per colour over its channels: `[..., channels]` twice -> `[...]`."""
    return (output - target).square().mean(-1)


def error_correlation(
    error: ArrayLike,
    similarity: ArrayLike,
    power: float = 1.0,
    method: Literal["pearson", "spearman"] = "pearson",
) -> NDArray[np.float64]:
    """Return the correlation of errors with similarity^power, for many networks at once.

    No p-value: the colours are points of a grid, as many as one likes; the seed is the unit of inference
    (`nbutils.stats.uncertainty`).

    Args:
        error: `[..., colours]`, e.g. one row per network.
        similarity: `[colours]`, 0 or more.
        power: exponent; Spearman's correlation does not depend on it.
        method: correlation of values, or of ranks.

    Returns:
        `[...]` in [-1, 1]; NaN where the errors do not vary.

    Raises:
        ValueError: shapes do not fit, or an unknown method.
    """
    s, e = np.asarray(similarity, dtype=float), np.asarray(error, dtype=float)
    if s.ndim != 1 or e.shape[-1:] != s.shape:
        raise ValueError(f"expected errors [..., colours] and similarity [colours]; got {e.shape}, {s.shape}")
    x, y = s**power, e
    if method == "spearman":
        from scipy.stats import rankdata

        x, y = rankdata(s), rankdata(e, axis=-1)
    elif method != "pearson":
        raise ValueError(f"method must be 'pearson' or 'spearman'; got {method!r}")
    x = x - x.mean()
    y = y - y.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (y @ x) / (np.linalg.norm(x) * np.linalg.norm(y, axis=-1))
