"""Plans of drawn tiles: label, hospital and slide of each, before any is drawn.

A tile is a function of its seed, number, label, hospital and slide, whatever is drawn beside it. With one of them
changed, the rest stays: the way to counterfactual twins. Source document: "M6" of notebook 03, whose figures
`HOSPITALS` follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from nbutils.seeding import generator
from studies.shortcut.stains import REFERENCE, Stain, turned

SLIDES = 10  # per hospital
TRAINING, TEST = (0, 1, 2), 4  # hospitals, numbered as in the source document; 3 is for validation

# Degrees of haematoxylin (towards eosin, across), degrees of eosin (away from haematoxylin, across), logarithms of the
# concentrations relative to the reference, grey level of the background. Their spread over hospitals is the source
# document's: 3° to 4°, 6° to 8°, 0.15, 235 to 250. The last lies beyond 1 and 2 as seen from 0.
HOSPITALS = (
    (-3.0, 2.5, 3.0, 6.0, 0.12, 0.02, 245.0),
    (3.0, -2.0, -6.0, -4.0, -0.12, 0.10, 240.0),
    (1.0, -4.0, -2.0, -9.0, 0.14, -0.14, 236.0),
    (-1.0, 0.5, 8.0, -2.0, -0.14, -0.10, 250.0),
    (5.0, -5.5, -6.5, -11.5, 0.22, 0.14, 235.0),
)
_SLIDE = (1.2, 1.2, 2.3, 2.3, 0.05, 0.05, 1.5)  # standard deviations of slides around their hospital: a third


@dataclass(frozen=True)
class Plan:
    """Tiles to draw.

    Attributes:
        number: `[N]`, of the drawing: nuclei, fibres, gaps and noise are a function of `seed` and this.
        tumour: `[N]`, 0 or 1.
        hospital: `[N]`, 0 to 4.
        slide: `[N]`, 0 to 9 within the hospital.
        seed: of the drawings and of the slides' stains.
        size: pixels per side, a multiple of 8, 16 or more; one pixel is always `nuclei.MICRONS` wide.
        atypia: distance of tumour nuclei from normal ones, 0 or more: 0 the same, 1 as in the source document.

    Raises:
        ValueError: another size, or a negative atypia.
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
        """Return the stain of every tile's slide, a batch of N."""
        return _slides(self.seed)[self.hospital * SLIDES + self.slide]

    def other_stain(self, hospitals: Sequence[int] = TRAINING) -> Plan:
        """Return the same tissue in the stain of the next of `hospitals`, on the slide of the same number.

        Raises:
            ValueError: one hospital only, or a tile from none of them.
        """
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

    Half the tiles are tumour. Of several hospitals, the first has half the tiles, the others equal shares of the rest;
    the slides of a hospital have equal shares of either label. All up to rounding.

    Args:
        count: tiles, 1 or more.
        rho: phi coefficient of tumour with "from the first hospital", from -1 to 1.
        hospitals: one or more of 0 to 4.
        slides: one or more of each hospital's ten, 0 to 9.
        seed: of everything.
        first: number of the first drawing. Plans of one seed without a common drawing must not overlap in it.
        size: pixels per side.
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
