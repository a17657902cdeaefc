"""Pictures of searches for the units that carry a metric: their paths, and how many units they took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nbutils.plotting.expect import expect_columns
from nbutils.plotting.labels import FONT_SIZE, name_rows, note_row
from nbutils.plotting.marks import mark
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

STACK = 3  # dots one above the other
COLUMNS = 3  # panels side by side
BESIDE = 0.13  # inches between neighbouring dots


def plot_greedy(paths: pd.DataFrame, strong_seed: int | None = None) -> Figure:
    """Plot what is left as units are removed one after the other: each seed faint, one of them or the median strong.

    A panel for each search, three to a row, all of one scale. A search that ended stays where it ended, so that the
    median is over all seeds at every step.

    Args:
        paths: rows of `nb.greedy` for several searches and seeds: `search` (such as the layer it was confined to),
            `seed`, `step`, `metric` (names of the registry, see `nbutils.plotting.marks`), `value`.
        strong_seed: whose curves are strong, such as the median network's; None: at every step the median, of an even
            number the upper one.

    Raises:
        KeyError: a column is missing, no such seed, or a metric that the registry lacks.
        ValueError: a search has no value or several at a step before its end.
    """
    expect_columns(paths, ("search", "seed", "step", "metric", "value"))
    searches, metrics = list(paths["search"].unique()), list(paths["metric"].unique())
    rows = -(-len(searches) // COLUMNS)
    fig = Figure(figsize=(9.0, 0.75 + 2.25 * rows), layout="constrained")
    axes = fig.subplots(rows, min(COLUMNS, len(searches)), sharex=True, sharey=True, squeeze=False)
    for ax, search in zip(axes.flat, searches, strict=False):
        _draw_search(ax, paths[paths["search"] == search], metrics, strong_seed)
        ax.set_title(search, fontsize=FONT_SIZE + 1)
    for ax in axes.flat[len(searches) :]:
        ax.set_axis_off()
    for column in axes.T:  # the last panel of a column, not of the grid, has the numbers
        column[sum(ax.axison for ax in column) - 1].tick_params(labelbottom=True)
    last = max(int(paths["step"].max()), 1)
    axes[0, 0].set_xlim(-0.02 * last, 1.02 * last)
    axes[0, 0].set_ylim(0, 1)
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1))
    fig.supxlabel("units removed", fontsize=FONT_SIZE + 1)
    fig.supylabel("share of the images", fontsize=FONT_SIZE + 1)
    _explain(fig, axes.flat[len(searches)] if axes.size > len(searches) else None, axes.flat[0], paths, strong_seed)
    return fig


def _draw_search(ax: Axes, paths: pd.DataFrame, metrics: Sequence[str], strong_seed: int | None) -> None:
    steps = np.arange(int(paths["step"].max()) + 1)
    for name in metrics:
        rows = paths[paths["metric"] == name]
        if rows.duplicated(["seed", "step"]).any():
            raise ValueError(f"expected one value per seed and step for {name}, got several")
        table = rows.pivot(index="seed", columns="step", values="value").reindex(columns=steps).ffill(axis=1)
        if table.empty or table.isna().to_numpy().any():
            raise ValueError(f"expected {name} from step 0 on for each seed, got gaps")
        look = mark(name)
        middle = table.quantile(0.5, interpolation="higher") if strong_seed is None else table.loc[strong_seed]
        if len(table) > 1:
            ax.plot(steps, table.to_numpy().T, color=look.color, linestyle="-", alpha=0.35, linewidth=0.8)
        (strong,) = ax.plot(steps, middle, color=look.color, linestyle=look.linestyle, linewidth=1.8, label=name)
        strong.set(marker=look.marker, markersize=5, clip_on=False, zorder=3)
    if len(steps) == 1:
        ax.text(0.5, 0.5, "takes no unit", fontsize=FONT_SIZE, ha="center", va="center", transform=ax.transAxes)
    ax.grid()


def _explain(fig: Figure, empty: Axes | None, drawn: Axes, paths: pd.DataFrame, strong_seed: int | None) -> None:
    """Write the legend into an empty panel, or below all where there is none."""
    lines, names = drawn.get_legend_handles_labels()
    meaning = "median" if strong_seed is None else "median network"
    title = f"strong: {meaning}; faint: every seed" if paths["seed"].nunique() > 1 else None
    style: dict[str, Any] = {"title": title, "fontsize": FONT_SIZE, "title_fontsize": FONT_SIZE, "frameon": False}
    if empty is None:
        fig.legend(lines, names, loc="outside lower center", ncols=len(names), **style)
    else:
        empty.legend(lines, names, loc="center left", **style)


def plot_unit_counts(counts: Mapping[str, Sequence[float]], *, quantity: str = "units needed") -> Figure:
    """Plot whole numbers over seeds as stacks of dots, a row per label, with the median.

    Args:
        counts: for each label the numbers `[S]` by seed; NaN where a search never got there, drawn as a cross at the
            right end and counted above all numbers.
        quantity: what is counted; names the axis.

    Raises:
        ValueError: no labels, no seeds, or a number that is negative or not whole.
    """
    if not counts or not all(map(len, counts.values())):
        raise ValueError(f"expected labels with at least one seed each, got { {k: len(v) for k, v in counts.items()} }")
    theme = current()
    numbers = {label: np.asarray(values, dtype=float) for label, values in counts.items()}
    for label, values in numbers.items():
        whole = values[~np.isnan(values)]
        if (whole < 0).any() or (whole % 1 != 0).any():
            raise ValueError(f"expected whole numbers of 0 or more for {label}, got {values.tolist()}")
    reached = np.concatenate([values[~np.isnan(values)] for values in numbers.values()])
    top = int(reached.max(initial=0))
    never = len(reached) < sum(map(len, numbers.values()))
    end = top + 1.0  # where those stand that never got there
    first = 0 if 0 in reached else min(1.0, end)
    low, high = first - 0.5, (end if never else top) + 0.5
    fig = Figure(figsize=(8.0, 0.75 + 0.46 * len(numbers)), layout="constrained")
    ax = fig.subplots()
    most = -(-max(map(len, numbers.values())) // STACK)
    beside = min(BESIDE * (high - low) / 6.0, 0.8 / most)  # 6 inches across
    for row, values in enumerate(numbers.values()):
        x = np.sort(np.nan_to_num(values, nan=end))
        lost = np.zeros(len(x), dtype=bool) if not never else x == end
        at, up = _stack(x, beside)
        y = row - up
        ax.scatter(at[~lost], y[~lost], s=34, facecolors=theme.accents[0], edgecolors=theme.paper, linewidths=0.5)
        ax.scatter(at[lost], y[lost], s=28, color=theme.ink, marker="x", linewidths=1.4)
        middle = float(x[len(x) // 2])  # the upper one, as everywhere in this study
        ax.plot([middle] * 2, [row - 0.43, row + 0.43], color=theme.ink, linestyle="-", linewidth=1.4, zorder=0.9)
        note_row(ax, row, f"median {middle:g}" if not never or middle <= top else "median: never", at=1.02)
    if never:
        ax.axvspan(end - 0.5, high, color=theme.muted, alpha=0.2, linewidth=0)
    ticks = list(range(int(first), top + 1, -(-max(top, 1) // 15)))
    ax.set_xticks([*ticks, end] if never else ticks, [*map(str, ticks), "never"] if never else None)
    ax.set_xlim(low, high)
    name_rows(ax, list(numbers))
    ax.set_xlabel(f"{quantity}; a dot is a seed, the bar the median")
    ax.set_ylabel("search")
    return fig


def _stack(x: np.ndarray, beside: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where to draw sorted numbers so that equal ones stand side by side and above each other.

    Args:
        x: `[S]`, increasing.
        beside: distance of neighbours.

    Returns:
        Places across `[S]`, and heights `[S]` in rows, around 0.
    """
    across, up = [], []
    for value, count in zip(*np.unique(x, return_counts=True), strict=True):
        columns = -(-int(count) // STACK)
        high = -(-int(count) // columns)
        across += [value + beside * (dot % columns - (columns - 1) / 2) for dot in range(int(count))]
        up += [0.27 * (dot // columns - (high - 1) / 2) for dot in range(int(count))]
    return np.array(across), np.array(up)
