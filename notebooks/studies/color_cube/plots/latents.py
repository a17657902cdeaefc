"""Pictures of latents on the unit sphere, each point in the colour it encodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from nbutils.plotting.expect import expect_rgb, expect_shape
from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.theme import current
from studies.color_cube.plots.cubes import draw_cube_slice, draw_error_by_hue

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.axes import Axes

Dims = tuple[int, int, int | None]  # x, y, depth; None where every point is at the same depth
Cone = tuple[Sequence[float], float]  # direction `[K]`, half angle in radians

MAX_POINTS = 1000  # of a figure to turn
IN_PLANE = 1e-6  # how far from 1 the length of a cone's projected axis may be


def draw_latents(
    ax: Axes,
    latents: np.ndarray,
    rgb: np.ndarray,
    dims: Dims,
    *,
    cone: Cone | None = None,
    size: float = 42.0,
) -> None:
    """Draw latents on the unit sphere in orthographic projection, near ones large and over far ones.

    Args:
        ax: axes to draw in.
        latents: unit vectors `[N, K]`.
        rgb: colour of each `[N, 3]`.
        dims: the dimension drawn to the right, the one drawn upwards, and the one that faces the reader.
        cone: a direction `[K]` and a half angle in radians; its outline, and the chord behind which latents
            lie in the cone, are drawn where the direction lies in the plane of x and y.
        size: area of the nearest points, in points squared.

    Raises:
        ValueError: the shapes differ, a colour lies outside [0, 1], or a cone has no direction.
        IndexError: the latents have no such dimension.
    """
    theme = current()
    latents = expect_shape("latents", latents, ("N", "K"))
    rgb = expect_rgb("rgb", rgb, (len(latents), 3))
    for dim in dims:
        if dim is not None and not 0 <= dim < latents.shape[1]:
            raise IndexError(f"expected dimensions from 0 to {latents.shape[1] - 1}, got {dims}")
    x, y, depth = dims
    near = np.zeros(len(latents)) if depth is None else latents[:, depth]
    order = np.argsort(near, kind="stable")
    share = (np.clip(near[order], -1, 1) + 1) / 2  # 0 far, 1 near
    haze = (0.4 * (1 - share))[:, None]  # far points fade into the paper
    ink, paper = np.array(to_rgb(theme.ink)), np.array(to_rgb(theme.paper))
    faces = rgb[order] * (1 - haze) + paper * haze
    ax.add_patch(Circle((0, 0), 1, facecolor="none", edgecolor=theme.muted, linewidth=1.0))
    ax.scatter(
        *latents[order][:, [x, y]].T,
        s=size * (0.3 + 0.7 * share) ** 2,
        c=faces,
        # Each edge leans towards the ink, so that white shows on white and black on black.
        edgecolors=0.6 * faces + 0.4 * (ink * (1 - haze) + paper * haze),
        linewidths=0.055 * size**0.5,
        zorder=2,
    )
    if cone is not None:
        outline = _cone_outline(cone, x, y, latents.shape[1])
        if outline is not None:
            # Two strokes, so that the outline shows on any colour.
            ax.plot(*outline.T, color=theme.paper, linestyle="-", linewidth=2.6, zorder=3)
            ax.plot(*outline.T, color=theme.ink, linestyle=(0, (4, 3)), linewidth=1.2, zorder=3)
    ax.set_aspect("equal")
    ax.set_xlim(-1.08, 1.08)
    ax.set_ylim(-1.08, 1.08)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel(f"dimension {x} →", fontsize=FONT_SIZE)
    ax.set_ylabel(f"dimension {y} →", fontsize=FONT_SIZE)
    for spine in ax.spines.values():
        spine.set_visible(False)


def plot_latent_grid(
    latents: np.ndarray,
    rgb: np.ndarray,
    dims: Sequence[Dims],
    *,
    cone: Cone | None = None,
    title: str = "",
) -> Figure:
    """Plot latents on the unit sphere from several sides, three panels a row.

    Args:
        latents: unit vectors `[N, K]`; some hundreds show more than many thousands.
        rgb: colour of each `[N, 3]`.
        dims: for each panel the dimension drawn to the right, the one drawn upwards, and the one that faces
            the reader (or None).
        cone: a direction `[K]` and a half angle in radians, outlined where the direction lies in the plane.
        title: title of the figure.

    Raises:
        ValueError: the shapes differ, a colour lies outside [0, 1], or there is no panel.
        IndexError: the latents have no such dimension.
    """
    if not dims:
        raise ValueError("expected at least one (x, y, depth), got none")
    across = min(len(dims), 3)
    down = -(-len(dims) // across)
    fig = Figure(figsize=(8.0, 0.4 + 2.65 * down * 3 / max(across, 2)), layout="constrained")
    axes = fig.subplots(down, across, squeeze=False)
    for index, ax in enumerate(axes.flat):
        if index >= len(dims):
            ax.remove()
            continue
        draw_latents(ax, latents, rgb, dims[index], cone=cone, size=_size(len(latents)))
    if title:
        fig.suptitle(title)
    return fig


def plot_stacked(
    latents: np.ndarray,
    rgb: np.ndarray,
    slice_recon: np.ndarray,
    slice_truth: np.ndarray,
    hue: np.ndarray,
    value: np.ndarray,
    mse: np.ndarray,
    mse_rgb: np.ndarray,
    *,
    dims: tuple[Dims, Dims],
    cone: Cone | None = None,
    max_error: float | None = None,
    title: str = "",
) -> Figure:
    """Plot one intervention for the paper: two views of the latents, a slice of the colours, the error.

    Args:
        latents: unit vectors `[N, K]`.
        rgb: colour of each latent `[N, 3]`.
        slice_recon: reconstructed colours `[V, H, 3]` of one saturation; hues evenly spaced over [0, 1).
        slice_truth: true colours, same shape.
        hue: hues `[H']` of the errors, in [0, 1], increasing.
        value: values `[V']` of the errors, increasing.
        mse: mean squared error `[H', V']` of one saturation.
        mse_rgb: the colours of the errors `[H', V', 3]`.
        dims: for each of the two views (x, y, depth), as in `draw_latents`.
        cone: a direction `[K]` and a half angle in radians, outlined where the direction lies in the plane.
        max_error: upper limit of the error axis; give the same to all interventions that are compared.
        title: title of the figure.

    Raises:
        ValueError: the shapes differ or a colour lies outside [0, 1].
        IndexError: the latents have no such dimension.
    """
    fig = Figure(figsize=(7.0, 7.6), layout="constrained")
    axes = fig.subplot_mosaic("ab;ss;ee", height_ratios=[3.3, 1.9, 1.9])
    for key, view in zip("ab", dims, strict=True):
        draw_latents(axes[key], latents, rgb, view, cone=cone, size=_size(len(latents)))
    draw_cube_slice(axes["s"], slice_recon, slice_truth)
    axes["s"].set_aspect("auto")
    axes["s"].set_xlabel("")
    draw_error_by_hue(axes["e"], hue, value, mse, mse_rgb, max_error=max_error)
    if title:
        fig.suptitle(title)
    return fig


def latent_sphere(latents: np.ndarray, rgb: np.ndarray, dims: tuple[int, int, int] = (0, 1, 2)) -> go.Figure:
    """Return latents on a sphere to turn, with its wires and named axes; that of dimension 0 stands out.

    Coordinates are rounded to 4 decimals, and of more than 1,000 points every n-th is shown, so that a
    notebook stays small.

    Args:
        latents: unit vectors `[N, K]`.
        rgb: colour of each `[N, 3]`.
        dims: the dimensions on the three axes.

    Raises:
        ValueError: the shapes differ or a colour lies outside [0, 1].
        IndexError: the latents have no such dimension.
    """
    import plotly.graph_objects as go

    theme = current()
    latents = expect_shape("latents", latents, ("N", "K"))
    rgb = expect_rgb("rgb", rgb, (len(latents), 3))
    if not all(0 <= dim < latents.shape[1] for dim in dims):
        raise IndexError(f"expected dimensions from 0 to {latents.shape[1] - 1}, got {dims}")
    every = -(-len(latents) // MAX_POINTS) or 1
    points = _rounded(latents[::every][:, list(dims)])
    fig = go.Figure()
    fig.add_scatter3d(
        **dict(zip("xyz", _wires(), strict=True)),
        mode="lines",
        line={"color": theme.muted, "width": 1},
        opacity=0.5,
        hoverinfo="skip",
        name="unit sphere",
    )
    for place, dim in enumerate(dims):
        ends = np.zeros((2, 3))
        ends[:, place] = -1.25, 1.25
        colour = theme.muted if dim else theme.ink
        fig.add_scatter3d(
            **dict(zip("xyz", _rounded(ends), strict=True)),
            mode="lines+text",
            line={"color": colour, "width": 2 if dim else 5},
            text=["", f"dimension {dim}"],
            textposition="top center",
            textfont={"color": colour},
            hoverinfo="skip",
            name=f"dimension {dim}",
        )
    hover = "<br>".join(f"dimension {dim}: %{{{axis}:.3f}}" for axis, dim in zip("xyz", dims, strict=True))
    fig.add_scatter3d(
        **dict(zip("xyz", points, strict=True)),
        mode="markers",
        marker={
            "color": [to_hex(colour) for colour in rgb[::every]],
            "size": 5,
            "line": {"color": theme.muted, "width": 0.5},
        },
        hovertemplate="%{marker.color}<br>" + hover + "<extra></extra>",
        name="latents",
    )
    axis = {"range": [-1.3, 1.3], "visible": False}
    fig.update_layout(
        showlegend=False,
        width=640,
        height=520,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        scene={
            "aspectmode": "cube",
            "camera": {"eye": {"x": 1.0, "y": -1.05, "z": 0.55}},
            "xaxis": axis,
            "yaxis": axis,
            "zaxis": axis,
        },
    )
    return fig


def _cone_outline(cone: Cone, x: int, y: int, dimensions: int) -> np.ndarray | None:
    """Return the outline `[4, 2]` of a cone on the x-y plane, or None where its axis leaves the plane."""
    direction, half_angle = cone
    direction = expect_shape("the cone's direction", np.asarray(direction), (dimensions,))
    length = np.linalg.norm(direction)
    if length == 0:
        raise ValueError("expected a cone with a direction, got the zero vector")
    across, up = direction[[x, y]] / length
    if np.hypot(across, up) < 1 - IN_PLANE:
        return None
    middle = np.arctan2(up, across)
    rim = [(np.cos(middle + turn), np.sin(middle + turn)) for turn in (-half_angle, half_angle)]
    return np.array([rim[0], (0.0, 0.0), rim[1], rim[0]])


def _size(points: int) -> float:
    """Return an area for the dots, in points squared, that lets this many be told apart in a panel."""
    return float(np.clip(26_000 / max(points, 1), 5, 60))


def _rounded(points: np.ndarray) -> list[list[float]]:
    """Return the columns of `[N, 3]` as lists of numbers with 4 decimals, without negative zeros."""
    return (np.round(points, 4) + 0.0).T.tolist()


def _wires() -> list[list[float | None]]:
    """Return x, y and z of the wires of a unit sphere: circles of latitude and meridians, apart by None."""
    turn = np.linspace(0, 2 * np.pi, 37)
    circles = [
        np.column_stack([np.cos(lat) * np.cos(turn), np.cos(lat) * np.sin(turn), np.full(len(turn), np.sin(lat))])
        for lat in np.radians([-60, -30, 0, 30, 60])
    ]
    circles += [
        np.column_stack([np.cos(lon) * np.cos(turn), np.sin(lon) * np.cos(turn), np.sin(turn)])
        for lon in np.radians([0, 30, 60, 90, 120, 150])
    ]
    columns: list[list[float | None]] = [[], [], []]
    for circle in circles:
        for column, coordinates in zip(columns, _rounded(circle), strict=True):
            column += [*coordinates, None]
    return columns
