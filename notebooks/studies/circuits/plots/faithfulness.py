"""Faithfulness: by number of edges kept, and by method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nbutils.plotting.distributions import GOLDEN, MARKERS
from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.theme import LINE_STYLES, Theme, current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def draw_faithfulness(ax: Axes, curves: pd.DataFrame, *, value: str = "ratio_of_means", low: float = -0.6) -> None:
    """Draw faithfulness against the number of edges kept, one line per method, the prompts' spread behind it.

    Args:
        ax: axes to draw in.
        curves: `method`, `edges`, `ratio_of_means`, `mean_of_ratios`, `low`, `high`, as from `faithfulness_curve`.
        value: which of the two to draw.
        low: lower end of the axis; the upper is as far above 1 as that is below 0. What lies beyond is cut off.
    """
    theme = current()
    for level in (0.0, 1.0):
        ax.axhline(level, color=theme.muted, linewidth=0.8, linestyle=":")
    for number, (_, curve) in enumerate(curves.groupby("method", sort=False)):
        look = _look(theme, number)
        ax.fill_between(curve["edges"], curve["low"], curve["high"], color=look["color"], alpha=0.10, linewidth=0)
        ax.plot(
            curve["edges"],
            curve[value],
            **look,
            markersize=3.5,
            linewidth=1.6,
        )
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
    theme = current()
    groups = list(curves.groupby(panel, sort=False))
    across = min(len(groups), 3)
    down = math.ceil(len(groups) / across)
    fig = Figure(figsize=(2.9 * across + 0.6, 2.5 * down + 0.5), layout="constrained")
    axes = fig.subplots(down, across, sharey=True, squeeze=False)
    for ax in axes.flat[len(groups) :]:
        ax.axis("off")
    for ax, (title, group) in zip(axes.flat, groups, strict=False):
        draw_faithfulness(ax, group, value=value, low=low)
        ax.set_title(title, fontsize=FONT_SIZE)
    for ax in axes[:, 0]:
        ax.set_ylabel(f"faithfulness\n({value.replace('_', ' ')})")
    methods = list(dict.fromkeys(curves["method"]))
    key = [Line2D([], [], **_look(theme, number), markersize=4, label=method) for number, method in enumerate(methods)]
    fig.legend(handles=key, loc="outside lower center", ncols=min(len(key), 5), fontsize=FONT_SIZE, handlelength=3.5)
    return fig


def plot_methods(
    values: pd.Series, choices: Mapping[str, Sequence[str]], *, circuits: Sequence[str] | None = None
) -> Figure:
    """Plot the faithfulness of circuits under all methods, one panel per circuit and one row per level of a choice.

    Every row of a choice's levels shows all methods again, sorted by that choice.

    Args:
        values: faithfulness, indexed by `circuit` and the choices.
        choices: choice -> its levels.
        circuits: which to draw; all of them when not given.
    """
    theme = current()
    titles = list(circuits or dict.fromkeys(values.index.get_level_values("circuit")))
    rows = [(number, choice, level) for number, choice in enumerate(choices) for level in choices[choice]]
    fig = Figure(figsize=(max(4.5, min(4.5 * len(titles), 9.2)), 4.6))
    axes = fig.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for ax, title in zip(axes, titles, strict=True):
        table = values[title].reset_index(name="faithfulness")
        for row, (number, choice, level) in enumerate(rows):
            own = table[table[choice] == level].faithfulness.to_numpy()
            height = row + 0.5 * ((np.arange(len(own)) * GOLDEN) % 1 - 0.5)
            ax.scatter(own, height, s=12, marker=MARKERS[number], color=theme.accents[number], linewidths=0)
        for value in (0, 1):
            ax.axvline(value, color=theme.muted, linewidth=0.8, linestyle=":")
        low, high = table.faithfulness.min(), table.faithfulness.max()
        ax.set_title(f"{title}\n{low:.2f} to {high:.2f}".replace("-", "−"), fontsize=FONT_SIZE)
        ax.set_xlabel("faithfulness")
        ax.set_yticks(range(len(rows)), [f"{choice}: {level}" for _, choice, level in rows], fontsize=8)
    axes[0].invert_yaxis()
    return fig


def _look(theme: Theme, number: int) -> dict[str, Any]:
    """Return colour, dashes and marker of a method."""
    return {
        "color": theme.accents[number % len(theme.accents)],
        "linestyle": LINE_STYLES[number % len(LINE_STYLES)],
        "marker": MARKERS[number % len(MARKERS)],
    }
