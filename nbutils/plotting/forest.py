"""Numbers beside those that a source reports, each kind on a scale of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nbutils.plotting.labels import FONT_SIZE, name_rows, note_row
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW, TITLE, TICKS = 0.27, 0.25, 0.27  # inches
WIDTH, LEFT, RIGHT = 9.05, 2.2, 2.5  # inches: of the figure, and beside the panels
COLUMNS = 0.15, 1.4  # inches: where the words begin, right of the panels


class Compared(NamedTuple):
    """A number that was found, beside the published one.

    Spreads are standard deviations, None where there is none. The last two say both in words.
    """

    panel: str
    label: str
    found: float
    spread: float | None
    published: float
    published_spread: float | None
    found_text: str
    published_text: str


def plot_forest(numbers: Sequence[Compared]) -> Figure:
    """Plot what was found against what was published, a row a number and a panel a scale.

    Dots with bars are found, open squares published; at the right stand both in words.

    Args:
        numbers: in order; those of one panel are drawn together, where the first of them stands.

    Raises:
        ValueError: there are none.
    """
    if not numbers:
        raise ValueError("expected numbers to compare, got none")
    from matplotlib.figure import Figure

    panels: dict[str, list[Compared]] = {}
    for number in numbers:
        panels.setdefault(number.panel, []).append(number)
    theme = current()
    height = ROW + sum(TITLE + ROW * len(rows) + TICKS for rows in panels.values())
    fig, top, wide = Figure(figsize=(WIDTH, height)), height - ROW, WIDTH - LEFT - RIGHT
    fig.set_layout_engine("none")  # panels stand in inches, so that all rows are of one height
    places = [1 + at / wide for at in COLUMNS]
    looks: tuple[dict[str, Any], ...] = (
        {"marker": "o", "color": theme.accents[0], "markersize": 6},
        {"marker": "s", "color": theme.accents[1], "markersize": 5.5, "markerfacecolor": theme.paper},
    )
    for panel, rows in panels.items():
        bottom = top - TITLE - ROW * len(rows)
        ax = fig.add_axes((LEFT / WIDTH, bottom / height, wide / WIDTH, ROW * len(rows) / height))
        for row, one in enumerate(rows):
            pairs = (-0.14, one.found, one.spread), (0.17, one.published, one.published_spread)
            for (shift, value, spread), look in zip(pairs, looks, strict=True):
                ax.errorbar(value, row + shift, xerr=spread, linestyle="none", capsize=2.5, linewidth=1.6, **look)
            for at, text in zip(places, (one.found_text, one.published_text), strict=True):
                note_row(ax, row, text, at=at)
        name_rows(ax, [one.label for one in rows], fontsize=FONT_SIZE)
        ax.set_title(panel, fontsize=FONT_SIZE, fontweight="bold", x=-LEFT / wide + 0.02, pad=4)
        ax.tick_params(axis="x", labelsize=8)
        ax.margins(x=0.06)
        ax.locator_params(axis="x", nbins=6)
        top = bottom - TICKS
    for at, head, look in zip(places, ("● found", "□ published"), looks, strict=True):
        fig.text(
            (LEFT + wide * at) / WIDTH, 1 - 0.5 * ROW / height, head, color=look["color"], fontsize=FONT_SIZE,
            fontweight="bold", verticalalignment="center",
        )  # fmt: skip
    return fig
