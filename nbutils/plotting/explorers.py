"""What the explorers of all notebooks share: pictures that a control redraws."""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt

from nbutils.plotting import theme as themes
from nbutils.plotting.figures import SCREEN_PIXELS_PER_INCH

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Result = Mapping[str, Any]
KEYS = ("recon", "truth", "latents", "rgb")
UNIT_KEYS = ("before", "after", "images", "answers_before", "answers_after", "labels")
CIRCUIT_KEYS = ("edges", "curve", "kept")
MAX_EXAMPLES = 12


def _expect_keys(result: Result, keys: Sequence[str]) -> None:
    if missing := [key for key in keys if key not in result]:
        raise KeyError(f"expected {', '.join(keys)} from evaluate, got none called {missing}")


def _image(png: bytes, alt: str) -> str:
    data = b64encode(png).decode()
    return (
        f'<img style="max-width:100%;height:auto" alt="{html.escape(alt, quote=True)}" '
        f'src="data:image/png;base64,{data}">'
    )


def _png(draw: Callable[[], Figure]) -> bytes:
    out = BytesIO()
    with themes.use(themes.current()):
        fig = draw()
        try:
            fig.savefig(out, format="png", dpi=SCREEN_PIXELS_PER_INCH)  # the size at which `show` displays
        finally:
            plt.close(fig)
    return out.getvalue()
