"""Explorers: widgets that redisplay a picture which the next cell of the notebook also draws without them.

The figures are ordinary matplotlib and plotly figures, redrawn on every change; no widget holds results.
Store notebooks without widget state.
"""

from __future__ import annotations

import html
import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt

from nbutils.plotting import theme as themes
from nbutils.plotting.color_cubes import plot_cube_slices
from nbutils.plotting.figures import PLOTLY, SCREEN_PIXELS_PER_INCH
from nbutils.plotting.latents import latent_sphere

if TYPE_CHECKING:
    import ipywidgets
    import plotly.graph_objects as go
    from matplotlib.figure import Figure

Result = Mapping[str, Any]
KEYS = ("recon", "truth", "latents", "rgb")


def view_cube(result: Result) -> Figure:
    """Draw the colour cube of an evaluation: outer patches reconstructed, inner ones true.

    Args:
        result: `recon` and `truth` `[S, V, H, 3]`, `latents` `[N, K]`, `rgb` `[N, 3]`, optionally `title`.

    Raises:
        KeyError: one of these is missing.
    """
    _expect_keys(result)
    return plot_cube_slices(result["recon"], result["truth"], result.get("title", ""))


def view_sphere(result: Result) -> go.Figure:
    """Draw the latents of an evaluation on a sphere to turn.

    Args:
        result: as for `view_cube`.

    Raises:
        KeyError: a part of the result is missing.
    """
    _expect_keys(result)
    return latent_sphere(result["latents"], result["rgb"])


def color_cube_explorer(
    evaluate: Callable[[int, str, float], Result], seeds: Sequence[int], plans: Sequence[str]
) -> ipywidgets.VBox:
    """Return controls for seed, intervention and strength above the colour cube and the latents they give.

    The next cell should show the same without a kernel: `view_cube` and `view_sphere` of `evaluate(...)`.

    Args:
        evaluate: takes a seed, an intervention and a strength in [0, 1]; returns the arrays of `view_cube`.
        seeds: the seeds to choose from; the first is shown first.
        plans: the interventions to choose from; the first is shown first.

    Raises:
        ValueError: there are no seeds or no plans.
    """
    import ipywidgets

    if not len(seeds) or not len(plans):
        raise ValueError(f"expected at least one seed and one plan, got {len(seeds)} and {len(plans)}")
    seed = ipywidgets.Dropdown(options=list(seeds), description="Seed")
    plan = ipywidgets.Dropdown(options=list(plans), description="Intervention")
    # Not while the handle moves: an evaluation takes longer than a frame.
    strength = ipywidgets.FloatSlider(
        value=1.0, min=0.0, max=1.0, step=0.05, description="Strength", continuous_update=False
    )
    status, cube, sphere = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.Output()

    def redraw(_: object = None) -> None:
        chosen = f"seed {seed.value}, {plan.value}, strength {strength.value:.2f}"
        try:
            result = evaluate(seed.value, plan.value, strength.value)
            picture, latents = _png(result), json.loads(view_sphere(result).to_json())
        except Exception as error:  # a callback's exception would vanish in the log, with a stale picture left
            status.value = f'<p role="alert">{html.escape(f"{chosen}: {type(error).__name__}: {error}")}</p>'
            cube.value, sphere.outputs = "", ()
            return
        status.value = f'<p role="status">{html.escape(chosen)}</p>'
        alt = html.escape(f"Slices of the colour cube, reconstructed around true colours: {chosen}", quote=True)
        data = b64encode(picture).decode()
        cube.value = f'<img style="max-width:100%;height:auto" alt="{alt}" src="data:image/png;base64,{data}">'
        text = f"Latents on the unit sphere: {chosen}"
        sphere.outputs = (
            {"output_type": "display_data", "data": {PLOTLY: latents, "text/plain": text}, "metadata": {}},
        )

    for control in (seed, plan, strength):
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([ipywidgets.HBox([seed, plan, strength]), status, cube, sphere])


def _expect_keys(result: Result) -> None:
    if missing := [key for key in KEYS if key not in result]:
        raise KeyError(f"expected {', '.join(KEYS)} from evaluate, got none called {missing}")


def _png(result: Result) -> bytes:
    out = BytesIO()
    with themes.use(themes.current()):
        fig = view_cube(result)
        try:
            fig.savefig(out, format="png", dpi=SCREEN_PIXELS_PER_INCH)  # the size at which `show` displays
        finally:
            plt.close(fig)
    return out.getvalue()
