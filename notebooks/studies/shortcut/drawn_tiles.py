"""Drawn tiles of stained tissue: the cause of each label and the shortcut to it are known.

A tile is two maps, how much haematoxylin and how much eosin each pixel holds, painted in the stain of a hospital and
slide. The label decides the shape of nuclei and nothing else: in every tile of either label the haematoxylin of its
pixels has the same distribution for the same draws, so no statistic of single pixels, mean colour above all, tells the
labels apart. A tile is a function of its seed, number, label, hospital and slide, whatever is drawn beside it; change
one of them and the rest stays, which is what counterfactual pairs are made of.

Source document: "M6" of notebook 03, after whose figures `NORMAL`, `TUMOUR` and `HOSPITALS` are chosen.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nbutils.data.pairs import Pairs
from nbutils.seeding import generator
from studies.shortcut.stains import REFERENCE, Stain, turned
from studies.shortcut.tiles import Tiles

MICRONS = 92 / 96  # of a pixel's side: a field of 92 µm is 96 pixels wide
SLIDES = 10  # of every hospital
TRAINING, TEST = (0, 1, 2), 4  # hospitals, numbered as the source document does; 3 is for validation

# Of JPEG, without chroma subsampling, so that a block of 8 × 8 pixels depends on itself alone. Stronger compression
# smooths fine chromatin more than coarse, and the two means of intensity and density together begin to tell the label.
QUALITY = 95
# pixels, standard deviation of the point spread. It acts on the haematoxylin of a pixel before amounts are given out,
# not on intensities: small nuclei have more edge, and blurred edges would let mean density tell the labels apart.
BLUR = 0.45
NOISE = 2.0  # grey levels, standard deviation of the camera

_BATCH = 128  # tiles drawn at a time: larger leaves the processor's cache
_CANDIDATES = 6  # places tried for each nucleus
_MARGIN = 3.0  # µm beyond the edge where nuclei may have their centre
_HARMONICS = (2, 3, 4, 5)  # of a contour
_WAVES = torch.tensor([number**-1.0 for number in _HARMONICS for _ in range(2)])
_WAVES = _WAVES / _WAVES.square().sum().div(2).sqrt()  # so that a contour's standard deviation is its roughness
_FAR = -4.0  # pixels outside every nucleus by this much or more count the same


@dataclass(frozen=True)
class Nuclei:
    """What nuclei look like.

    Attributes:
        diameter: µm, median of the log-normal equivalent diameter.
        spread: its coefficient of variation.
        eccentricity: of the ellipse, mean.
        roughness: of the contour, standard deviation relative to the radius.
        coarseness: 0 is fine chromatin, 1 is coarse.
        nucleoli: how much darker the nucleolus is than chromatin varies.
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

# Degrees that haematoxylin turns (towards eosin, across), degrees that eosin turns (away from haematoxylin, across),
# logarithms of the concentrations relative to the reference, grey level of the background. They spread over hospitals
# as in the source document: 3° to 4°, 6° to 8°, 0.15, 235 to 250. The last lies beyond 1 and 2 as seen from 0.
HOSPITALS = (
    (-3.0, 2.5, 3.0, 6.0, 0.12, 0.02, 245.0),
    (3.0, -2.0, -6.0, -4.0, -0.12, 0.10, 240.0),
    (1.0, -4.0, -2.0, -9.0, 0.14, -0.14, 236.0),
    (-1.0, 0.5, 8.0, -2.0, -0.14, -0.10, 250.0),
    (5.0, -5.5, -6.5, -11.5, 0.22, 0.14, 235.0),
)
_SLIDE = (1.2, 1.2, 2.3, 2.3, 0.05, 0.05, 1.5)  # standard deviations of a slide around its hospital: a third


@dataclass(frozen=True)
class Plan:
    """Which tiles to draw, before any is drawn.

    Attributes:
        number: `[N]`, of the drawing: nuclei, fibres, gaps and noise are a function of `seed` and this.
        tumour: `[N]`, 0 or 1.
        hospital: `[N]`, 0 to 4.
        slide: `[N]`, 0 to 9 within the hospital.
        seed: of the drawings and of the slides' stains.
        size: pixels a side, a multiple of 8; one pixel is always `MICRONS` wide.
        atypia: how far the nuclei of tumour are from normal ones: 0 the same, 1 as in the source document.
    """

    number: Tensor
    tumour: Tensor
    hospital: Tensor
    slide: Tensor
    seed: int = 0
    size: int = 48
    atypia: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 16 or self.size % 8:
            raise ValueError(f"size must be a multiple of 8, 16 or more; got {self.size}")
        if self.atypia < 0:
            raise ValueError(f"atypia must be 0 or more; got {self.atypia}")

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, items: slice | Tensor) -> Plan:
        """Return some of the tiles: a slice, indices, or a mask `[N]`."""
        number, tumour, hospital, slide = (p[items] for p in (self.number, self.tumour, self.hospital, self.slide))
        return Plan(number, tumour, hospital, slide, self.seed, self.size, self.atypia)

    def stains(self) -> Stain:
        """Return the stain of every tile's slide."""
        return _slides(self.seed)[self.hospital * SLIDES + self.slide]

    def other_stain(self, hospitals: Sequence[int] = TRAINING) -> Plan:
        """Return the same tissue as stained in the next of `hospitals`, on the slide of the same number."""
        known = torch.tensor(hospitals)
        place = (self.hospital[:, None] == known).int()
        if len(known) < 2 or not place.any(1).all():
            raise ValueError(f"every tile must be from one of two hospitals or more; got {tuple(hospitals)}")
        return replace(self, hospital=known[(place.argmax(1) + 1) % len(known)])

    def other_nuclei(self) -> Plan:
        """Return the same place, stain and amount of haematoxylin with the nuclei of the other label."""
        return replace(self, tumour=1 - self.tumour)


def plan(
    count: int,
    *,
    rho: float = 0.0,
    hospitals: Sequence[int] = TRAINING,
    slides: Sequence[int] = range(SLIDES),
    seed: int = 0,
    first: int = 0,
    size: int = 48,
    atypia: float = 1.0,
) -> Plan:
    """Choose labels, hospitals and slides of tiles, in random order.

    Half the tiles are tumour. Of several hospitals, the first has half the tiles and the others share the rest; the
    slides of a hospital have equal shares of either label. All up to rounding.

    Args:
        count: tiles.
        rho: phi coefficient of tumour with "from the first hospital", from -1 to 1.
        hospitals: one or more of 0 to 4.
        slides: which of each hospital's ten.
        seed: of everything.
        first: number of the first drawing. Plans of one seed that are to share none must not overlap in it.
        size: pixels a side.
        atypia: see `Plan`.

    Raises:
        ValueError: a correlation outside [-1, 1], or with a single hospital; unknown hospitals or slides; no tiles.
    """
    if not -1 <= rho <= 1 or (rho and len(hospitals) < 2):
        raise ValueError(f"rho must lie in [-1, 1], and be 0 for a single hospital; got {rho} for {tuple(hospitals)}")
    if not {*hospitals} <= {*range(len(HOSPITALS))} or not {*slides} <= {*range(SLIDES)} or not (hospitals and slides):
        raise ValueError(
            f"hospitals are 0 to {len(HOSPITALS) - 1} and slides 0 to {SLIDES - 1}, one or more of each; "
            f"got {tuple(hospitals)} and {tuple(slides)}"
        )
    if count < 1:
        raise ValueError(f"count must be 1 or more; got {count}")
    leading, others = [hospitals[0]], [*hospitals[1:]] or [hospitals[0]]
    edges = np.cumsum([0, 1 + rho, 1 - rho, 1 - rho, 1 + rho]) / 4 * count  # of the four cells, in tiles
    edges = np.rint(edges).astype(int)
    cells = []
    groups = ((leading, 1), (leading, 0), (others, 1), (others, 0))
    for (group, label), cell in zip(groups, np.diff(edges), strict=True):
        turn = torch.arange(int(cell))
        hospital = torch.tensor(group)[turn % len(group)]
        slide = torch.tensor([*slides])[turn // len(group) % len(slides)]
        cells.append(torch.stack([torch.full_like(turn, label), hospital, slide]))
    order = torch.randperm(count, generator=generator(seed, "plan", first))
    tumour, hospital, slide = torch.cat(cells, 1)[:, order]
    return Plan(torch.arange(first, first + count), tumour, hospital, slide, seed, size, atypia)


def render(plan: Plan) -> Tiles:
    """Draw the tiles of a plan; all are of split `train`."""
    pixels = torch.cat([_photograph(part, *maps) for part, maps in _drawn(plan)])
    names = [f"H{hospital}" for hospital in range(len(HOSPITALS))]
    return Tiles(
        pixels=pixels,
        tumour=plan.tumour,
        hospital=plan.hospital,
        slide=plan.hospital * SLIDES + plan.slide,
        split=np.full(len(plan), "train", dtype=object),
        hospitals=tuple(names),
        slides=tuple(f"{name} slide {slide}" for name in names for slide in range(SLIDES)),
        source="synthetic tiles",
    )


def tissue(plan: Plan) -> Tensor:
    """Return what a plan's tiles hold, float `[N, 2, size, size]`: haematoxylin and eosin as shares of their maxima."""
    return torch.cat([relative for _, (relative, _) in _drawn(plan)])


def counterfactuals(plan: Plan, change: Literal["stain", "nuclei"]) -> Pairs:
    """Return each tile and its twin that differs in one thing: images float `[N, 3, size, size]` in [0, 1].

    Args:
        plan: the tiles.
        change: `"stain"`, the same nuclei as another training hospital stains them, under the same label; `"nuclei"`,
            the same stain and background with the nuclei of the other label (`labels` are those of the first).

    Raises:
        ValueError: no such change; a stain to change that is not a training hospital's.
    """
    if change not in ("stain", "nuclei"):
        raise ValueError(f"change must be 'stain' or 'nuclei'; got {change!r}")
    twin = plan.other_stain() if change == "stain" else plan.other_nuclei()
    return Pairs(render(plan).images(), render(twin).images(), plan.tumour)


@cache
def _slides(seed: int) -> Stain:
    """Return the stains of all slides, 50 in the order hospital, slide."""
    centre = torch.tensor(HOSPITALS)[:, None]  # (hospitals, 1, 7)
    drawn = torch.randn(len(HOSPITALS), SLIDES, len(_SLIDE), generator=generator(seed, "slides"))
    values = (centre + drawn * torch.tensor(_SLIDE)).flatten(0, 1)  # (50, 7)
    reference = Stain(
        REFERENCE.vectors.expand(len(values), 2, 3),
        REFERENCE.maxima * values[:, 4:6].exp(),
        (values[:, 6] / 255).clamp_max(1),
    )
    return turned(reference, values[:, 0:2], values[:, 2:4])


@dataclass(frozen=True)
class _Draws:
    """The random numbers of some tiles: the same for every label and stain.

    Attributes:
        fields: `[N, 3, size, size]`, normal: fibres, gaps, chromatin.
        noise: `[N, 3, size, size]`, normal: the camera's.
        tile: `[N, 8]`, uniform: what a whole tile has one of.
        places: `[N, nuclei, candidates, 2]`, uniform.
        shapes: `[N, nuclei, 7 + 2 harmonics]`, normal.
    """

    fields: Tensor
    noise: Tensor
    tile: Tensor
    places: Tensor
    shapes: Tensor


def _draw(plan: Plan) -> _Draws:
    size = plan.size
    nuclei = _most_nuclei(size)
    traits = 7 + 2 * len(_HARMONICS)
    normal = torch.empty(len(plan), 6 * size**2 + nuclei * traits)
    uniform = torch.empty(len(plan), 8 + nuclei * _CANDIDATES * 2)
    for row, number in enumerate(plan.number.tolist()):
        own = generator(plan.seed, "tile", number)
        torch.randn(normal.shape[1], generator=own, out=normal[row])
        torch.rand(uniform.shape[1], generator=own, out=uniform[row])
    fields, noise, shapes = normal.split([3 * size**2, 3 * size**2, nuclei * traits], 1)
    return _Draws(
        fields.unflatten(1, (3, size, size)),
        noise.unflatten(1, (3, size, size)),
        uniform[:, :8],
        uniform[:, 8:].unflatten(1, (nuclei, _CANDIDATES, 2)),
        shapes.unflatten(1, (nuclei, traits)),
    )


def _most_nuclei(size: int) -> int:
    """Return how many normal nuclei cover the greatest share of a tile, its margin included, and some to spare."""
    field = size * MICRONS + 2 * _MARGIN
    return math.ceil(1.1 * _COVERED[1] * field**2 / (math.pi / 4 * NORMAL.diameter**2))


_COVERED = (0.18, 0.54)  # least and greatest share of a tile that nuclei cover


def _drawn(plan: Plan) -> Iterator[tuple[Plan, tuple[Tensor, Tensor]]]:
    """Yield parts of a plan with their tissue `[n, 2, size, size]` and the camera's noise `[n, 3, size, size]`."""
    for start in range(0, len(plan), _BATCH):
        part = plan[start : start + _BATCH]
        draws = _draw(part)
        yield part, (_tissue(part, draws), draws.noise)


def _tissue(plan: Plan, draws: _Draws) -> Tensor:
    fibres, wide, grain = draws.fields.unbind(1)
    gaps = _gaps(wide, draws.tile)  # (N, size, size), 0 tissue to 1 light
    covered = _COVERED[0] + (_COVERED[1] - _COVERED[0]) * draws.tile[:, 0]
    distance, shade = _nuclei(plan, draws, gaps, covered)
    coarse = plan.tumour * min(plan.atypia, 1.0) * TUMOUR.coarseness
    chromatin = _smooth(grain, 0.45 + 1.0 * coarse)
    haematoxylin = _haematoxylin(distance, shade + chromatin, gaps, _smooth(wide, 2.5), covered)
    eosin = _fibres(fibres, wide, draws.tile)
    nuclear = ((haematoxylin - 0.2) / 0.3).clamp(0, 1)
    eosin = eosin * (1 - 0.97 * gaps) * (1 - 0.75 * nuclear)
    return torch.stack([haematoxylin, eosin], 1)


def _haematoxylin(distance: Tensor, texture: Tensor, gaps: Tensor, haze: Tensor, covered: Tensor) -> Tensor:
    """Return the haematoxylin of each pixel `[N, size, size]`.

    The darkest pixels of nuclei, their paler ones, the haze between them and the gaps are put in order, and each takes
    the amount that belongs to its place in that order. The amounts are the same for either label, to the last pixel.
    """
    pixels = distance[0].numel()
    flat = distance.flatten(1)
    inside = (covered * pixels).long()[:, None]  # how many pixels are nuclear
    edge = flat.sort(1, descending=True).values.gather(1, inside)[..., None]
    depth = distance - edge  # as if all nuclei had grown or shrunk a little
    order = torch.where(
        depth > 0,
        8 + 1.8 * depth.clamp_max(1.2) + 1.1 * texture.clamp(-5, 5),
        haze.clamp(-3, 3) * (1 - gaps) - 4 * gaps,
    )
    rank = torch.empty_like(flat, dtype=torch.long)
    places = torch.arange(pixels).expand_as(rank)
    rank.scatter_(1, _unsharp(order).flatten(1).sort(dim=1, stable=True).indices, places)
    from_edge = (rank - (pixels - inside)) / inside  # 0 to 1 within nuclei
    nuclear = 0.27 + 0.78 * from_edge.clamp_min(0)
    between = 0.02 + 0.13 * (rank / (pixels - inside)).clamp_max(1) ** 1.5
    return torch.where(from_edge >= 0, nuclear, between).view_as(distance)


def _unsharp(values: Tensor) -> Tensor:
    """Return values `[N, size, size]` as a microscope resolves them."""
    size = values.shape[-1]
    taps = torch.exp(-0.5 * (torch.arange(-2.0, 3.0) / BLUR) ** 2)
    padded = F.pad(values[:, None], (2, 2, 2, 2), mode="replicate")[:, 0]
    rows = sum(tap * padded[:, k : k + size] for k, tap in enumerate((taps / taps.sum()).tolist()))
    return sum(tap * rows[..., k : k + size] for k, tap in enumerate((taps / taps.sum()).tolist()))


def _nuclei(plan: Plan, draws: _Draws, gaps: Tensor, covered: Tensor) -> tuple[Tensor, Tensor]:
    """Return how deep each pixel lies in its nucleus (in pixels, below 0 outside) and how dark that nucleus is there.

    Both are `[N, size, size]`.
    """
    size, strength = plan.size, plan.tumour[:, None] * plan.atypia  # (N, 1): 0 is normal

    def trait(name: str) -> Tensor:
        normal, tumour = getattr(NORMAL, name), getattr(TUMOUR, name)
        return normal + strength * (tumour - normal)

    shapes = draws.shapes
    median = NORMAL.diameter * (TUMOUR.diameter / NORMAL.diameter) ** strength
    radius = median * torch.exp(trait("spread") * shapes[..., 0].clamp(-2.5, 2.5)) / 2 / MICRONS  # pixels
    x, y = _places(draws.places, radius, gaps)
    wanted = _wanted(x, y, radius, covered, size)
    tile, which = wanted.nonzero(as_tuple=True)

    def one(values: Tensor) -> Tensor:
        """Return `[nuclei wanted]` of values `[N, nuclei]` or `[N, 1]`."""
        return values.expand(wanted.shape)[tile, which]

    eccentricity = (one(trait("eccentricity")) + 0.08 * shapes[tile, which, 1]).clamp(0, 0.85)
    stretch = (1 - eccentricity**2) ** -0.25
    radius, x, y = one(radius), one(x), one(y)
    rough = one(trait("roughness"))
    waves = shapes[tile, which, 7:] * _WAVES * rough[:, None]
    angle = shapes[tile, which, 2] * 10
    nucleolus = shapes[tile, which, 3:5] * 0.22  # place within the nucleus, in radii
    dark = 0.5 * shapes[tile, which, 5]
    spot, rim = one(trait("nucleoli")), one(trait("rim"))

    distance = torch.full((len(plan) * size * size,), _FAR)
    shade = torch.zeros_like(distance)
    reach = radius * stretch * (1 + 2.5 * rough) - _FAR
    steps = [0, 7, 9, 11, 14, 18, 24, 32, 64]
    for low, high in pairwise(steps):  # windows of a few sizes: most nuclei need small ones
        some = ((reach > low) & (reach <= high)).nonzero()[:, 0]
        if not len(some):
            continue
        offset = torch.arange(-high, high + 1)
        column = x[some].floor().long()[:, None, None] + offset  # (nuclei, 1, window)
        row = y[some].floor().long()[:, None, None] + offset[:, None]  # (nuclei, window, 1)
        u, v = column + 0.5 - x[some, None, None], row + 0.5 - y[some, None, None]
        cos, sin = angle[some].cos()[:, None, None], angle[some].sin()[:, None, None]
        u, v = u * cos + v * sin, v * cos - u * sin  # along the long axis, across it
        away = (u * u + v * v).sqrt().clamp_min(1e-3)
        c, s = u / away, v / away
        contour = _contour(c, s, stretch[some], waves[some]) * radius[some, None, None]
        near = (contour - away > _FAR) & (column >= 0) & (column < size) & (row >= 0) & (row < size)
        pixel = ((tile[some, None, None] * size + row) * size + column)[near]
        depth = (contour - away)[near]
        spread = (some[:, None, None].expand_as(near))[near]
        relative = away[near] / radius[spread]
        du, dv = (u[near] / radius[spread] - nucleolus[spread, 0]), (v[near] / radius[spread] - nucleolus[spread, 1])
        tone = dark[spread] + rim[spread] * (relative.clamp_max(1) ** 3 - 0.4)
        tone = tone + spot[spread] * torch.exp(-(du * du + dv * dv) / (2 * 0.2**2))
        deepest = distance.scatter_reduce(0, pixel, depth, "amax")
        wins = depth >= deepest[pixel]
        shade[pixel[wins]] = tone[wins]
        distance = deepest
    return distance.view(len(plan), size, size), shade.view(len(plan), size, size)


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
    margin = _MARGIN / MICRONS
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
    """Return which nuclei are kept, bool `[N, nuclei]`: the first ones, until together they cover enough."""
    across = (x + radius).clamp(0, size) - (x - radius).clamp(0, size)
    down = (y + radius).clamp(0, size) - (y - radius).clamp(0, size)
    area = math.pi / 4 * across * down
    before = area.cumsum(1) - area
    return (before + area / 2 < covered[:, None] * size**2) & (area > 0)


def _gaps(wide: Tensor, tile: Tensor) -> Tensor:
    """Return where there is no tissue, `[N, size, size]` from 0 to 1: a few holes with soft edges, and clefts."""
    level = torch.where(tile[:, 1] < 0.3, 0.9 + 1.2 * tile[:, 2], torch.full_like(tile[:, 2], 4.0))[:, None, None]
    holes = torch.sigmoid((_smooth(wide, 6.0) - level) / 0.06)
    net = _smooth(wide.roll((17, 5), (1, 2)), 1.8).abs()  # thin where a field changes sign
    patchy = (0.5 + 0.6 * _smooth(wide.roll((31, 13), (1, 2)), 5.0)).clamp(0, 1)
    clefts = (1.2 - net / 0.4).clamp(0, 1) * patchy * (0.7 * tile[:, 3, None, None])
    return torch.maximum(holes, clefts)


def _fibres(white: Tensor, wide: Tensor, tile: Tensor) -> Tensor:
    """Return eosin between nuclei, `[N, size, size]`: wavy streaks in one main direction."""
    size = white.shape[-1]
    angle = math.pi * tile[:, 4]
    streaks = _streaks(white, angle)
    bend = _smooth(wide.roll((7, 23), (1, 2)), 7.0) * (2.0 / size)  # of the picture's width
    steps = (torch.arange(size) + 0.5) * (2 / size) - 1
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).expand(len(white), size, size, 2)
    across = torch.stack([-angle.sin(), angle.cos()], -1)[:, None, None]  # (N, 1, 1, 2)
    grid = grid + 2.5 * bend[..., None] * across
    streaks = F.grid_sample(streaks[:, None], grid, padding_mode="reflection", align_corners=False)[:, 0]
    amount = 0.34 + 0.55 * tile[:, 5, None, None]
    contrast = 0.35 + 0.45 * tile[:, 6, None, None]
    # Logarithmic, so that dense bundles stand in a loose, light ground.
    loose = 0.9 * streaks + 0.55 * _smooth(white.roll(11, 1), 3.0) + 0.45 * _smooth(white.roll(29, 2), 0.6)
    return 1 - torch.exp(-amount * torch.exp(contrast * loose))


def _smooth(white: Tensor, sigma: float | Tensor) -> Tensor:
    """Return white noise `[N, size, size]` smoothed over `sigma` pixels (`[N]` or one), standard deviation 1."""
    sigma = torch.as_tensor(sigma, dtype=white.dtype).view(-1, 1, 1)
    fy, fx = _frequencies(white.shape[-1])
    return _filtered(white, torch.exp(-2 * math.pi**2 * sigma**2 * (fx**2 + fy**2)))


def _streaks(white: Tensor, angle: Tensor) -> Tensor:
    """Return white noise smoothed much along a direction `[N]` and little across it, standard deviation 1."""
    fy, fx = _frequencies(white.shape[-1])
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, across = fx * cos + fy * sin, fy * cos - fx * sin
    return _filtered(white, torch.exp(-2 * math.pi**2 * ((4.5 * along) ** 2 + (0.75 * across) ** 2)))


def _frequencies(size: int) -> tuple[Tensor, Tensor]:
    return torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]


def _filtered(white: Tensor, transfer: Tensor) -> Tensor:
    transfer = transfer.clone()
    transfer[..., 0, 0] = 0  # mean 0: the tile's own level is drawn elsewhere
    field = torch.fft.irfft2(torch.fft.rfft2(white) * transfer, s=white.shape[-2:])
    # Power of the transfer function; the half that rfft leaves out counts twice.
    double = torch.full((transfer.shape[-1],), 2.0)
    double[0] = double[-1] = 1.0
    power = (transfer**2 * double).sum((-2, -1), keepdim=True) / white[0].numel()
    return field / power.sqrt()


def _photograph(plan: Plan, relative: Tensor, noise: Tensor) -> Tensor:
    """Return uint8 `[N, size, size, 3]`: the tissue painted, with the camera's noise, compressed."""
    images = plan.stains().paint(relative)
    grey = (images * 255 + NOISE * noise).round().clamp(0, 255).to(torch.uint8)
    return _compressed(grey.permute(0, 2, 3, 1).contiguous())


def _compressed(pixels: Tensor) -> Tensor:
    """Return pixels uint8 `[N, size, size, 3]` after JPEG; all in one picture, as no block sees another."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.flatten(0, 1).numpy()).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return torch.from_numpy(np.array(Image.open(buffer))).view_as(pixels)
