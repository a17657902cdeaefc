"""Drawn tissue: how much haematoxylin and how much eosin each pixel holds, before any stain.

The label decides the shape of nuclei and nothing else. For the same draws the haematoxylin of a tile's pixels has the
same distribution under either label, so no statistic of single pixels, mean colour above all, tells labels apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nbutils.seeding import generator
from studies.shortcut.fields import smooth, streaks
from studies.shortcut.nuclei import CANDIDATES, COVERED, TRAITS, TUMOUR, most_nuclei, nuclei
from studies.shortcut.plans import Plan

# pixels, standard deviation of the point spread. It acts on the haematoxylin of a pixel before amounts are given out,
# not on intensities: small nuclei have more edge, and blurred edges would let mean density tell the labels apart.
BLUR = 0.45

_BATCH = 128  # tiles drawn at a time: larger leaves the processor's cache


@dataclass(frozen=True)
class Tissue:
    """The tissue of some tiles.

    Attributes:
        plan: of n tiles.
        shares: `[n, 2, size, size]`, haematoxylin and eosin as shares of their maxima.
        noise: `[n, 3, size, size]`, normal: the camera's.
    """

    plan: Plan
    shares: Tensor
    noise: Tensor


def draw(plan: Plan) -> Iterator[Tissue]:
    """Yield the tissue of a plan, some tiles at a time."""
    for start in range(0, len(plan), _BATCH):
        part = plan[start : start + _BATCH]
        draws = _draw(part)
        yield Tissue(part, _shares(part, draws), draws.noise)


@dataclass(frozen=True)
class _Draws:
    """The random numbers of some tiles: the same for every label and stain.

    Attributes:
        fields: `[N, 3, size, size]`, normal: fibres, gaps, chromatin.
        noise: `[N, 3, size, size]`, normal: the camera's.
        tile: `[N, 8]`, uniform: one of each per tile.
        places: `[N, nuclei, candidates, 2]`, uniform.
        shapes: `[N, nuclei, traits]`, normal.
    """

    fields: Tensor
    noise: Tensor
    tile: Tensor
    places: Tensor
    shapes: Tensor


def _draw(plan: Plan) -> _Draws:
    size = plan.size
    most = most_nuclei(size)
    normal = torch.empty(len(plan), 6 * size**2 + most * TRAITS)
    uniform = torch.empty(len(plan), 8 + most * CANDIDATES * 2)
    for row, number in enumerate(plan.number.tolist()):
        own = generator(plan.seed, "tile", number)
        torch.randn(normal.shape[1], generator=own, out=normal[row])
        torch.rand(uniform.shape[1], generator=own, out=uniform[row])
    fields, noise, shapes = normal.split([3 * size**2, 3 * size**2, most * TRAITS], 1)
    return _Draws(
        fields.unflatten(1, (3, size, size)),
        noise.unflatten(1, (3, size, size)),
        uniform[:, :8],
        uniform[:, 8:].unflatten(1, (most, CANDIDATES, 2)),
        shapes.unflatten(1, (most, TRAITS)),
    )


def _shares(plan: Plan, draws: _Draws) -> Tensor:
    fibres, wide, grain = draws.fields.unbind(1)
    gaps = _draw_gaps(wide, draws.tile)  # (N, size, size), 0 tissue to 1 light
    covered = COVERED[0] + (COVERED[1] - COVERED[0]) * draws.tile[:, 0]
    distance, shade = nuclei(plan, draws.places, draws.shapes, gaps, covered)
    coarse = plan.tumour * min(plan.atypia, 1.0) * TUMOUR.coarseness
    chromatin = smooth(grain, 0.45 + 1.0 * coarse)
    haematoxylin = _give_haematoxylin(distance, shade + chromatin, gaps, smooth(wide, 2.5), covered)
    eosin = _draw_fibres(fibres, wide, draws.tile)
    nuclear = ((haematoxylin - 0.2) / 0.3).clamp(0, 1)
    eosin = eosin * (1 - 0.97 * gaps) * (1 - 0.75 * nuclear)
    return torch.stack([haematoxylin, eosin], 1)


def _give_haematoxylin(distance: Tensor, texture: Tensor, gaps: Tensor, haze: Tensor, covered: Tensor) -> Tensor:
    """Return the haematoxylin of each pixel `[N, size, size]`.

    The darkest pixels of nuclei, their paler ones, the haze between them and the gaps are put in order; each takes the
    amount of its place in that order. The amounts are the same for either label, to the last pixel.
    """
    pixels = distance[0].numel()
    flat = distance.flatten(1)
    inside = (covered * pixels).long()[:, None]  # nuclear pixels per tile
    edge = flat.sort(1, descending=True).values.gather(1, inside)[..., None]
    depth = distance - edge  # as if all nuclei had grown or shrunk a little
    order = torch.where(
        depth > 0,
        8 + 1.8 * depth.clamp_max(1.2) + 1.1 * texture.clamp(-5, 5),
        haze.clamp(-3, 3) * (1 - gaps) - 4 * gaps,
    )
    rank = torch.empty_like(flat, dtype=torch.long)
    places = torch.arange(pixels).expand_as(rank)
    rank.scatter_(1, _blur(order).flatten(1).sort(dim=1, stable=True).indices, places)
    from_edge = (rank - (pixels - inside)) / inside  # 0 to 1 within nuclei
    nuclear = 0.27 + 0.78 * from_edge.clamp_min(0)
    between = 0.02 + 0.13 * (rank / (pixels - inside)).clamp_max(1) ** 1.5
    return torch.where(from_edge >= 0, nuclear, between).view_as(distance)


def _blur(values: Tensor) -> Tensor:
    """Return values `[N, size, size]` as a microscope resolves them."""
    size = values.shape[-1]
    bell = torch.exp(-0.5 * (torch.arange(-2.0, 3.0) / BLUR) ** 2)
    taps = (bell / bell.sum()).tolist()
    padded = F.pad(values[:, None], (2, 2, 2, 2), mode="replicate")[:, 0]
    rows = sum(tap * padded[:, k : k + size] for k, tap in enumerate(taps))
    return sum(tap * rows[..., k : k + size] for k, tap in enumerate(taps))


def _draw_gaps(wide: Tensor, tile: Tensor) -> Tensor:
    """Return places without tissue, `[N, size, size]` from 0 to 1: a few holes with soft edges, and clefts."""
    level = torch.where(tile[:, 1] < 0.3, 0.9 + 1.2 * tile[:, 2], torch.full_like(tile[:, 2], 4.0))[:, None, None]
    holes = torch.sigmoid((smooth(wide, 6.0) - level) / 0.06)
    net = smooth(wide.roll((17, 5), (1, 2)), 1.8).abs()  # thin where a field changes sign
    patchy = (0.5 + 0.6 * smooth(wide.roll((31, 13), (1, 2)), 5.0)).clamp(0, 1)
    clefts = (1.2 - net / 0.4).clamp(0, 1) * patchy * (0.7 * tile[:, 3, None, None])
    return torch.maximum(holes, clefts)


def _draw_fibres(white: Tensor, wide: Tensor, tile: Tensor) -> Tensor:
    """Return eosin between nuclei, `[N, size, size]`: wavy streaks in one main direction."""
    size = white.shape[-1]
    angle = math.pi * tile[:, 4]
    straight = streaks(white, angle)
    bend = smooth(wide.roll((7, 23), (1, 2)), 7.0) * (2.0 / size)  # of the picture's width
    steps = (torch.arange(size) + 0.5) * (2 / size) - 1
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).expand(len(white), size, size, 2)
    across = torch.stack([-angle.sin(), angle.cos()], -1)[:, None, None]  # (N, 1, 1, 2)
    grid = grid + 2.5 * bend[..., None] * across
    wavy = F.grid_sample(straight[:, None], grid, padding_mode="reflection", align_corners=False)[:, 0]
    amount = 0.34 + 0.55 * tile[:, 5, None, None]
    contrast = 0.35 + 0.45 * tile[:, 6, None, None]
    # Logarithmic, so that dense bundles stand in a loose, light ground.
    loose = 0.9 * wavy + 0.55 * smooth(white.roll(11, 1), 3.0) + 0.45 * smooth(white.roll(29, 2), 0.6)
    return 1 - torch.exp(-amount * torch.exp(contrast * loose))
