"""The live figure: what a difference sees of the loss, at every step, precision and length of states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from nbutils import layout
from nbutils.plotting.live import LiveFigure
from nbutils.plotting.marks import COLOURS, mark, registry
from nbutils.plotting.theme import current
from studies.credit.differences import HIGHEST, LONGEST, LOWEST, STEP, Probed, score
from studies.credit.steps import PRECISIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCRIPT = "notebooks/studies/credit/audit.js"
PUBLISHED_LENGTH = 4e8  # of vanilla DFA's states
ABOUT = """
Each dot is a step from one state in a random direction: across, the change of the loss that the exact gradient
predicts; up, the change that a difference of two losses measures. On the dashed line they agree and the score ρ is 1.
Here step and states are as long as published, and no loss changes: take the step as a share of each state, or make
the states shorter, and watch the dots.
"""

# Pixels, and points of type, of the two panels.
PANEL, GAP = (425, 400), 12
BOX = 62, 48, 415, 346  # left, top, right, bottom of what is drawn in
POINT, TYPE, DOT = 0.75, 10.1, 6  # a pixel, and type, in points; pixels across a dot
KEY = 100  # pixels from one precision's name to the next
LOW, HIGH = -0.5, 1.1  # of ρ; what lies beyond stands at the end
SCREEN = 96  # pixels per inch
UNITS = {"absolute": "step ε, of a fixed length", "relative": "step ε, as a share of each state’s length ‖h‖"}


def live_audit(probed: Sequence[Probed]) -> LiveFigure:
    """Return the audit of some networks, to move; the last layer of the first is shown first.

    Args:
        probed: as from `studies.credit.differences.probes`.

    Raises:
        ValueError: there is nothing to show, or not every network has every layer once.
    """
    networks, layers = (list(dict.fromkeys(getattr(one, name) for one in probed)) for name in ("network", "layer"))
    if not probed or [(one.network, one.layer) for one in probed] != [(n, la) for n in networks for la in layers]:
        raise ValueError(f"expected every layer of every network, got {[(one.network, one.layer) for one in probed]}")
    shown = probed[len(layers) - 1]
    first: dict[str, Any] = {"network": shown.network, "layer": shown.layer}
    first |= {"precision": "float32", "mode": "absolute", "step": 0, "length": _fours(PUBLISHED_LENGTH / shown.length)}
    entries = registry(layout.marks())
    data = {
        "networks": networks,
        "layers": layers,
        "probed": [one.packed() for one in probed],
        "precisions": [
            {
                "name": name,
                "accent": COLOURS.index(entries[name][0]),
                "marker": entries[name][1],
                "roundoff": torch.finfo(dtype).eps / 2,
            }
            for name, dtype in PRECISIONS.items()
        ],
        "step": STEP,
        "lowest": LOWEST,
        "highest": HIGHEST,
        "longest": LONGEST,
        "first": first,
    }
    return LiveFigure(SCRIPT, data, lambda: plot_first_view(shown, first), ABOUT)


def plot_first_view(probed: Probed, view: Mapping[str, Any]) -> Figure:
    """Plot what the live figure shows first: measured against true changes, and ρ against the step."""
    width, height = 2 * PANEL[0] + GAP, PANEL[1]
    fig = Figure(figsize=(width / SCREEN, height / SCREEN))
    fig.set_layout_engine("none")  # pixels are the canvases'
    left, top, right, bottom = BOX
    for start, draw in ((0, _draw_probes), (PANEL[0] + GAP, _draw_scores)):
        place = (start + left) / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height
        ax = fig.add_axes(place)
        ax.tick_params(labelsize=TYPE, length=4 * POINT)
        ax.yaxis.set_label_coords((9 - left) / (right - left), 0.5)
        ax.xaxis.set_label_coords(0.5, -40 / (bottom - top))
        ax.xaxis.label.set_verticalalignment("center")
        ax.yaxis.label.set_verticalalignment("center")
        draw(ax, probed, view)
    return fig


def _draw_probes(ax: Axes, probed: Probed, view: Mapping[str, Any]) -> None:
    theme, look = current(), mark(view["precision"])
    found, value = score(probed, view)
    size = float(np.sqrt(np.square(probed.derivative.astype(float)).mean())) or 1.0
    x, y = probed.derivative / size, found / size
    across = 1.06 * (float(np.abs(x).max()) or 1)
    up = max(1.06 * float(np.abs(y).max()), across)
    ax.plot([-across, across], [-across, across], color=theme.ink, linestyle="--", linewidth=POINT)
    ax.axhline(0, color=theme.muted, linestyle="-", linewidth=POINT)
    same = found == 0
    looks: dict[str, Any] = {"marker": look.marker, "s": (DOT * POINT) ** 2, "zorder": 3}
    ax.scatter(x[same], y[same], facecolors="none", edgecolors=look.color, linewidths=POINT, **looks)
    ax.scatter(x[~same], y[~same], color=look.color, alpha=0.65, linewidths=0, **looks)
    ax.set(xlim=(-across, across), ylim=(-up, up))
    ax.set_xlabel("true change of the loss, in its SDs", fontsize=TYPE)
    ax.set_ylabel("measured change, in the same", fontsize=TYPE)
    _write(ax, 12, plain(value), fontweight="bold")
    _write(ax, 33, f"no change at {same.sum()} of {len(same)} probes (hollow)")


def _draw_scores(ax: Axes, probed: Probed, view: Mapping[str, Any]) -> None:
    theme, ks = current(), range(LOWEST, HIGHEST + 1)
    steps = STEP * 4.0 ** np.array(ks)
    ax.set_xscale("log")
    ax.axhspan(*probed.chance, color=theme.muted, alpha=0.3, linewidth=0)
    ax.axhline(1, color=theme.ink, linestyle="--", linewidth=POINT)
    ax.axvline(STEP * 4.0 ** view["step"], color=theme.ink, linestyle="-", linewidth=POINT)
    for name in sorted(PRECISIONS, key=view["precision"].__eq__):
        look, chosen = mark(name), name == view["precision"]
        values = np.array([score(probed, {**view, "precision": name, "step": k})[1] for k in ks])
        at, lost = np.clip(np.nan_to_num(values), LOW, HIGH), np.isnan(values)
        ax.plot(steps, at, color=look.color, linestyle="-", linewidth=POINT * (2.4 if chosen else 1))
        looks: dict[str, Any] = {"marker": look.marker, "s": ((DOT + chosen) * POINT) ** 2, "zorder": 3}
        ax.scatter(steps[lost], at[lost], facecolors=theme.paper, edgecolors=look.color, linewidths=POINT, **looks)
        ax.scatter(steps[~lost], at[~lost], color=look.color, linewidths=0, **looks)
    ax.set(ylim=(LOW, HIGH), xlim=(steps[0] / 2, steps[-1] * 2), yticks=[0, 0.5, 1])
    ax.set_xticks(10.0 ** np.arange(-7, 1), [*(f"$10^{{{power}}}$" for power in range(-7, 0)), "1"])
    ax.minorticks_off()
    ax.set_xlabel(UNITS[view["mode"]], fontsize=TYPE)
    ax.set_ylabel("ρ of the exact gradient", fontsize=TYPE)
    _write(ax, 12, "ρ at every step; grey: chance", fontweight="bold")
    for place, name in enumerate(PRECISIONS):
        look, x = mark(name), KEY * place
        _write(ax, 33, name, x + 14)
        at = {"transform": ax.transAxes, "clip_on": False}
        ax.plot(*_above(x + 5, 33), look.marker, color=look.color, markersize=DOT * POINT, **at)


def _above(x: float, y: float) -> tuple[float, float]:
    """Return a place x pixels right of a panel's axis and y from its top, in axes' units."""
    left, top, right, bottom = BOX
    return x / (right - left), 1 + (top - y) / (bottom - top)


def _write(ax: Axes, y: float, words: str, x: float = 0, **looks: Any) -> None:
    ax.text(*_above(x, y), words, transform=ax.transAxes, va="center", fontsize=TYPE, **looks)


def plain(value: float) -> str:
    """Return ρ as the figure writes it."""
    return "ρ undefined" if math.isnan(value) else f"ρ = {value:.3f}".replace("-0.000", "0.000").replace("-", "−")


def _fours(times: float) -> int:
    """Return the power of 4 that is nearest to a number above 0, of those that states are made longer by."""
    return int(np.clip(round(math.log(times, 4)), 0, LONGEST))
