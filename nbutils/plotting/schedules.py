"""Pictures of parameter schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from nbutils.plotting.distributions import MARKERS
from nbutils.plotting.labels import FONT_SIZE, label_curves
from nbutils.plotting.theme import LINE_STYLES, current

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nbutils.schedules import Dopesheet, Timeline

FLAT = 100.0  # times a parameter's largest value is another's: on a linear axis it would lie on 0
DECADES = 1000.0  # keys below the largest divided by this are marked at the floor of a logarithmic axis


def draw_timeline(
    ax: Axes, timeline: Timeline, sheet: Dopesheet, parameters: Sequence[str], *, log: bool = False
) -> None:
    """Draw some parameters over the steps, their keys as markers and their names beside the lines.

    Args:
        ax: axes to draw in.
        timeline: the resolved schedule.
        sheet: the sheet it was resolved from; its keys are marked.
        parameters: names of the parameters to draw.
        log: draw the values on a logarithmic axis. Keys under a thousandth of the largest are marked by a
            triangle at the floor with their value, so that a tiny start does not flatten the rest. Otherwise the axis
            is linear; where parameters differ a hundredfold, only as far as the smallest one goes.

    Raises:
        KeyError: the timeline has no parameter of such a name.
    """
    unknown = set(parameters) - set(timeline.parameters)
    if unknown:
        raise KeyError(f"no parameter {sorted(unknown)}; there are {list(timeline.parameters)}")
    theme = current()
    frame = timeline.frame()
    keys = {
        name: [(frame.step, frame.values[name]) for frame in sheet.keyframes if name in frame.values]
        for name in parameters
    }
    ax.set_xlim(-0.01 * len(timeline), 1.01 * len(timeline))
    ax.set_xlabel("step")
    ax.grid(axis="y")
    floor = _set_scale(ax, [np.array([value for _, value in key]) for key in keys.values()], log)
    curves = []
    for name in parameters:
        place = timeline.parameters.index(name)
        colour = theme.accents[place % len(theme.accents)]
        x, y = frame.index.to_numpy(), frame[name].to_numpy()
        ax.plot(x, y, color=colour, linestyle=LINE_STYLES[place % len(LINE_STYLES)], linewidth=1.8)
        _mark_keys(ax, keys[name], floor, colour=colour, marker=MARKERS[place % len(MARKERS)])
        curves.append((x, np.maximum(y, floor) if log else y, name, colour))
    for keyframe in sheet.keyframes:
        if keyframe.phase and keyframe.step:
            ax.axvline(keyframe.step, color=theme.muted, linewidth=0.8)
    label_curves(ax, curves)


def _mark_keys(ax: Axes, keys: Sequence[tuple[int, float]], floor: float, *, colour: str, marker: str) -> None:
    """Mark the keys `(step, value)` of one parameter; those below the floor by a triangle on it, with their value."""
    style: dict[str, Any] = {"color": colour, "linestyle": "none", "clip_on": False, "zorder": 3}
    shown = np.array([key for key in keys if key[1] >= floor]).reshape(-1, 2)
    ax.plot(*shown.T, marker=marker, markerfacecolor=current().paper, markeredgewidth=1.4, **style)
    for step, value in keys:
        if value < floor:
            ax.plot(step, floor, marker=7, markersize=9, **style)
            ax.annotate(
                f"{value:g} at step {step}",
                (step, floor),
                (12, 4),
                textcoords="offset points",
                color=colour,
                fontsize=FONT_SIZE,
            )


def plot_timeline(timeline: Timeline, sheet: Dopesheet) -> Figure:
    """Plot a schedule: weights in the upper panel, the learning rate `lr` on a logarithmic axis in the lower one.

    A rate that never changes is written into the upper panel instead. Names of phases that would overlap stand one
    above the other.

    Args:
        timeline: the resolved schedule.
        sheet: the sheet it was resolved from; its keys are marked, its phases named above the panels.

    Raises:
        ValueError: the timeline has no parameters.
    """
    rate = [name for name in timeline.parameters if name == "lr"]
    weights = [name for name in timeline.parameters if name != "lr"]
    constant = bool(rate and weights) and timeline.frame()["lr"].nunique() == 1
    rate = [] if constant else rate
    panels = [(names, log) for names, log in ((weights, False), (rate, True)) if names]
    if not panels:
        raise ValueError("expected a timeline with at least one parameter, got none")
    fig = Figure(figsize=(8.0, (1.6 if constant else 2.0) + 1.5 * len(panels)), layout="constrained")
    axes = fig.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=[3, 2][: len(panels)])
    for ax, (names, log) in zip(axes[:, 0], panels, strict=True):
        ax.set_ylabel("learning rate" if log else "weight")
        draw_timeline(ax, timeline, sheet, names, log=log)
        ax.label_outer()
    _name_phases(axes[0, 0], [(keyframe.step, keyframe.phase) for keyframe in sheet.keyframes if keyframe.phase])
    if constant:
        axes[-1, 0].set_xlabel(f"step; learning rate {timeline[0]['lr']:g} throughout")
    return fig


def _name_phases(ax: Axes, phases: Sequence[tuple[int, str]]) -> None:
    """Write the names of phases `(first step, name)` above the axes, on a second line where the first is taken."""
    low, high = ax.get_xlim()
    figure = ax.get_figure(root=True)
    assert figure is not None
    inches = 0.85 * figure.get_figwidth() / (high - low)  # a step, about
    ends = [-np.inf, -np.inf]  # of the last name on each line
    for step, name in phases:
        start = (step - low) * inches
        line = int(start < ends[0] + 0.1)
        ends[line] = start + len(name) * FONT_SIZE * 0.62 / 72
        ax.annotate(
            name,
            (step, 1.0),
            (0, 3 + 1.25 * FONT_SIZE * line),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            color=current().ink,
            fontsize=FONT_SIZE,
            annotation_clip=False,
        )


def _set_scale(ax: Axes, each: Sequence[np.ndarray], log: bool) -> float:
    """Set the y axis for each parameter's values `[keys]`; return the floor below which none can be drawn in place."""
    keyed = np.concatenate(each)
    peaks = [peak for peak in (np.abs(values).max(initial=0) for values in each) if peak]
    if not log or keyed.max() <= 0:
        low, high = min(keyed.min(), 0), max(keyed.max(), 0)
        margin = 0.06 * (high - low) or 1.0
        ax.set_ylim(low - margin / 2, high + 2 * margin)
        if peaks and max(peaks) > FLAT * min(peaks):
            ax.set_yscale("symlog", linthresh=min(peaks))
            ax.set_ylim(3 * low - min(peaks) / 3, 3 * high + min(peaks) / 3)
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        return -np.inf
    floor = keyed[keyed >= keyed.max() / DECADES].min() / 2
    ax.set_yscale("log")
    ax.set_ylim(floor, keyed.max() * 1.7)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if keyed.max() / floor < 200 else (1,)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    return floor
