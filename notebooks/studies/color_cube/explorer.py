"""The explorer: the colour cube and its latents under an intervention of a chosen strength."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from nbutils.plotting.expect import expect_keys
from nbutils.plotting.explorers import Result, View, redrawn
from studies.color_cube.plots.cubes import plot_cube_slices
from studies.color_cube.plots.latents import ColorLatents
from studies.color_cube.plots.sphere import latent_sphere

if TYPE_CHECKING:
    import ipywidgets
    import plotly.graph_objects as go

KEYS = ("recon", "truth", "latents", "rgb")


def view_cube(result: Result) -> Figure:
    """Draw the colour cube of an evaluation: outer patches reconstructed, inner ones true.

    Args:
        result: `recon` and `truth` `[S, V, H, 3]` in [0, 1], `latents` `[N, K]` and their colours `rgb` `[N, 3]`,
            optionally `title`.

    Raises:
        KeyError: one of these is missing.
        ValueError: the shapes differ, or a colour lies outside [0, 1].
    """
    expect_keys(result, KEYS)
    return plot_cube_slices(result["recon"], result["truth"], result.get("title", ""))


def view_sphere(result: Result) -> go.Figure:
    """Draw the latents of an evaluation on a sphere to turn.

    Args:
        result: as for `view_cube`.

    Raises:
        KeyError: one of these is missing.
        ValueError: the shapes differ, or a colour lies outside [0, 1].
    """
    expect_keys(result, KEYS)
    return latent_sphere(ColorLatents(result["latents"], result["rgb"]))


def color_cube_explorer(
    evaluate: Callable[[int, str, float], Result], seeds: Sequence[int], plans: Sequence[str]
) -> ipywidgets.VBox:
    """Return controls for seed, intervention and strength above the resulting colour cube and latents.

    For readers without a kernel the next cell shows the first choice: `view_cube` and `view_sphere` of `evaluate(…)`.

    Args:
        evaluate: (seed, intervention, strength in [0, 1]) -> the arrays of `view_cube`.
        seeds: the choice of seeds; the first is shown first.
        plans: the choice of interventions; the first is shown first.

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
    controls, sphere = [seed, plan, strength], ipywidgets.Output()

    def view(chosen: str) -> View:
        result = evaluate(seed.value, plan.value, strength.value)
        alt = f"Slices of the colour cube, reconstructed around true colours: {chosen}"
        sphere_of = f"Latents on the unit sphere: {chosen}", lambda: view_sphere(result)
        return View(chosen, alt, lambda: view_cube(result), sphere_of)

    status, cube = redrawn(
        controls, lambda: f"seed {seed.value}, {plan.value}, strength {strength.value:.2f}", view, turning=sphere
    )
    return ipywidgets.VBox([ipywidgets.HBox(controls), status, cube, sphere])
