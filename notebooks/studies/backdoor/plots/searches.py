"""Pictures of searches for the units that carry a metric: their paths, and how many units they took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nbutils.plotting.distributions import MARKERS
from nbutils.plotting.expect import expect_columns
from nbutils.plotting.labels import label_ends, name_rows, note_row
from nbutils.plotting.theme import LINE_STYLES, current

if TYPE_CHECKING:
    import pandas as pd

STACK = 5  # dots one above the other


def plot_greedy(paths: pd.DataFrame, strong_seed: int | None = None) -> Figure:
    """Plot what is left as units are removed one after the other: each seed faint, one of them or the median strong.

    A search that ended stays where it ended, so that the median is over all seeds at every step.

    Args:
        paths: rows of `nb.greedy` for several searches and seeds: `search` (a panel each, such as
            the layer it was confined to), `seed`, `step`, `metric`, `value`.
        strong_seed: whose curves are strong, such as the median network's; None: at every step the median, of an even
            number the upper one.

    Raises:
        KeyError: a column is missing, or no such seed.
        ValueError: a search has no value or several at a step before its end.
    """
    expect_columns(paths, ("search", "seed", "step", "metric", "value"))
    theme = current()
    meaning = "median" if strong_seed is None else "median network"
    searches, metrics = list(paths["search"].unique()), list(paths["metric"].unique())
    last = paths.groupby("search", sort=False)["step"].max()
    fig = Figure(figsize=(1.9 + 2.3 * len(searches), 3.3), layout="constrained")
    axes = fig.subplots(
        1, len(searches), sharey=True, width_ratios=[max(int(steps), 3) + 1 for steps in last], squeeze=False
    )
    for ax, search in zip(axes[0], searches, strict=True):
        ends = []
        steps = np.arange(int(last[search]) + 1)
        for place, name in enumerate(metrics):
            rows = paths[(paths["search"] == search) & (paths["metric"] == name)]
            if rows.duplicated(["seed", "step"]).any():
                raise ValueError(f"expected one value per seed and step for {name} in {search}, got several")
            table = rows.pivot(index="seed", columns="step", values="value").reindex(columns=steps).ffill(axis=1)
            if table.empty or table.isna().to_numpy().any():
                raise ValueError(f"expected {name} from step 0 on for each seed in {search}, got gaps")
            colour = theme.accents[place % len(theme.accents)]
            style, marker = LINE_STYLES[place % len(LINE_STYLES)], MARKERS[place % len(MARKERS)]
            middle = table.quantile(0.5, interpolation="higher") if strong_seed is None else table.loc[strong_seed]
            if len(table) > 1:
                ax.plot(steps, table.to_numpy().T, color=colour, linestyle="-", alpha=0.35, linewidth=0.8)
            (strong,) = ax.plot(steps, middle, color=colour, linestyle=style, linewidth=2.0, clip_on=False, zorder=3)
            strong.set(marker=marker, markersize=5)
            ends.append((float(middle.iloc[-1]), name, colour))
        ax.set_title(search)
        ax.set_xlim(-0.15, max(int(steps[-1]), 1) + 0.15)  # a search that took nothing has one point
        ax.set_ylim(0, 1)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        ax.grid()
        ax.label_outer()
    axes[0, 0].set_ylabel("share" + (f"; strong: {meaning}" if paths["seed"].nunique() > 1 else ""))
    fig.supxlabel("units removed", fontsize="medium")
    label_ends(axes[0, -1], ends)
    return fig


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
    fig = Figure(figsize=(7.0, 0.75 + 0.62 * len(numbers)), layout="constrained")
    ax = fig.subplots()
    beside = min(0.1 * (end - first + 1) / 5.0, 0.8 / -(-max(map(len, numbers.values())) // STACK))  # about 0.1 inches
    for row, values in enumerate(numbers.values()):
        x = np.sort(np.nan_to_num(values, nan=end))
        lost = np.zeros(len(x), dtype=bool) if not never else x == end
        at, up = _stack(x, beside)
        y = row + 0.3 - up
        colour, marker = theme.accents[row % len(theme.accents)], MARKERS[row % len(MARKERS)]
        dots = ax.scatter(at[~lost], y[~lost], s=28, facecolors=colour, edgecolors=theme.paper, marker=marker, zorder=3)
        dots.set_linewidth(0.4)
        ax.scatter(at[lost], y[lost], s=28, color=theme.ink, marker="x", linewidths=1.4, zorder=3)
        middle = float(x[len(x) // 2])  # the upper one, as everywhere in this study
        ax.plot([middle] * 2, [row - 0.46, row + 0.42], color=theme.ink, linestyle="-", linewidth=1.2, zorder=2)
        note_row(ax, row, f"median {middle:g}" if not never or middle <= top else "median: never", at=1.02)
        ax.axhline(row + 0.42, color=theme.muted, linewidth=0.6, linestyle="-")
    ticks = list(range(int(first), top + 1, -(-max(top, 1) // 15)))
    ax.set_xticks([*ticks, end] if never else ticks, [*map(str, ticks), "never"] if never else None)
    ax.set_xlim(first - 0.5, (end if never else top) + 0.5)
    name_rows(ax, list(numbers))
    ax.set_xlabel(f"{quantity}; a dot is a seed, the bar the median")
    return fig


def _stack(x: np.ndarray, beside: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where to draw sorted numbers so that equal ones stand side by side and above each other.

    Args:
        x: `[S]`, increasing.
        beside: distance of neighbours.

    Returns:
        Places across `[S]`, and heights `[S]` in rows, 0 and up.
    """
    across, up = [], []
    for value, count in zip(*np.unique(x, return_counts=True), strict=True):
        columns = -(-int(count) // STACK)
        across += [value + beside * (dot % columns - (columns - 1) / 2) for dot in range(int(count))]
        up += [0.15 * (dot // columns) for dot in range(int(count))]
    return np.array(across), np.array(up)
