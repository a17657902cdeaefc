"""Faithfulness: by number of edges kept, and by method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.marks import mark
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

_WIDTH = 9.06  # inches: what a page shows without shrinking it


def draw_faithfulness(ax: Axes, curves: pd.DataFrame, *, value: str = "ratio_of_means", low: float = -0.6) -> None:
    """Draw faithfulness against the number of edges kept, one line per method; behind the first the prompts' spread.

    Args:
        ax: axes to draw in.
        curves: `method` (the name of a mark, `nbutils.plotting.marks`), `edges`, `ratio_of_means`, `mean_of_ratios`,
            `low`, `high`, as from `faithfulness_curve`.
        value: which of the two to draw.
        low: lower end of the axis; the upper is as far above 1 as that is below 0. What lies beyond is cut off.
    """
    theme = current()
    for level in (0.0, 1.0):
        ax.axhline(level, color=theme.muted, linewidth=0.8, linestyle=":")
    for number, (method, curve) in enumerate(curves.groupby("method", sort=False)):
        look = mark(str(method))
        if number == 0:
            ax.fill_between(curve["edges"], curve["low"], curve["high"], color=look.color, alpha=0.2, linewidth=0)
        ax.plot(curve["edges"], curve[value], **look._asdict(), markersize=4.5, linewidth=1.6)
    ax.set_ylim(low, 1 - low)
    ax.set_xlabel("edges kept")
    ax.grid(axis="y")


def plot_faithfulness(
    curves: pd.DataFrame, *, panel: str = "ablation", value: str = "ratio_of_means", low: float = -0.6
) -> Figure:
    """Plot faithfulness by circuit size, one panel per ablation type and one line per method of scoring edges.

    Args:
        curves: as for `draw_faithfulness`, with a column `panel`.
        panel: the column that tells the panels apart.
        value, low: as for `draw_faithfulness`.

    Raises:
        ValueError: no curves, or a column is missing.
    """
    missing = {panel, "method", "edges", "low", "high", value} - set(curves.columns)
    if missing or curves.empty:
        raise ValueError(
            f"faithfulness curves need the columns {', '.join(sorted(missing))}" if missing else "no curves"
        )
    groups = list(curves.groupby(panel, sort=False))
    across = 2
    down = math.ceil((len(groups) + 1) / across)  # the last place holds the key
    fig = Figure(figsize=(_WIDTH, 2.6 * down + 0.2), layout="constrained")
    axes = fig.subplots(down, across, sharey=True, squeeze=False)
    for ax in axes.flat[len(groups) :]:
        ax.axis("off")
    for ax, (title, group) in zip(axes.flat, groups, strict=False):
        draw_faithfulness(ax, group, value=value, low=low)
        ax.set_title(title)
    for ax in axes[:, 0]:
        ax.set_ylabel(f"faithfulness, {value.replace('_', ' ')}")
    methods = list(dict.fromkeys(curves["method"]))
    key = [Line2D([], [], **mark(method)._asdict(), markersize=5, label=method) for method in methods]
    place: dict[str, Any] = {"loc": "center left", "title": "edges kept by", "alignment": "left"}
    axes.flat[-1].legend(handles=key, fontsize=FONT_SIZE, title_fontsize=FONT_SIZE, handlelength=4, **place)
    return fig


def plot_sorted(panels: Mapping[str, Mapping[str, ArrayLike]], labels: Mapping[str, str]) -> Figure:
    """Plot faithfulness sorted from the least up, one panel per question and one line per circuit.

    Args:
        panels: title -> circuit (the name of a mark, `nbutils.plotting.marks`) -> values `[methods]` or `[networks]`.
        labels: title -> what is sorted; names the axis.

    Raises:
        KeyError: a circuit has no mark, or a panel no label.
        ValueError: no panels.
    """
    if not panels:
        raise ValueError("expected one panel or more, got none")
    theme = current()
    fig = Figure(figsize=(_WIDTH, 4.0), layout="constrained")
    for ax, (title, circuits) in zip(
        fig.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for level in (0.0, 1.0):
            ax.axhline(level, color=theme.muted, linewidth=0.8, linestyle=":")
        for number, (circuit, values) in enumerate(circuits.items()):
            ranked = np.sort(np.asarray(values, dtype=float))
            every = max(1, len(ranked) // 8)
            look: dict[str, Any] = {**mark(circuit)._asdict(), "markevery": (number * every // 6 % every, every)}
            ax.plot(np.arange(1, len(ranked) + 1), ranked, label=circuit, markersize=5, linewidth=1.5, **look)
        ax.set_title(title)
        ax.set_xlabel(labels[title])
        ax.set_ylabel("faithfulness")
        ax.grid(axis="y")
    handles, names = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=3, fontsize=FONT_SIZE, handlelength=4)
    return fig
