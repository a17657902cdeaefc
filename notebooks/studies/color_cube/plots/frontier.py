"""Selectivity frontiers, and losses over the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from nbutils.plotting.distributions import MARKERS
from nbutils.plotting.expect import expect_columns, expect_shape
from nbutils.plotting.labels import label_ends
from nbutils.plotting.theme import LINE_STYLES, current

if TYPE_CHECKING:
    import pandas as pd

Curve = tuple[np.ndarray, np.ndarray]  # damage at the concept and collateral, both [seeds, strengths]

FLOOR = 1e-7  # of a logarithmic axis of collateral


def plot_frontiers(panels: Mapping[str, Mapping[str, Curve]], *, level: float) -> Figure:
    """Plot collateral against damage at the concept while strength grows: lower is more selective.

    A line joins the medians over seeds at each strength; in a single panel a band has the middle half of them.

    Args:
        panels: for each concept, and for each method of it, both damages. Methods keep colour and marker over panels.
        level: of damage at the concept where methods are compared, marked.

    Raises:
        ValueError: there is no panel, or the shapes of a curve differ.
    """
    if not panels:
        raise ValueError("expected at least one panel, got none")
    theme = current()
    methods = list(dict.fromkeys(method for curves in panels.values() for method in curves))
    across = min(len(panels), 2)
    down = -(-len(panels) // across)
    fig = Figure(figsize=(8.6, 0.9 + 2.7 * down), layout="constrained")
    axes = fig.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for ax, (concept, curves) in zip(axes.flat, panels.items(), strict=False):
        for method, (at_concept, elsewhere) in curves.items():
            place = methods.index(method)
            x = expect_shape(f"{method} at the concept", at_concept, ("seeds", "strengths"))
            y = expect_shape(f"{method} elsewhere", elsewhere, x.shape)
            low, middle, high = np.quantile(y, [0.25, 0.5, 0.75], axis=0).clip(min=FLOOR)
            right = np.median(x, axis=0)
            colour = theme.accents[place % len(theme.accents)]
            if len(panels) == 1:  # in small panels the bands would hide each other
                ax.fill_between(right, low, high, color=colour, alpha=0.14, linewidth=0)
            ax.plot(
                right,
                middle,
                color=colour,
                linestyle=LINE_STYLES[place % len(LINE_STYLES)],
                linewidth=1.8,
                marker=MARKERS[place % len(MARKERS)],
                markevery=max(len(right) // 5, 1),
                markersize=5,
                label=method,
            )
        ax.axvline(level, color=theme.ink, linestyle=":", linewidth=1.0)
        ax.set_title(concept, loc="left")
        ax.set_yscale("log")
        ax.grid()
        ax.label_outer()
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    for ax in axes.flat[len(panels) - across : len(panels)]:
        ax.tick_params(labelbottom=True)  # the panel below may be none
    fig.supxlabel("damage at the pure hue (added squared error)", fontsize="medium")
    fig.supylabel("collateral: mean added error\nat colours of no similarity", fontsize="medium")
    handles = {line.get_label(): line for ax in fig.axes for line in ax.get_lines() if line.get_label() in methods}
    names = [str(name) for name in handles]
    fig.legend(list(handles.values()), names, loc="outside upper center", ncols=3, fontsize="small")
    return fig


def plot_losses(history: pd.DataFrame, terms: Sequence[str]) -> Figure:
    """Plot losses over the run, training and validation, medians over seeds, on a logarithmic axis.

    Args:
        history: columns `seed`, `step`, `term`, `value`, `phase`, as `nbutils.training.fit.fit` returns it.
        terms: the losses to draw, one panel each; where a loss is 0 or was not computed, there is no line.

    Raises:
        KeyError: the history lacks a column.
    """
    expect_columns(history, ("seed", "step", "term", "value", "phase"))
    theme = current()
    across = min(len(terms), 3)
    down = -(-len(terms) // across)
    fig = Figure(figsize=(8.6, 0.4 + 2.0 * down), layout="constrained")
    axes = fig.subplots(down, across, squeeze=False, sharex=True)
    for ax in axes.flat[len(terms) :]:
        ax.remove()
    for ax, term in zip(axes.flat, terms, strict=False):
        ends = []
        for place, phase in enumerate(("train", "validate")):
            rows = history[(history.term == term) & (history.phase == phase) & (history.value > 0)]
            middle = rows.groupby("step").value.median()
            if not len(middle):
                continue
            if phase == "train":  # of single batches: a running median shows the course
                middle = middle.rolling(5, center=True, min_periods=1).median()
            style = {"color": theme.accents[place], "linestyle": LINE_STYLES[place], "linewidth": 1.4}
            ax.plot(middle.index, middle, marker="o" if place else "", markersize=4, **style)
            ends.append((float(middle.iloc[-1]), phase, theme.accents[place]))
        ax.set_yscale("log")
        ax.set_title(term, loc="left")
        ax.grid()
        label_ends(ax, ends)
    for ax in axes.flat[len(terms) - across : len(terms)]:
        ax.tick_params(labelbottom=True)  # the panel below may be none
    fig.supxlabel("step", fontsize="medium")
    fig.supylabel("loss, before weighting", fontsize="medium")
    return fig
