"""Pictures of a credit audit: ρ layer by layer, its loss to rounding, the growth of norms, accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nbutils.plotting.distributions import GOLDEN
from nbutils.plotting.expect import expect_columns, expect_shape
from nbutils.plotting.labels import FONT_SIZE, name_rows
from nbutils.plotting.marks import Mark, mark
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from numpy.typing import ArrayLike

    from studies.credit.perturbation import PerturbationCorrelation
    from studies.credit.slopes import Slope


_WIDTH = 9.06  # inches: what a page shows without shrinking it


def plot_rho_by_layer(table: pd.DataFrame, looks: Mapping[str, str], *, columns: int = 3) -> Figure:
    """Plot each layer's ρ, one panel per regime: every seed, their mean, the chance band, the exact gradient.

    Args:
        table: one row per regime, seed and layer, with columns `regime`, `layer`, `rho`, `null_low`, `null_high` and
            `ceiling` (see `studies.credit.audit.audit`). The bands are averaged over seeds.
        looks: regime -> name of its mark (`nbutils.plotting.marks`).
        columns: panels per row.

    Raises:
        KeyError: the table lacks a column, or a regime has no mark.
        ValueError: the table has no rows.
    """
    expect_columns(table, ("regime", "layer", "rho", "null_low", "null_high", "ceiling"))
    theme = current()
    groups = list(table.groupby("regime", sort=False))
    rows = -(-len(groups) // columns)
    fig = Figure(figsize=(_WIDTH, 0.5 + 2.3 * rows), layout="constrained")
    axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[len(groups) :]:
        ax.set_axis_off()
    for ax, (regime, part) in zip(axes.flat, groups, strict=False):
        look = mark(looks[str(regime)])
        by_layer = part.groupby("layer")
        means = by_layer[["rho", "null_low", "null_high", "ceiling"]].mean()
        edges = np.append(means.index.to_numpy() - 0.5, means.index[-1] + 0.5)
        low, high = means["null_low"].to_numpy(), means["null_high"]
        chance = ax.stairs(high, edges, baseline=low, fill=True, color=theme.muted, alpha=0.4)
        ax.axhline(0, color=theme.muted, linewidth=0.8, linestyle="-")
        (best,) = ax.plot(
            means.index, means["ceiling"], color=theme.ink, linestyle=":", marker="_", markersize=9, linewidth=1.2
        )
        spread = part["layer"] + 0.5 * (by_layer.cumcount() * GOLDEN % 1 - 0.5)
        _scatter(ax, spread, part["rho"], look, size=18)
        ax.plot(means.index, means["rho"], color=look.color, linestyle="-", linewidth=1.6)
        ax.set_title(str(regime))
        ax.set_xticks(sorted(table["layer"].unique()))
        ax.grid(axis="y")
    for place, ax in enumerate(axes.flat[: len(groups)]):
        if place + columns >= len(groups):  # nothing below it
            ax.set_xlabel("layer l of the hidden state")
            ax.tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("correlation ρ")
    key: dict[str, Any] = {"color": theme.ink, "linestyle": ""}
    one = axes.flat[0].plot([], [], marker="o", markersize=4, **key)[0]
    mean = axes.flat[0].plot([], [], color=theme.ink, linestyle="-", linewidth=1.6)[0]
    names = "one seed", "mean over seeds", "95 % of fresh feedback", "the exact gradient"
    where: dict[str, Any] = {"loc": "outside lower center", "ncols": 4}
    if len(groups) < axes.size:  # the first free panel holds the key
        free = axes.flat[len(groups)]
        where = {"loc": "center", "bbox_to_anchor": (0.5, 0.5), "bbox_transform": free.transAxes}
    legend = fig.legend([one, mean, chance, best], names, fontsize=FONT_SIZE, **where)
    legend.set_in_layout(len(groups) == axes.size)
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
    fig = Figure(figsize=(7.5, 3.6), layout="constrained")
    ax = fig.subplots()
    ax.set_xscale("log")
    ax.plot(*curve, color=theme.muted, linestyle="--", linewidth=2.0, label="float32, predicted from its rounding")
    exact, rounded = mark("float64"), mark("float32")
    _scatter(ax, table["gradient_rms"], table["ceiling"], exact, size=34, label="float64, exact derivative")
    lost = table["float32_ceiling"].isna()
    measured = table[~lost]
    label = f"float32, ε = {epsilon:g}, measured"
    _scatter(ax, measured["gradient_rms"], measured["float32_ceiling"], rounded, size=20, label=label)
    if lost.any():
        label = "float32: no bit of the loss changes"
        _scatter(ax, table["gradient_rms"][lost], np.zeros(lost.sum()), rounded, size=34, label=label, hollow=True)
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
    fig = Figure(figsize=(_WIDTH, 4.0), layout="constrained")
    axes = fig.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
    for ax, x in zip(axes, ("step", "in_roundoffs"), strict=True):
        ax.set_xscale("log")
        ax.grid()
        for name, part in table.groupby("precision", sort=False):
            look, lost = mark(str(name)), part["rho"].isna()
            _scatter(ax, part[x][~lost], part["rho"][~lost], look, size=18, label=str(name))
            _scatter(ax, part[x][lost], 0 * part[x][lost], look, size=18, hollow=True)
            bend = (part[x] * (part["predicted"] ** -2 - 1) ** 0.5).median()  # ρ = 1 / √(1 + (bend / x)²)
            ends = np.geomspace(part[x].min(), part[x].max(), 200)
            ax.plot(ends, 1 / np.hypot(1, bend / ends), color=look.color, linestyle="--", linewidth=1.4)
    for place, (name, step) in enumerate(marks.items()):
        axes[0].axvline(step, color=theme.ink, linestyle=":", linewidth=1.2)
        axes[0].text(step, 1.06 + 0.11 * place, f" {name}", fontsize=FONT_SIZE, va="bottom", color=theme.ink)
    axes[0].set_ylim(top=1.06 + 0.11 * len(marks) + 0.05)
    axes[0].set_yticks(np.linspace(-0.4, 1.0, 8))
    axes[0].set_xlabel("step in units of the state, ε / ‖h‖")
    axes[1].set_xlabel("the same in roundoffs of its precision")
    axes[0].set_ylabel("ρ of the exact gradient")
    axes[1].plot([], [], color=theme.muted, linestyle="--", label="predicted")
    axes[1].scatter([], [], facecolors="none", edgecolors=theme.muted, marker="o", label="no loss changed")
    axes[1].legend(loc="lower right", fontsize=FONT_SIZE)
    return fig


def _scatter(
    ax: Axes, x: ArrayLike, y: ArrayLike, look: Mark, *, size: float, label: str | None = None, hollow: bool = False
) -> PathCollection:
    """Draw dots in a look, rimmed by the paper; or hollow ones."""
    rim = look.color if hollow else current().paper
    fill: dict[str, Any] = {"facecolors": "none" if hollow else look.color, "edgecolors": rim}
    width = 1.0 if hollow else 0.4
    return ax.scatter(x, y, s=size, marker=look.marker, linewidths=width, label=label, zorder=3, **fill)


def plot_power_laws(
    panels: Sequence[tuple[pd.DataFrame, tuple[str, str], Slope]], looks: Mapping[str, str], *, expected: float
) -> Figure:
    """Plot quantities against each other on log-log axes, a panel each, with the fitted line and the expected slope.

    Args:
        panels: a table of one row per point, with a column `regime` and two of values above 0; the names of those two,
            which name the axes; the line fitted to their logarithms.
        looks: regime -> name of its mark (`nbutils.plotting.marks`).
        expected: the slope of the reference line, drawn through the points' centre.

    Raises:
        KeyError: a table lacks a column, or a regime has no mark.
        ValueError: a table has no rows, or a value that is not above 0.
    """
    theme = current()
    fig = Figure(figsize=(_WIDTH, 4.3), layout="constrained")
    drawn: dict[str, PathCollection] = {}
    for ax, (table, (x, y), line) in zip(fig.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        expect_columns(table, (x, y, "regime"))
        if not (table[[x, y]] > 0).all(axis=None):
            raise ValueError(f"logarithmic axes need values above 0 in {x} and {y}")
        for name, part in table.groupby("regime", sort=False):
            drawn[str(name)] = _scatter(ax, part[x], part[y], mark(looks[str(name)]), size=34)
        ends = np.array([table[x].min(), table[x].max()])
        centre = np.log10(table[[x, y]]).mean()
        reference = 10 ** (centre[y] + expected * (np.log10(ends) - centre[x]))
        ax.plot(ends, reference, color=theme.muted, linestyle="--", linewidth=2.0)
        fitted = 10 ** (line.intercept + line.slope * np.log10(ends))
        ax.plot(ends, fitted, color=theme.ink, linestyle="-", linewidth=1.2)
        ax.set_title(f"slope {line.slope:.2f} [{line.low:.2f}, {line.high:.2f}]".replace("-", "−"))
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel(x)
        ax.set_ylabel(y)
        ax.grid()
    lines: dict[str, tuple[str, Any, float]] = {
        "fitted": (theme.ink, "-", 1.2),
        f"slope {expected:g}".replace("-", "−"): (theme.muted, "--", 2.0),
    }
    key = [Line2D([], [], color=colour, linestyle=dash, linewidth=width) for colour, dash, width in lines.values()]
    handles, names = [*drawn.values(), *key], [*drawn, *lines]
    fig.legend(handles, names, loc="outside lower center", ncols=3, fontsize=FONT_SIZE)
    return fig


def lengths_over_training(history: pd.DataFrame, strengths: Mapping[str, float]) -> pd.DataFrame:
    """Return the length of states, √Σ_l mean(h_l²), at each logged step: geometric means over seeds.

    Args:
        history: of `nbutils.fit`, with the term `hidden norm`.
        strengths: λ by variant.

    Returns:
        Columns variant, strength, step, length.

    Raises:
        KeyError: the history lacks a column.
        ValueError: it has no rows.
    """
    expect_columns(history, ("variant", "step", "term", "value"))
    part = history[(history["term"] == "hidden norm") & history["variant"].isin(list(strengths))]
    logs = np.log(part["value"]) / 2
    lengths = np.exp(logs.groupby([part["variant"], part["step"]]).mean()).rename("length").reset_index()
    lengths.insert(1, "strength", lengths["variant"].map(strengths))
    return lengths.sort_values(["strength", "step"], ignore_index=True)


def plot_settling(lengths: pd.DataFrame, looks: Mapping[str, str], slopes: pd.DataFrame) -> Figure:
    """Plot the states' length over training, one line per penalty, and the slope of length on penalty beside it.

    Args:
        lengths: as `lengths_over_training` returns them.
        looks: variant -> name of its mark (`nbutils.plotting.marks`).
        slopes: columns `step`, `slope`, `low`, `high` (`studies.credit.slopes.slopes_over_training`).

    Raises:
        KeyError: a table lacks a column, or a variant has no mark.
        ValueError: a table has no rows.
    """
    expect_columns(lengths, ("variant", "strength", "step", "length"))
    expect_columns(slopes, ("step", "slope", "low", "high"))
    theme = current()
    fig = Figure(figsize=(_WIDTH, 3.5), layout="constrained")
    left, right = fig.subplots(1, 2)
    for (strength, name), part in lengths.groupby(["strength", "variant"]):
        look = mark(looks[name])._asdict()
        left.plot(part["step"] + 1, part["length"], markersize=4, label=f"λ = {strength:g}", **look)
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
    looks: Mapping[str, str],
    *,
    baseline: str,
    published: Mapping[str, float] | None = None,
) -> Figure:
    """Plot accuracies by regime, every seed and the mean with its interval, against one regime as the baseline.

    Args:
        values: for each regime the accuracies `[S]` by seed.
        intervals: for each regime the ends of the mean's confidence interval.
        looks: regime -> name of its mark (`nbutils.plotting.marks`).
        baseline: the regime whose mean and interval run through all rows.
        published: for some regimes an accuracy reported elsewhere, marked by a cross.

    Raises:
        KeyError: a regime without an interval or a mark, or an unknown baseline.
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
        _scatter(ax, results, jitter, mark(looks[name]), size=24)
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


def shown_predictions(results: Mapping[str, PerturbationCorrelation], *, shown: int = 1000) -> pd.DataFrame:
    """Return predicted and true changes of the loss, for each measurement at most so many, taken evenly.

    Args:
        results: one for each title.
        shown: most points of each.

    Returns:
        Columns measurement, predicted, actual; one row per sample and direction.
    """
    import pandas as pd

    tables = []
    for title, result in results.items():
        x, y = np.ravel(result.predicted.cpu()), np.ravel(result.actual.cpu())
        every = max(1, -(-len(x) // shown))
        tables.append(pd.DataFrame({"measurement": title, "predicted": x[::every], "actual": y[::every]}))
    return pd.concat(tables, ignore_index=True)


def draw_predictions(ax: Axes, predicted: ArrayLike, actual: ArrayLike) -> None:
    """Draw predicted against true changes of the loss, with the line of equality.

    Args:
        ax: axes to draw in.
        predicted: `[points]`.
        actual: likewise; in the same unit.
    """
    theme = current()
    ax.scatter(predicted, actual, s=7, color=theme.accents[0], alpha=0.55, linewidths=0)
    ax.axline((0, 0), slope=1, color=theme.ink, linestyle="--", linewidth=1.0)
    ax.axhline(0, color=theme.muted, linestyle="-", linewidth=0.8)
    ax.margins(0.05)
    ax.ticklabel_format(style="sci", scilimits=(-2, 2), useMathText=True)
    ax.locator_params(axis="x", nbins=6)
    ax.grid()


def plot_predictions(results: Mapping[str, PerturbationCorrelation]) -> Figure:
    """Plot predicted against true changes of the loss, one panel per measurement, wrapped into rows.

    Args:
        results: one for each title.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not results:
        raise ValueError("expected at least one measurement, got none")
    columns = 2 if len(results) in (2, 4) else 3
    rows = -(-len(results) // columns)
    fig = Figure(figsize=(_WIDTH, 0.3 + 3.0 * rows), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(results) :]:
        ax.set_axis_off()
    points = dict(iter(shown_predictions(results).groupby("measurement")))
    for place, (title, result) in enumerate(results.items()):
        ax = axes.flat[place]
        draw_predictions(ax, points[title]["predicted"], points[title]["actual"])
        rho = f"ρ = {result.rho:+.3f}" if np.isfinite(result.rho) else "ρ undefined: no loss changed"
        ax.set_title(f"{title}\n{rho}".replace("-", "−"))
        if place + columns >= len(results):
            ax.set_xlabel("predicted change, ⟨a, v⟩", loc="left")  # the axis's power of ten stands at the right
    for ax in axes[:, 0]:
        ax.set_ylabel("true change of the loss")
    return fig
