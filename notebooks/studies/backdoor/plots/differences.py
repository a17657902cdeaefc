"""Pictures of a clean network beside a poisoned one: mixtures of their layers, and changes of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nbutils.plotting.distributions import GOLDEN
from nbutils.plotting.expect import expect_columns
from nbutils.plotting.labels import FONT_SIZE, label_ends, name_rows, note_row
from nbutils.plotting.marks import mark
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

RANKS = 4  # found units whose rank is written out


def plot_layer_swaps(
    swaps: pd.DataFrame, *, by: str, metrics: Sequence[str] = (), names: tuple[str, str] = ("clean", "poisoned")
) -> Figure:
    """Plot every mixture of two models: metrics above, and below which layers come from which.

    Args:
        swaps: as `studies.backdoor.swaps.swap_layers` returns it: a column of booleans per layer, then `metric`,
            `value`, `n`. Several rows for one mixture and metric, such as seeds, are drawn faint with their median
            strong.
        by: the metric by whose median the mixtures are ordered.
        metrics: the ones to draw, names of the registry (see `nbutils.plotting.marks`); all when not given.
        names: the models that False and True stand for.

    Raises:
        KeyError: a column or a metric is missing, or the registry lacks it.
        ValueError: no columns of booleans before `metric`, or a mixture lacks a metric.
    """
    table = _tabulate_mixtures(swaps, by, metrics)
    layers = list(table.index.names)
    fig = Figure(figsize=(min(2.6 + 0.36 * len(table), 9.0), 2.5 + 0.3 * len(layers)), layout="constrained")
    upper, lower = fig.subplots(2, 1, height_ratios=[2.0, 0.3 * len(layers) + 0.1], sharex=True)
    ends = []
    every = swaps.set_index(layers)
    for name in list(metrics) or list(swaps["metric"].unique()):
        colour = _draw_metric(upper, table[name], every[every["metric"] == name])
        ends.append((float(table[name].iloc[-1]), name, colour))
    upper.set_ylim(0, 1)
    upper.yaxis.set_major_formatter(PercentFormatter(1))
    upper.set_ylabel("share of the images")
    upper.grid()
    upper.tick_params(axis="x", length=0)
    _draw_sources(lower, table, names)
    fig.legend(*lower.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=FONT_SIZE)
    label_ends(upper, ends)
    return fig


def _tabulate_mixtures(swaps: pd.DataFrame, by: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the median of each metric (columns) for each mixture (rows, levels by layer), in the order of `by`."""
    expect_columns(swaps, ("metric", "value"))
    layers = list(swaps.columns[: list(swaps.columns).index("metric")])
    if not layers or not swaps[layers].isin([True, False]).all(axis=None):
        raise ValueError(f"expected columns of booleans, one per layer, before `metric`, got {layers}")
    present = list(swaps["metric"].unique())
    if missing := [name for name in [by, *metrics] if name not in present]:
        raise KeyError(f"no metric {missing}; there are {present}")
    table = swaps.pivot_table(index=layers, columns="metric", values="value", aggfunc="median")
    if table.isna().to_numpy().any():
        raise ValueError("expected every metric for each mixture, got gaps")
    return table.sort_values(by, kind="stable")


def _draw_metric(ax: Axes, medians: pd.Series, rows: pd.DataFrame) -> str:
    """Draw a metric of all mixtures, single values faint where there are several; return its colour."""
    colour, marker, style = mark(str(medians.name))
    at = np.arange(len(medians))
    if len(rows) > len(medians):
        x = medians.index.get_indexer(rows.index)
        ax.scatter(x, rows["value"], s=10, marker=marker, color=colour, alpha=0.35, linewidths=0)
    ax.plot(at, medians, color=colour, linestyle=style, linewidth=0.8)
    dots = ax.scatter(at, medians, s=46, marker=marker, facecolors=colour, zorder=3, clip_on=False)
    dots.set_edgecolor(current().paper)
    return colour


def _draw_sources(ax: Axes, table: pd.DataFrame, names: tuple[str, str]) -> None:
    """Draw the model that each layer of each mixture comes from."""
    theme = current()
    layers = list(table.index.names)
    at = np.arange(len(table))
    taken = table.index.to_frame().to_numpy(dtype=bool)  # (mixtures, layers)
    for row in range(len(layers)):
        for of, face, text in ((False, theme.paper, names[0]), (True, theme.ink, names[1])):
            x = at[taken[:, row] == of]
            label = f"from the {text} model" if row == 0 else None
            y = np.full(len(x), row)
            ax.scatter(x, y, s=62, facecolors=face, edgecolors=theme.ink, linewidths=1.1, label=label)
    ax.set_yticks(range(len(layers)), layers)
    ax.set_ylabel("layer")
    ax.set_ylim(len(layers) - 0.5, -0.5)
    ax.set_xlim(-0.5, len(table) - 0.5)
    ax.set_xticks(at, [])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(axis="x")


def plot_weight_changes(changes: pd.DataFrame, *, quantity: str = "relative change of the unit's weights") -> Figure:
    """Plot how much each unit's weights changed, site by site, with the units that ablation found and their rank.

    Args:
        changes: `site`, `unit`, `change` (0 or more; zeros stand at the left end, open), `found` (boolean).
        quantity: what the change is; names the axis.

    Raises:
        KeyError: a column is missing.
        ValueError: a change is negative or not finite.
    """
    expect_columns(changes, ("site", "unit", "change", "found"))
    sizes = changes["change"].to_numpy(dtype=float)
    if not (np.isfinite(sizes) & (sizes >= 0)).all():
        raise ValueError("expected a finite change of 0 or more for each unit, got others")
    theme = current()
    sites = list(changes["site"].unique())
    floor = float(sizes[sizes > 0].min(initial=np.inf)) / 2 if sizes.any() else 1.0
    fig = Figure(figsize=(8.5, 0.9 + 0.7 * len(sites)), layout="constrained")
    ax = fig.subplots()
    for row, site in enumerate(sites):
        rows = changes[changes["site"] == site].sort_values("change", ascending=False, kind="stable")
        found = rows["found"].to_numpy(dtype=bool)
        x = np.maximum(rows["change"].to_numpy(dtype=float), floor)
        # Jitter by rank, because neighbours in rank are the ones that overlap.
        y = row + 0.1 + 0.5 * (np.arange(1, len(rows) + 1) * GOLDEN % 1 - 0.5)
        colour = theme.accents[0]
        still = ~found & (x == floor)
        ax.scatter(x[still], y[still], s=16, facecolors="none", edgecolors=colour, linewidths=1.0, zorder=2)
        some = ~found & ~still
        ax.scatter(x[some], y[some], s=16, facecolors=colour, edgecolors=theme.paper, linewidths=0.4, zorder=2)
        face, line = theme.accents[1], theme.ink
        ax.scatter(x[found], y[found], s=64, marker="D", facecolors=face, edgecolors=line, linewidths=1, zorder=3)
        ranked = list(zip((np.flatnonzero(found) + 1).tolist(), rows["unit"][found].tolist(), strict=True))
        texts = [f"{unit}: rank {rank} of {len(rows)}" for rank, unit in ranked]
        more = [f"and {len(texts) - RANKS} more"] if len(texts) > RANKS else []
        note_row(ax, row, "\n".join([*texts[:RANKS], *more]), fontsize=FONT_SIZE - 1)
    ax.set_xscale("log")
    name_rows(ax, sites, above=0.6)
    notes = "; diamond: found by ablation" * bool(changes["found"].any()) + "; open: unchanged" * bool(
        (sizes == 0).any()
    )
    ax.set_xlabel(quantity + notes)
    ax.set_ylabel("layer")
    return fig
