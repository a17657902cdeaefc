"""How alike two colours are, in hue, saturation and value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def hsv_similarity(hsv: ArrayLike, anchor: ArrayLike) -> NDArray[np.float64]:
    """Return the similarity of colours to an anchor, in [0, 1].

    The product of three factors: hue similarity (1 at the anchor's hue, falling linearly with the angle to 0 at 90°
    and beyond), 1 − |ΔS|, and 1 − |ΔV|. Greys have no hue, so hue similarity counts with the mean vibrancy (S·V) of the
    two colours, and as 1 for the rest. Source document: Ex 2.9.1 (angular, hemispheric, vibrancy-weighted).

    Args:
        hsv: `[..., 3]` with hue in turns and the others in [0, 1].
        anchor: `[3]`, likewise.
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
    """Return `hsv_similarity` of RGB colours `[..., 3]` to an anchor given in HSV `[3]`."""
    from skimage.color import rgb2hsv

    return hsv_similarity(rgb2hsv(np.asarray(rgb, dtype=float)), anchor)
