"""Direct labels: names written beside the lines and rows they belong to, so that no legend has to be decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation, Text

FONT_SIZE = 9.0  # points
_LETTER_WIDTH = 0.62  # of the font size, generous for DejaVu Sans
_GAP = 0.05  # inches between a label and its own curve, and the axes' edge
_ENOUGH = 0.25  # inches to the next curve beyond which more room gains nothing
_POSITIONS = 80  # places tried along each curve


def label_curves(ax: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray, str, str]]) -> list[Text]:
    """Write each curve's name just above or below it, where the other curves are farthest.

    Set the axes' limits and scales first.

    Args:
        ax: axes in which the curves are drawn.
        curves: x `[points]`, y `[points]`, name and colour of each; x increasing.
    """
    _figure(ax).draw_without_rendering()  # fixes the layout, hence the axes' size
    box = ax.get_window_extent()
    inches = np.array([box.width, box.height]) / _figure(ax).dpi
    lines = []
    for x, y, _, _ in curves:
        points = ax.transLimits.transform(ax.transScale.transform(np.column_stack([x, y]))) * inches
        way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        even = np.linspace(0, way[-1], 4 * _POSITIONS)  # along the curve, so that steep parts count too
        lines.append(np.column_stack([np.interp(even, way, column) for column in points.T]))  # (points, 2)
    taken: list[tuple[np.ndarray, np.ndarray]] = []
    texts = []
    height = FONT_SIZE * 1.1 / 72
    for own, (_, _, name, colour) in enumerate(curves):
        size = np.array([len(name) * FONT_SIZE * _LETTER_WIDTH / 72, height])
        best, best_room = None, -np.inf
        for x, y in lines[own][::4]:
            for low in (np.array([x, y + _GAP]), np.array([x, y - _GAP - height])):
                high = low + size
                if (low < _GAP).any() or (high > inches - _GAP).any():
                    continue
                rooms = [_distance(line, low, high).min() for line in lines]
                rooms += [_gap(low, high, *other) for other in taken]
                clash = rooms[own] < _GAP / 2 or min(rooms) <= 0
                room = min([_ENOUGH, *rooms[:own], *rooms[own + 1 :]]) - (_ENOUGH if clash else 0)
                if room > best_room:
                    best, best_room = (low, high), room
        low, high = best or (np.zeros(2), size)
        taken.append((low, high))
        x, y = low / inches
        text = ax.text(x, y, name, color=colour, fontsize=FONT_SIZE, transform=ax.transAxes)
        text.set_verticalalignment("bottom")
        text.set_in_layout(False)
        texts.append(text)
    return texts


def label_ends(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> list[Annotation]:
    """Write names in the right margin beside the lines' ends, moved apart where they would overlap.

    Set the axes' limits and scales first.

    Args:
        ax: axes in which the lines are drawn.
        ends: y at the right end, name and colour of each.
    """
    ends = [end for end in ends if np.isfinite(end[0])]  # a line of no finite values has no end to name
    if not ends:
        return []
    height = ax.get_window_extent().height / _figure(ax).dpi
    gap = FONT_SIZE * 1.2 / 72 / height
    wanted = ax.transLimits.transform(ax.transScale.transform([(0, y) for y, _, _ in ends]))[:, 1]
    order = np.argsort(wanted, kind="stable")
    placed = np.clip(wanted[order], 0, 1)
    for i in range(1, len(placed)):  # push up from below, then back down from the top
        placed[i] = max(placed[i], placed[i - 1] + gap)
    limit = 1.0
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    texts = []
    for place, index in zip(placed, order, strict=True):
        _, name, colour = ends[index]
        texts.append(
            ax.annotate(
                name,
                (1.0, min(max(wanted[index], 0), 1)),
                (1.05, place),
                xycoords="axes fraction",
                textcoords="axes fraction",
                color=colour,
                fontsize=FONT_SIZE,
                verticalalignment="center",
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": colour,
                    "linewidth": 0.6,
                    "shrinkA": 0,
                    "shrinkB": 0,
                    "relpos": (0, 0.5),
                },
            )
        )
    return texts


def name_rows(ax: Axes, names: Sequence[str], *, above: float = 0.5, below: float = 0.5, **text: Any) -> None:
    """Name the rows of a chart, the first on top.

    Args:
        ax: axes in which row i is drawn at y = i.
        names: one per row.
        above: room above the first row, in rows.
        below: room below the last, in rows.
        text: properties of the names.
    """
    ax.set_yticks(range(len(names)), list(names), **text)
    ax.set_ylim(len(names) - 1 + below, -above)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")


def note_row(ax: Axes, row: float, note: str, *, at: float = 1.01, fontsize: float = FONT_SIZE) -> None:
    """Write a note beside a row, at a share of the axes' width; 1 is the right edge."""
    ax.annotate(
        note,
        (at, row),
        xycoords=ax.get_yaxis_transform(),
        fontsize=fontsize,
        verticalalignment="center",
        annotation_clip=False,
    )


def _distance(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the distances `[points]` of points `[points, 2]` from a box, 0 inside."""
    return np.linalg.norm(np.maximum(np.maximum(low - points, points - high), 0), axis=1)


def _gap(low: np.ndarray, high: np.ndarray, other_low: np.ndarray, other_high: np.ndarray) -> float:
    """Return the distance between two boxes, 0 where they overlap."""
    return float(np.linalg.norm(np.maximum(np.maximum(low - other_high, other_low - high), 0)))


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("axes that belong to no figure have no size")
    return figure
