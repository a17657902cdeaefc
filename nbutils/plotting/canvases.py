"""Panels in pixels, as the canvases of a live figure lie on the page: for the picture of its first view."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

PIXELS_PER_INCH = 96  # of a page


def canvases(*rows: Sequence[tuple[int, int]], gap: int = 0) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, whose units are pixels from their upper left corners, and which show no axes.

    Args:
        rows: width and height of the panels, in pixels, row by row from the top.
        gap: between panels and between rows, in pixels.

    Raises:
        ValueError: there are no panels.
    """
    if not any(rows):
        raise ValueError("expected at least one panel, got none")
    width = max(sum(across for across, _ in row) + gap * (len(row) - 1) for row in rows)
    heights = [max(down for _, down in row) for row in rows if row]
    height = sum(heights) + gap * (len(heights) - 1)
    fig = Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH))
    fig.set_layout_engine("none")
    panels, top = [], 0
    for row, tallest in zip(filter(None, rows), heights, strict=True):
        left = 0
        for across, down in row:
            ax = fig.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))
            ax.set(xlim=(0, across), ylim=(down, 0))
            ax.axis("off")
            panels.append(ax)
            left += across + gap
        top += tallest + gap
    return fig, panels
