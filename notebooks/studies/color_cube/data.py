"""The RGB cube as a data set: grids, names, redness, and training batches.

Source document: Ex 2.9.1, "Delete only red". All colours are RGB in [0, 1]; hues are turns in [0, 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nbutils.seeding import generator

if TYPE_CHECKING:
    import pandas as pd

Values = TypeVar("Values", NDArray[np.float64], Tensor)

SOURCE = "embedded colour cube"  # a formula: nothing is downloaded

RED_HSV = (0.0, 1.0, 1.0)

HUES = ("red", "orange", "yellow", "lime", "green", "teal", "cyan", "azure", "blue", "purple", "magenta", "pink")
GREYS = ("black", "dark grey", "grey", "light grey", "white")


def rgb_grid(points: int) -> NDArray[np.float64]:
    """Return the RGB cube at `points` evenly spaced values per axis, corners included: `[points, points, points, 3]`.

    Raises:
        ValueError: fewer than 2 points.
    """
    if points < 2:
        raise ValueError(f"a grid that reaches the corners needs 2 points per axis or more; got {points}")
    axis = np.linspace(0, 1, points)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def validation_colors(subdivisions: int) -> NDArray[np.float64]:
    """Return colours between the training colours, and the eight corners: `[(subdivisions - 1)**3 + 8, 3]`.

    Per axis, the inner points are `subdivisions - 1` values from half a cell to one minus half a cell, as in the
    source.

    Args:
        subdivisions: points per axis of the training grid, 2 or more.
    """
    half = 1 / (2 * subdivisions)
    axis = np.linspace(half, 1 - half, subdivisions - 1)
    inner = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.concatenate([inner, rgb_grid(2).reshape(-1, 3)])


@dataclass(frozen=True)
class HsvCube:
    """A grid over hue, saturation and value, with its RGB colours.

    Attributes:
        hue: `[H]` turns; values outside [0, 1) wrap around.
        saturation: `[S]` in [0, 1].
        value: `[V]` in [0, 1].
        rgb: `[H, S, V, 3]` in [0, 1].
    """

    hue: NDArray[np.float64]
    saturation: NDArray[np.float64]
    value: NDArray[np.float64]
    rgb: NDArray[np.float64]


def hsv_cube(hue: ArrayLike, saturation: ArrayLike, value: ArrayLike) -> HsvCube:
    """Return the `HsvCube` of three axes: hue in turns `[H]`, saturation `[S]` and value `[V]` in [0, 1]."""
    from skimage.color import hsv2rgb

    h, s, v = (np.asarray(axis, dtype=float) for axis in (hue, saturation, value))
    grid = np.stack(np.meshgrid(h % 1.0, s, v, indexing="ij"), axis=-1)
    return HsvCube(h, s, v, rgb=hsv2rgb(grid))


def coarse_hsv_cube() -> HsvCube:
    """Return the 12 × 4 × 5 cube for slices in patches."""
    return hsv_cube(np.arange(12) / 12, np.linspace(0, 1, 4), np.linspace(0, 1, 5))


def fine_hsv_cube() -> HsvCube:
    """Return the 150 × 24 × 24 cube for error curves; its hues run on by one patch of the coarse cube at both ends."""
    return hsv_cube(np.linspace(-1 / 12, 13 / 12, 300)[::2], np.linspace(0, 1, 48)[::2], np.linspace(0, 1, 48)[::2])


def named_colors() -> pd.DataFrame:
    """Return twelve vivid hues and five greys: columns `name` and `rgb` (a tuple of three floats)."""
    import pandas as pd
    from skimage.color import hsv2rgb

    hsv = [(i / len(HUES), 1.0, 1.0) for i in range(len(HUES))]
    hsv += [(0.0, 0.0, i / (len(GREYS) - 1)) for i in range(len(GREYS))]
    rgb = hsv2rgb(np.array(hsv))
    return pd.DataFrame({"name": [*HUES, *GREYS], "rgb": [tuple(map(float, row)) for row in rgb]})


def redness(rgb: Values) -> Values:
    """Return r·(1 − g/2 − b/2) in [0, 1] of colours: `[..., 3]` -> `[...]`; 1 at pure red only."""
    return rgb[..., 0] * (1 - rgb[..., 1] / 2 - rgb[..., 2] / 2)


@lru_cache(maxsize=8)
def _grid_tensor(points: int, dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(rgb_grid(points).reshape(-1, 3), dtype=dtype)


@dataclass(frozen=True)
class ColorBatches:
    """Training batches: colours of a grid, drawn with replacement, some of them labelled red at random.

    P(label red) = `label_rate` · redness^`label_power`, anew per sample: about 85 labels in the 96,064 samples of a
    run. Each member of an ensemble draws from random streams of its own.

    Attributes:
        points: grid points per axis; the data set has `points**3` colours.
        batch_size: colours per step.
        label_power: sharpness of the label probability around pure red.
        label_rate: label probability of pure red, in [0, 1].
        block: steps per draw; another value gives other draws.
    """

    points: int = 8
    batch_size: int = 64
    label_power: float = 8.0
    label_rate: float = 0.08
    block: int = 256

    def colors(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the data set `[points**3, 3]`."""
        return _grid_tensor(self.points, dtype)

    def label_probability(self) -> Tensor:
        """Return P(label red) per colour `[points**3]`, in double precision."""
        return self.label_rate * redness(self.colors()) ** self.label_power

    def draw(self, seed: int, block: int) -> dict[str, Tensor]:
        """Draw one block of steps for one member: colours' `index` and labels `red`, each `[block, batch]`."""
        shape = (self.block, self.batch_size)
        index = torch.randint(self.points**3, shape, generator=generator(seed, "color batches", block))
        chance = torch.rand(shape, generator=generator(seed, "red labels", block), dtype=torch.float64)
        return {"index": index, "red": chance < self.label_probability()[index]}

    def batch(self, drawn: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the tensors of one step from the draws of all members `[members, batch]`.

        Returns:
            `input` and `target` `[members, batch, 3]` (one tensor: an autoencoder's target is its input), `red`
            `[members, batch]` of 0 and 1.
        """
        color = self.colors(dtype)[drawn["index"]]  # (members, batch, 3)
        return {"input": color, "target": color, "red": drawn["red"].to(dtype)}
