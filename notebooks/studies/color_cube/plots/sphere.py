"""Latents on a unit sphere, in perspective."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from nbutils.plotting.figures import SCREEN_PIXELS_PER_INCH
from nbutils.plotting.theme import current
from studies.color_cube.plots.latents import ColorLatents, check_dims

REACH = 1.3  # of the scene on each side of the centre
AXIS = 1.25  # likewise, of an axis
EYE = (1.0, -1.05, 0.55)  # where the camera stands, in widths of the scene
VIEW_ANGLE = np.pi / 4  # from the lower to the upper edge
WIDTH, HEIGHT = 640, 520  # CSS pixels


def plot_sphere(latents: ColorLatents, dims: tuple[int, int, int] = (0, 1, 2)) -> Figure:
    """Plot latents on a sphere with its wires and named axes; that of dimension 0 stands out.

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
    wires, _ = _seen(_wires())
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


def _wires() -> np.ndarray:
    """Return the wires of a unit sphere, `[N, 3]`: circles of latitude and meridians, apart by NaN."""
    turn = np.linspace(0, 2 * np.pi, 37)
    circles = [
        np.column_stack([np.cos(lat) * np.cos(turn), np.cos(lat) * np.sin(turn), np.full(len(turn), np.sin(lat))])
        for lat in np.radians([-60, -30, 0, 30, 60])
    ]
    circles += [
        np.column_stack([np.cos(lon) * np.cos(turn), np.sin(lon) * np.cos(turn), np.sin(turn)])
        for lon in np.radians([0, 30, 60, 90, 120, 150])
    ]
    return np.concatenate([part for circle in circles for part in (circle, np.full((1, 3), np.nan))])
