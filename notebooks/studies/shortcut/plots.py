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

from nbutils.plotting.distributions import MARKERS
from nbutils.plotting.expect import expect_columns
from nbutils.plotting.labels import FONT_SIZE, label_ends
from nbutils.plotting.theme import LINE_STYLES, current
from studies.shortcut.controls import MATCHED, RANDOM
from studies.shortcut.recovery import twin_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

LINEAR_BELOW = 4  # the axis of K is linear up to here, logarithmic beyond, as in the source
# Their places fix their colours; red, green and grey are the source's. `shortcut` is its word for `coefficient`.
CONTROLS = ("pattern × weight", "shortcut", "morphology", "pattern", "oracle", MATCHED, RANDOM, "head weight")


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
    fig = Figure(figsize=(5.0 + 4.5 * both, 3.7), layout="constrained")
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
    left.set_ylabel("accuracy of the head")
    return fig


def plot_dose_response(
    curves: pd.DataFrame, *, by: str = "set", banded: Sequence[str] = ("shortcut", MATCHED), share: bool = True
) -> Figure:
    """Plot a quantity over the number of ablated channels, a panel for each set, a line for every control.

    Args:
        curves: `control`, `k`, `mean`, `low`, `high`, and the column `by`, whose values get a panel each.
        by: the name of that column.
        banded: controls whose `low` to `high` is drawn as a band; the others have bars at each K.
        share: the values are shares in [0, 1], whose panels have one scale.

    Raises:
        KeyError: a column is missing.
        ValueError: a control has no value, or several, for a K.
    """
    expect_columns(curves, ("control", by, "k", "mean", "low", "high"))
    panels = list(dict.fromkeys(curves[by]))
    fig = Figure(figsize=(1.6 + 3.3 * len(panels), 3.7), layout="constrained")
    axes = fig.subplots(1, len(panels), sharey=share, squeeze=False)
    for ax, panel in zip(axes[0], panels, strict=True):
        own = curves[curves[by] == panel]
        ks, ends = sorted(own["k"].unique().tolist()), []
        for control in dict.fromkeys(own["control"]):
            rows = own[own["control"] == control].sort_values("k")
            if rows["k"].tolist() != ks:
                raise ValueError(f"expected {control} once for each K of {ks} in {panel}, got {rows['k'].tolist()}")
            colour, _, _ = style(control)
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
    label_ends(axes[0, -1], ends)
    return fig


def plot_recovery(curves: pd.DataFrame, controls: Sequence[str], measures: Sequence[str]) -> Figure:
    """Plot what ablation by each ranking does to each measure, over the range of random channels as strong.

    Args:
        curves: `control`, `measure`, `k`, `mean`, `low`, `high`; of every control and of its twin
            (`recovery.twin_of`).
        controls: a column of panels each.
        measures: a row of panels each; all are shares, on one scale.

    Raises:
        KeyError: a missing column or curve.
    """
    expect_columns(curves, ("control", "measure", "k", "mean", "low", "high"))
    fig = Figure(figsize=(0.8 + 2.25 * len(controls), 0.7 + 1.75 * len(measures)), layout="constrained")
    axes = fig.subplots(len(measures), len(controls), sharex=True, sharey=True, squeeze=False)
    for row, measure in zip(axes, measures, strict=True):
        own = curves[curves["measure"] == measure]
        for ax, control in zip(row, controls, strict=True):
            twins, found = (own[own["control"] == name].sort_values("k") for name in (twin_of(control), control))
            if twins.empty or found.empty:
                raise KeyError(f"no curve of {control!r} and its twin for {measure!r}")
            ax.fill_between(twins["k"], twins["low"], twins["high"], color=current().muted, alpha=0.35, linewidth=0)
            _line(ax, twins, MATCHED, label="random, as strong", dashed=True, filled=False)
            _line(ax, found, control, label="first K by score", dashed=False)
            _k_axis(ax, sorted(own["k"].unique()))
            ax.set_xlabel("")
        row[0].set_ylabel(measure)
        row[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for ax, control in zip(axes[0], controls, strict=True):
        ax.set_title(control)
    for ax in axes[-1]:
        ax.set_xlabel("K, channels ablated")
        ticks = ax.get_xticks().tolist()
        ax.set_xticks(ticks, [f"{k:g}" if place % 2 == 0 else "" for place, k in enumerate(ticks)])
    axes[0, 0].legend(fontsize=FONT_SIZE - 1, loc="upper left")
    return fig


def plot_grid(changes: pd.DataFrame, *, measures: Sequence[str]) -> Figure:
    """Plot changes by score and basis, a panel for each measure: a dot per seed, filled, and the control's, open.

    Args:
        changes: `score`, `basis`, `measure`, `seed`, `value`, `control`; a control that is NaN is left out.
        measures: the panels.

    Raises:
        KeyError: a missing column.
    """
    expect_columns(changes, ("score", "basis", "measure", "seed", "value", "control"))
    theme = current()
    rows = list(changes[["basis", "score"]].drop_duplicates().itertuples(index=False, name=None))
    fig = Figure(figsize=(1.9 + 3.6 * len(measures), 0.9 + 0.34 * len(rows)), layout="constrained")
    axes = fig.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for ax, measure in zip(axes, measures, strict=True):
        for place, (basis, score) in enumerate(rows):
            own = changes[(changes.basis == basis) & (changes.score == score) & (changes.measure == measure)]
            colour, _, marker = style(score)
            height = np.linspace(-0.14, 0.14, len(own)) if len(own) > 1 else np.zeros(1)
            ax.scatter(own["value"], place - 0.12 + height, s=20, marker=marker, color=colour, linewidths=0)
            edge = {"facecolors": theme.paper, "edgecolors": theme.ink}
            ax.scatter(own["control"], place + 0.2 + height / 2, s=16, marker="o", linewidths=0.9, **edge)
        for end in range(3, len(rows), 3):
            ax.axhline(end - 0.5, color=theme.muted, linewidth=0.6)
        ax.axvline(0, color=theme.muted, linestyle=":", linewidth=1)
        ax.set_title(measure)
        ax.set_xlabel("change; filled: by the score, open: by chance")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.grid(axis="x")
    axes[0].set_yticks(range(len(rows)), [f"{score}, {basis}" for basis, score in rows], fontsize=FONT_SIZE - 1)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
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
    fig = Figure(figsize=(1.6 + 3.6 * len(targets), 3.7), layout="constrained")
    axes = fig.subplots(1, len(targets), sharey=True, squeeze=False)
    for ax, target in zip(axes[0], targets, strict=True):
        own = curves[curves["target"] == target]
        ends = []
        for control in dict.fromkeys(own["control"]):
            for probe in ("fixed", "refitted"):
                rows = own[(own["control"] == control) & (own["probe"] == probe)]
                means = rows.groupby("k", as_index=False)["value"].mean().rename(columns={"value": "mean"})
                _line(ax, means, control, dashed=probe == "fixed", filled=probe == "refitted")
                ends.append((float(means["mean"].iloc[-1]), f"{control}, {probe}", style(control)[0]))
        low, high = np.min(floors[target]), np.max(floors[target])
        ax.axhspan(low, high, color=theme.muted, alpha=0.3, linewidth=0)
        ax.annotate("shuffled", (0.02, high), xycoords=ax.get_yaxis_transform(), fontsize=FONT_SIZE - 1, va="bottom")
        if ceilings and target in ceilings:
            ax.axhline(ceilings[target], color=theme.ink, linestyle=":", linewidth=1.2)
            at = 0.98, ceilings[target]
            text = "erased linearly"
            ax.annotate(text, at, xycoords=ax.get_yaxis_transform(), fontsize=FONT_SIZE - 1, ha="right", va="top")
        _k_axis(ax, sorted(own["k"].unique()))
        ax.set_title(f"{target} probe")
    axes[0, 0].set_ylabel("accuracy on slides it was not fitted on")
    axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    label_ends(axes[0, -1], ends)
    return fig


def plot_scores(
    scores: Mapping[str, ArrayLike], truth: ArrayLike, *, quantity: str, marked: Mapping[str, ArrayLike] | None = None
) -> Figure:
    """Plot scores of channels against a measured truth, by rank, a panel for each score.

    Args:
        scores: name -> `[C]`.
        truth: `[C]`.
        quantity: name of the truth, for the axis.
        marked: name -> indices of channels drawn as diamonds, such as those ablated first.

    Raises:
        ValueError: no scores, or not one for each channel.
    """
    truth = np.asarray(truth, dtype=float)
    columns = {name: np.asarray(score, dtype=float) for name, score in scores.items()}
    if not columns or any(score.shape != truth.shape for score in columns.values()):
        shapes = {name: list(score.shape) for name, score in columns.items()}
        raise ValueError(f"expected scores {list(truth.shape)}, got {shapes}")
    theme = current()
    fig = Figure(figsize=(0.8 + 3.1 * len(columns), 3.3), layout="constrained")
    axes = fig.subplots(1, len(columns), sharey=True, squeeze=False)
    height = _ranks(truth)
    for place, (ax, (name, score)) in enumerate(zip(axes[0], columns.items(), strict=True)):
        colour = theme.accents[place % len(theme.accents)]
        rest = np.ones(len(truth), dtype=bool)
        if marked and name in marked:
            rest[np.asarray(marked[name])] = False
        at = _ranks(score)
        ax.scatter(at[rest], height[rest], s=9, facecolors=colour, edgecolors="none", alpha=0.55)
        ax.scatter(at[~rest], height[~rest], s=34, marker="D", facecolors=colour, edgecolors=theme.ink, linewidths=0.9)
        ax.set_title(f"rank correlation {np.corrcoef(at, height)[0, 1]:+.2f}")
        ax.set_xlabel(f"rank by {name}")
        ax.grid()
    axes[0, 0].set_ylabel(f"rank by {quantity}")
    return fig


def style(control: str) -> tuple[str, str | tuple[int, tuple[int, ...]], str]:
    """Return a control's colour, line style and marker, the same in every figure of the theme in force."""
    control = "shortcut" if control == "coefficient" else control
    place = CONTROLS.index(control) if control in CONTROLS else len(CONTROLS)
    accents = current().accents
    return accents[place % len(accents)], LINE_STYLES[place % len(LINE_STYLES)], MARKERS[place % len(MARKERS)]


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
    colour, line, marker = style(control)
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


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(values)
