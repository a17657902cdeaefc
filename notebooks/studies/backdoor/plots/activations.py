"""Pictures of what units answer to: maps of their activation, and kernels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import FuncNorm, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from nbutils.plotting.expect import expect_shape
from studies.backdoor.plots.grids import (
    Grid,
    Labels,
    add_colour_bar,
    count_lines,
    draw_images,
    fit,
    make_figure,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# Lightness rises from end to end, so that the sign can be read in grey; the middle stands out from either paper.
CHANGE = LinearSegmentedColormap.from_list("change", ["#08225c", "#2c5aa0", "#878787", "#e0a94a", "#ffe9b0"])
LEVELS = 16  # colours of activation maps: more would not be told apart, and double the file


def plot_activation_maps(
    maps: Mapping[str, ArrayLike],
    units: Sequence[int] | None = None,
    *,
    highlight: Collection[int] = (),
    columns: int = 16,
    quantity: str = "mean activation",
) -> Figure:
    """Plot where units are active: a row per condition, a column per unit, one scale for all.

    Args:
        maps: condition -> maps `[units, height, width]`, most often averaged over many images.
        units: the units to show, in this order; all when not given.
        highlight: units in heavy frames, with an arrow at their number.
        columns: units side by side; more are wrapped.
        quantity: what the maps show; names the colour bar.

    Raises:
        ValueError: no maps, or shapes differ.
        IndexError: no such unit.
    """
    if not maps:
        raise ValueError("expected maps of at least one condition, got none")
    first = np.shape(next(iter(maps.values())))
    shape = first if len(first) == 3 else ("units", "height", "width")
    stack = np.stack([expect_shape(name, values, shape) for name, values in maps.items()])  # (conditions, units, h, w)
    units = list(range(stack.shape[1])) if units is None else list(units)
    if not units or not all(0 <= unit < stack.shape[1] for unit in [*units, *highlight]):
        raise IndexError(f"expected units from 0 to {stack.shape[1] - 1}, got {units} and highlighted {[*highlight]}")
    columns = min(columns, len(units))
    blocks = [units[start : start + columns] for start in range(0, len(units), columns)]
    height, width = stack.shape[2:]
    grid = Grid(len(maps), columns, height, width, fit(columns, width, list(maps), right=0.75, most=0.9))
    fig, axes = make_figure([grid] * len(blocks), list(maps), right=0.75)
    shown = stack[:, units]
    # The square root shows what goes on everywhere beside a unit that one spot drives hard.
    norm = FuncNorm((lambda x: np.sign(x) * np.abs(x) ** 0.5, lambda x: np.sign(x) * x**2))
    norm.vmin, norm.vmax = min(float(shown.min()), 0.0), float(shown.max()) or 1.0
    for ax, block in zip(axes, blocks, strict=True):
        images = np.full((len(maps), columns, height, width), np.nan)
        images[:, : len(block)] = stack[:, block]
        names = [f"▶{unit}" if unit in highlight else str(unit) for unit in block]
        picture = draw_images(
            ax,
            images,
            inches=grid.inches,
            cmap=colormaps["viridis"].resampled(LEVELS),
            norm=norm,
            labels=Labels(list(maps), names + [""] * (columns - len(block))),
            marked={(row, place) for row in range(len(maps)) for place, unit in enumerate(block) if unit in highlight},
        )
    add_colour_bar(fig, picture, axes, f"{quantity}, square-root scale")
    return fig


def plot_kernels(kernels: Mapping[str, ArrayLike], units: Sequence[str], captions: Sequence[Sequence[str]]) -> Figure:
    """Plot the kernels of some units in several networks: a row per network, a column per unit, one scale for all.

    Args:
        kernels: network -> `[units, height, width]`.
        units: names of the columns.
        captions: for each network and unit the text below the kernel.

    Raises:
        ValueError: no networks, or shapes do not fit.
    """
    if not kernels:
        raise ValueError("expected kernels of at least one network, got none")
    shape = (len(units), "height", "width")
    images = np.stack([expect_shape(name, values, shape) for name, values in kernels.items()])
    inches = fit(len(units), images.shape[3], list(kernels), right=0.85, most=0.8)
    grid = Grid.of(images, inches, count_lines(text for row in captions for text in row))
    fig, (ax,) = make_figure([grid], list(kernels), right=0.85)
    limit = float(np.abs(images).max()) or 1.0
    labels = Labels(list(kernels), units, captions)
    picture = draw_images(ax, images, inches=inches, cmap=CHANGE, norm=Normalize(-limit, limit), labels=labels)
    add_colour_bar(fig, picture, [ax], "weight")
    return fig
