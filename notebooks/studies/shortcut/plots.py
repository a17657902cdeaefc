"""Pictures of a shortcut study: tiles and their twins, accuracy over the number of ablated channels, probes, scores.

Curves are tidy frames of intervals, `mean`, `low` and `high` over models or draws; values are shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nbutils.plotting.distributions import jitter
from nbutils.plotting.expect import expect_columns
from nbutils.plotting.labels import FONT_SIZE, label_ends, note_row
from nbutils.plotting.marks import Mark, mark
from nbutils.plotting.theme import current
from studies.shortcut.controls import MATCHED, RANDOM

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

LINEAR_BELOW = 4  # the axis of K is linear up to here, logarithmic beyond, as in the source
WIDTH = 9.06  # inches, 870 pixels on screen


def plot_tile_sheet(
    images: ArrayLike, *, row_labels: Sequence[str], column_labels: Sequence[str], inches: float = 1.15
) -> Figure:
    """Plot tiles in a grid, such as one tissue under every stain (along a row) and with either label (along a column).

    Args:
        images: `[rows, columns, height, width, 3]`, bytes, or floats in [0, 1].
        row_labels: one per row.
        column_labels: one per column.
        inches: width of a tile.

    Raises:
        ValueError: shapes or numbers of labels do not fit.
    """
    images = np.asarray(images)
    if images.ndim != 5 or images.shape[-1] != 3:
        raise ValueError(f"expected tiles [rows, columns, height, width, 3], got {list(images.shape)}")
    rows, columns, height, width, _ = images.shape
    if (len(row_labels), len(column_labels)) != (rows, columns):
        raise ValueError(
            f"expected {rows} row and {columns} column labels, got {len(row_labels)} and {len(column_labels)}"
        )
    fig = Figure(
        figsize=(0.9 + columns * (inches + 0.04), 0.3 + rows * (inches * height / width + 0.04)),
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0),
    )
    axes = fig.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        for column in range(columns):
            ax = axes[row, column]
            # Not smoothed: what is seen is what the network gets.
            ax.imshow(images[row, column], interpolation="nearest", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
            if column == 0:
                ax.set_ylabel(row_labels[row], fontsize=FONT_SIZE)
            if row == 0:
                ax.set_title(column_labels[column], fontsize=FONT_SIZE, loc="center")
    return fig


def plot_ablation_effect(sweep: pd.DataFrame, *, known: str = "ID", unseen: str = "OOD") -> Figure:
    """Plot the source's two panels: the effect of ablation at an unseen hospital, and its cost at known ones.

    Left, accuracy on `unseen` for the most shortcut-aligned channels, for random ones (mean ± standard deviation over
    draws) and, where they are there, the most tumour-predictive ones. Right, both sets, for the first two.

    Args:
        sweep: `control`, `set`, `k`, `mean`, `sd`; without rows of `known` the right panel is left out.
        known: the set of known hospitals.
        unseen: the set of the unseen one.

    Raises:
        KeyError: a missing column or curve.
    """
    expect_columns(sweep, ("control", "set", "k", "mean", "sd"))
    theme = current()
    both = bool((sweep["set"] == known).any())
    fig = Figure(figsize=(WIDTH if both else 5.0, 3.5), layout="constrained")
    axes = fig.subplots(1, 1 + both, squeeze=False)
    left, base = axes[0, 0], None
    for control in ("shortcut", RANDOM, "morphology"):
        if control == "morphology" and not (sweep["control"] == control).any():
            continue
        rows = _curve(sweep, control, unseen)
        base = float(rows["mean"].iloc[0]) if base is None else base
        count = "K random" if control == RANDOM else f"top-K {control}"
        _line(left, rows, control, label=f"{count} channels", spread=control == RANDOM)
    left.axhline(base, color=theme.muted, linestyle=":", linewidth=1, label=f"none ablated ({base:.3f})")
    left.set_title(f"accuracy on {unseen}")
    panels = [left]
    if both:
        right = axes[0, 1]
        for control in ("shortcut", RANDOM):
            for name, dashed in ((known, True), (unseen, False)):
                _line(right, _curve(sweep, control, name), control, label=f"{name}, {control}", dashed=dashed)
        right.set_title(f"accuracy on {known} (dashed) and {unseen} (solid)")
        panels.append(right)
    for ax in panels:
        _k_axis(ax, sorted(sweep["k"].unique()))
        ax.legend(fontsize=FONT_SIZE - 1)
        ax.set_ylabel("accuracy of the head")
    return fig


def plot_dose_response(
    curves: pd.DataFrame,
    *,
    quantity: str = "accuracy",
    by: str = "set",
    banded: Sequence[str] = ("shortcut", MATCHED),
    share: bool = True,
) -> Figure:
    """Plot a quantity over the number of ablated channels, a panel for each set, a line for every control.

    Args:
        curves: `control`, `k`, `mean`, `low`, `high`, and the column `by`, whose values get a panel each.
        quantity: what the values are; names the axis.
        by: the name of that column.
        banded: controls whose `low` to `high` is drawn as a band; the others have bars at each K.
        share: the values are shares in [0, 1], whose panels have one scale.

    Raises:
        KeyError: a column is missing.
        ValueError: a control has no value, or several, for a K.
    """
    expect_columns(curves, ("control", by, "k", "mean", "low", "high"))
    panels = list(dict.fromkeys(curves[by]))
    fig = Figure(figsize=(min(WIDTH, 1.6 + 3.7 * len(panels)), 3.5), layout="constrained")
    axes = fig.subplots(1, len(panels), sharey=share, squeeze=False)
    for ax, panel in zip(axes[0], panels, strict=True):
        own = curves[curves[by] == panel]
        ks, ends = sorted(own["k"].unique().tolist()), []
        for control in dict.fromkeys(own["control"]):
            rows = own[own["control"] == control].sort_values("k")
            if rows["k"].tolist() != ks:
                raise ValueError(f"expected {control} once for each K of {ks} in {panel}, got {rows['k'].tolist()}")
            colour = style(control).color
            _line(ax, rows, control)
            if control in banded:
                ax.fill_between(rows["k"], rows["low"], rows["high"], color=colour, alpha=0.2, linewidth=0)
            else:
                ax.vlines(rows["k"], rows["low"], rows["high"], color=colour, linewidth=0.8, alpha=0.6)
            ends.append((float(rows["mean"].iloc[-1]), control, colour))
        _k_axis(ax, ks)
        ax.set_title(str(panel))
    for ax in axes[0, :-1] if share else axes[0]:
        ax.tick_params(labelleft=True)
    if share:
        axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set_ylabel(quantity)
    label_ends(axes[0, -1], ends)
    return fig


def plot_recovery(gaps: pd.DataFrame) -> Figure:
    """Plot what ablation by each ranking does to each measure beyond random channels as strong, around 0.

    The first measure has the upper row to itself. The axis is that of `dose_response.area_under_k`, so that the mean
    height of a line is its area there. An interval that leaves its panel is cut off.

    Args:
        gaps: as `recovery.differences` returns them; shares, on one scale.

    Raises:
        KeyError: a missing column.
    """
    expect_columns(gaps, ("control", "measure", "k", "mean", "low", "high"))
    controls, measures = list(dict.fromkeys(gaps["control"])), list(dict.fromkeys(gaps["measure"]))
    ks = sorted(gaps["k"].unique())
    fig = Figure(figsize=(WIDTH, 3.2 + 2.4 * (len(measures) > 1)), layout="constrained")
    layout = [[measures[0]] * max(len(measures) - 1, 1), *([measures[1:]] if len(measures) > 1 else [])]
    axes = fig.subplot_mosaic(layout, sharey=True, height_ratios=[3, 2][: len(layout)])
    least, most = min(0.0, gaps["mean"].min()), max(0.0, gaps["mean"].max())
    room = max(0.35 * (most - least), 0.01)
    for measure, ax in axes.items():
        ax.axhline(0, color=current().ink, linewidth=1)
        for place, control in enumerate(controls):
            own = gaps[(gaps["measure"] == measure) & (gaps["control"] == control)].sort_values("k")
            at = np.log2(1 + own["k"]) + 0.09 * (place - (len(controls) - 1) / 2)
            look = style(control)
            ax.vlines(at, own["low"], own["high"], color=look.color, linewidth=1.3)
            ax.plot(at, own["mean"], **look._asdict(), markersize=5.5, linewidth=1.4, label=control)
        ax.set_xticks(np.log2(1 + np.asarray(ks)), [str(k) for k in ks], fontsize=FONT_SIZE - 1)
        ax.set_xlim(-0.3, np.log2(1 + ks[-1]) + 0.3)
        ax.set_ylim(least - room, most + room)
        ax.set_title(measure)
        ax.set_xlabel("K, channels ablated")
        ax.yaxis.set_major_locator(MaxNLocator(6))
        ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=" pp"))
        ax.tick_params(labelleft=True)
        ax.grid()
    fig.supylabel("score less random channels as strong", fontsize=FONT_SIZE + 1)
    axes[measures[0]].legend(fontsize=FONT_SIZE, loc="upper left")
    return fig


def plot_areas(areas: pd.DataFrame, *, quantity: str) -> Figure:
    """Plot a quantity by condition and control against zero: a dot per seed, the mean, its interval, in words as well.

    Args:
        areas: `condition`, `control`, `seed`, `value`, and `low` and `high` of the mean, the same for all seeds.
        quantity: names the axis.

    Raises:
        KeyError: a missing column.
    """
    expect_columns(areas, ("condition", "control", "seed", "value", "low", "high"))
    theme = current()
    groups = list(areas.groupby(["condition", "control"], sort=False))
    fig = Figure(figsize=(WIDTH, 0.7 + 0.29 * (len(groups) + areas["condition"].nunique())), layout="constrained")
    ax = fig.subplots()
    ax.axvline(0, color=theme.ink, linewidth=1)
    for place, ((_, control), own) in zip(_rows(ax, [key for key, _ in groups]), groups, strict=True):
        look, (low, high), mean = style(control), own[["low", "high"]].iloc[0], own["value"].mean()
        heights = jitter(0, len(own)) * 0.6 + place - 0.16
        ax.scatter(own["value"], heights, s=15, marker=look.marker, color=look.color, linewidths=0)
        ax.plot([low, high], [place + 0.18] * 2, color=look.color, linestyle="-", linewidth=2, marker="|")
        ax.plot(mean, place + 0.18, marker=look.marker, color=look.color, markeredgecolor=theme.ink, markersize=6.5)
        note_row(ax, place, f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]", fontsize=FONT_SIZE - 1)
    ax.set_xlabel(quantity)
    ax.grid(axis="x")
    return fig


def plot_grid(changes: pd.DataFrame, *, measures: Sequence[str]) -> Figure:
    """Plot changes by score and basis, a panel for each measure: a dot per seed, filled, and the control's, open.

    A line marks either mean.

    Args:
        changes: `score`, `basis`, `measure`, `seed`, `value`, `control`; a control that is NaN is left out.
        measures: the panels.

    Raises:
        KeyError: a missing column.
    """
    expect_columns(changes, ("score", "basis", "measure", "seed", "value", "control"))
    theme = current()
    rows = list(changes[["basis", "score"]].drop_duplicates().itertuples(index=False, name=None))
    bases = len({basis for basis, _ in rows})
    fig = Figure(figsize=(WIDTH, 1.0 + 0.31 * (len(rows) + bases)), layout="constrained")
    axes = fig.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    places = _rows(axes[0], rows)
    for ax, measure in zip(axes, measures, strict=True):
        for place, (basis, score) in zip(places, rows, strict=True):
            own = changes[(changes.basis == basis) & (changes.score == score) & (changes.measure == measure)]
            look = style(score)
            height = place - 0.16 + jitter(0, len(own)) * 0.5
            filled = {"marker": look.marker, "color": look.color, "linewidths": 0}
            ax.scatter(own["value"], height, s=24, **filled)
            edge = {"facecolors": theme.paper, "edgecolors": theme.ink}
            ax.scatter(own["control"], height + 0.42, s=16, marker="o", linewidths=0.9, **edge)
            for column, middle, colour in (("value", -0.14, look.color), ("control", 0.28, theme.ink)):
                ax.vlines(own[column].mean(), place + middle - 0.2, place + middle + 0.2, color=colour, linewidth=1.6)
        ax.axvline(0, color=theme.ink, linewidth=0.8)
        ax.set_title(measure)
        ax.set_xlabel("change; filled: by the score, open: its control")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.grid(axis="x")
    return fig


def plot_probe_curves(
    curves: pd.DataFrame, *, floors: Mapping[str, ArrayLike], ceilings: Mapping[str, float] | None = None
) -> Figure:
    """Plot accuracies of probes after ablation: the fixed one (open, dashed), the one fitted again (filled, solid).

    Args:
        curves: `target`, `control`, `k`, `probe` (`fixed` or `refitted`), `value`; several rows for one of them, such
            as models, are averaged.
        floors: target -> accuracies of probes fitted on shuffled targets; drawn as a band from least to greatest.
        ceilings: target -> accuracy of a probe fitted again after linear erasure of the shortcut.

    Raises:
        KeyError: a column, or a target's floor, is missing.
    """
    expect_columns(curves, ("target", "control", "k", "probe", "value"))
    theme = current()
    targets = list(dict.fromkeys(curves["target"]))
    fig = Figure(figsize=(min(WIDTH, 1.0 + 4.1 * len(targets)), 4.4), layout="constrained")
    axes = fig.subplots(1, len(targets), sharey=True, squeeze=False)
    for ax, target in zip(axes[0], targets, strict=True):
        own = curves[curves["target"] == target]
        for control in dict.fromkeys(own["control"]):
            for probe in ("fixed", "refitted"):
                rows = own[(own["control"] == control) & (own["probe"] == probe)]
                means = rows.groupby("k", as_index=False)["value"].mean().rename(columns={"value": "mean"})
                look = {"dashed": probe == "fixed", "filled": probe == "refitted"}
                _line(ax, means, control, label=f"{control}, {probe}", **look)
        low, high = np.min(floors[target]), np.max(floors[target])
        ax.axhspan(low, high, color=theme.muted, alpha=0.3, linewidth=0)
        note = {"xycoords": ax.get_yaxis_transform(), "fontsize": FONT_SIZE}
        ax.annotate("fitted to shuffled labels", (0.02, (low + high) / 2), va="center", **note)
        if ceilings and target in ceilings:
            ax.axhline(ceilings[target], color=theme.ink, linestyle=":", linewidth=1.2)
            ax.annotate("erased linearly, fitted again", (0.02, ceilings[target] - 0.01), va="top", **note)
        _k_axis(ax, sorted(own["k"].unique()))
        ax.set_title(f"{target} probe")
        ax.set_ylabel("accuracy on slides it was not fitted on")
        ax.tick_params(labelleft=True)
    axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    lines, names = axes[0, 0].get_legend_handles_labels()
    fig.legend(lines, names, loc="outside lower center", ncols=max(len(lines) // 2, 1), fontsize=FONT_SIZE)
    return fig


def plot_scores(
    scores: Mapping[str, ArrayLike], truth: ArrayLike, *, quantity: str, marked: Mapping[str, ArrayLike] | None = None
) -> Figure:
    """Plot scores of channels against a measured truth, by rank, a panel for each score.

    Args:
        scores: name -> `[C]`.
        truth: `[C]`.
        quantity: name of the truth, for the axis.
        marked: name -> indices of channels drawn large, such as those ablated first.

    Raises:
        ValueError: no scores, or not one for each channel.
    """
    truth = np.asarray(truth, dtype=float)
    columns = {name: np.asarray(score, dtype=float) for name, score in scores.items()}
    if not columns or any(score.shape != truth.shape for score in columns.values()):
        shapes = {name: list(score.shape) for name, score in columns.items()}
        raise ValueError(f"expected scores {list(truth.shape)}, got {shapes}")
    theme = current()
    fig = Figure(figsize=(min(WIDTH, 0.8 + 3.1 * len(columns)), 3.2), layout="constrained")
    axes = fig.subplots(1, len(columns), sharey=True, squeeze=False)
    height = _ranks(truth)
    for ax, (name, score) in zip(axes[0], columns.items(), strict=True):
        look = style(name)
        rest = np.ones(len(truth), dtype=bool)
        if marked and name in marked:
            rest[np.asarray(marked[name])] = False
        at = _ranks(score)
        ax.scatter(at[rest], height[rest], s=4, color=look.color, linewidths=0)
        big = {"facecolors": look.color, "edgecolors": theme.ink, "linewidths": 0.9}
        ax.scatter(at[~rest], height[~rest], s=34, marker=look.marker, **big)
        ax.set_title(f"rank correlation {np.corrcoef(at, height)[0, 1]:+.2f}")
        ax.set_xlabel(f"rank by {name}")
        ax.tick_params(labelleft=True)
        ax.grid()
    axes[0, 0].set_ylabel(f"rank by {quantity}")
    return fig


def style(control: str) -> Mark:
    """Return how a control is drawn; `shortcut` is the source's word for `coefficient`, twins are matched random.

    Raises:
        KeyError: the registry of marks has no such control.
    """
    return mark(MATCHED if control.endswith(", matched") else "coefficient" if control == "shortcut" else control)


def _line(
    ax: Axes,
    rows: pd.DataFrame,
    control: str,
    *,
    label: str | None = None,
    dashed: bool | None = None,
    filled: bool = True,
    spread: bool = False,
) -> None:
    """Draw a curve; its own line style where `dashed` is None, a band of one `sd` either side for `spread`."""
    colour, marker, line = style(control)
    ax.plot(
        rows["k"],
        rows["mean"],
        color=colour,
        linestyle=line if dashed is None else "--" if dashed else "-",
        marker=marker,
        markersize=5,
        markerfacecolor=colour if filled else current().paper,
        linewidth=1.7,
        label=label,
    )
    if spread:
        ax.fill_between(
            rows["k"], rows["mean"] - rows["sd"], rows["mean"] + rows["sd"], color=colour, alpha=0.2, linewidth=0
        )


def _curve(sweep: pd.DataFrame, control: str, name: str) -> pd.DataFrame:
    rows = sweep[(sweep["control"] == control) & (sweep["set"] == name)].sort_values("k")
    if rows.empty:
        raise KeyError(f"no curve of {control!r} on {name!r}")
    return rows


def _k_axis(ax: Axes, ks: Sequence[int]) -> None:
    ax.set_xscale("symlog", linthresh=LINEAR_BELOW)
    ax.set_xticks(ks, [str(k) for k in ks], fontsize=FONT_SIZE - 1)
    ax.minorticks_off()
    ax.set_xlim(min(ks), max(ks) * 1.05)
    ax.set_xlabel("K, channels ablated")
    ax.grid()


def _rows(ax: Axes, keys: Sequence[tuple[str, str]]) -> list[float]:
    """Name rows (group, name) from the top, each group under its name in bold; return their places."""
    places: list[float] = []
    ticks: dict[float, tuple[str, str]] = {}
    at, last = 0.0, None
    for group, name in keys:
        if group != last:
            ticks[at] = group, "bold"
            at, last = at + 0.9, group
        ticks[at] = name, "normal"
        places.append(at)
        at += 1
    ax.set_yticks(list(ticks), [text for text, _ in ticks.values()], fontsize=FONT_SIZE)
    for label, (_, weight) in zip(ax.get_yticklabels(), ticks.values(), strict=True):
        label.set_fontweight(weight)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(at - 0.4, -0.5)
    return places


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(values)
