"""Distribution of the correlation over seeds, and its dependence on the power of similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nbutils.plotting.distributions import draw_dots, jitter
from nbutils.plotting.expect import expect_columns, expect_shape
from nbutils.plotting.labels import FONT_SIZE, label_curves, label_ends, name_rows
from nbutils.plotting.marks import mark
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def draw_seed_distribution(
    ax: Axes,
    values: Mapping[str, np.ndarray],
    *,
    reference: Mapping[str, tuple[float, float]] | None = None,
    highlight: Mapping[str, int] | None = None,
) -> None:
    """Draw one row per label: all seeds as dots, a box plot under them, a published band behind them.

    Args:
        ax: axes to draw in; values run to the right.
        values: for each label, a name of the registry of looks, the results `[S]` by seed.
        reference: for some labels a published mean and standard deviation.
        highlight: for each name (`"median"`, `"best"`) the index of the seed, marked in every row.

    Raises:
        ValueError: results are not a row of finite numbers.
    """
    for row, (label, results) in enumerate(values.items()):
        results = expect_shape(label, results, ("S",))
        if reference and label in reference:
            _draw_band(ax, row, *reference[label])
        heights = jitter(row, len(results))
        draw_dots(ax, results, heights, mark(label), size=16)
        _draw_box(ax, row, results, mark(label).color)
        _mark_seeds(ax, row, {name: (results[index], heights[index]) for name, index in (highlight or {}).items()})
    name_rows(ax, list(values), above=0.62, below=0.55)
    ax.set_ylabel("plan")


def plot_seed_distribution(
    values: Mapping[str, np.ndarray],
    *,
    reference: Mapping[str, tuple[float, float]] | None = None,
    highlight: Mapping[str, int] | None = None,
    quantity: str = "Pearson r",
) -> Figure:
    """Plot results over seeds: all as dots with box plots, and the cumulative distributions beside them.

    Args:
        values: for each label the results `[S]` by seed.
        reference: for some labels a published mean and standard deviation, drawn as a band.
        highlight: for each name (`"median"`, `"best"`) the index of the seed, marked in every row.
        quantity: what the results are; names the axes.

    Raises:
        ValueError: there are no labels, or results are not a row of finite numbers.
        IndexError: a highlighted seed is not among the results.
    """
    if not values:
        raise ValueError("expected results under at least one label, got none")
    for label, results in values.items():
        for name, index in (highlight or {}).items():
            if not 0 <= index < len(results):
                raise IndexError(f"expected {name} among the {len(results)} seeds of {label}, got {index}")
    fig = Figure(figsize=(8.5, 1.5 + 1.15 * len(values)), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=[3, 2])
    draw_seed_distribution(left, values, reference=reference, highlight=highlight)
    left.set_xlabel(quantity + ("; band: published mean ± sd" if reference else ""))
    curves = []
    for label, results in values.items():
        look = mark(label)
        ordered = np.sort(np.asarray(results, dtype=float))
        x = np.concatenate([ordered[:1], ordered])
        y = np.arange(len(x)) / len(ordered)
        right.step(x, y, where="post", color=look.color, linestyle=look.linestyle, linewidth=1.8)
        curves.append((np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1], label, look.color))
    right.set_ylim(-0.03, 1.03)
    right.set_xlabel(quantity)
    right.set_ylabel("share of seeds at or below")
    right.grid()
    label_curves(right, curves)
    return fig


def plot_power_sweep(
    powers: Sequence[float],
    table: pd.DataFrame,
    *,
    chosen: Mapping[str, float] | None = None,
    quantity: str = "mean Pearson r",
) -> Figure:
    """Plot a mean over seeds against the power of similarity, a line with a band for each plan.

    Args:
        powers: the powers, increasing; ticks of the axis.
        table: one row for each plan and power, with columns `plan` (a name of the registry of looks), `power`,
            `mean`, `low`, `high`.
        chosen: for some plans the chosen power, marked by a ring.
        quantity: what the mean is of; names the axis.

    Raises:
        KeyError: the table lacks a column.
        ValueError: there are no rows, or a plan has not exactly one row for each power.
    """
    expect_columns(table, ("plan", "power", "mean", "low", "high"))
    theme = current()
    x = np.asarray(powers, dtype=float)
    fig = Figure(figsize=(7.5, 3.8), layout="constrained")
    ax = fig.subplots()
    ends = []
    for plan, rows in table.groupby("plan", sort=False):
        rows = rows.sort_values("power")
        if not np.array_equal(rows["power"], x):
            raise ValueError(f"expected the powers {x.tolist()} for {plan}, got {rows['power'].tolist()}")
        look = mark(str(plan))
        ax.fill_between(x, rows["low"], rows["high"], color=look.color, alpha=0.2, linewidth=0)
        ax.plot(x, rows["mean"], **look._asdict(), markersize=5, linewidth=1.8)
        if chosen and plan in chosen:
            at = rows["mean"].to_numpy()[np.flatnonzero(x == chosen[plan])]
            ax.scatter([chosen[plan]] * len(at), at, s=130, facecolors="none", edgecolors=theme.ink, linewidths=1.4)
        ends.append((rows["mean"].iloc[-1], str(plan), look.color))
    ax.set_xticks(x, [f"{power:g}" for power in x])
    ax.set_xlabel("power of the similarity" + ("; ring: chosen" if chosen else ""))
    ax.set_ylabel(quantity)
    ax.grid()
    ax.autoscale_view()
    label_ends(ax, ends)
    return fig


def _draw_band(ax: Axes, row: int, mean: float, std: float) -> None:
    """Draw a mean and one standard deviation on both sides of it."""
    theme = current()
    ax.add_patch(
        Rectangle((mean - std, row - 0.42), 2 * std, 0.84, facecolor=theme.muted, edgecolor="none", alpha=0.28)
    )
    ax.plot([mean, mean], [row - 0.42, row + 0.42], color=theme.ink, linestyle=":", linewidth=1.2)


def _draw_box(ax: Axes, row: int, results: np.ndarray, colour: str) -> None:
    """Draw a box plot of all results, the median in a colour; its whiskers reach the extremes."""
    theme = current()
    ink = {"color": theme.ink, "linewidth": 1.1, "linestyle": "-"}
    ax.boxplot(
        results,
        positions=[row + 0.27],
        orientation="horizontal",
        widths=0.16,
        whis=(0, 100),
        patch_artist=True,
        boxprops={"edgecolor": theme.ink, "facecolor": theme.paper, "linewidth": 1.1},
        medianprops={"color": colour, "linewidth": 2.2, "linestyle": "-"},
        whiskerprops=ink,
        capprops=ink,
        manage_ticks=False,
    )


def _mark_seeds(ax: Axes, row: int, places: Mapping[str, tuple[float, float]]) -> None:
    """Draw rings around dots, and their names above the row."""
    theme = current()
    ordered = sorted(places.items(), key=lambda item: item[1][0])
    for order, (name, (x, y)) in enumerate(ordered):
        # The names of neighbours lean away from each other.
        lean: Literal["left", "center", "right"] = "right" if order <= (len(ordered) - 1) / 2 else "left"
        if len(ordered) == 1:
            lean = "center"
        ax.scatter(x, y, s=70, facecolors="none", edgecolors=theme.ink, linewidths=1.3, zorder=3)
        ax.annotate(
            name,
            (x, y),
            (x, row - 0.47),
            fontsize=FONT_SIZE - 1,
            horizontalalignment=lean,
            verticalalignment="bottom",
            arrowprops={
                "arrowstyle": "-",
                "color": theme.ink,
                "linewidth": 0.6,
                "shrinkA": 0,
                "shrinkB": 4,
                "relpos": ({"left": 0, "center": 0.5, "right": 1}[lean], 0),
            },
        )
