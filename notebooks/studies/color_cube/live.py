"""The live figure: the autoencoder itself, its latents on a sphere, the cube as it comes out, and the errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor, nn

from nbutils.plotting.live import LiveFigure
from nbutils.plotting.theme import current
from studies.color_cube.data import RED_HSV, coarse_hsv_cube, rgb_grid
from studies.color_cube.frontier import UNLIKE
from studies.color_cube.measures import rgb_similarity
from studies.color_cube.network import ColorMLP

SCRIPT = "notebooks/studies/color_cube/cube.js"
GRID = 20  # points per axis of the colours that collateral is measured on
YAW, PITCH = 335.0, 15.0  # degrees: from where the sphere is seen first
LOWEST, HIGHEST = -7, 0  # decades of the error axis; what lies beyond stands at its end
WIDTH, SMALL = 8.53, 8.0  # inches, as wide as the three canvases; points
ABOUT = """
The network runs in this page: take red out of it with the strength, brush colours in the middle to find them in the
other two panels, then try the direction found afterwards.
"""


@dataclass(frozen=True)
class Seed:
    """The networks of one seed.

    Attributes:
        label: what the choice calls it.
        anchored: trained with red on the first axis.
        plain: trained without.
        direction: of red in the plain one, found afterwards, `[K]`.
    """

    label: str
    anchored: ColorMLP
    plain: ColorMLP
    direction: Tensor


def live_cube(seeds: Sequence[Seed]) -> LiveFigure:
    """Return the autoencoders of some seeds, to move; the first seed without its anchored axis is shown first.

    Raises:
        ValueError: there are no seeds, or two have one label.
    """
    labels = [seed.label for seed in seeds]
    if not labels or len(set(labels)) < len(labels):
        raise ValueError(f"expected seeds with labels of their own, got {labels}")
    cube = coarse_hsv_cube()
    rgb = np.moveaxis(cube.rgb, 0, 2).reshape(-1, 3)  # (saturation · value · hue, 3)
    grid = rgb_grid(GRID).reshape(-1, 3)
    similarity = rgb_similarity(rgb, RED_HSV)
    latents, recon = first_view(seeds[0].anchored, rgb)
    errors = np.square(recon - rgb).mean(-1)
    data = {
        "seeds": [
            {
                "label": seed.label,
                "anchored": _weights(seed.anchored),
                "plain": _weights(seed.plain),
                "direction": seed.direction.float(),
            }
            for seed in seeds
        ],
        "rgb": rgb.astype(np.float32),
        "similarity": similarity.astype(np.float32),
        "hues": len(cube.hue),
        "values": len(cube.value),
        "gridPoints": GRID,
        "unlike": (rgb_similarity(grid, RED_HSV) < UNLIKE).astype(np.uint8),
        "decades": [LOWEST, HIGHEST],
        "yaw": YAW,
        "pitch": PITCH,
    }
    shape = (len(cube.saturation), len(cube.value), len(cube.hue), 3)
    panels = latents, recon.reshape(shape), rgb.reshape(shape), errors, similarity
    return LiveFigure(SCRIPT, data, lambda: plot_first_view(*panels), ABOUT)


@torch.no_grad()
def first_view(model: ColorMLP, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return latents `[N, K]` and reconstructions `[N, 3]` of colours `[N, 3]` with the first axis suppressed."""
    x = torch.as_tensor(rgb).to(next(model.parameters()))
    latents = model.bottleneck(model.encoder(x))
    latents[:, 0] -= latents[:, 0].clamp_min(0)
    return latents.numpy(force=True), model.decoder(latents).clamp(0, 1).numpy(force=True)


def plot_first_view(
    latents: np.ndarray,
    recon: np.ndarray,
    truth: np.ndarray,
    errors: np.ndarray,
    similarity: np.ndarray,
) -> Figure:
    """Plot what the live figure shows first.

    Args:
        latents: `[N, K]`.
        recon: colours as they come out, `[S, V, H, 3]`, N in all.
        truth: true colours, likewise.
        errors: squared, `[N]`.
        similarity: to red, `[N]`.
    """
    fig = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    sphere, cube, error = fig.subplots(1, 3)
    rgb = truth.reshape(-1, 3)
    _draw_sphere(sphere, latents[:, :3], rgb)
    _draw_cube(cube, recon, truth)
    edge = {"edgecolors": current().muted, "linewidths": 0.5}
    low, high = 10.0**LOWEST, 10.0**HIGHEST
    error.set(yscale="log", xlim=(-0.03, 1.03), ylim=(0.8 * low, high))
    error.scatter(similarity, errors.clip(low, high), s=28, c=rgb, **edge)
    error.minorticks_off()
    error.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    error.set_yticks(10.0 ** np.arange(LOWEST, HIGHEST + 1))
    error.yaxis.set_major_formatter(lambda value, _: "1" if value == 1 else f"$10^{{{np.log10(value):.0f}}}$")
    error.set_xlabel("similarity to red", fontsize=SMALL)
    error.set_ylabel("squared error", fontsize=SMALL)
    error.tick_params(labelsize=SMALL)
    return fig


def _draw_sphere(ax: Axes, points: np.ndarray, rgb: np.ndarray) -> None:
    """Draw points `[N, 3]` of a sphere, turned by `YAW` and `PITCH`, near ones large and over far ones."""
    theme = current()
    yaw, pitch = np.radians([YAW, PITCH])

    def turned(at: np.ndarray) -> np.ndarray:
        x, y, z = at.T
        near = -x * np.sin(yaw) + z * np.cos(yaw)
        across = x * np.cos(yaw) + z * np.sin(yaw)
        return np.column_stack(
            [across, y * np.cos(pitch) - near * np.sin(pitch), y * np.sin(pitch) + near * np.cos(pitch)]
        )

    for dim, end in enumerate(turned(1.12 * np.eye(3))):
        ax.plot(
            [0, end[0]], [0, end[1]], color=theme.muted if dim else theme.ink, linewidth=1 if dim else 2, linestyle="-"
        )
        ax.annotate(str(dim), 1.07 * end[:2], ha="center", va="center", fontsize=SMALL)
    placed = turned(points)
    order = np.argsort(placed[:, 2], kind="stable")
    share = (placed[order, 2] + 1) / 2
    haze = (0.4 * (1 - share))[:, None]
    faces = rgb[order] * (1 - haze) + np.array(to_rgb(theme.paper)) * haze
    turn = np.linspace(0, 2 * np.pi, 181)
    ax.plot(np.cos(turn), np.sin(turn), color=theme.muted, linewidth=1, linestyle="-")
    sizes = (1.5 * (1.4 + 3 * share)) ** 2
    ax.scatter(placed[order, 0], placed[order, 1], s=sizes, c=faces, edgecolors=theme.muted, linewidths=0.4, zorder=2)
    ax.set(aspect="equal", xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
    ax.set_title("latents, by dimension", fontsize=SMALL, loc="center")
    ax.axis("off")


def _draw_cube(ax: Axes, recon: np.ndarray, truth: np.ndarray) -> None:
    """Draw slices `[S, V, H, 3]` below each other, full saturation on top: as they come out around the true colours."""
    slices, values, hues, _ = recon.shape
    for i in range(slices):
        bottom = i * (values + 1)
        for colours, left, low, width, height in ((recon, 0, 0, 1, 1), (truth, 0.3, 0.27, 0.4, 0.46)):
            corners = [(h + left, bottom + v + low) for v in range(values) for h in range(hues)]
            for (x, y), colour in zip(corners, colours[i].reshape(-1, 3), strict=True):
                ax.fill([x, x + width, x + width, x], [y, y, y + height, y + height], color=colour, linewidth=0)
        frame: dict[str, Any] = {"color": current().muted, "linewidth": 0.6, "linestyle": "-"}
        ax.plot([0, hues, hues, 0, 0], [bottom, bottom, bottom + values, bottom + values, bottom], **frame)
        at: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center", "fontsize": SMALL - 1}
        ax.annotate(f"sat. {i / (slices - 1):.1f}", (-0.6, bottom + values / 2), **at)
    ax.set(xlim=(-1, hues), ylim=(0, slices * (values + 1) - 1))
    ax.set_title("came out, around true", fontsize=SMALL, loc="center")
    ax.axis("off")


def _weights(model: ColorMLP) -> dict[str, Any]:
    def layers(part: nn.Module) -> list[dict[str, Tensor]]:
        linear = [layer for layer in part.modules() if isinstance(layer, nn.Linear)]
        return [{"weight": layer.weight.float(), "bias": layer.bias.float()} for layer in linear]

    return {"encoder": layers(model.encoder), "decoder": layers(model.decoder)}
