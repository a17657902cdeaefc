"""Two looks for every figure, light and dark, with solid backgrounds and colours that survive both.

The accents keep their order and hue in both themes, so "the blue line" is the same line. They follow the
Okabe-Ito palette, darkened or lightened until each stands out from its paper by at least 3:1 (WCAG 2.2,
criterion 1.4.11); line styles change with the colour, so that greyscale print can be read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What belongs to the process and not to a picture; everything else is matplotlib's default inside `use`.
_NOT_DRAWING = {"backend", "backend_fallback", "interactive"}
# matplotlib and plotly read one set of parameters for the whole process, and callbacks of widgets run in other
# threads than cells do. So one thread at a time draws; a thread may enter again.
_drawing = threading.RLock()

LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


@dataclass(frozen=True)
class Theme:
    """The colours of one look, as `#rrggbb`.

    Attributes:
        name: `"light"` or `"dark"`.
        ink: text, axes and all essential marks.
        paper: the background of figure and axes, always opaque.
        muted: grids, reference lines, secondary marks.
        accents: the colour cycle: blue, vermilion, green, purple, orange, sky, grey.
    """

    name: str
    ink: str
    paper: str
    muted: str
    accents: tuple[str, ...]

    def matplotlib(self) -> dict[str, Any]:
        """Return this theme as matplotlib rcParams."""
        from matplotlib.rcsetup import cycler

        return {
            "figure.facecolor": self.paper,
            "figure.edgecolor": self.paper,
            "figure.figsize": (7.0, 3.6),  # inches
            "figure.constrained_layout.use": True,
            "savefig.facecolor": self.paper,
            "savefig.edgecolor": self.paper,
            "savefig.transparent": False,
            "axes.facecolor": self.paper,
            "axes.edgecolor": self.ink,
            "axes.labelcolor": self.ink,
            "axes.titlecolor": self.ink,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.prop_cycle": cycler(color=self.accents, linestyle=LINE_STYLES),
            "grid.color": self.muted,
            "grid.alpha": 0.35,
            "grid.linewidth": 0.6,
            "text.color": self.ink,
            "xtick.color": self.ink,
            "ytick.color": self.ink,
            "patch.edgecolor": self.ink,
            "hatch.color": self.ink,
            "boxplot.boxprops.color": self.ink,
            "boxplot.whiskerprops.color": self.ink,
            "boxplot.capprops.color": self.ink,
            "boxplot.flierprops.markeredgecolor": self.ink,
            "legend.frameon": False,
            "font.family": "DejaVu Sans",  # ships with matplotlib, so text has one shape everywhere
            "font.size": 10.0,
            "image.cmap": "viridis",
            "image.interpolation": "nearest",
        }

    def plotly(self) -> dict[str, Any]:
        """Return this theme as the `layout` of a plotly template."""
        axis = {"gridcolor": self.muted, "linecolor": self.ink, "zerolinecolor": self.muted, "gridwidth": 0.5}
        scene_axis = {**axis, "backgroundcolor": self.paper, "showbackground": True}
        return {
            "paper_bgcolor": self.paper,
            "plot_bgcolor": self.paper,
            "font": {"color": self.ink, "family": "DejaVu Sans, Verdana, sans-serif", "size": 13},
            "colorway": list(self.accents),
            "xaxis": axis,
            "yaxis": axis,
            "scene": {"xaxis": scene_axis, "yaxis": scene_axis, "zaxis": scene_axis},
            "hoverlabel": {"bgcolor": self.paper, "font": {"color": self.ink}},
            "margin": {"l": 48, "r": 16, "t": 48, "b": 48},
        }


LIGHT = Theme(
    name="light",
    ink="#1b1b1b",
    paper="#ffffff",
    muted="#8a8a8a",
    accents=("#0072b2", "#d55e00", "#008a64", "#b0568c", "#b87d00", "#3296cd", "#6b6b6b"),
)
DARK = Theme(
    name="dark",
    ink="#ececec",
    paper="#16181c",
    muted="#868b93",
    accents=("#4aa3e0", "#ff8a4a", "#2fc79a", "#e29bc4", "#f0b93c", "#9ad4f5", "#b4b4b4"),
)

_current: ContextVar[Theme] = ContextVar("theme", default=LIGHT)


def current() -> Theme:
    """Return the theme in force: `LIGHT` unless inside `use`."""
    return _current.get()


@contextmanager
def use(theme: Theme) -> Iterator[Theme]:
    """Draw and save in a theme inside the block, in matplotlib and plotly; both are restored after it.

    What the user has set does not count inside: all other parameters of matplotlib have their defaults. One thread at
    a time is inside a block; the others wait. Make figures with `matplotlib.figure.Figure`: pyplot's list of open
    figures is shared by all threads.
    """
    import matplotlib
    import plotly.graph_objects as go
    import plotly.io as pio

    with _drawing:
        defaults: Any = {key: value for key, value in matplotlib.rcParamsDefault.items() if key not in _NOT_DRAWING}
        token = _current.set(theme)
        template = pio.templates.default
        name = f"nbutils_{theme.name}"
        if name not in pio.templates:  # it takes as long as a small figure
            pio.templates[name] = go.layout.Template(layout=theme.plotly())
        try:
            with matplotlib.rc_context(defaults | theme.matplotlib()):
                pio.templates.default = name
                yield theme
        finally:
            pio.templates.default = template
            _current.reset(token)


def recolour(figure: Figure, look: Theme) -> list[tuple[Callable[[Any], None], Any]]:
    """Exchange the light theme's colours, and plain black, for another theme's; return the calls that undo it."""
    import numpy as np
    from matplotlib.colors import to_rgb, to_rgba_array

    # Black, because a figure finished outside `use` has matplotlib's own ink.
    old = np.array([to_rgb(c) for c in ("#000000", LIGHT.ink, LIGHT.paper, LIGHT.muted, *LIGHT.accents)])
    new = np.array([to_rgb(c) for c in (look.ink, look.ink, look.paper, look.muted, *look.accents)])
    undo: list[tuple[Callable[[Any], None], Any]] = []
    properties = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")
    for artist in figure.findobj():
        for prop in properties:
            get, put = getattr(artist, f"get_{prop}", None), getattr(artist, f"set_{prop}", None)
            if get is None or put is None:
                continue
            before = get()
            try:
                colours = to_rgba_array(before)  # (n, 4)
            except (TypeError, ValueError):
                continue  # "auto", or an array that a colour map turns into colours
            distance = np.abs(colours[:, None, :3] - old[None]).max(axis=-1)  # (n, colours)
            nearest = distance.argmin(axis=1) if len(colours) else np.empty(0, int)
            known = distance[np.arange(len(colours)), nearest] < 1e-3
            if not known.any():
                continue
            after = colours.copy()
            after[known, :3] = new[nearest[known]]
            put(after if np.ndim(before) > 1 else tuple(after[0]))
            undo.append((put, before))
    return undo[::-1]
