"""Pictures of what units do: sweeps, greedy searches, layer swaps, changes of weights.

All take the tidy frames of `nbutils.sweeps.units`; values are shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nbutils.plotting.distributions import GOLDEN, MARKERS
from nbutils.plotting.expect import expect_columns
from nbutils.plotting.labels import FONT_SIZE, label_ends, name_rows, note_row
from nbutils.plotting.theme import LINE_STYLES, current

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Units = Collection[tuple[str, int]]  # (layer, unit)

NOTABLE = 0.1  # change of a share from which a cell gets a triangle
RANKS = 4  # found units whose rank is written out
STACK = 5  # dots one above the other
MAX_NUMBERS = 32  # units up to which each has its number at the axis


def unit_heat_map(sweep: pd.DataFrame, baseline: pd.DataFrame, *, found: Units = ()) -> go.Figure:
    """Return a heat map to point at: how every measure changes when a unit is ablated, a panel for each layer.

    Hovering gives the layer, the unit, and all measures with and without the unit.

    Args:
        sweep: `layer`, `unit`, `measure`, `value`, `n`, as `sweep_units` returns it.
        baseline: `measure`, `value` of the model as it is, as `measure` returns it.
        found: (layer, unit) of the units to mark.

    Raises:
        KeyError: a column is missing, the baseline lacks a measure, or a marked unit is not in the sweep.
        ValueError: a unit has no value or several for a measure.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    values, before = _by_layer(sweep, baseline, found)
    limit = _limit(values, before)
    fig = make_subplots(
        rows=len(values), cols=1, subplot_titles=list(values), vertical_spacing=min(0.2, 0.4 / len(values))
    )
    for row, (layer, table) in enumerate(values.items(), 1):
        hover = [f"<b>{layer}, unit %{{x}}</b>"]
        hover += [
            f"{name}: %{{customdata[{place}]:.1%}} (with the unit {before[name]:.1%})"
            for place, name in enumerate(table.index)
        ]
        # Every cell of a unit's column says the same.
        shown = np.broadcast_to(table.to_numpy().T, (*table.shape, len(table)))
        fig.add_trace(
            go.Heatmap(
                x=table.columns.to_numpy(),
                y=list(table.index),
                z=_changes(table, before),
                customdata=np.ascontiguousarray(shown),
                hovertemplate="<br>".join(hover) + "<extra></extra>",
                coloraxis="coloraxis",
                xgap=1,
                ygap=1,
                name=layer,
            ),
            row=row,
            col=1,
        )
        for unit in _found(found, layer):
            fig.add_annotation(
                x=unit, y=1, yref="y domain", text="▼", showarrow=False, yanchor="bottom", row=row, col=1
            )
        fig.update_xaxes(showgrid=False, row=row, col=1)
        fig.update_yaxes(autorange="reversed", showgrid=False, automargin=True, row=row, col=1)
    fig.update_annotations(font_size=12)
    for title in fig.layout.annotations[: len(values)]:
        title.update(x=0, xanchor="left", yshift=4)
    fig.update_xaxes(title_text="unit", row=len(values), col=1)
    scale = _diverging()(np.linspace(0, 1, 11))
    fig.update_layout(
        coloraxis={
            "cmin": -limit,
            "cmax": limit,
            "colorscale": [[place / 10, to_hex(colour)] for place, colour in enumerate(scale)],
            "colorbar": {"title": {"text": "change"}, "tickformat": "+.0%"},
        },
        height=110 + 145 * len(values),
    )
    return fig


def plot_unit_heat_map(sweep: pd.DataFrame, baseline: pd.DataFrame, *, found: Units = ()) -> Figure:
    """Plot how every measure changes when a unit is ablated: the static twin of `unit_heat_map`.

    Cells that change by ten points or more have a triangle, up or down, so that the sign can be read in grey.

    Args, raises: as for `unit_heat_map`.
    """
    theme = current()
    values, before = _by_layer(sweep, baseline, found)
    limit = _limit(values, before)
    fig = Figure(figsize=(9.0, 0.35 + sum(0.62 + 0.24 * len(table) for table in values.values())), layout="constrained")
    axes = fig.subplots(len(values), 1, height_ratios=[len(table) for table in values.values()], squeeze=False)
    for ax, (layer, table) in zip(axes[:, 0], values.items(), strict=True):
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
        marks = np.flatnonzero(np.isin(units, _found(found, layer)))
        ax.scatter(
            marks,
            np.full(len(marks), 1.05),
            s=42,
            marker="v",
            color=theme.ink,
            transform=ax.get_xaxis_transform(),
            clip_on=False,
        )
        regular = np.arange(0, len(units), 1 if len(units) <= MAX_NUMBERS else 4)
        near = np.abs(regular[:, None] - marks).min(axis=1, initial=len(units)) < regular[1:2].sum() / 2
        ticks = np.union1d(regular[~near], marks)
        ax.set_xticks(ticks, units[ticks], fontsize=FONT_SIZE - 1)
        for place, text in zip(ticks, ax.get_xticklabels(), strict=True):
            text.set_fontweight("bold" if place in marks else "normal")
        ax.set_title(layer, fontsize=FONT_SIZE + 1)
        ax.spines[:].set_visible(True)
    axes[-1, 0].set_xlabel("unit", fontsize=FONT_SIZE)
    bar = fig.colorbar(picture, ax=axes[:, 0].tolist(), fraction=0.03, pad=0.01, aspect=30)
    bar.set_label("change without the unit, percentage points", fontsize=FONT_SIZE)
    bar.ax.yaxis.set_major_formatter(
        lambda value, _: f"{100 * value:+.0f}".replace("-", "−") if abs(value) > 1e-9 else "0"
    )
    bar.ax.tick_params(labelsize=FONT_SIZE - 1)
    return fig


def plot_greedy(paths: pd.DataFrame) -> Figure:
    """Plot what is left as units are removed one after the other: each seed faint, the median over seeds strong.

    A search that ended stays where it ended, so that the median is over all seeds at every step.

    Args:
        paths: rows of `greedy_units` for several searches and seeds: `search` (a panel each, such as the layer it
            was confined to), `seed`, `step`, `measure`, `value`.

    Raises:
        KeyError: a column is missing.
        ValueError: a search has no value or several at a step before its end.
    """
    expect_columns(paths, ("search", "seed", "step", "measure", "value"))
    theme = current()
    searches, measures = list(paths["search"].unique()), list(paths["measure"].unique())
    last = paths.groupby("search", sort=False)["step"].max()
    fig = Figure(figsize=(1.9 + 2.3 * len(searches), 3.3), layout="constrained")
    axes = fig.subplots(
        1, len(searches), sharey=True, width_ratios=[max(int(steps), 3) + 1 for steps in last], squeeze=False
    )
    for ax, search in zip(axes[0], searches, strict=True):
        ends = []
        steps = np.arange(int(last[search]) + 1)
        for place, name in enumerate(measures):
            rows = paths[(paths["search"] == search) & (paths["measure"] == name)]
            if rows.duplicated(["seed", "step"]).any():
                raise ValueError(f"expected one value a seed and step for {name} in {search}, got several")
            table = rows.pivot(index="seed", columns="step", values="value").reindex(columns=steps).ffill(axis=1)
            if table.empty or table.isna().to_numpy().any():
                raise ValueError(f"expected {name} from step 0 on for each seed in {search}, got gaps")
            style = {
                "color": theme.accents[place % len(theme.accents)],
                "linestyle": LINE_STYLES[place % len(LINE_STYLES)],
            }
            middle = table.median()
            if len(table) > 1:
                ax.plot(steps, table.to_numpy().T, color=style["color"], linestyle="-", alpha=0.35, linewidth=0.8)
            marker = MARKERS[place % len(MARKERS)]
            ax.plot(steps, middle, marker=marker, markersize=5, linewidth=2.0, clip_on=False, zorder=3, **style)
            ends.append((float(middle.iloc[-1]), name, style["color"]))
        ax.set_title(search)
        ax.set_xlim(-0.15, max(int(steps[-1]), 1) + 0.15)  # a search that took nothing has one point
        ax.set_ylim(0, 1)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        ax.grid()
        ax.label_outer()
    axes[0, 0].set_ylabel("share" + ("; strong: median" if paths["seed"].nunique() > 1 else ""))
    fig.supxlabel("units removed", fontsize="medium")
    label_ends(axes[0, -1], ends)
    return fig


def plot_layer_swaps(
    swaps: pd.DataFrame, *, by: str, measures: Sequence[str] = (), names: tuple[str, str] = ("clean", "poisoned")
) -> Figure:
    """Plot every mixture of two models: measures above, and below which layers come from which.

    Args:
        swaps: as `swap_layers` returns it: a column of booleans a layer, then `measure`, `value`, `n`. Several rows
            for one mixture and measure, such as seeds, are drawn faint with their median strong.
        by: the measure by whose median the mixtures are ordered.
        measures: the ones to draw; all when not given.
        names: the models that False and True stand for.

    Raises:
        KeyError: a column or a measure is missing.
        ValueError: no columns of booleans before `measure`, or a mixture lacks a measure.
    """
    expect_columns(swaps, ("measure", "value"))
    layers = list(swaps.columns[: list(swaps.columns).index("measure")])
    if not layers or not swaps[layers].isin([True, False]).all(axis=None):
        raise ValueError(f"expected columns of booleans, one a layer, before `measure`, got {layers}")
    present = list(swaps["measure"].unique())
    measures = list(measures) or present
    if missing := [name for name in [by, *measures] if name not in present]:
        raise KeyError(f"no measure {missing}; there are {present}")
    theme = current()
    table = swaps.pivot_table(index=layers, columns="measure", values="value", aggfunc="median")
    if table.isna().to_numpy().any():
        raise ValueError("expected every measure for each mixture, got gaps")
    table = table.sort_values(by, kind="stable")
    taken = table.index.to_frame().to_numpy(dtype=bool)  # (mixtures, layers)
    fig = Figure(figsize=(2.6 + 0.36 * len(table), 2.5 + 0.3 * len(layers)), layout="constrained")
    upper, lower = fig.subplots(2, 1, height_ratios=[2.0, 0.3 * len(layers) + 0.1], sharex=True)
    at = np.arange(len(table))
    ends = []
    every = swaps.set_index(layers)
    for name in measures:
        place = present.index(name)  # so that a measure looks the same whichever others are drawn
        colour, marker = theme.accents[place % len(theme.accents)], MARKERS[place % len(MARKERS)]
        rows = every[every["measure"] == name]
        if len(rows) > len(table):
            x = table.index.get_indexer(rows.index)
            upper.scatter(x, rows["value"], s=10, marker=marker, color=colour, alpha=0.35, linewidths=0)
        upper.plot(at, table[name], color=colour, linestyle=":", linewidth=0.8)
        upper.scatter(
            at, table[name], s=46, marker=marker, facecolors=colour, edgecolors=theme.paper, zorder=3, clip_on=False
        )
        ends.append((float(table[name].iloc[-1]), name, colour))
    upper.set_ylim(0, 1)
    upper.yaxis.set_major_formatter(PercentFormatter(1))
    upper.grid()
    upper.tick_params(axis="x", length=0)
    for row in range(len(layers)):
        for of, face, text in ((False, theme.paper, names[0]), (True, theme.ink, names[1])):
            x = at[taken[:, row] == of]
            label = f"from the {text} model" if row == 0 else None
            lower.scatter(
                x, np.full(len(x), row), s=62, facecolors=face, edgecolors=theme.ink, linewidths=1.1, label=label
            )
    lower.set_yticks(range(len(layers)), layers)
    lower.set_ylim(len(layers) - 0.5, -0.5)
    lower.set_xlim(-0.5, len(table) - 0.5)
    lower.set_xticks(at, [])
    lower.tick_params(length=0)
    lower.spines[:].set_visible(False)
    lower.grid(axis="x")
    fig.legend(*lower.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=FONT_SIZE)
    label_ends(upper, ends)
    return fig


def plot_weight_changes(changes: pd.DataFrame, *, quantity: str = "relative change of the unit's weights") -> Figure:
    """Plot how much each unit's weights changed, layer by layer, with the units that ablation found and their rank.

    Args:
        changes: `layer`, `unit`, `change` (0 or more; zeros stand at the left end, open), `found` (boolean).
        quantity: what the change is; names the axis.

    Raises:
        KeyError: a column is missing.
        ValueError: a change is negative or not finite.
    """
    expect_columns(changes, ("layer", "unit", "change", "found"))
    sizes = changes["change"].to_numpy(dtype=float)
    if not (np.isfinite(sizes) & (sizes >= 0)).all():
        raise ValueError("expected a finite change of 0 or more for each unit, got others")
    theme = current()
    layers = list(changes["layer"].unique())
    floor = float(sizes[sizes > 0].min(initial=np.inf)) / 2 if sizes.any() else 1.0
    fig = Figure(figsize=(8.5, 0.9 + 0.7 * len(layers)), layout="constrained")
    ax = fig.subplots()
    for row, layer in enumerate(layers):
        rows = changes[changes["layer"] == layer].sort_values("change", ascending=False, kind="stable")
        found = rows["found"].to_numpy(dtype=bool)
        x = np.maximum(rows["change"].to_numpy(dtype=float), floor)
        # Jitter by rank, because neighbours in rank are the ones that overlap.
        y = row + 0.1 + 0.5 * (np.arange(1, len(rows) + 1) * GOLDEN % 1 - 0.5)
        colour = theme.accents[0]
        still = ~found & (x == floor)
        ax.scatter(x[still], y[still], s=16, facecolors="none", edgecolors=colour, linewidths=1.0, zorder=2)
        some = ~found & ~still
        ax.scatter(x[some], y[some], s=16, facecolors=colour, edgecolors=theme.paper, linewidths=0.4, zorder=2)
        style = {"s": 64, "marker": "D", "facecolors": theme.accents[1], "edgecolors": theme.ink, "linewidths": 1}
        ax.scatter(x[found], y[found], zorder=3, **style)
        ranked = list(zip((np.flatnonzero(found) + 1).tolist(), rows["unit"][found].tolist(), strict=True))
        texts = [f"{unit}: rank {rank} of {len(rows)}" for rank, unit in ranked]
        more = [f"and {len(texts) - RANKS} more"] if len(texts) > RANKS else []
        note_row(ax, row, "\n".join([*texts[:RANKS], *more]), fontsize=FONT_SIZE - 1)
    ax.set_xscale("log")
    name_rows(ax, layers, above=0.6)
    notes = "; diamond: found by ablation" * bool(changes["found"].any()) + "; open: unchanged" * bool(
        (sizes == 0).any()
    )
    ax.set_xlabel(quantity + notes)
    return fig


def plot_unit_counts(counts: Mapping[str, Sequence[float]], *, quantity: str = "units needed") -> Figure:
    """Plot whole numbers over seeds as stacks of dots, a row for each label, with the median.

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
        dots = []
        for value, count in zip(*np.unique(x, return_counts=True), strict=True):
            columns = -(-int(count) // STACK)
            for dot in range(int(count)):
                dots.append((value + beside * (dot % columns - (columns - 1) / 2), row + 0.3 - 0.15 * (dot // columns)))
        at = np.array(dots)
        colour, marker = theme.accents[row % len(theme.accents)], MARKERS[row % len(MARKERS)]
        ax.scatter(
            *at[~lost].T, s=28, facecolors=colour, edgecolors=theme.paper, marker=marker, linewidths=0.4, zorder=3
        )
        ax.scatter(*at[lost].T, s=28, color=theme.ink, marker="x", linewidths=1.4, zorder=3)
        middle = float(np.median(x))
        ax.plot([middle] * 2, [row - 0.46, row + 0.42], color=theme.ink, linestyle="-", linewidth=1.2, zorder=2)
        note_row(ax, row, f"median {middle:g}" if not never or middle <= top else "median: never", at=1.02)
        ax.axhline(row + 0.42, color=theme.muted, linewidth=0.6, linestyle="-")
    ticks = list(range(int(first), top + 1, -(-max(top, 1) // 15)))
    ax.set_xticks([*ticks, end] if never else ticks, [*map(str, ticks), "never"] if never else None)
    ax.set_xlim(first - 0.5, (end if never else top) + 0.5)
    name_rows(ax, list(numbers))
    ax.set_xlabel(f"{quantity}; a dot is a seed, the bar the median")
    return fig


def _by_layer(
    sweep: pd.DataFrame, baseline: pd.DataFrame, found: Units
) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """Return for each layer the values, measures by units, and the values before."""
    expect_columns(sweep, ("layer", "unit", "measure", "value"))
    expect_columns(baseline, ("measure", "value"))
    before = dict(zip(baseline["measure"], baseline["value"].astype(float), strict=True))
    measures = list(sweep["measure"].unique())
    if missing := [name for name in measures if name not in before]:
        raise KeyError(f"expected all measures in the baseline, got none called {missing}")
    if sweep.duplicated(["layer", "unit", "measure"]).any():
        raise ValueError("expected one value a unit and measure, got several; give one model and one ablation")
    values = {}
    for layer, rows in sweep.groupby("layer", sort=False):
        table = rows.pivot(index="measure", columns="unit", values="value").reindex(measures)
        if table.isna().to_numpy().any():
            raise ValueError(f"expected every measure for each unit of {layer}, got gaps")
        values[str(layer)] = table.astype(float)
    if unknown := [(layer, unit) for layer, unit in found if layer not in values or unit not in values[layer]]:
        raise KeyError(f"no units {unknown} in the sweep")
    return values, before


def _found(found: Units, layer: str) -> list[int]:
    return sorted(unit for name, unit in found if name == layer)


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
