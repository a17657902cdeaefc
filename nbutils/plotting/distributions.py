"""Distributions over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from nbutils.plotting.expect import expect_shape
from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, spread evenly: jitter without a random generator


def plot_gain(
    differences: Mapping[str, np.ndarray],
    intervals: Mapping[str, tuple[float, float]],
    *,
    quantity: str = "gain in Pearson r",
) -> Figure:
    """Plot differences between pairs, seed by seed, with their mean and its interval against zero.

    Args:
        differences: for each label the differences `[S]` by seed.
        intervals: for each label the lower and the upper end of the mean's confidence interval.
        quantity: what the differences are; names the axis.

    Raises:
        ValueError: there are no labels, or differences are not a row of finite numbers.
        KeyError: a label has no interval.
    """
    if not differences:
        raise ValueError("expected differences under at least one label, got none")
    if missing := [label for label in differences if label not in intervals]:
        raise KeyError(f"expected an interval for each label, got none for {missing}")
    theme = current()
    fig, ax = plt.subplots(figsize=(8.0, 1.2 + 0.75 * len(differences)), layout="constrained")
    ax.axvline(0, color=theme.ink, linestyle="-", linewidth=1.0)
    for row, (label, gains) in enumerate(differences.items()):
        gains = expect_shape(label, gains, ("S",))
        low, high = intervals[label]
        colour = theme.accents[row % len(theme.accents)]
        ax.scatter(
            gains,
            _jitter(row, len(gains)),
            s=14,
            marker=MARKERS[row % len(MARKERS)],
            facecolors=colour,
            edgecolors=theme.paper,
            linewidths=0.4,
            zorder=2,
        )
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
        ax.annotate(
            f"{gains.mean():+.3f} [{low:+.3f}, {high:+.3f}]",
            (1.01, row),
            xycoords=ax.get_yaxis_transform(),
            fontsize=FONT_SIZE,
            verticalalignment="center",
            annotation_clip=False,
        )
    ax.set_yticks(range(len(differences)), list(differences))
    ax.set_ylim(len(differences) - 0.55, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.set_xlabel(f"{quantity}; diamond: mean with its interval")
    return fig


def _jitter(row: int, count: int) -> np.ndarray:
    """Return heights `[count]` in the upper half of a row, the same at every call."""
    return row - 0.12 + 0.32 * (np.arange(1, count + 1) * GOLDEN % 1 - 0.5)
