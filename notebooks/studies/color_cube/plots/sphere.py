"""Latents on a unit sphere to turn, with plotly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from nbutils.plotting.figures import SCREEN_PIXELS_PER_INCH
from nbutils.plotting.theme import current
from studies.color_cube.plots.latents import ColorLatents, check_dims

if TYPE_CHECKING:
    import plotly.graph_objects as go

MAX_POINTS = 1000  # of a figure to turn
REACH = 1.3  # of the scene on each side of the centre
AXIS = 1.25  # likewise, of an axis
EYE = (1.0, -1.05, 0.55)  # where the camera stands at first, in widths of the scene
VIEW_ANGLE = np.pi / 4  # plotly's, from the lower to the upper edge
WIDTH, HEIGHT = 640, 520  # CSS pixels


def latent_sphere(latents: ColorLatents, dims: tuple[int, int, int] = (0, 1, 2)) -> go.Figure:
    """Return latents on a sphere to turn, with its wires and named axes; that of dimension 0 stands out.

    Coordinates are rounded to 4 decimals, and of more than `MAX_POINTS` points every n-th is shown: a notebook stays
    small.

    Args:
        latents: the latents; a cone is not drawn.
        dims: the dimensions on the three axes.

    Raises:
        IndexError: the latents have no such dimension.
    """
    import plotly.graph_objects as go

    check_dims(dims, latents.points.shape[1])
    fig = go.Figure()
    fig.add_scatter3d(
        **dict(zip("xyz", _wires(), strict=True)),
        mode="lines",
        line={"color": current().muted, "width": 1},
        opacity=0.5,
        hoverinfo="skip",
        name="unit sphere",
    )
    _add_axes(fig, dims)
    _add_points(fig, latents, dims)
    axis = {"range": [-REACH, REACH], "visible": False}
    fig.update_layout(
        showlegend=False,
        width=WIDTH,
        height=HEIGHT,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        scene={
            "aspectmode": "cube",
            "camera": {"eye": dict(zip("xyz", EYE, strict=True))},
            "xaxis": axis,
            "yaxis": axis,
            "zaxis": axis,
        },
    )
    return fig


def sphere_picture(latents: ColorLatents, dims: tuple[int, int, int] = (0, 1, 2)) -> Figure:
    """Return what `latent_sphere` shows before it is turned, as a picture.

    Args:
        latents: the latents; a cone is not drawn.
        dims: the dimensions on the three axes.

    Raises:
        IndexError: the latents have no such dimension.
    """
    check_dims(dims, latents.points.shape[1])
    theme = current()
    fig = Figure(figsize=(WIDTH / SCREEN_PIXELS_PER_INCH, HEIGHT / SCREEN_PIXELS_PER_INCH))
    fig.set_layout_engine("none")
    ax = fig.add_axes((0, 0, 1, 1))
    top = 2 * REACH * np.linalg.norm(EYE) * np.tan(VIEW_ANGLE / 2)
    ax.set(xlim=(-top * WIDTH / HEIGHT, top * WIDTH / HEIGHT), ylim=(-top, top))
    ax.set_axis_off()
    wires, _ = _seen(np.array(_wires(), dtype=float).T)
    ax.plot(*wires.T, color=theme.muted, linestyle="-", linewidth=0.75, alpha=0.5)
    for place, dim in enumerate(dims):
        ends, _ = _seen(np.outer([-AXIS, AXIS], np.eye(3)[place]))
        colour, width = (theme.muted, 1.2) if dim else (theme.ink, 3)
        ax.plot(*ends.T, color=colour, linestyle="-", linewidth=width)
        away = 8 * (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])  # points, beyond the end
        name = ax.annotate(f"dimension {dim}", ends[1], away, textcoords="offset points", color=colour)
        name.set(horizontalalignment="left" if away[0] > 1 else "center", verticalalignment="center")
    points, scale = _seen(latents.points[:, list(dims)])
    order = np.argsort(scale, kind="stable")  # far ones first
    x, y = points[order].T
    ax.scatter(
        x,
        y,
        s=22 * scale[order] ** 2,
        c=latents.rgb[order],
        edgecolors=theme.muted,
        linewidths=0.4,
        zorder=2,
    )
    return fig


def _seen(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where points `[N, 3]` are seen from the eye `[N, 2]`, and how much perspective enlarges them `[N]`."""
    eye = 2 * REACH * np.array(EYE)
    distance = np.linalg.norm(eye)
    towards = eye / distance
    right = np.cross([0.0, 0.0, 1.0], towards)
    right /= np.linalg.norm(right)
    scale = distance / (distance - points @ towards)
    return points @ np.column_stack([right, np.cross(towards, right)]) * scale[:, None], scale


def _add_axes(fig: go.Figure, dims: tuple[int, int, int]) -> None:
    """Add one line for each axis, named at its positive end."""
    theme = current()
    for place, dim in enumerate(dims):
        ends = np.zeros((2, 3))
        ends[:, place] = -AXIS, AXIS
        colour = theme.muted if dim else theme.ink
        fig.add_scatter3d(
            **dict(zip("xyz", _round(ends), strict=True)),
            mode="lines+text",
            line={"color": colour, "width": 2 if dim else 5},
            text=["", f"dimension {dim}"],
            textposition="top center",
            textfont={"color": colour},
            hoverinfo="skip",
            name=f"dimension {dim}",
        )


def _add_points(fig: go.Figure, latents: ColorLatents, dims: tuple[int, int, int]) -> None:
    """Add up to `MAX_POINTS` latents as dots that say their colour and their place."""
    every = -(-len(latents.points) // MAX_POINTS) or 1
    hover = "<br>".join(f"dimension {dim}: %{{{axis}:.3f}}" for axis, dim in zip("xyz", dims, strict=True))
    fig.add_scatter3d(
        **dict(zip("xyz", _round(latents.points[::every][:, list(dims)]), strict=True)),
        mode="markers",
        marker={
            "color": [to_hex(colour) for colour in latents.rgb[::every]],
            "size": 5,
            "line": {"color": current().muted, "width": 0.5},
        },
        hovertemplate="%{marker.color}<br>" + hover + "<extra></extra>",
        name="latents",
    )


def _round(points: np.ndarray) -> list[list[float]]:
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
        for column, coordinates in zip(columns, _round(circle), strict=True):
            column += [*coordinates, None]
    return columns
