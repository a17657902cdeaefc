"""Pictures of a credit audit: ρ layer by layer, its loss to rounding, the growth of norms, accuracies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from nbutils.plotting.distributions import GOLDEN, MARKERS, draw_dots
from nbutils.plotting.expect import expect_columns, expect_shape
from nbutils.plotting.labels import FONT_SIZE, name_rows
from nbutils.plotting.theme import LINE_STYLES, current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from studies.credit.perturbation import PerturbationCorrelation


def plot_rho_by_layer(table: pd.DataFrame, *, columns: int = 4) -> Figure:
    """Plot each layer's ρ, one panel per regime: every seed, their mean, the chance band, the exact gradient.

    Args:
        table: one row per regime, seed and layer, with columns `regime`, `layer`, `rho`, `null_low`, `null_high` and
            `ceiling` (see `studies.credit.audit.audit`). The bands are averaged over seeds.
        columns: panels per row.

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


def plot_precision(table: pd.DataFrame, curve: tuple[np.ndarray, np.ndarray], *, epsilon: float = 1e-3) -> Figure:
    """Plot ρ of the exact gradient in float32 and in float64 against the gradient's length, with the predicted curve.

    Args:
        table: one row per network and layer, with columns `gradient_rms`, `float32_ceiling` (NaN where no loss changed:
            drawn hollow, at 0) and `ceiling`.
        curve: lengths, increasing, and the ρ predicted there in float32, each `[points]`.
        epsilon: the step of the float32 measure, for the legend.

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
    exact = {"marker": MARKERS[1], "color": theme.accents[0], **_edge()}
    rounded = {"marker": MARKERS[0], "color": theme.accents[1], **_edge()}
    ax.scatter(table["gradient_rms"], table["ceiling"], s=30, label="float64, exact derivative", **exact)
    lost = table["float32_ceiling"].isna()
    measured = table[~lost]
    label = f"float32, ε = {epsilon:g}, measured"
    ax.scatter(measured["gradient_rms"], measured["float32_ceiling"], s=24, label=label, zorder=3, **rounded)
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
    ax.set_xlabel("‖g‖, RMS")
    ax.set_ylabel("ρ of the exact gradient")
    ax.grid()
    ax.legend(loc="center left", bbox_to_anchor=(0.0, 0.72), fontsize=FONT_SIZE)
    return fig


def plot_steps(table: pd.DataFrame, marks: Mapping[str, float]) -> Figure:
    """Plot ρ of the exact gradient by differences against the step: in units of the state, and in units of roundoff.

    Args:
        table: rows of `studies.credit.steps.step_sweep` for any networks and layers: columns `precision`, `step`,
            `in_roundoffs`, `rho` (NaN where no loss changed: drawn hollow, at 0) and `predicted`, above 0: the dashed
            line is that of the median state.
        marks: names of steps ε/‖h‖ that a vertical line points out.

    Raises:
        KeyError: the table lacks a column.
        ValueError: the table has no rows.
    """
    expect_columns(table, ("precision", "step", "in_roundoffs", "rho", "predicted"))
    theme = current()
    fig = Figure(figsize=(8.8, 4.0), layout="constrained")
    axes = fig.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
    for ax, x in zip(axes, ("step", "in_roundoffs"), strict=True):
        ax.set_xscale("log")
        ax.grid()
        for place, (name, part) in enumerate(table.groupby("precision", sort=False)):
            look: dict[str, Any] = {"marker": MARKERS[place], "s": 18}
            colour, lost = theme.accents[place], part["rho"].isna()
            ax.scatter(part[x][~lost], part["rho"][~lost], color=colour, label=name, **look, **_edge())
            ax.scatter(part[x][lost], 0 * part[x][lost], facecolors="none", edgecolors=colour, **look)
            bend = (part[x] * (part["predicted"] ** -2 - 1) ** 0.5).median()  # ρ = 1 / √(1 + (bend / x)²)
            ends = np.geomspace(part[x].min(), part[x].max(), 200)
            ax.plot(ends, 1 / np.hypot(1, bend / ends), color=colour, linestyle="--", linewidth=1.4)
    for place, (name, step) in enumerate(marks.items()):
        axes[0].axvline(step, color=theme.ink, linestyle=":", linewidth=1.2)
        axes[0].text(step, 1.06 + 0.11 * place, f" {name}", fontsize=FONT_SIZE, va="bottom", color=theme.ink)
    axes[0].set_ylim(top=1.06 + 0.11 * len(marks) + 0.05)
    axes[0].set_xlabel("step in units of the state, ε / ‖h‖")
    axes[1].set_xlabel("the same in roundoffs of its precision")
    axes[0].set_ylabel("ρ of the exact gradient")
    axes[1].plot([], [], color=theme.muted, linestyle="--", label="predicted")
    axes[1].scatter([], [], facecolors="none", edgecolors=theme.muted, marker="o", label="no loss changed")
    axes[1].legend(loc="lower right", fontsize=FONT_SIZE)
    return fig


def _edge() -> dict[str, Any]:
    """Return the edge of a dot."""
    return {"edgecolors": current().paper, "linewidths": 0.4}


def plot_power_law(
    table: pd.DataFrame, x: str, y: str, labels: tuple[str, str], *, slope: float, intercept: float, expected: float
) -> Figure:
    """Plot one quantity against another on log-log axes, with the fitted line and the expected slope.

    Args:
        table: one row per point, with columns `x`, `y` (both above 0) and `regime`.
        x: column of the horizontal axis.
        y: column of the vertical axis.
        labels: names of the two axes.
        slope: of the line fitted to log10 y against log10 x.
        intercept: of that line, log10.
        expected: the slope of the reference line, drawn through the points' centre.

    Raises:
        KeyError: the table lacks a column.
        ValueError: the table has no rows, or a value that is not above 0.
    """
    expect_columns(table, (x, y, "regime"))
    if not (table[[x, y]] > 0).all(axis=None):
        raise ValueError(f"logarithmic axes need values above 0 in {x} and {y}")
    theme = current()
    fig = Figure(figsize=(7.0, 3.8), layout="constrained")
    ax = fig.subplots()
    for place, (name, part) in enumerate(table.groupby("regime", sort=False)):
        look: dict[str, Any] = {
            "marker": MARKERS[place % len(MARKERS)],
            "color": theme.accents[place % len(theme.accents)],
            **_edge(),
        }
        ax.scatter(part[x], part[y], s=26, label=str(name), zorder=3, **look)
    ends = np.array([table[x].min(), table[x].max()])
    centre = np.log10(table[[x, y]]).mean()
    reference = 10 ** (centre[y] + expected * (np.log10(ends) - centre[x]))
    dashed: dict[str, Any] = {"color": theme.muted, "linestyle": "--", "linewidth": 2.0}
    ax.plot(ends, reference, label=f"slope {expected:g}, expected".replace("-", "−"), **dashed)
    fitted = 10 ** (intercept + slope * np.log10(ends))
    solid: dict[str, Any] = {"color": theme.ink, "linestyle": "-", "linewidth": 1.2}
    ax.plot(ends, fitted, label=f"slope {slope:.2f}, fitted".replace("-", "−"), **solid)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    ax.grid()
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=FONT_SIZE)
    return fig


def plot_settling(history: pd.DataFrame, strengths: Mapping[str, float], slopes: pd.DataFrame) -> Figure:
    """Plot the states' length over training, one line per penalty, and the slope of length on penalty beside it.

    Args:
        history: of `nbutils.fit`, with the term `hidden norm`; lines are geometric means over seeds.
        strengths: λ by variant.
        slopes: columns `step`, `slope`, `low`, `high` (`studies.credit.slopes.slopes_over_training`).

    Raises:
        KeyError: a table lacks a column.
        ValueError: a table has no rows.
    """
    expect_columns(history, ("variant", "step", "term", "value"))
    expect_columns(slopes, ("step", "slope", "low", "high"))
    theme = current()
    fig = Figure(figsize=(8.8, 3.5), layout="constrained")
    left, right = fig.subplots(1, 2)
    part = history[history["term"] == "hidden norm"]
    for place, (name, strength) in enumerate(strengths.items()):
        lengths = part[part["variant"] == name].groupby("step")["value"].apply(lambda v: np.exp(np.log(v).mean() / 2))
        look: dict[str, Any] = {"color": theme.accents[place], "linestyle": LINE_STYLES[place % len(LINE_STYLES)]}
        left.plot(lengths.index + 1, lengths, marker=MARKERS[place], markersize=4, label=f"λ = {strength:g}", **look)
    left.set_yscale("log")
    left.set_ylabel("length of states, √Σ mean(h²)")
    left.legend(fontsize=FONT_SIZE)
    steps = slopes["step"] + 1
    right.fill_between(steps, slopes["low"], slopes["high"], color=theme.muted, alpha=0.35, linewidth=0)
    right.plot(steps, slopes["slope"], color=theme.ink, linestyle="-", marker="o", markersize=4)
    right.axhline(-1, color=theme.muted, linestyle="--", linewidth=1.6)
    right.set_ylabel("slope of log length on log λ")
    for ax in (left, right):
        ax.set_xlabel("step of training")
        ax.grid()
    return fig


def plot_accuracy(
    values: Mapping[str, np.ndarray],
    intervals: Mapping[str, tuple[float, float]],
    *,
    baseline: str,
    published: Mapping[str, float] | None = None,
) -> Figure:
    """Plot accuracies by regime, every seed and the mean with its interval, against one regime as the baseline.

    Args:
        values: for each regime the accuracies `[S]` by seed.
        intervals: for each regime the ends of the mean's confidence interval.
        baseline: the regime whose mean and interval run through all rows.
        published: for some regimes an accuracy reported elsewhere, marked by a cross.

    Raises:
        KeyError: a regime without an interval, or an unknown baseline.
        ValueError: accuracies that are no row of finite numbers.
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
        ink: dict[str, Any] = {"color": theme.ink, "linestyle": "-", "zorder": 3}
        ax.plot([low, high], [row + 0.25] * 2, linewidth=2.0, marker="|", markersize=8, **ink)
        ax.plot(results.mean(), row + 0.25, marker="D", markerfacecolor=theme.paper, markersize=5, **ink)
        if published and name in published:
            ax.plot(published[name], row, marker="x", color=theme.ink, markersize=8, markeredgewidth=1.6)
    name_rows(ax, list(values), above=0.55, below=0.55)
    ax.set_xlabel(
        f"test accuracy; diamond: mean with its interval; band: {baseline}" + ("; ×: published" if published else "")
    )
    return fig


def draw_predictions(ax: Axes, predicted: ArrayLike, actual: ArrayLike, *, shown: int = 3000) -> None:
    """Draw predicted against true changes of the loss, with the line of equality.

    Args:
        ax: axes to draw in.
        predicted: `[points]`, or any shape.
        actual: likewise; in the same unit.
        shown: most points to draw, taken evenly.
    """
    theme = current()
    x, y = np.ravel(predicted), np.ravel(actual)
    every = max(1, -(-len(x) // shown))
    ax.scatter(x[::every], y[::every], s=6, color=theme.accents[0], alpha=0.45, linewidths=0)
    ax.axline((0, 0), slope=1, color=theme.ink, linestyle="--", linewidth=1.0)
    ax.axhline(0, color=theme.muted, linestyle="-", linewidth=0.8)
    ax.margins(0.05)
    ax.ticklabel_format(style="sci", scilimits=(-2, 2), useMathText=True)
    ax.grid()


def plot_predictions(results: Mapping[str, PerturbationCorrelation]) -> Figure:
    """Plot predicted against true changes of the loss, one panel per measurement.

    Args:
        results: one for each title.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not results:
        raise ValueError("expected at least one measurement, got none")
    fig = Figure(figsize=(1.0 + 3.1 * len(results), 3.4), layout="constrained")
    axes = fig.subplots(1, len(results), squeeze=False)
    for ax, (title, result) in zip(axes.flat, results.items(), strict=True):
        draw_predictions(ax, result.predicted.cpu(), result.actual.cpu())
        rho = f"ρ = {result.rho:+.3f}" if np.isfinite(result.rho) else "ρ undefined: no loss changed"
        ax.set_title(f"{title}\n{rho}")
        ax.set_xlabel("predicted change, ⟨a, v⟩")
    axes[0, 0].set_ylabel("true change of the loss")
    return fig
