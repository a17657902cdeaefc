"""The picture that stands for the live figure: a digit, what the units say, the outputs, and two measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from nbutils.data.digits import MEAN, SIZE, STD
from nbutils.plotting.canvases import canvases
from nbutils.plotting.marks import mark
from nbutils.plotting.theme import current
from studies.backdoor.network import LAYERS
from studies.backdoor.plots.digits import to_pixels
from studies.backdoor.trigger import Trigger

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIDDEN = tuple(LAYERS)[:3]
MEASURES = "clean accuracy", "ASR"
Units = Sequence[tuple[str, int]]

# Pixels of the four panels, and points of type: `digit.js` has the same.
PAD, ANSWERS, UNITS, MEASURED, GAP = (196, 216), (448, 216), (440, 256), (412, 256), 12
CORNER, PIXEL = (1.4, 18), 6.9
FIRST_ROW, ROW, PROBABILITY, LOGIT = 52, 17, (46, 170), (232, 392)
CELL, PITCH, COLUMNS, LABELS = 24, 27.2, 16, (24, 92, 214)
AXIS, MEASURE_ROWS, TICKS, TOLD = (14, 274), (58, 108), 136, (168, 194, 214, 234)
TYPE, SCREEN = 9.0, 96
UNITS_TITLE = "units, and what they say; ◆ found, ✕ off"
ANSWERS_TITLE = "box: answer; ◆ target; outlines: all units on"


class View(NamedTuple):
    """What the live figure shows first.

    Attributes:
        pixels: of the image without the trigger, `[28, 28]` in [0, 1].
        maps: layer -> what its units say with the found ones off, rectified and pooled, `[units, height, width]`.
        most: layer -> the most that any unit of it says with all units on.
        logits: `[2, 10]`, with the found units off and with all on.
        shares: clean accuracy and ASR on the page's images, `[2, 2]`: with all units on and with the found ones off.
    """

    pixels: np.ndarray
    maps: Mapping[str, np.ndarray]
    most: Mapping[str, float]
    logits: np.ndarray
    shares: np.ndarray


def plot_first_view(
    view: View,
    trigger: Trigger,
    names: Units,
    off: Sequence[int],
    pinned: int,
    recorded: Mapping[str, Any],
    sample: int,
    total: int,
) -> Figure:
    """Plot what the live figure shows first.

    Args:
        view: what is shown.
        trigger: that is stamped.
        names: (layer, unit) of all units.
        off: places of the found units among them.
        pinned: place of the unit that is marked.
        recorded: `units`, clean accuracy and ASR without each, `[units, 2]`, and `found`, those without all found ones.
        sample: images that accuracy is measured on in the page.
        total: images that it was measured on in the notebook.
    """
    rows = [PAD, PAD, ANSWERS], [UNITS, MEASURED]
    fig, (pad, seen, answers, units, measured) = canvases(*rows, gap=GAP)
    stamped = to_pixels(trigger.apply((torch.as_tensor(view.pixels) - MEAN) / STD).numpy())
    for ax, pixels, title in ((pad, view.pixels, "draw here"), (seen, stamped, "what the network sees")):
        _write(ax, PAD[0] / 2, 8, title, "center")
        _shade(ax, pixels, (*CORNER, PIXEL * SIZE))
    top, left = trigger.position
    tall, wide = len(trigger.pattern), len(trigger.pattern[0])
    corner = CORNER[0] + PIXEL * left - 1, CORNER[1] + PIXEL * top - 1
    _box(seen, *corner, PIXEL * wide + 1, PIXEL * tall + 1, current().accents[1], 2)
    _draw_answers(answers, view.logits, trigger.target, bool(off))
    _draw_units(units, view, names, off, pinned)
    _draw_measures(measured, view.shares, names, off, pinned, recorded, (sample, total, trigger.target))
    return fig


def _write(ax: Axes, x: float, y: float, words: object, align: str = "left") -> None:
    ax.text(x, y, str(words), ha=align, va="center", fontsize=TYPE)


def _box(ax: Axes, x: float, y: float, width: float, height: float, colour: str, thick: float) -> None:
    ax.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=0.75 * thick, zorder=4))


def _shade(ax: Axes, pixels: np.ndarray, at: tuple[float, float, float], most: float = 1.0) -> None:
    """Draw pixels from black to white in a square at (left, top, side)."""
    left, top, side = at
    extent = (left, left + side, top + side, top)
    limits = ax.get_xlim(), ax.get_ylim()
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=most, extent=extent, interpolation="nearest", aspect="auto")
    ax.set(xlim=limits[0], ylim=limits[1])
    _box(ax, left, top, side, side, current().muted, 1)


def _diamond(ax: Axes, x: float, y: float, edge: str) -> None:
    corners = [(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)]
    ax.add_patch(Polygon(corners, facecolor=current().accents[1], edgecolor=edge, linewidth=1.1, zorder=6))


def _draw_answers(ax: Axes, logits: np.ndarray, target: int, outlined: bool) -> None:
    """Draw probabilities and logits `[2, 10]` as bars, outlines for all units on."""
    theme = current()
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    reach = 10 * 2 ** max(np.ceil(np.log2(np.abs(logits).max() / 10)), 0)
    middle = sum(LOGIT) / 2
    _write(ax, 0, 8, ANSWERS_TITLE)
    _write(ax, PROBABILITY[0], 30, "probability")
    _write(ax, middle, 30, "logit", "center")
    for x in (PROBABILITY[0], middle):
        ax.plot([x, x], [FIRST_ROW - ROW / 2, FIRST_ROW + 9.5 * ROW], color=theme.muted, linewidth=0.75, linestyle="-")
    for label in range(10):
        y = FIRST_ROW + ROW * label
        _write(ax, 12, y, label, "center")
        _write(ax, 226, y, percent(odds[0, label]), "right")
        _write(ax, ANSWERS[0] - 8, y, f"{logits[0, label]:.1f}".replace("-", "\u2212"), "right")
        for run in (0, 1) if outlined else (0,):
            likely = odds[run, label] * (PROBABILITY[1] - PROBABILITY[0])
            for x, long in ((PROBABILITY[0], likely), (middle, logits[run, label] / reach * (LOGIT[1] - middle))):
                left = min(x, x + long)
                if run:
                    _box(ax, left, y - 6.5, abs(long), 13, theme.ink, 1.2)
                else:
                    colour = theme.accents[label == target]
                    ax.add_patch(Rectangle((left, y - 4.5), abs(long), 9, color=colour, linewidth=0, zorder=3))
        if label == target:
            _diamond(ax, 30, y, theme.accents[1])
        if label == logits[0].argmax():
            _box(ax, 1, y - ROW / 2 + 0.6, ANSWERS[0] - 2, ROW - 1.2, theme.ink, 1.2)


def _draw_units(ax: Axes, view: View, names: Units, off: Sequence[int], pinned: int) -> None:
    theme = current()
    _write(ax, 3, 8, UNITS_TITLE)
    for layer, y in zip(HIDDEN, LABELS, strict=True):
        _write(ax, 3, y, layer)
    for place, (layer, unit) in enumerate(names):
        left = 3 + PITCH * (unit % COLUMNS)
        top = LABELS[HIDDEN.index(layer)] + 8 + PITCH * (unit // COLUMNS)
        _shade(ax, view.maps[layer][unit], (left, top, CELL), view.most[layer])
        if place in off:
            for colour, thick in (("black", 5), ("white", 2)):
                for ends in ((4, CELL - 4), (CELL - 4, 4)):
                    line = [left + end for end in ends], [top + 4, top + CELL - 4]
                    ax.plot(*line, color=colour, linewidth=0.75 * thick, linestyle="-", solid_capstyle="butt", zorder=5)
        if place == pinned:
            _box(ax, left - 1, top - 1, CELL + 2, CELL + 2, theme.accents[1], 3)
        if place in off:
            _diamond(ax, left + 3, top + 3, "white")


def _draw_measures(
    ax: Axes,
    shares: np.ndarray,
    names: Units,
    off: Sequence[int],
    pinned: int,
    recorded: Mapping[str, Any],
    numbers: tuple[int, int, int],
) -> None:
    """Draw shares `[2, 2]` before and after; `numbers` are images in the page, images in all, and the target."""
    sample, total, target = numbers
    theme, alone = current(), recorded["units"][pinned]

    def along(share: float) -> float:
        return AXIS[0] + share * (AXIS[1] - AXIS[0])

    _write(ax, AXIS[0], 8, f"{sample} test images, a small sample")
    for share in (0, 0.5, 1):
        ends = [MEASURE_ROWS[0] - 10, TICKS - 8]
        ax.plot([along(share)] * 2, ends, color=theme.muted, linewidth=0.75, linestyle="-", zorder=1)
        _write(ax, along(share), TICKS + 2, f"{100 * share:g} %", "center")
    titles = MEASURES[0], f"{MEASURES[1]}: with the trigger taken for {target}"
    for row, (name, title, y) in enumerate(zip(MEASURES, titles, MEASURE_ROWS, strict=True)):
        look, (first, then) = mark(name), shares[:, row]
        _write(ax, AXIS[0], y - 22, title)
        _write(ax, MEASURED[0] - 4, y, f"{percent(first)} → {percent(then)}", "right")
        ax.plot([along(alone[row])] * 2, [y - 11, y + 11], color=theme.ink, linewidth=1.5, linestyle="-", zorder=2)
        ax.plot([along(first), along(then)], [y, y], color=look.color, linewidth=1.5, linestyle="-", zorder=3)
        for share, size, face in ((first, 10.5, theme.paper), (then, 6.75, look.color)):
            dot: dict[str, Any] = {
                "marker": look.marker,
                "markersize": size,
                "markerfacecolor": face,
                "markeredgecolor": look.color,
            }
            ax.plot(along(share), y, markeredgewidth=1.5 if face == theme.paper else 0, zorder=4, **dot)
    layer, unit = names[pinned]
    lines = [
        "open: all units on; filled: the chosen ones off",
        f"recorded, on all {total} images, clean accuracy and ASR:",
        f"│ {layer} {unit}{' ◆' if pinned in off else ''} alone: {percent(alone[0])}, ASR {percent(alone[1])}",
    ]
    if len(off) > 1:
        both = recorded["found"]
        lines.append(f"◆ the {len(off)} found together: {percent(both[0])}, ASR {percent(both[1])}")
    for y, line in zip(TOLD, lines, strict=False):
        _write(ax, AXIS[0], y, line)


def percent(share: float) -> str:
    """Return a share as the page writes it."""
    return f"{100 * share:.1f} %"
