"""Pictures that a control redraws: the common part of the explorers."""

from __future__ import annotations

import html
import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from nbutils.plotting import figures
from nbutils.plotting import theme as themes
from nbutils.plotting.figures import PLOTLY, SCREEN_PIXELS_PER_INCH

if TYPE_CHECKING:
    import ipywidgets
    import plotly.graph_objects as go


Result = Mapping[str, Any]


@dataclass(frozen=True)
class View:
    """The view of one choice in an explorer.

    Attributes:
        status: the line above the picture.
        alt: the description of the picture.
        draw: draws the picture, in the theme in force.
        turn: description of a plotly figure below it, and a function that draws it.
    """

    status: str
    alt: str
    draw: Callable[[], Figure]
    turn: tuple[str, Callable[[], go.Figure]] | None = None


def redrawn(
    controls: Sequence[ipywidgets.ValueWidget],
    chosen: Callable[[], str],
    view: Callable[[str], View],
    *,
    turning: ipywidgets.Output | None = None,
) -> tuple[ipywidgets.HTML, ipywidgets.HTML]:
    """Return a line of text and a picture that follow controls, drawn now and whenever one of them changes.

    An error takes the place of the text and removes the picture: the exception of a callback would vanish in the log,
    with a picture of another choice left in sight.

    Args:
        controls: what to follow.
        chosen: returns the choice in words.
        view: takes the choice in words; returns what to show of it.
        turning: receives the plotly figure of the view, if it has one.
    """
    import ipywidgets

    status, picture = ipywidgets.HTML(), ipywidgets.HTML()

    def redraw(_: object = None) -> None:
        text = chosen()
        outputs: tuple[dict[str, Any], ...] = ()
        try:
            shown = view(text)
            with themes.use(themes.current()):
                png = figures.png(shown.draw(), SCREEN_PIXELS_PER_INCH)  # the size at which `show` displays
                if shown.turn:
                    words, draw = shown.turn
                    data = {PLOTLY: json.loads(draw().to_json()), "text/plain": words}
                    outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)
        except Exception as error:
            status.value = f'<p role="alert">{html.escape(f"{text}: {type(error).__name__}: {error}")}</p>'
            picture.value = ""
        else:
            status.value = f'<p role="status">{html.escape(shown.status)}</p>'
            picture.value = _image(png, shown.alt)
        if turning is not None:
            turning.outputs = outputs

    for control in controls:
        control.observe(redraw, names="value")
    redraw()
    return status, picture


def _image(png: bytes, alt: str) -> str:
    data = b64encode(png).decode()
    return (
        f'<img style="max-width:100%;height:auto" alt="{html.escape(alt, quote=True)}" '
        f'src="data:image/png;base64,{data}">'
    )
