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


CONCEPTS = {  # the pure hues: colours that training can label, by the corner of the cube that is one in full
    "red": (1.0, 0.0, 0.0),
    "yellow": (1.0, 1.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "cyan": (0.0, 1.0, 1.0),
    "blue": (0.0, 0.0, 1.0),
    "magenta": (1.0, 0.0, 1.0),
}


def degree(rgb: Values, concept: str) -> Values:
    """Return how far colours are a concept, in [0, 1]: `[..., 3]` -> `[...]`; 1 at the pure hue only.

    The mean of the channels that are on in the pure hue, times one minus the mean of the others. For red it is the
    source's redness, r·(1 − g/2 − b/2); for every hue it is distributed alike over the cube.

    Raises:
        KeyError: no such concept.
    """
    if concept not in CONCEPTS:
        raise KeyError(f"expected one of {', '.join(CONCEPTS)}, got {concept!r}")
    on = [channel for channel, value in enumerate(CONCEPTS[concept]) if value]
    off = [channel for channel in range(3) if channel not in on]
    rest = 1 - rgb[..., off[0]] / len(off)
    for channel in off[1:]:
        rest = rest - rgb[..., channel] / len(off)
    return sum(rgb[..., channel] for channel in on) / len(on) * rest


def redness(rgb: Values) -> Values:
    """Return r·(1 − g/2 − b/2) in [0, 1] of colours: `[..., 3]` -> `[...]`; 1 at pure red only."""
    return degree(rgb, "red")


def concept_hsv(concept: str) -> tuple[float, float, float]:
    """Return the pure hue of a concept in HSV: the anchor of similarity."""
    from skimage.color import rgb2hsv

    hue, saturation, value = rgb2hsv(np.array(CONCEPTS[concept]))
    return float(hue), float(saturation), float(value)


@lru_cache(maxsize=8)
def _grid_tensor(points: int, dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(rgb_grid(points).reshape(-1, 3), dtype=dtype)


@dataclass(frozen=True)
class ColorBatches:
    """Training batches: colours of a grid, drawn with replacement, some of them labelled at random.

    P(label) = `label_rate` · degree^`label_power`, anew per sample: about 85 labels of red in the 96,064 samples of a
    run. Each member of an ensemble draws from random streams of its own, and each label from another.

    Attributes:
        points: grid points per axis; the data set has `points**3` colours.
        batch_size: colours per step.
        label_power: sharpness of the label probability around the pure hue.
        label_rate: label probability of the pure hue, in [0, 1].
        block: steps per draw; another value gives other draws.
        labels: the concepts that are labelled.
    """

    points: int = 8
    batch_size: int = 64
    label_power: float = 8.0
    label_rate: float = 0.08
    block: int = 256
    labels: tuple[str, ...] = ("red",)

    def colors(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the data set `[points**3, 3]`."""
        return _grid_tensor(self.points, dtype)

    def label_probability(self, label: str = "red") -> Tensor:
        """Return P(label) per colour `[points**3]`, in double precision."""
        return self.label_rate * degree(self.colors(), label) ** self.label_power

    def draw(self, seed: int, block: int) -> dict[str, Tensor]:
        """Draw one block of steps for one member: colours' `index` and each label by name, each `[block, batch]`."""
        shape = (self.block, self.batch_size)
        drawn = {"index": torch.randint(self.points**3, shape, generator=generator(seed, "color batches", block))}
        for label in self.labels:
            chance = torch.rand(shape, generator=generator(seed, f"{label} labels", block), dtype=torch.float64)
            drawn[label] = chance < self.label_probability(label)[drawn["index"]]
        return drawn

    def drawn_labels(self, seed: int, steps: int, label: str = "red") -> tuple[Tensor, Tensor]:
        """Return all that one member sees in some steps: indices of colours, and their labels, `[steps · batch]` each.

        Args:
            seed: the member's.
            steps: of training, 1 or more.
            label: one of `labels`.
        """
        blocks = [self.draw(seed, block) for block in range(-(-steps // self.block))]
        index, labels = (torch.cat([drawn[key] for drawn in blocks])[:steps].flatten() for key in ("index", label))
        return index, labels

    def batch(self, drawn: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the tensors of one step from the draws of all members `[members, batch]`.

        Returns:
            `input` and `target` `[members, batch, 3]` (one tensor: an autoencoder's target is its input), and each
            label `[members, batch]` of 0 and 1.
        """
        color = self.colors(dtype)[drawn["index"]]  # (members, batch, 3)
        return {"input": color, "target": color} | {label: drawn[label].to(dtype) for label in self.labels}

    def validation(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Return colours that training never shows, and the corners (`validation_colors`), with exact labels.

        Returns:
            `input` and `target` `[colours, 3]`, each label `[colours]`: 1 at the pure hue, else 0.
        """
        color = torch.as_tensor(validation_colors(self.points), dtype=dtype)
        return {"input": color, "target": color} | {
            label: (degree(color, label) == 1).to(dtype) for label in self.labels
        }


@dataclass(frozen=True)
class BatchesByMember(ColorBatches):
    """`ColorBatches` for members that each have a concept of their own, under the one name `label`.

    Regimes that differ in the concept alone then train as one ensemble (`Ensemble.across`). Each member meets what it
    meets alone, because colours and labels are drawn from streams of their own.

    Attributes:
        concepts: of each member, among `labels`.

    Raises:
        ValueError: a concept is not drawn.
    """

    concepts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.concepts or not set(self.concepts) <= set(self.labels):
            raise ValueError(f"expected a concept of each member, among {self.labels}; got {self.concepts}")

    def batch(self, drawn: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return `input`, `target` `[members, batch, 3]` and `label` `[members, batch]`, as `ColorBatches.batch`."""
        own = torch.stack([drawn[concept][member] for member, concept in enumerate(self.concepts)])
        batch = super().batch(drawn, dtype)
        return {"input": batch["input"], "target": batch["target"], "label": own.to(dtype)}
