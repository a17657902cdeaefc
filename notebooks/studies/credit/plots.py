"""Pictures of a credit audit: what layers' credits predict, where float32 loses it, and how norms run away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from nbutils.plotting.distributions import GOLDEN, MARKERS, draw_dots
from nbutils.plotting.expect import expect_columns, expect_shape
from nbutils.plotting.labels import FONT_SIZE, name_rows
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def plot_rho_by_layer(table: pd.DataFrame, *, columns: int = 4) -> Figure:
    """Plot each layer's ρ, a panel a regime: every seed, their mean, the chance band and the exact gradient's ρ.

    Args:
        table: one row a regime, seed and layer, with columns `regime`, `layer`, `rho`, `null_low`, `null_high` and
            `ceiling` (see `studies.credit.audit.audit`). The bands are averaged over seeds.
        columns: panels in a row.

    Raises:
        KeyError: the table lacks a column.
        ValueError: the table has no rows.
    """
    expect_columns(table, ("regime", "layer", "rho", "null_low", "null_high", "ceiling"))
    theme = current()
    groups = list(table.groupby("regime", sort=False))
    columns = min(columns, len(groups))
    rows = -(-len(groups) // columns)
    fig = Figure(figsize=(1.0 + 2.0 * columns, 0.6 + 2.4 * rows), layout="constrained")
    axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place, ax in enumerate(axes.flat):
        if place >= len(groups):
            ax.set_visible(False)
            continue
        regime, part = groups[place]
        colour = theme.accents[place % len(theme.accents)]
        by_layer = part.groupby("layer")
        means = by_layer[["rho", "null_low", "null_high", "ceiling"]].mean()
        edges = np.append(means.index.to_numpy() - 0.5, means.index[-1] + 0.5)
        ax.stairs(
            means["null_high"], edges, baseline=means["null_low"].to_numpy(), fill=True, color=theme.muted, alpha=0.4
        )
        ax.axhline(0, color=theme.muted, linewidth=0.8, linestyle="-")
        ax.plot(means.index, means["ceiling"], color=theme.ink, linestyle=":", marker="_", markersize=9, linewidth=1.2)
        spread = part["layer"] + 0.5 * (by_layer.cumcount() * GOLDEN % 1 - 0.5)
        draw_dots(ax, spread, part["rho"], place, size=16, zorder=3)
        ax.plot(means.index, means["rho"], color=colour, linestyle="-", linewidth=1.6)
        ax.set_title(str(regime))
        ax.set_xticks(sorted(table["layer"].unique()))
        ax.label_outer()
        ax.grid(axis="y")
    fig.supxlabel("layer l of the hidden state; grey: 95 % of fresh feedback; dotted: the exact gradient", fontsize=9)
    fig.supylabel("perturbation correlation ρ", fontsize=10)
    return fig


def plot_precision(
    table: pd.DataFrame, curve: tuple[np.ndarray, np.ndarray], *, epsilon: float = 1e-3, quantity: str = "‖g‖, RMS"
) -> Figure:
    """Plot what the exact gradient scores in float32 and in float64 against its length, with the predicted curve.

    Args:
        table: one row a network and layer, with columns `gradient_rms`, `float32_ceiling` (NaN where no loss changed:
            drawn hollow, at 0) and `ceiling`.
        curve: lengths, increasing, and the ρ predicted there in float32, each `[points]`.
        epsilon: the step of the float32 measure; named in the legend.
        quantity: names the horizontal axis.

    Raises:
        KeyError: the table lacks a column.
        ValueError: the table has no rows.
    """
    expect_columns(table, ("gradient_rms", "float32_ceiling", "ceiling"))
    theme = current()
    fig = Figure(figsize=(7.0, 3.6), layout="constrained")
    ax = fig.subplots()
    ax.set_xscale("log")
    ax.plot(*curve, color=theme.muted, linestyle="--", linewidth=2.0, label="float32, predicted from its rounding")
    ax.scatter(
        table["gradient_rms"],
        table["ceiling"],
        s=30,
        marker=MARKERS[1],
        color=theme.accents[0],
        edgecolors=theme.paper,
        linewidths=0.4,
        label="float64, exact derivative",
    )
    lost = table["float32_ceiling"].isna()
    ax.scatter(
        table["gradient_rms"][~lost],
        table["float32_ceiling"][~lost],
        s=24,
        marker=MARKERS[0],
        color=theme.accents[1],
        edgecolors=theme.paper,
        linewidths=0.4,
        label=f"float32, ε = {epsilon:g}, measured",
        zorder=3,
    )
    if lost.any():
        ax.scatter(
            table["gradient_rms"][lost],
            np.zeros(lost.sum()),
            s=34,
            marker=MARKERS[0],
            facecolors="none",
            edgecolors=theme.accents[1],
            label="float32: no bit of the loss changes",
            zorder=3,
        )
    ax.set_ylim(-0.12, 1.12)
    ax.set_xlabel(quantity)
    ax.set_ylabel("ρ of the exact gradient")
    ax.grid()
    ax.legend(loc="center left", bbox_to_anchor=(0.0, 0.72), fontsize=FONT_SIZE)
    return fig


def plot_power_law(
    table: pd.DataFrame,
    x: str,
    y: str,
    *,
    slope: float,
    intercept: float,
    expected: float = -1.0,
    group: str = "regime",
    labels: tuple[str, str] | None = None,
) -> Figure:
    """Plot one quantity against another on log-log axes, with the fitted line and the expected slope.

    Args:
        table: one row a point, with columns `x`, `y` (both above 0) and `group`.
        x: column of the horizontal axis.
        y: column of the vertical axis.
        slope: of the line fitted to log10 y against log10 x.
        intercept: of that line, log10.
        expected: the slope of the reference line, drawn through the points' centre.
        group: column that colours and marks the points.
        labels: names of the axes; the columns' when not given.

    Raises:
        KeyError: the table lacks a column.
        ValueError: the table has no rows, or a value that is not above 0.
    """
    expect_columns(table, (x, y, group))
    if not (table[[x, y]] > 0).all(axis=None):
        raise ValueError(f"logarithmic axes need values above 0 in {x} and {y}")
    theme = current()
    fig = Figure(figsize=(7.0, 3.8), layout="constrained")
    ax = fig.subplots()
    for place, (name, part) in enumerate(table.groupby(group, sort=False)):
        ax.scatter(
            part[x],
            part[y],
            s=26,
            marker=MARKERS[place % len(MARKERS)],
            color=theme.accents[place % len(theme.accents)],
            edgecolors=theme.paper,
            linewidths=0.4,
            label=str(name),
            zorder=3,
        )
    ends = np.array([table[x].min(), table[x].max()])
    centre = np.log10(table[[x, y]]).mean()
    reference = 10 ** (centre[y] + expected * (np.log10(ends) - centre[x]))
    ax.plot(
        ends,
        reference,
        color=theme.muted,
        linestyle="--",
        linewidth=2.0,
        label=f"slope {expected:g}, expected".replace("-", "−"),
    )
    fitted = 10 ** (intercept + slope * np.log10(ends))
    ax.plot(
        ends,
        fitted,
        color=theme.ink,
        linestyle="-",
        linewidth=1.2,
        label=f"slope {slope:.2f}, fitted".replace("-", "−"),
    )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(labels[0] if labels else x)
    ax.set_ylabel(labels[1] if labels else y)
    ax.grid()
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=FONT_SIZE)
    return fig


def plot_accuracy(
    values: Mapping[str, np.ndarray],
    intervals: Mapping[str, tuple[float, float]],
    *,
    baseline: str,
    published: Mapping[str, float] | None = None,
) -> Figure:
    """Plot accuracies by regime, every seed and the mean with its interval, against one regime as the mark to beat.

    Args:
        values: for each regime the accuracies `[S]` by seed.
        intervals: for each regime the ends of the mean's confidence interval.
        baseline: the regime whose mean and interval run through all rows.
        published: for some regimes an accuracy reported elsewhere, marked by a cross.

    Raises:
        KeyError: a regime without an interval, or a baseline that is none.
        ValueError: accuracies that are not a row of finite numbers.
    """
    if missing := [name for name in (*values, baseline) if name not in intervals or name not in values]:
        raise KeyError(f"expected accuracies and an interval for each regime, got none for {missing}")
    theme = current()
    fig = Figure(figsize=(7.5, 1.1 + 0.55 * len(values)), layout="constrained")
    ax = fig.subplots()
    ax.axvspan(*intervals[baseline], color=theme.muted, alpha=0.35, linewidth=0)
    ax.axvline(float(np.mean(values[baseline])), color=theme.muted, linestyle="--", linewidth=1.4)
    for row, (name, results) in enumerate(values.items()):
        results = expect_shape(name, results, ("S",))
        low, high = intervals[name]
        jitter = row - 0.1 + 0.3 * (np.arange(1, len(results) + 1) * GOLDEN % 1 - 0.5)
        draw_dots(ax, results, jitter, row, size=20)
        ink = {"color": theme.ink, "linestyle": "-", "zorder": 3}
        ax.plot([low, high], [row + 0.25] * 2, linewidth=2.0, marker="|", markersize=8, **ink)
        ax.plot(results.mean(), row + 0.25, marker="D", markerfacecolor=theme.paper, markersize=5, **ink)
        if published and name in published:
            ax.plot(published[name], row, marker="x", color=theme.ink, markersize=8, markeredgewidth=1.6)
    name_rows(ax, list(values), above=0.55, below=0.55)
    ax.set_xlabel(
        f"test accuracy; diamond: mean with its interval; band: {baseline}" + ("; ×: published" if published else "")
    )
    return fig


def draw_predictions(ax: Axes, predicted: np.ndarray, actual: np.ndarray, *, shown: int = 3000) -> None:
    """Draw predicted against true changes of the loss, with the line on which they agree.

    Args:
        ax: axes to draw in.
        predicted: `[points]`, or any shape.
        actual: likewise; in the same unit.
        shown: points drawn at most, evenly taken.
    """
    theme = current()
    predicted, actual = np.ravel(predicted), np.ravel(actual)
    every = max(1, -(-len(predicted) // shown))
    ax.scatter(predicted[::every], actual[::every], s=6, color=theme.accents[0], alpha=0.45, linewidths=0)
    ax.axline((0, 0), slope=1, color=theme.ink, linestyle="--", linewidth=1.0)
    ax.axhline(0, color=theme.muted, linestyle="-", linewidth=0.8)
    ax.margins(0.05)
    ax.ticklabel_format(style="sci", scilimits=(-2, 2), useMathText=True)
    ax.grid()


def plot_predictions(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Plot predicted against true changes of the loss, a panel a measurement.

    Args:
        results: for each title `predicted` and `actual`, arrays of one shape, and `rho`.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not results:
        raise ValueError("expected at least one measurement, got none")
    fig = Figure(figsize=(1.0 + 3.1 * len(results), 3.4), layout="constrained")
    axes = fig.subplots(1, len(results), squeeze=False)
    for ax, (title, result) in zip(axes.flat, results.items(), strict=True):
        draw_predictions(ax, result["predicted"], result["actual"])
        rho = f"ρ = {result['rho']:+.3f}" if np.isfinite(result["rho"]) else "ρ undefined: no loss changed"
        ax.set_title(f"{title}\n{rho}")
        ax.set_xlabel("predicted change, ⟨a, v⟩")
    axes[0, 0].set_ylabel("true change of the loss")
    return fig
