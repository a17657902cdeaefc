"""Pictures of the colour cube: slices, and error by hue and by similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from nbutils.plotting.expect import expect_rgb, expect_shape
from nbutils.plotting.labels import label_ends
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from studies.color_cube.data import HsvCube

CELL = 12  # pixels of the image per colour
INNER = slice(3, 9)  # of them, those of the inner patch
LEVELS = 4  # values with a line of their own
HUE_NAMES = ("red", "yellow", "green", "cyan", "blue", "magenta", "red")


def draw_cube_slice(ax: Axes, recon: np.ndarray, truth: np.ndarray) -> None:
    """Draw one slice of the HSV cube as patches: the outer part reconstructed, the inner part true.

    Args:
        ax: axes to draw in; hue runs to the right, value upwards from 0 to 1.
        recon: reconstructed colours `[V, H, 3]`; hues evenly spaced over [0, 1).
        truth: true colours, same shape.

    Raises:
        ValueError: the shapes differ, or a colour lies outside [0, 1].
    """
    recon = expect_rgb("recon", recon, ("V", "H", 3))
    truth = expect_rgb("truth", truth, recon.shape)
    rows, columns, _ = recon.shape
    cells = np.broadcast_to(recon[:, None, :, None], (rows, CELL, columns, CELL, 3)).copy()
    cells[:, INNER, :, INNER] = truth[:, None, :, None]
    ax.imshow(
        cells.reshape(rows * CELL, columns * CELL, 3),
        origin="lower",
        extent=(-0.5, columns - 0.5, -0.5, rows - 0.5),
        interpolation="nearest",
    )
    for spine in ax.spines.values():  # without a frame, white has no edge on white
        spine.set(visible=True, color=current().muted, linewidth=0.6)
    ax.tick_params(length=0)
    sixths = np.arange(6) * columns / 6
    ax.set_xticks(sixths, [f"{60 * i}°" for i in range(6)])
    ax.set_yticks([0, rows - 1], ["0", "1"])
    ax.set_xlabel("hue")
    ax.set_ylabel("value", labelpad=-8)


def plot_cube_slices(recon: np.ndarray, truth: np.ndarray, title: str) -> Figure:
    """Plot the HSV cube slice by slice: the outer part of each patch reconstructed, the inner part true.

    Args:
        recon: reconstructed colours `[S, V, H, 3]`; saturations and values evenly spaced over [0, 1], hues over [0, 1).
        truth: true colours, same shape.
        title: title of the figure.

    Raises:
        ValueError: the shapes differ, or a colour lies outside [0, 1].
    """
    recon = expect_rgb("recon", recon, ("S", "V", "H", 3))
    truth = expect_rgb("truth", truth, recon.shape)
    slices, rows, columns, _ = recon.shape
    saturation = np.linspace(0, 1, slices)
    across = min(slices, 2)
    down = -(-slices // across)
    panel = 7.4 / across
    fig = Figure(figsize=(8.0, 0.75 + down * (panel * rows / columns + 0.28)), layout="constrained")
    axes = fig.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[slices:]:
        ax.remove()
    for index, ax in enumerate(axes.flat[:slices]):
        draw_cube_slice(ax, recon[index], truth[index])
        ax.set_title(f"saturation {saturation[index]:.2g}", loc="left", fontsize="small")
        ax.label_outer()
    fig.suptitle(title)
    return fig


def draw_error_lines(
    ax: Axes,
    x: np.ndarray,
    error: np.ndarray,
    rgb: np.ndarray,
    labels: Sequence[str],
    *,
    max_error: float | None = None,
) -> None:
    """Draw errors as lines; each point of a line has the colour of its error.

    Args:
        ax: axes to draw in.
        x: positions `[points]`, increasing.
        error: squared errors `[lines, points]`.
        rgb: the colours `[lines, points, 3]`.
        labels: names of the lines, written at their right ends.
        max_error: upper limit of the y axis, to compare figures; the largest error when not given.

    Raises:
        ValueError: the shapes differ, or a colour lies outside [0, 1].
    """
    theme = current()
    error = expect_shape("error", error, ("lines", "points"))
    rgb = expect_rgb("rgb", rgb, (*error.shape, 3))
    x = expect_shape("x", x, (error.shape[1],))
    top = (error.max() if max_error is None else max_error) or 1.0
    _set_tight_limits(ax, x)
    ax.set_ylim(-0.03 * top, 1.06 * top)
    for line, colours in zip(error, rgb, strict=True):
        ax.plot(x, line, color=theme.ink, linestyle="-", linewidth=3.2, solid_capstyle="round")
        points = np.column_stack([x, line])
        segments = np.stack([points[:-1], points[1:]], axis=1)  # (points - 1, end, xy)
        between = (colours[:-1] + colours[1:]) / 2
        ax.add_collection(LineCollection(list(segments), colors=between, linewidths=2.2, capstyle="round", zorder=2))
    label_ends(ax, [(line[-1], label, theme.ink) for line, label in zip(error, labels, strict=True)])
    ax.grid(axis="y")
    ax.set_ylabel("squared error")


def draw_error_by_hue(ax: Axes, cube: HsvCube, mse: np.ndarray, *, max_error: float | None = None) -> None:
    """Draw the error of the most saturated colours along hue, one line for each of up to `LEVELS` values.

    Args:
        ax: axes to draw in.
        cube: the colours; its axes increase.
        mse: mean squared errors `[H, S, V]`.
        max_error: upper limit of the y axis; the largest error drawn when not given.

    Raises:
        ValueError: the shapes differ.
    """
    mse = expect_shape("mse", mse, cube.rgb.shape[:3])[:, -1]
    rows = _spread_rows(len(cube.value))
    labels = [f"value {cube.value[row]:.2g}" for row in rows]
    draw_error_lines(ax, cube.hue, mse.T[rows], cube.rgb[:, -1].swapaxes(0, 1)[rows], labels, max_error=max_error)
    ax.set_xticks(np.arange(7) / 6, [f"{60 * i}°\n{name}" for i, name in enumerate(HUE_NAMES)])
    _set_tight_limits(ax, cube.hue)
    ax.set_xlabel("hue")


def plot_error_vs_similarity(
    similarity: np.ndarray,
    errors: Mapping[str, np.ndarray],
    rgb: np.ndarray,
    *,
    powers: Mapping[str, float],
    titles: Mapping[str, str],
) -> Figure:
    """Plot the errors of colours against powers of their similarities, one dot of its own colour for each.

    A panel for each intervention, two in a row. The line is that of least squares, whose fit the correlation measures.

    Args:
        similarity: similarities to red `[N]`.
        errors: for each intervention squared errors `[N]`.
        rgb: the colours `[N, 3]`.
        powers: for each intervention the power of similarity.
        titles: for each the title of its panel.

    Raises:
        KeyError: an intervention has no power or no title.
        ValueError: there is no intervention, the shapes differ, or a colour lies outside [0, 1].
    """
    if not errors:
        raise ValueError("expected the errors of at least one intervention, got none")
    similarity = expect_shape("similarity", similarity, ("N",))
    rgb = expect_rgb("rgb", rgb, (*similarity.shape, 3))
    theme = current()
    across = min(len(errors), 2)
    down = -(-len(errors) // across)
    fig = Figure(figsize=(4.3 * across, 0.3 + 3.3 * down), layout="constrained")
    axes = fig.subplots(down, across, squeeze=False, sharey=True)
    for ax in axes.flat[len(errors) :]:
        ax.remove()
    for ax, (name, error) in zip(axes.flat, errors.items(), strict=False):
        x, y = similarity ** powers[name], expect_shape("error", error, similarity.shape)
        ax.scatter(x, y, s=13, c=rgb, edgecolors=theme.muted, linewidths=0.25, clip_on=False)
        slope, offset = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, offset + slope * ends, color=theme.paper, linestyle="-", linewidth=3.4)
        ax.plot(ends, offset + slope * ends, color=theme.ink, linestyle="--", linewidth=1.6)
        ax.set_xlabel(f"similarity to red, power {powers[name]:g}")
        ax.set_ylabel("squared error")
        ax.set_ylim(bottom=0)
        ax.set_title(titles[name], loc="left")
        ax.grid()
        ax.tick_params(labelleft=True)
    return fig


def _set_tight_limits(ax: Axes, x: np.ndarray) -> None:
    """Set the x axis to the extent of `x`, with room for the width of a line."""
    margin = 0.006 * (x[-1] - x[0])
    ax.set_xlim(x[0] - margin, x[-1] + margin)


def _spread_rows(count: int) -> list[int]:
    """Return up to `LEVELS` evenly spaced indices from the last down, without the first (black)."""
    indices = np.linspace(count - 1, 0, min(LEVELS, count) + 1).round().astype(int)[:-1]
    return np.unique(indices)[::-1].tolist()
