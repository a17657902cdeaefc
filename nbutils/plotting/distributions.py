"""Distributions over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from nbutils.plotting.expect import expect_shape
from nbutils.plotting.labels import name_rows, note_row
from nbutils.plotting.marks import Mark, mark
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, spread evenly: jitter without a random generator


def jitter(row: int, count: int) -> np.ndarray:
    """Return heights `[count]` in the upper half of a row, the same at every call."""
    return row - 0.12 + 0.32 * (np.arange(1, count + 1) * GOLDEN % 1 - 0.5)


def draw_dots(ax: Axes, x: ArrayLike, y: ArrayLike, look: int | Mark, *, size: float, zorder: float = 2) -> None:
    """Draw single results as dots, with the colour and the marker of a name, or of a place in the order of conditions.

    Args:
        ax: axes to draw in.
        x: `[S]`.
        y: `[S]`.
        look: of the name, or its place: 0 for the first; colours and markers return after the seventh.
        size: points squared.
        zorder: higher is in front.
    """
    theme = current()
    if isinstance(look, int):
        look = Mark(theme.accents[look % len(theme.accents)], MARKERS[look % len(MARKERS)], "-")
    ax.scatter(
        x,
        y,
        s=size,
        marker=look.marker,
        facecolors=look.color,
        edgecolors=theme.paper,
        linewidths=0.4,
        zorder=zorder,
    )


def plot_gain(
    differences: Mapping[str, np.ndarray],
    intervals: Mapping[str, tuple[float, float]],
    *,
    quantity: str = "gain in Pearson r",
    over: str = "over",
) -> Figure:
    """Plot differences between pairs, seed by seed, with their mean and its interval against zero.

    Args:
        differences: for each label the differences `[S]` by seed; labels are names of the registry of looks.
        intervals: for each label the lower and the upper end of the mean's confidence interval.
        quantity: what the differences are; names the axis.
        over: what the labels are; names the other axis.

    Raises:
        ValueError: there are no labels, or differences are not a row of finite numbers.
        KeyError: a label has no interval, or no look (`nbutils.plotting.marks`).
    """
    if not differences:
        raise ValueError("expected differences under at least one label, got none")
    if missing := [label for label in differences if label not in intervals]:
        raise KeyError(f"expected an interval for each label, got none for {missing}")
    theme = current()
    fig = Figure(figsize=(8.0, 1.2 + 0.75 * len(differences)), layout="constrained")
    ax = fig.subplots()
    ax.axvline(0, color=theme.ink, linestyle="-", linewidth=1.0)
    for row, (label, gains) in enumerate(differences.items()):
        gains = expect_shape(label, gains, ("S",))
        low, high = intervals[label]
        draw_dots(ax, gains, jitter(row, len(gains)), mark(label), size=18)
        ax.plot(
            [low, high],
            [row + 0.2] * 2,
            color=theme.ink,
            linestyle="-",
            linewidth=2.4,
            marker="|",
            markersize=9,
        )
        ax.plot(gains.mean(), row + 0.2, marker="D", color=theme.ink, markerfacecolor=theme.paper, markersize=6)
        note_row(ax, row, f"{gains.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
    name_rows(ax, list(differences), below=0.45)
    ax.set_ylabel(over)
    ax.set_xlabel(f"{quantity}; diamond: mean with its interval")
    return fig
