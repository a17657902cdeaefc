"""Selectivity frontiers, and losses over the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from nbutils.plotting.expect import expect_columns, expect_shape
from nbutils.plotting.labels import label_ends
from nbutils.plotting.marks import mark
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    import pandas as pd

Curve = tuple[np.ndarray, np.ndarray]  # damage at the concept and collateral, both [seeds, strengths]

FLOOR = 1e-7  # of a logarithmic axis of collateral


def tabulate_frontiers(panels: Mapping[str, Mapping[str, Curve]]) -> pd.DataFrame:
    """Return what `plot_frontiers` draws: one row for each concept, method and strength.

    Columns `concept`, `method`, `damage at the hue` (median over seeds), `low`, `collateral` and `high` (quartiles).

    Raises:
        ValueError: the shapes of a curve differ.
    """
    import pandas as pd

    parts = []
    for concept, curves in panels.items():
        for method, (at_concept, elsewhere) in curves.items():
            x = expect_shape(f"{method} at the concept", at_concept, ("seeds", "strengths"))
            y = expect_shape(f"{method} elsewhere", elsewhere, x.shape)
            low, middle, high = np.quantile(y, [0.25, 0.5, 0.75], axis=0)
            columns = {"damage at the hue": np.median(x, axis=0), "low": low, "collateral": middle, "high": high}
            parts.append(pd.DataFrame({"concept": concept, "method": method, **columns}))
    return pd.concat(parts, ignore_index=True)


def plot_frontiers(panels: Mapping[str, Mapping[str, Curve]], *, level: float) -> Figure:
    """Plot collateral against damage at the concept while strength grows: lower is more selective.

    A line joins the medians over seeds at each strength; in a single panel a band has the middle half of them.

    Args:
        panels: for each concept, and for each method of it (a name of the registry of looks), both damages.
        level: of damage at the concept where methods are compared, marked.

    Raises:
        ValueError: there is no panel, or the shapes of a curve differ.
    """
    if not panels:
        raise ValueError("expected at least one panel, got none")
    across = min(len(panels), 2)
    down = -(-len(panels) // across)
    fig = Figure(figsize=(8.6, 0.9 + 2.7 * down), layout="constrained")
    axes = fig.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    lines = {}
    for ax, (concept, rows) in zip(axes.flat, tabulate_frontiers(panels).groupby("concept", sort=False), strict=False):
        for method, curve in rows.groupby("method", sort=False):
            right, look = curve["damage at the hue"], mark(str(method))
            low, middle, high = (curve[name].clip(lower=FLOOR) for name in ("low", "collateral", "high"))
            if len(panels) == 1:  # in small panels the bands would hide each other
                ax.fill_between(right, low, high, color=look.color, alpha=0.14, linewidth=0)
            every = max(len(right) // 5, 1)
            style = {"linewidth": 1.8, "markersize": 5, "markevery": every, "label": method}
            lines[method] = ax.plot(right, middle, **look._asdict(), **style)[0]
        ax.axvline(level, color=current().ink, linestyle=":", linewidth=1.0)
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
    fig.legend(list(lines.values()), list(lines), loc="outside upper center", ncols=3, fontsize="small")
    return fig


def tabulate_losses(history: pd.DataFrame, terms: Sequence[str]) -> pd.DataFrame:
    """Return what `plot_losses` draws: columns `term`, `phase`, `step` and `loss`, a median over seeds.

    Training losses are of single batches, so a running median of five shows their course. A loss of 0 is left out.

    Args:
        history: columns `seed`, `step`, `term`, `value`, `phase`, as `nbutils.training.fit.fit` returns it.
        terms: the losses.

    Raises:
        KeyError: the history lacks a column.
    """
    import pandas as pd

    expect_columns(history, ("seed", "step", "term", "value", "phase"))
    parts = []
    for term in terms:
        for phase in ("train", "validate"):
            rows = history[(history.term == term) & (history.phase == phase) & (history.value > 0)]
            middle = rows.groupby("step").value.median()
            if phase == "train":
                middle = middle.rolling(5, center=True, min_periods=1).median()
            parts.append(pd.DataFrame({"term": term, "phase": phase, "step": middle.index, "loss": middle.to_numpy()}))
    return pd.concat(parts, ignore_index=True)


def plot_losses(history: pd.DataFrame, terms: Sequence[str]) -> Figure:
    """Plot losses over the run, training and validation, medians over seeds, on a logarithmic axis.

    Args:
        history: as for `tabulate_losses`.
        terms: the losses to draw, one panel each; where a loss is 0 or was not computed, there is no line.

    Raises:
        KeyError: the history lacks a column.
    """
    table = tabulate_losses(history, terms)
    across = min(len(terms), 3)
    down = -(-len(terms) // across)
    fig = Figure(figsize=(8.6, 0.4 + 2.0 * down), layout="constrained")
    axes = fig.subplots(down, across, squeeze=False, sharex=True)
    for ax in axes.flat[len(terms) :]:
        ax.remove()
    for ax, term in zip(axes.flat, terms, strict=False):
        ends = []
        for phase, rows in table[table.term == term].groupby("phase", sort=False):
            look = mark(str(phase))._asdict()
            if phase == "train":  # too many points for markers
                look["marker"] = ""
            ax.plot(rows.step, rows.loss, **look, markersize=4, linewidth=1.4)
            ends.append((float(rows.loss.iloc[-1]), str(phase), look["color"]))
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(NullFormatter())  # within a decade they would run into each other
        ax.set_title(term, loc="left")
        ax.grid()
        label_ends(ax, ends)
    for ax in axes.flat[len(terms) - across : len(terms)]:
        ax.tick_params(labelbottom=True)  # the panel below may be none
    fig.supxlabel("step", fontsize="medium")
    fig.supylabel("loss, before weighting", fontsize="medium")
    return fig
