"""Panels in pixels lie as they would on the page."""

from __future__ import annotations

import pytest

from nbutils.plotting.canvases import PIXELS_PER_INCH, canvases


def test_panels_lie_row_by_row():
    fig, panels = canvases([(30, 20), (50, 20)], [(40, 70)], gap=10)
    width, height = 30 + 10 + 50, 20 + 10 + 70
    assert fig.get_size_inches() * PIXELS_PER_INCH == pytest.approx([width, height])
    corners = [ax.transData.transform([(0, 0), (1, 1)]) for ax in panels]
    scale = fig.dpi / PIXELS_PER_INCH
    for (corner, next_to), (left, top) in zip(corners, [(0, 0), (40, 0), (0, 30)], strict=True):
        assert corner / scale == pytest.approx([left, height - top])
        assert (next_to - corner) / scale == pytest.approx([1, -1])  # a pixel to the right and down


def test_no_panels_are_refused():
    with pytest.raises(ValueError, match="at least one panel"):
        canvases([])
