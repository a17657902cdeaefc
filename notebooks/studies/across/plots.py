"""Figures of the five networks side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from nbutils.plotting.labels import name_rows
from nbutils.plotting.marks import mark
from nbutils.plotting.theme import current
from nbutils.stats.uncertainty import seed_interval
from studies.across.training import NAMES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

WIDTH, SMALL, TINY = 9.05, 8.0, 7.2  # inches; points
PAIRS: Mapping[str, tuple[str, str, str]] = {
    "colours": ("Pearson r", "damage elsewhere", "error added everywhere"),
    "digits": ("best single unit", "all carriers", "units that carry it"),
    "tiles": ("accuracy", "ROC area", "channels ablated"),
    "residual MLP": ("ρ, fixed step", "ρ, relative step", "log₁₀ ‖h‖"),
    "induction": ("own judge", "worst judge", "found under"),
}
"""Of each network: the published scalar, the control beside it, and what varies."""
SHORT = {
    "resample": "twin",
    "batch, tokenwise mean": "mean, batch",
    "batch, mean over tokens": "mean, batch, all places",
    "tokenwise mean, clean": "mean, clean",
    "tokenwise mean, corrupt": "mean, twins",
    "tokenwise mean, clean and corrupt": "mean, both",
    "mean": "mean, all places",
    "optimal": "optimal",
    "zero": "zero",
}
"""Stand-in -> what figures call it."""


def plot_key(agreement: pd.DataFrame, league: pd.DataFrame, scalars: pd.DataFrame) -> Figure:
    """Plot what ablations show: a column per network; stand-ins, read-outs, and scalars with their controls.

    Args:
        agreement: `network`, `seed`, `stand_in`, `tau`.
        league: `network`, `seed`, `predictor`, `spearman`, of one stand-in.
        scalars: `network`, `seed`, `x`, `published`, `control`.
    """
    fig = Figure(figsize=(WIDTH, 7.6), layout="constrained")
    axes = fig.subplots(3, len(NAMES), height_ratios=(1, 1.15, 0.95))
    kinds = [kind for kind in SHORT if kind != "optimal"]
    predictors = list(dict.fromkeys(league["predictor"]))
    for column, name in enumerate(NAMES):
        top, middle, bottom = axes[:, column]
        draw_rows(top, agreement[agreement["network"] == name], "stand_in", "tau", kinds, SHORT, first=not column)
        top.set_title(f"0{column + 1} {name}", fontsize=SMALL + 0.5)
        own = league[league["network"] == name].dropna()
        draw_rows(middle, own, "predictor", "spearman", predictors, {}, first=not column)
        for ax, text in ((top, "τ with optimal"), (middle, "Spearman with effect")):
            ax.set_xlim(-0.6, 1.08)
            ax.set_xticks([-0.5, 0, 0.5, 1], ["−.5", "0", ".5", "1"])
            ax.set_xlabel(text, fontsize=TINY)
        draw_pair(bottom, scalars[scalars["network"] == name], name)
    asked = (
        "stand-ins:\nwhich rank units alike?",
        "read-outs:\nwhich predict the effect?",
        "scalars and controls:\nwhich come apart?",
    )
    for ax, text in zip(axes[:, 0], asked, strict=True):
        ax.set_ylabel(text, fontsize=SMALL)
    fig.align_ylabels(axes[:, 0])
    return fig


def draw_rows(
    ax: Axes, values: pd.DataFrame, row: str, value: str, order: Sequence[str], names: Mapping[str, str], *, first: bool
) -> None:
    """Draw each row's values over seeds: a dot per seed, the mean as a diamond on its interval.

    Args:
        ax: axes to draw in.
        values: with the columns `row` and `value`.
        row, value: names of columns.
        order: rows, the first on top.
        names: row -> what it is called.
        first: write the names.
    """
    theme = current()
    ax.axvline(0, color=theme.muted, linewidth=0.8, linestyle=":")
    for place, label in enumerate(order):
        own = values.loc[values[row] == label, value].to_numpy()
        if not len(own):
            ax.annotate("none", (0.5, place), ha="center", va="center", fontsize=TINY, color=theme.ink)
            continue
        ax.plot(own, np.full(len(own), place), "o", markersize=3, color=theme.accents[0], alpha=0.6, linestyle="none")
        if len(own) > 1:
            interval = seed_interval(own)
            ends = [max(interval.low, -1), min(interval.high, 20)]
            ax.plot(ends, [place, place], color=theme.accents[0], linewidth=1, linestyle="-")
        ax.plot([own.mean()], [place], "D", markersize=4.5, color=theme.ink, linestyle="none")
    name_rows(ax, [names.get(label, label) if first else "" for label in order], fontsize=SMALL)
    ax.tick_params(axis="x", labelsize=TINY)


def draw_pair(ax: Axes, values: pd.DataFrame, name: str) -> None:
    """Draw a published scalar and its control against what varies: means over seeds, and their range.

    Args:
        ax: axes to draw in.
        values: `x`, `published`, `control`, `seed`.
        name: of the network.
    """
    scalar, control, varied = PAIRS[name]
    xs = list(dict.fromkeys(values["x"]))
    place = np.arange(len(xs))
    order = values.assign(place=values["x"].map({x: i for i, x in enumerate(xs)}))
    if name == "residual MLP":  # lengths differ a little from seed to seed
        order = values.assign(place=values.groupby("seed").cumcount())
        place = np.arange(order["place"].max() + 1)
        xs = [f"{np.log10(x):.1f}" for x in order.groupby("place")["x"].mean()]
    ax.axhline(0, color=current().muted, linewidth=0.8, linestyle=":")
    for column, label in (("published", scalar), ("control", control)):
        colour, marker, dash = mark(column)
        by = order.groupby("place")[column]
        ax.fill_between(place, by.min().clip(-1, 1.2), by.max().clip(-1, 1.2), color=colour, alpha=0.15, linewidth=0)
        ax.plot(place, by.mean(), color=colour, marker=marker, markersize=4, linestyle=dash, linewidth=1.5, label=label)
    ax.set_ylim(-0.85, 1.15)
    told = [SHORT.get(x, x) if isinstance(x, str) else f"{x:g}" for x in xs]
    slanted: dict[str, Any] = {"rotation": 35, "ha": "right"} if name == "induction" else {}
    ax.set_xticks(place, told, fontsize=TINY, **slanted)
    ax.tick_params(axis="y", labelsize=TINY, labelleft=name == NAMES[0])  # one scale for all
    ax.set_xlabel(varied, fontsize=TINY)
    ax.legend(fontsize=TINY, frameon=False, loc="lower left", handlelength=1.7, borderpad=0.1, labelspacing=0.2)


def plot_departure(agreement: pd.DataFrame) -> Figure:
    """Plot how far each stand-in leads from the data, a panel per network; 1 is where the data are themselves.

    Args:
        agreement: `network`, `seed`, `stand_in`, `departure`.
    """
    fig = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    axes = fig.subplots(1, len(NAMES), sharex=True)
    for column, (ax, name) in enumerate(zip(axes, NAMES, strict=True)):
        own = agreement[agreement["network"] == name]
        draw_rows(ax, own, "stand_in", "departure", list(SHORT), SHORT, first=not column)
        for line in ax.lines:
            line.set_clip_on(True)
        ax.set_xscale("log")
        ax.set_xlim(0.9, 12)
        ax.set_xticks([1, 2, 5, 10], ["1", "2", "5", "10"])
        ax.minorticks_off()
        ax.set_title(name, fontsize=SMALL + 0.5)
        ax.set_xlabel("distance, data = 1", fontsize=TINY)
    axes[0].set_ylabel("stand-in", fontsize=SMALL)
    return fig


def plot_certificates(worst: pd.DataFrame) -> Figure:
    """Plot what circuits keep under the judge that likes them least, by the stand-ins they were found under.

    Args:
        worst: `network`, `seed`, `first`, `second`, `kept`.
    """
    theme = current()
    fig = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = fig.subplots(1, len(NAMES))
    colours, limit = colormaps["cividis"], 0.8
    kinds = list(dict.fromkeys(worst["first"]))
    for column, (ax, name) in enumerate(zip(axes, NAMES, strict=True)):
        own = worst[worst["network"] == name].groupby(["first", "second"], sort=False)["kept"].mean()
        grid = np.full((len(kinds), len(kinds)), np.nan)
        for (first, second), kept in own.items():
            grid[kinds.index(second), kinds.index(first)] = kept
        ax.imshow(grid, cmap=colours, vmin=0, vmax=limit, aspect="auto")
        for (row, at), kept in np.ndenumerate(grid):
            if np.isfinite(kept):
                ink = "#ffffff" if kept < 0.46 * limit else "#000000"  # where both stand out alike
                ax.text(at, row, f"{kept:.2f}", ha="center", va="center", fontsize=TINY, color=ink)
        names = [SHORT[kind].replace(", all places", "") for kind in kinds]
        ax.set_xticks(range(len(kinds)), names, rotation=40, ha="right", fontsize=TINY)
        ax.set_yticks(range(len(kinds)), names if not column else [""] * len(kinds), fontsize=TINY)
        ax.tick_params(length=0)
        ax.set_xlabel("found under", fontsize=TINY)
        ax.set_title(name, fontsize=SMALL + 0.5)
        for spine in ax.spines.values():
            spine.set_color(theme.muted)
    axes[0].set_ylabel("and under", fontsize=SMALL)
    return fig


def dose_bands(doses: pd.DataFrame, kinds: Sequence[str]) -> pd.DataFrame:
    """Return median and the range that holds four in five, over units and seeds, of the share at each dose.

    Args:
        doses: `network`, `seed`, `stand_in`, `unit`, `dose`, `share`.
        kinds: stand-ins.

    Returns:
        Columns `network`, `stand_in`, `dose`, `low`, `median`, `high`.
    """
    groups = doses[doses["stand_in"].isin(kinds)].groupby(["network", "stand_in", "dose"], sort=False)["share"]
    return groups.quantile([0.1, 0.5, 0.9]).unstack().set_axis(["low", "median", "high"], axis=1).reset_index()


def plot_doses(bands: pd.DataFrame, kinds: Sequence[str]) -> Figure:
    """Plot the share of a unit's effect against the share of the way to its stand-in, a panel per network.

    Args:
        bands: of `dose_bands`; lines are medians.
        kinds: which stand-ins to draw.
    """
    fig = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    axes = fig.subplots(1, len(NAMES), sharey=True)
    for ax, name in zip(axes, NAMES, strict=True):
        ax.plot([0, 1], [0, 1], color=current().muted, linewidth=1, linestyle=":")
        for kind in kinds:
            own = bands[(bands["network"] == name) & (bands["stand_in"] == kind)].sort_values("dose")
            colour, marker, dash = mark(kind)
            ax.fill_between(own["dose"], own["low"], own["high"], color=colour, alpha=0.12, linewidth=0)
            look: dict[str, Any] = {
                "color": colour,
                "marker": marker,
                "linestyle": dash,
                "markersize": 4,
                "linewidth": 1.3,
            }
            ax.plot(own["dose"], own["median"], label=SHORT[kind], **look)
        ax.set_ylim(-0.1, 1.1)
        ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"], fontsize=TINY)
        ax.tick_params(axis="y", labelsize=TINY)
        ax.set_title(name, fontsize=SMALL + 0.5)
        ax.set_xlabel("way to the stand-in", fontsize=TINY)
    axes[0].set_ylabel("share of the effect", fontsize=SMALL)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper left", ncols=len(kinds), fontsize=SMALL, handlelength=3.2)
    return fig


def plot_repair(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot total against direct effects, a panel per network, a point per part.

    Args:
        panels: title -> `stand_in`, `direct` and `total`. Where there are several stand-ins, points are named by them.
    """
    theme = current()
    fig = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    axes = fig.subplots(1, len(panels))
    for ax, (title, frame) in zip(axes, panels.items(), strict=True):
        low = 1.12 * min(frame["direct"].min(), frame["total"].min(), -1e-3)
        high = max(1.12 * frame["direct"].max(), 1.12 * frame["total"].max(), -0.08 * low)
        ax.plot([low, high], [low, high], color=theme.muted, linewidth=1, linestyle=":")
        ax.fill_between([low, 0], [low, 0], 0, color=theme.accents[2], alpha=0.12, linewidth=0)
        for kind, own in frame.groupby("stand_in", sort=False):
            colour, marker, _ = mark(str(kind))
            look: dict[str, Any] = {
                "marker": marker,
                "markersize": 4.5,
                "color": colour,
                "alpha": 0.75,
                "linestyle": "none",
            }
            ax.plot(own["direct"], own["total"], **look)
            if frame["stand_in"].nunique() > 1:
                at: dict[str, Any] = {"xytext": (6, -2), "textcoords": "offset points", "va": "top", "fontsize": TINY}
                ax.annotate(SHORT[str(kind)], (own["direct"].iloc[0], own["total"].iloc[0]), **at)
        ax.set_xlim(low, high)
        ax.set_ylim(low, high)
        ax.set_title(title, fontsize=SMALL + 0.5)
        ax.set_xlabel("direct effect, logits", fontsize=TINY)
        ax.set_ylabel("total effect, logits", fontsize=TINY)
        ax.tick_params(labelsize=TINY)
    return fig


def long_table(agreement: pd.DataFrame, league: pd.DataFrame, scalars: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers that `plot_key` draws as one table, a value a row.

    Args: as for `plot_key`.

    Returns:
        Columns `row`, `network`, `seed`, `name`, `x` (of scalars: what varies), `value`.
    """
    import pandas as pd

    scalar = scalars.melt(["network", "seed", "x"], ["published", "control"], "name", "value")
    parts = {
        "stand-ins": agreement.rename(columns={"stand_in": "name", "tau": "value"}),
        "read-outs": league.rename(columns={"predictor": "name", "spearman": "value"}),
        "scalars": scalar,
    }
    whole = pd.concat([part.assign(row=row) for row, part in parts.items()], ignore_index=True)
    return whole[["row", "network", "seed", "name", "x", "value"]].dropna(subset="value").reset_index(drop=True)
