"""Pictures of latents on the unit sphere: each point has the colour whose latent it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from nbutils.plotting.expect import expect_rgb, expect_shape
from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.theme import current
from studies.color_cube.plots.cubes import draw_cube_slice, draw_error_by_hue

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from studies.color_cube.data import HsvCube

Dims = tuple[int | None, int | None, int | None]  # x, y, depth; every point is at 0 of a dimension None
Cone = tuple[Sequence[float] | np.ndarray, float]  # direction `[K]`, half angle in radians

IN_PLANE = 1e-6  # how far from 1 the length of a cone's projected axis may be
INNER_AREA = 0.35  # of a point's area, for what becomes of its colour
DASHED, DOTTED = (0, (4, 3)), (0, (1, 2))


@dataclass(frozen=True)
class ColorLatents:
    """Latents of colours.

    Attributes:
        points: unit vectors `[N, K]`; some hundreds show more than many thousands.
        rgb: their colours `[N, 3]` in [0, 1].
        cone: a direction `[K]` and a half angle in radians, to outline.
        recon: what becomes of the colours, `[N, 3]` in [0, 1]: drawn within them.

    Raises:
        ValueError: the shapes differ, a colour lies outside [0, 1], or a cone has no direction.
    """

    points: np.ndarray
    rgb: np.ndarray
    cone: Cone | None = None
    recon: np.ndarray | None = None

    def __post_init__(self) -> None:
        points = expect_shape("latents", self.points, ("N", "K"))
        rgb = expect_rgb("rgb", self.rgb, (len(points), 3))
        if self.cone and not expect_shape("the cone's direction", self.cone[0], (points.shape[1],)).any():
            raise ValueError("expected a cone with a direction, got the zero vector")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "rgb", rgb)
        if self.recon is not None:
            object.__setattr__(self, "recon", expect_rgb("recon", self.recon, rgb.shape))


def draw_latents(ax: Axes, latents: ColorLatents, dims: Dims) -> None:
    """Draw latents on the unit sphere in orthographic projection, near ones large and over far ones.

    A cone is outlined where it meets the sphere of the three dimensions: by a chord where its direction lies in the
    plane, latents beyond it being inside, else by an ellipse whose far half is dotted. A dimension of None makes the
    view one of two dimensions, or of one.

    Args:
        ax: axes to draw in.
        latents: the latents.
        dims: the dimension to the right, the one upwards, and the one towards the reader.

    Raises:
        IndexError: the latents have no such dimension.
    """
    theme = current()
    points, rgb = latents.points, latents.rgb
    check_dims(dims, points.shape[1])
    x, y, _ = dims
    across, up, near = (np.zeros(len(points)) if dim is None else points[:, dim] for dim in dims)
    order = np.argsort(near, kind="stable")
    share = (np.clip(near[order], -1, 1) + 1) / 2  # 0 far, 1 near
    haze = (0.4 * (1 - share))[:, None]  # far points fade into the paper
    ink, paper = np.array(to_rgb(theme.ink)), np.array(to_rgb(theme.paper))
    faces = rgb[order] * (1 - haze) + paper * haze
    # Each edge leans towards the ink: white shows on white, black on black.
    edges = 0.6 * faces + 0.4 * (ink * (1 - haze) + paper * haze)
    scale = (0.3 + 0.7 * share) ** 2
    if latents.recon is not None:  # each point twice, the inner one right after the outer one
        inner = latents.recon[order] * (1 - haze) + paper * haze
        order, faces, edges = np.repeat(order, 2), _alternate(faces, inner), _alternate(edges, inner)
        scale = _alternate(scale, INNER_AREA * scale)
    size = float(np.clip(26_000 / max(len(points), 1), 5, 60))  # points squared: as many can be told apart in a panel
    ax.add_patch(Circle((0, 0), 1, facecolor="none", edgecolor=theme.muted, linewidth=1.0))
    ax.scatter(
        across[order],
        up[order],
        s=size * scale,
        c=faces,
        edgecolors=edges.tolist(),
        linewidths=0.055 * size**0.5,
        zorder=2,
    )
    for outline, pattern in _cone_outlines(latents.cone, dims) if latents.cone else ():
        # Two strokes show on any colour.
        ax.plot(*outline.T, color=theme.paper, linestyle="-", linewidth=2.6, zorder=3)
        ax.plot(*outline.T, color=theme.ink, linestyle=pattern, linewidth=1.2, zorder=3)
    ax.set(aspect="equal", xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), xticks=[], yticks=[])
    ax.set_xlabel("" if x is None else f"dimension {x} →", fontsize=FONT_SIZE)
    ax.set_ylabel("" if y is None else f"dimension {y} →", fontsize=FONT_SIZE)
    for spine in ax.spines.values():
        spine.set_visible(False)


def plot_latent_grid(latents: ColorLatents, dims: Sequence[Dims], *, title: str = "") -> Figure:
    """Plot latents on the unit sphere from several sides, three panels per row.

    Args:
        latents: the latents.
        dims: for each panel (x, y, depth), as in `draw_latents`.
        title: title of the figure.

    Raises:
        ValueError: there is no panel.
        IndexError: the latents have no such dimension.
    """
    if not dims:
        raise ValueError("expected at least one (x, y, depth), got none")
    across = min(len(dims), 3)
    down = -(-len(dims) // across)
    fig = Figure(figsize=(8.0, 0.4 + 2.65 * down * 3 / max(across, 2)), layout="constrained")
    axes = fig.subplots(down, across, squeeze=False)
    for ax in axes.flat[len(dims) :]:
        ax.remove()
    for ax, view in zip(axes.flat, dims, strict=False):
        draw_latents(ax, latents, view)
    if title:
        fig.suptitle(title)
    return fig


def plot_stacked(
    latents: ColorLatents,
    recon: np.ndarray,
    truth: np.ndarray,
    cube: HsvCube,
    mse: np.ndarray,
    *,
    dims: tuple[Dims, Dims],
    max_error: float | None = None,
    title: str = "",
) -> Figure:
    """Plot one intervention for the paper: two views of the latents, a slice of the colours, the error along hue.

    Args:
        latents: the latents.
        recon: reconstructed colours `[V, H, 3]` of one saturation; hues evenly spaced over [0, 1).
        truth: true colours, same shape.
        cube: the colours whose errors are given; its axes increase.
        mse: mean squared errors `[H', S', V']` over `cube`; those of the largest saturation are drawn.
        dims: for each of the two views (x, y, depth), as in `draw_latents`.
        max_error: upper limit of the error axis; the same for all compared interventions.
        title: title of the figure.

    Raises:
        ValueError: the shapes differ, or a colour lies outside [0, 1].
        IndexError: the latents have no such dimension.
    """
    fig = Figure(figsize=(6.6, 6.8), layout="constrained")
    axes = fig.subplot_mosaic("ab;ss;ee", height_ratios=[3.2, 1.7, 1.9])
    for key, view in zip("ab", dims, strict=True):
        draw_latents(axes[key], latents, view)
    draw_cube_slice(axes["s"], recon, truth)
    axes["s"].set_aspect("auto")
    axes["s"].set_xlabel("")
    draw_error_by_hue(axes["e"], cube, mse, max_error=max_error)
    if title:
        fig.suptitle(title)
    return fig


def check_dims(dims: Dims, width: int) -> None:
    """Check that latents of a width have these dimensions.

    Raises:
        IndexError: they have not.
    """
    if not all(dim is None or 0 <= dim < width for dim in dims):
        raise IndexError(f"expected dimensions from 0 to {width - 1}, got {dims}")


def _alternate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return both arrays `[N, ...]` row by row in turn: `[2·N, ...]`."""
    return np.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


def _cone_outlines(cone: Cone, dims: Dims) -> list[tuple[np.ndarray, Any]]:
    """Return the outlines `[N, 2]` of a cone in a view, each with its dashes; none where it misses its sphere."""
    direction, half_angle = np.asarray(cone[0], dtype=float), cone[1]
    unit = direction / np.linalg.norm(direction)
    seen = np.array([0.0 if dim is None else unit[dim] for dim in dims])
    length = np.linalg.norm(seen)
    if length < IN_PLANE or abs(height := np.cos(half_angle) / length) > 1:
        return []
    seen /= length
    radius = np.sqrt(1 - height**2)
    if np.hypot(*seen[:2]) > 1 - IN_PLANE or dims[2] is None:  # edge on: a chord, closed at the centre
        side = radius * np.array([-seen[1], seen[0]])
        rim = height * seen[:2] - side, height * seen[:2] + side
        if abs(height) < IN_PLANE:  # a half-space: the way back over the centre would fill the dashes
            return [(np.array(rim), DASHED)]
        return [(np.array([rim[0], (0.0, 0.0), rim[1], rim[0]]), DASHED)]
    right = np.cross([0.0, 0.0, 1.0], seen) if np.hypot(*seen[:2]) > IN_PLANE else np.array([1.0, 0.0, 0.0])
    right /= np.linalg.norm(right)
    turns = np.linspace(0, 2 * np.pi, 181)[:, None]
    circle = height * seen + radius * (np.cos(turns) * right + np.sin(turns) * np.cross(seen, right))
    front = circle[:, 2] >= -IN_PLANE
    halves = [
        (np.where(here[:, None], circle[:, :2], np.nan), dashes) for here, dashes in ((front, DASHED), (~front, DOTTED))
    ]
    return [(half, dashes) for half, dashes in halves if np.isfinite(half).any()]
