"""Nuclei of drawn tiles: places, rough elliptic contours, how dark each is where.

Label decides size, shape and texture; places and all random numbers are those of the drawing. Source document: "M6" of
notebook 03, whose figures `NORMAL` and `TUMOUR` follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor

from studies.shortcut.plans import Plan

MICRONS = 92 / 96  # per pixel side: a field of 92 µm is 96 pixels wide
CANDIDATES = 6  # places tried per nucleus
TRAITS = 15  # random numbers per nucleus: seven of the ellipse and its inside, two per wave of the contour
MARGIN = 3.0  # µm beyond the edge where nuclei may have their centre
COVERED = (0.18, 0.54)  # least and greatest share of a tile under nuclei

_HARMONICS = (2, 3, 4, 5)  # of a contour
_WAVES = torch.tensor([number**-1.0 for number in _HARMONICS for _ in range(2)])
_WAVES = _WAVES / _WAVES.square().sum().div(2).sqrt()  # so that a contour's standard deviation is its roughness
_FAR = -4.0  # pixels outside every nucleus by this much or more count the same
_WINDOWS = (0, 7, 9, 11, 14, 18, 24, 32, 64)  # a few sizes: most nuclei need small ones


@dataclass(frozen=True)
class Nuclei:
    """The look of nuclei.

    Attributes:
        diameter: µm, median of the log-normal equivalent diameter.
        spread: its coefficient of variation.
        eccentricity: of the ellipse, mean.
        roughness: of the contour, standard deviation relative to the radius.
        coarseness: 0 is fine chromatin, 1 is coarse.
        nucleoli: how much darker the nucleolus is, in standard deviations of chromatin.
        rim: how much darker the rim is than the inside, likewise.
    """

    diameter: float
    spread: float
    eccentricity: float
    roughness: float
    coarseness: float
    nucleoli: float
    rim: float


NORMAL = Nuclei(5.5, 0.12, 0.3, 0.03, 0.0, 0.0, 0.0)
TUMOUR = Nuclei(9.0, 0.25, 0.6, 0.10, 1.0, 3.0, 1.2)


def most_nuclei(size: int) -> int:
    """Return how many normal nuclei cover the greatest share of a tile, its margin included, and some to spare."""
    field = size * MICRONS + 2 * MARGIN
    return math.ceil(1.1 * COVERED[1] * field**2 / (math.pi / 4 * NORMAL.diameter**2))


def nuclei(plan: Plan, places: Tensor, shapes: Tensor, gaps: Tensor, covered: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nuclei of tiles: depth and darkness of each pixel.

    Args:
        plan: N tiles.
        places: `[N, nuclei, CANDIDATES, 2]`, uniform random numbers.
        shapes: `[N, nuclei, TRAITS]`, normal ones.
        gaps: `[N, size, size]`, from 0 (tissue) to 1 (light).
        covered: `[N]`, shares of the tiles that nuclei are to cover.

    Returns:
        Two of `[N, size, size]`: the depth of each pixel in its nucleus, in pixels, below 0 outside; and how dark that
        nucleus is there, in standard deviations of chromatin.
    """
    size = plan.size
    traits = _traits(plan)
    median = NORMAL.diameter * (TUMOUR.diameter / NORMAL.diameter) ** (plan.tumour[:, None] * plan.atypia)
    radius = median * torch.exp(traits["spread"] * shapes[..., 0].clamp(-2.5, 2.5)) / 2 / MICRONS  # pixels
    x, y = _places(places, radius, gaps)
    cells = _shaped(traits, shapes, (x, y, radius), _wanted(x, y, radius, covered, size))

    distance = torch.full((len(plan) * size * size,), _FAR)
    shade = torch.zeros_like(distance)
    reach = cells.reach()
    for low, high in pairwise(_WINDOWS):
        some = ((reach > low) & (reach <= high)).nonzero()[:, 0]
        if not len(some):
            continue
        pixel, depth, tone = _stamp(cells.at(some), high, size)
        deepest = distance.scatter_reduce(0, pixel, depth, "amax")
        wins = depth >= deepest[pixel]
        shade[pixel[wins]] = tone[wins]
        distance = deepest
    return distance.view(len(plan), size, size), shade.view(len(plan), size, size)


def _traits(plan: Plan) -> dict[str, Tensor]:
    """Return each attribute of `Nuclei` as `[N, 1]`, between normal and tumour by the plan's atypia."""
    strength = plan.tumour[:, None] * plan.atypia  # (N, 1): 0 is normal
    names = [field.name for field in fields(Nuclei)]
    ends = {name: (getattr(NORMAL, name), getattr(TUMOUR, name)) for name in names}
    return {name: normal + strength * (tumour - normal) for name, (normal, tumour) in ends.items()}


@dataclass(frozen=True)
class _Cells:
    """Nuclei of all tiles in one row, `[nuclei]` each; lengths in pixels.

    Attributes:
        tile: number of the tile.
        x, y, radius, angle: of the ellipse; `stretch`: its long half-axis over that of a circle as large.
        rough, waves: of the contour; waves `[nuclei, 2 harmonics]`.
        nucleolus: `[nuclei, 2]`, its place in radii; `spot`, `rim`, `dark`: how dark it, the rim and the whole are.
    """

    tile: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    stretch: Tensor
    angle: Tensor
    rough: Tensor
    waves: Tensor
    nucleolus: Tensor
    spot: Tensor
    rim: Tensor
    dark: Tensor

    def at(self, some: Tensor) -> _Cells:
        return _Cells(**{name: values[some] for name, values in vars(self).items()})

    def reach(self) -> Tensor:
        """Return how far from its centre a nucleus may be seen."""
        return self.radius * self.stretch * (1 + 2.5 * self.rough) - _FAR


def _shaped(
    traits: dict[str, Tensor], shapes: Tensor, circles: tuple[Tensor, Tensor, Tensor], wanted: Tensor
) -> _Cells:
    """Return the wanted nuclei, bool `[N, nuclei]`, of circles: x, y and radius `[N, nuclei]`."""
    tile, which = wanted.nonzero(as_tuple=True)

    def one(values: Tensor) -> Tensor:
        """Return `[nuclei wanted]` of values `[N, nuclei]` or `[N, 1]`."""
        return values.expand(wanted.shape)[tile, which]

    eccentricity = (one(traits["eccentricity"]) + 0.08 * shapes[tile, which, 1]).clamp(0, 0.85)
    x, y, radius = map(one, circles)
    rough = one(traits["roughness"])
    return _Cells(
        tile=tile,
        x=x,
        y=y,
        radius=radius,
        stretch=(1 - eccentricity**2) ** -0.25,
        angle=shapes[tile, which, 2] * 10,
        rough=rough,
        waves=shapes[tile, which, 7:] * _WAVES * rough[:, None],
        nucleolus=shapes[tile, which, 3:5] * 0.22,
        spot=one(traits["nucleoli"]),
        rim=one(traits["rim"]),
        dark=0.5 * shapes[tile, which, 5],
    )


def _stamp(cells: _Cells, reach: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return pixels of nuclei within their windows: index over all tiles, depth and tone, `[pixels]` each."""
    x, y = cells.x[:, None, None], cells.y[:, None, None]
    offset = torch.arange(-reach, reach + 1)
    column = cells.x.floor().long()[:, None, None] + offset  # (nuclei, 1, window)
    row = cells.y.floor().long()[:, None, None] + offset[:, None]  # (nuclei, window, 1)
    u, v = column + 0.5 - x, row + 0.5 - y
    cos, sin = cells.angle.cos()[:, None, None], cells.angle.sin()[:, None, None]
    u, v = u * cos + v * sin, v * cos - u * sin  # along the long axis, across it
    away = (u * u + v * v).sqrt().clamp_min(1e-3)
    contour = _contour(u / away, v / away, cells.stretch, cells.waves) * cells.radius[:, None, None]
    near = (contour - away > _FAR) & (column >= 0) & (column < size) & (row >= 0) & (row < size)
    pixel = ((cells.tile[:, None, None] * size + row) * size + column)[near]
    own = torch.arange(len(cells.x))[:, None, None].expand_as(near)[near]  # the nucleus of each pixel
    radius = cells.radius[own]
    tone = cells.dark[own] + cells.rim[own] * ((away[near] / radius).clamp_max(1) ** 3 - 0.4)
    du, dv = u[near] / radius - cells.nucleolus[own, 0], v[near] / radius - cells.nucleolus[own, 1]
    tone = tone + cells.spot[own] * torch.exp(-(du * du + dv * dv) / (2 * 0.2**2))
    return pixel, (contour - away)[near], tone


def _contour(cos: Tensor, sin: Tensor, stretch: Tensor, waves: Tensor) -> Tensor:
    """Return the radius of rough ellipses in directions `[nuclei, h, w]`, relative to that of a circle as large."""
    stretch = stretch[:, None, None]
    ellipse = torch.rsqrt((cos / stretch) ** 2 + (sin * stretch) ** 2)
    rough = torch.ones_like(cos)
    real, imaginary = cos, sin
    for number, _ in enumerate(_HARMONICS):
        real, imaginary = real * cos - imaginary * sin, real * sin + imaginary * cos  # of the next multiple
        rough = rough + waves[:, 2 * number, None, None] * real + waves[:, 2 * number + 1, None, None] * imaginary
    return ellipse * rough


def _places(places: Tensor, radius: Tensor, gaps: Tensor) -> tuple[Tensor, Tensor]:
    """Choose centres `[N, nuclei]`, in pixels, one after the other: of some candidates the one with most room."""
    size = gaps.shape[-1]
    margin = MARGIN / MICRONS
    candidates = places * (size + 2 * margin) - margin  # (N, nuclei, candidates, 2)
    cell = candidates.floor().long().clamp(0, size - 1)
    tile = torch.arange(len(gaps))[:, None, None]
    penalty = 100 * (gaps[tile, cell[..., 1], cell[..., 0]] > 0.3)  # (N, nuclei, candidates)
    chosen = candidates[:, :, 0].clone()
    rows = torch.arange(len(gaps))
    for k in range(radius.shape[1]):
        room = -penalty[:, k].float()
        if k:
            apart = torch.cdist(candidates[:, k], chosen[:, :k], compute_mode="donot_use_mm_for_euclid_dist")
            room = room + (apart - radius[:, None, :k]).min(2).values.clamp_max(3 * MICRONS + radius[:, k, None])
        chosen[:, k] = candidates[rows, k, room.argmax(1)]
    return chosen[..., 0], chosen[..., 1]


def _wanted(x: Tensor, y: Tensor, radius: Tensor, covered: Tensor, size: int) -> Tensor:
    """Return the nuclei to keep, bool `[N, nuclei]`: the first ones, until together they cover enough."""
    across = (x + radius).clamp(0, size) - (x - radius).clamp(0, size)
    down = (y + radius).clamp(0, size) - (y - radius).clamp(0, size)
    area = math.pi / 4 * across * down
    before = area.cumsum(1) - area
    return (before + area / 2 < covered[:, None] * size**2) & (area > 0)
