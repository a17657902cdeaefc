"""The first view of the live figure, as a picture: laid out as `stain.js` does, pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from nbutils.plotting.canvases import canvases
from nbutils.plotting.theme import current
from studies.shortcut.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Pixels, and points of type, of the panels: six tiles above, three panels below.
CARD, PANEL, GAP = (135, 214), (282, 270), 12
PICTURE, GRAPH = (20, 20, 96), (24, 127, 150, 194)  # left, top, side; left, right, top, bottom
BOX, ROWS = (46, 272, 40, 228), (12, 270, 36)  # left, right, top, bottom; left and right of an axis, top of the rows
TALLEST, POINT = 44, 0.75  # pixels of a row; points of a pixel


def plot_first_view(data: Mapping[str, Any], images: np.ndarray) -> Figure:
    """Plot what the live figure shows first.

    Args:
        data: the figure's.
        images: its tiles in the stain shown first, `[N, height, width, 3]`.
    """
    count, first = len(images), data["first"]
    fig, panels = canvases([CARD] * count, [PANEL] * 3, gap=GAP)
    at = {name: data[f"{name}s"].index(first[name]) for name in ("set", "measure", "k", "stain")}
    at["control"] = [one["name"] for one in data["controls"]].index(first["control"])
    for i, image in enumerate(images):
        _draw_card(panels[i], data, image, i, at)
    for panel, draw in zip(panels[count:], (_draw_rightly, _draw_doses, _draw_sets), strict=True):
        draw(panel, data, at)
    return fig


def points(value: float) -> str:
    """Return a difference of shares as the figure writes it: percentage points with one decimal and a sign."""
    if not np.isfinite(value):
        return "–"
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def interval(row: np.ndarray) -> str:
    """Return a row of `COLUMNS` as the figure writes it: the difference, and its interval where it has one."""
    mean, low, high = row[-3:]
    return points(mean) + (f" [{points(low)}, {points(high)}]" if np.isfinite(low) else "")


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers from `low` to `high`, four to eight of them, with 0 among them where it is between."""
    rough = (high - low) / 5
    unit = 10.0 ** np.floor(np.log10(rough))
    step = unit * next(size for size in (1, 2, 5, 10) if size * unit >= rough)
    return [float(i * step) for i in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def span(rows: np.ndarray) -> tuple[float, float]:
    """Return the ends of an axis of differences: for all means, and all ranges of random channels, around 0."""
    known = np.concatenate([rows[..., 3:6].ravel(), [0.0]])
    known = known[np.isfinite(known)]
    margin = max(0.12 * np.ptp(known), 0.005)
    return known.min() - margin, known.max() + margin


def _write(ax: Axes, words: str, x: float, y: float, align: str = "left", size: float = 12, **look: Any) -> None:
    ax.text(x, y, words, ha=align, va="center", fontsize=size * POINT, **look)


def _line(ax: Axes, x: Any, y: Any, colour: str, width: float = 1, style: Any = "-", **look: Any) -> None:
    ax.plot(x, y, color=colour, linewidth=width * POINT, linestyle=style, **look)


def _dot(ax: Axes, x: float, y: float, colour: str, marker: str, *, filled: bool = True) -> None:
    face = colour if filled else current().paper
    ax.plot(x, y, marker=marker, markersize=9 * POINT, color=face, markeredgecolor=colour, markeredgewidth=1.1)


def _draw_card(ax: Axes, data: Mapping[str, Any], image: np.ndarray, tile: int, at: Mapping[str, int]) -> None:
    theme, look = current(), style(data["first"]["control"])
    left, top, side = PICTURE
    tumour = data["tiles"]["tumour"][tile]
    _write(ax, ("normal", "tumour")[tumour], left + side / 2, 9, "center", 13)
    ax.imshow(image, extent=(left, left + side, top + side, top), interpolation="nearest", aspect="auto")
    ax.set(xlim=(0, CARD[0]), ylim=(CARD[1], 0))
    left, right, top, bottom = GRAPH
    stains = data["stains"]
    answers = {name: values[..., tile] for name, values in data["answers"].items()}
    own, low, high = (answers[name][at["control"], at["k"]] for name in ("own", "low", "high"))
    x = left + np.array(stains) / stains[-1] * (right - left)
    y = {name: bottom - values * (bottom - top) for name, values in {**answers, "own": own}.items() if values.ndim == 1}
    now = at["stain"]
    before, after = (f"{p:.2f} {'✓' if (p > 0.5) == (tumour == 1) else '✗'}" for p in (answers["whole"][now], own[now]))
    _write(ax, f"P {before} → {after}", PICTURE[0] + PICTURE[2] / 2, 133, "center", 13)
    _line(ax, [left, left, right], [top, bottom, bottom], theme.ink)
    _line(ax, [left, right], [(top + bottom) / 2] * 2, theme.muted, style=":")
    _line(ax, [x[now]] * 2, [top, bottom], theme.muted)
    ax.fill_between(
        x, bottom - low * (bottom - top), bottom - high * (bottom - top), color=theme.muted, alpha=0.35, lw=0
    )
    _line(ax, x, y["whole"], theme.ink, 1.2)
    _line(ax, x, y["own"], look.color, 1.8)
    for level, words in ((top, "1"), (bottom, "0")):
        _write(ax, words, left - 5, level, "right", 13)
    for share in (0, 1):
        _write(ax, str(share), x[stains.index(share)], bottom + 12, "center", 13)
    _dot(ax, x[now], y["whole"][now], theme.ink, "o", filled=False)
    _dot(ax, x[now], y["own"][now], look.color, look.marker)


def _frame(ax: Axes, titles: Sequence[str], below: str, marks: Sequence[tuple[float, str]], levels: Any) -> None:
    """Draw a panel's axes: titles, what is below, marks (place, words) there, and levels (place, words) at the left."""
    theme, (left, right, top, bottom) = current(), BOX
    for i, words in enumerate(titles):
        _write(ax, words, 0, 8 + 16 * i, weight="bold" if not i else "normal")
    _line(ax, [left, left, right], [top, bottom, bottom], theme.ink)
    for x, words in marks:
        _write(ax, words, x, bottom + 12, "center")
    for y, words in levels:
        _write(ax, words, left - 5, y, "right")
        _line(ax, [left, right], [y, y], theme.muted, 0.5, alpha=0.5)
    _write(ax, below, (left + right) / 2, bottom + 30, "center")


def _draw_rightly(ax: Axes, data: Mapping[str, Any], at: Mapping[str, int]) -> None:
    theme, look, (left, right, top, bottom) = current(), style(data["first"]["control"]), BOX
    shares, stains, now = data["right"], data["stains"], at["stain"]
    own, mean, low, high = shares[at["control"], at["k"]].T
    whole = shares[at["control"], 0, :, 0]
    lowest = min(np.floor(10 * shares.min()) / 10, 0.9)
    x = left + np.array(stains) / stains[-1] * (right - left)

    def y(share: Any) -> Any:
        return bottom - (share - lowest) / (1 - lowest) * (bottom - top)

    told = f"{100 * whole[now]:.0f} % → {100 * own[now]:.0f} %; random as strong {100 * mean[now]:.0f} %"
    titles = f"{data['count']} tiles called rightly, by stain", told
    levels = [(y(level), f"{100 * level:.0f} %") for level in np.arange(lowest, 1.01, 0.1)]
    marks = [(x[stains.index(share)], f"{share:g}") for share in (0, 0.5, 1, 1.5)]
    _frame(ax, titles, f"stain: 0 own, 1 {data['stain']}", marks, levels)
    _line(ax, [x[now]] * 2, [top, bottom], theme.muted)
    ax.fill_between(x, y(low), y(high), color=theme.muted, alpha=0.35, linewidth=0)
    _line(ax, x, y(mean), theme.muted, 1.5, ":")
    _line(ax, x, y(whole), theme.ink, 1.2)
    _line(ax, x, y(own), look.color, 1.8)
    _dot(ax, x[now], y(whole[now]), theme.ink, "o", filled=False)
    _dot(ax, x[now], y(own[now]), look.color, look.marker)


def _draw_doses(ax: Axes, data: Mapping[str, Any], at: Mapping[str, int]) -> None:
    theme, first, (left, right, top, bottom) = current(), data["first"], BOX
    rows = data["table"][at["set"], at["measure"]]  # (controls, ks, COLUMNS)
    low, high = span(data["table"][at["set"]])
    places = np.log2(1 + np.array(data["ks"]))
    x = left + 6 + places / places[-1] * (right - left - 12)

    def y(value: Any) -> Any:
        return bottom - (np.clip(value, low, high) - low) / (high - low) * (bottom - top)

    own = rows[at["control"]]
    titles = f"{first['set']}: {first['measure']}, pp", f"less random, K = {first['k']}: {interval(own[at['k']])}"
    levels = [(y(level), f"{100 * level:g}".replace("-", "−")) for level in ticks(low, high)]
    _frame(ax, titles, "K, channels ablated", [(a, str(k)) for a, k in zip(x, data["ks"], strict=True)], levels)
    _line(ax, [left, right], [y(0)] * 2, theme.ink)
    _line(ax, [x[at["k"]]] * 2, [top, bottom], theme.muted)
    ax.fill_between(x, y(own[:, 3]), y(own[:, 4]), color=theme.muted, alpha=0.35, linewidth=0)
    shown = [i for i, curve in enumerate(rows) if np.isfinite(curve[:, 5]).any()]
    start = top + 4 if low + high > 0 else bottom - 14 * len(shown) - 4
    own_colour, marker, _ = style(first["control"])
    looks = []
    for i in shown:
        colour, _, dashes = style(data["controls"][i]["name"])
        looks.append((colour, 2 if i == at["control"] else 1.1, dashes))
        _line(ax, x, y(rows[i][:, 5]), *looks[-1])
    for a, row in zip(x, own, strict=True):
        _line(ax, [a, a], y(row[6:]), own_colour, 1.4)
    ax.fill_between([50, 165], start, start + 14 * len(shown), color=theme.paper, alpha=0.7, linewidth=0, zorder=2)
    for place, (i, look) in enumerate(zip(shown, looks, strict=True)):
        height, weight = start + 14 * place + 7, "bold" if i == at["control"] else "normal"
        _line(ax, [52, 74], [height] * 2, *look)
        _write(ax, data["controls"][i]["name"], 79, height, size=11, weight=weight)
    for a, row in zip(x, own, strict=True):
        _dot(ax, a, y(row[5]), own_colour, marker)


def _draw_sets(ax: Axes, data: Mapping[str, Any], at: Mapping[str, int]) -> None:
    theme, first, (left, right, top) = current(), data["first"], ROWS
    look, rows = style(first["control"]), data["table"][:, at["measure"], at["control"], at["k"]]
    low, high = span(data["table"])
    tall = min(TALLEST, (BOX[3] - top) / len(rows))
    _write(ax, f"every set at K = {first['k']}, pp", 0, 8, weight="bold")
    _write(ax, f"{first['measure']} less random as strong", 0, 24)

    def x(value: Any) -> Any:
        return left + (np.clip(value, low, high) - low) / (high - low) * (right - left)

    bottom = top + tall * len(rows)
    for level in ticks(low, high):
        _write(ax, f"{100 * level:g}".replace("-", "−"), x(level), bottom + 12, "center")
    for i, (name, row) in enumerate(zip(data["sets"], rows, strict=True)):
        y, middle = top + tall * i, top + tall * (i + 0.72)
        for level in ticks(low, high):
            _line(ax, [x(level)] * 2, [middle - 0.22 * tall, middle + 0.22 * tall], theme.muted, 0.5)
        _line(ax, [x(0)] * 2, [middle - 0.22 * tall, middle + 0.22 * tall], theme.ink)
        if name == first["set"]:
            sides = [1, PANEL[0] - 1, PANEL[0] - 1, 1, 1], [y + 1, y + 1, y + tall - 1, y + tall - 1, y + 1]
            _line(ax, *sides, theme.ink, 1.4)
        _write(ax, name, 6, y + 0.28 * tall)
        _write(ax, interval(row) if np.isfinite(row[5]) else "not recorded", PANEL[0] - 6, y + 0.28 * tall, "right")
        if np.isfinite(row[5]):
            ax.fill_between(x(row[3:5]), middle - 5, middle + 5, color=theme.muted, alpha=0.35, linewidth=0)
            _line(ax, x(row[6:]), [middle] * 2, look.color, 2)
            _dot(ax, x(row[5]), middle, look.color, look.marker)
