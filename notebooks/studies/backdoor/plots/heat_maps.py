"""Heat maps of sweeps: the change of every metric by the ablation of each unit.

Sweeps are tidy frames as `nbutils.sweeps.units` returns them; values are shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure

from nbutils.plotting.expect import expect_columns
from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

Units = Collection[tuple[str, int]]  # (site, unit)

NOTABLE = 0.1  # change of a share from which a cell gets a triangle
MAX_NUMBERS = 32  # units up to which each has its number at the axis


def plot_unit_heat_map(sweep: pd.DataFrame, baseline: pd.DataFrame, *, found: Units = ()) -> Figure:
    """Plot the change of every metric when a unit is ablated, a panel per site.

    Cells that change by ten points or more have a triangle, up or down, so that the sign can be read in grey.

    Args:
        sweep: `site`, `unit`, `metric`, `value`, `n`, as `nb.sweep` returns it.
        baseline: `metric`, `value` of the model as it is, as `nb.measure` returns it.
        found: (site, unit) of the units to mark.

    Raises:
        KeyError: a column is missing, the baseline lacks a metric, or a marked unit is not in the sweep.
        ValueError: a unit has no value or several for a metric.
    """
    values, before = _by_site(sweep, baseline, found)
    limit = _limit(values, before)
    fig = Figure(figsize=(9.0, 0.35 + sum(0.62 + 0.24 * len(table) for table in values.values())), layout="constrained")
    axes = fig.subplots(len(values), 1, height_ratios=[len(table) for table in values.values()], squeeze=False)
    for ax, (site, table) in zip(axes[:, 0], values.items(), strict=True):
        picture = _draw_panel(ax, site, table, before, limit, _found(found, site))
    axes[-1, 0].set_xlabel("unit", fontsize=FONT_SIZE)
    fig.supylabel("measure, and its value with all units", fontsize=FONT_SIZE)
    bar = fig.colorbar(picture, ax=axes[:, 0].tolist(), fraction=0.03, pad=0.01, aspect=30)
    bar.set_label("change without the unit, percentage points", fontsize=FONT_SIZE)
    bar.ax.yaxis.set_major_formatter(
        lambda value, _: f"{100 * value:+.0f}".replace("-", "−") if abs(value) > 1e-9 else "0"
    )
    bar.ax.tick_params(labelsize=FONT_SIZE - 1)
    return fig


def _draw_panel(
    ax: Axes, site: str, table: pd.DataFrame, before: Mapping[str, float], limit: float, found: Sequence[int]
) -> AxesImage:
    """Draw the changes of one site, with signs and marks; return the picture, for the colour bar."""
    theme = current()
    change = _changes(table, before)
    units = table.columns.to_numpy()
    picture = ax.imshow(
        change,
        cmap=_diverging(),
        norm=Normalize(-limit, limit),
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, len(units) - 0.5, len(table) - 0.5, -0.5),
    )
    ax.set_xticks(np.arange(1, len(units)) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, len(table)) - 0.5, minor=True)
    ax.grid(which="minor", color=theme.paper, alpha=1, linewidth=0.8)
    ax.tick_params(which="both", length=0)
    for marker, sign in (("^", 1), ("v", -1)):
        row, column = np.nonzero(sign * change >= NOTABLE - 1e-9)
        ax.scatter(
            column, row, s=16, marker=marker, facecolors=theme.ink, edgecolors=theme.paper, linewidths=0.7, zorder=3
        )
    ax.set_yticks(range(len(table)), [f"{name}, {before[name]:.1%}" for name in table.index], fontsize=FONT_SIZE)
    marks = np.flatnonzero(np.isin(units, found))
    ax.scatter(
        marks,
        np.full(len(marks), 1.05),
        s=42,
        marker="v",
        color=theme.ink,
        transform=ax.get_xaxis_transform(),
        clip_on=False,
    )
    _name_units(ax, units, marks)
    ax.set_title(site, fontsize=FONT_SIZE + 1)
    ax.spines[:].set_visible(True)
    return picture


def _name_units(ax: Axes, units: np.ndarray, marks: np.ndarray) -> None:
    """Write the numbers of units at the axis, those at the marks in bold."""
    regular = np.arange(0, len(units), 1 if len(units) <= MAX_NUMBERS else 4)
    near = np.abs(regular[:, None] - marks).min(axis=1, initial=len(units)) < regular[1:2].sum() / 2
    ticks = np.union1d(regular[~near], marks)
    ax.set_xticks(ticks, units[ticks], fontsize=FONT_SIZE - 1)
    for place, text in zip(ticks, ax.get_xticklabels(), strict=True):
        text.set_fontweight("bold" if place in marks else "normal")


def _by_site(
    sweep: pd.DataFrame, baseline: pd.DataFrame, found: Units
) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """Return per site the values `[metrics, units]`, and the values before."""
    expect_columns(sweep, ("site", "unit", "metric", "value"))
    expect_columns(baseline, ("metric", "value"))
    before = dict(zip(baseline["metric"], baseline["value"].astype(float), strict=True))
    metrics = list(sweep["metric"].unique())
    if missing := [name for name in metrics if name not in before]:
        raise KeyError(f"expected all metrics in the baseline, got none called {missing}")
    if sweep.duplicated(["site", "unit", "metric"]).any():
        raise ValueError("expected one value per unit and metric, got several; give one model and one ablation")
    values = {}
    for site, rows in sweep.groupby("site", sort=False):
        table = rows.pivot(index="metric", columns="unit", values="value").reindex(metrics)
        if table.isna().to_numpy().any():
            raise ValueError(f"expected every metric for each unit of {site}, got gaps")
        values[str(site)] = table.astype(float)
    if unknown := [(site, unit) for site, unit in found if site not in values or unit not in values[site]]:
        raise KeyError(f"no units {unknown} in the sweep")
    return values, before


def _found(found: Units, site: str) -> list[int]:
    return sorted(unit for name, unit in found if name == site)


def _changes(table: pd.DataFrame, before: Mapping[str, float]) -> np.ndarray:
    return table.to_numpy() - np.array([before[name] for name in table.index])[:, None]


def _limit(values: Mapping[str, pd.DataFrame], before: Mapping[str, float]) -> float:
    return max(float(np.abs(_changes(table, before)).max()) for table in values.values()) or 1.0


def _diverging() -> LinearSegmentedColormap:
    """Return colours from blue over paper to vermilion; the farther from 0, the more they stand out."""
    theme = current()
    ink = np.array(to_rgb(theme.ink))
    ends = [tuple(0.8 * np.array(to_rgb(theme.accents[place])) + 0.2 * ink) for place in (0, 1)]
    return LinearSegmentedColormap.from_list(
        "diverging", [ends[0], theme.accents[0], theme.paper, theme.accents[1], ends[1]]
    )
