"""Two networks by hand: one whose units matter in known ways, and one that is read in a known way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nbutils.ablation.types import AblationType
from nbutils.data.pairs import Pairs
from nbutils.seeding import generator
from nbutils.sites import Site
from studies.across.cases import Case, Layer

USES = ("item", "twin", "constant", "place", "alarm", "either", "or", "unread")
"""Units of `plant_uses`, in order; the answer reads all but the last."""


class Uses(nn.Module):
    """Answers at every position with what its units say, the larger of two of them counting once.

    `units` puts out the input itself `[items, positions, 8]`, the answer is `[items, positions]`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the answer."""
        h = self.units(x)
        return h[..., :5].sum(-1) + h[..., 5:7].amax(-1)


def plant_uses(items: int = 40, positions: int = 4) -> tuple[Uses, Pairs]:
    """Return a network of eight units and the pairs it runs on, such that it is known what each stand-in sees.

    A unit is used if the answer reads it. What it says:

    - **item**: another number for each item, the same for its twin.
    - **twin**: 1, in the twin −1.
    - **constant**: 1, always.
    - **place**: another number at each position, the same for all items.
    - **alarm**: 0, in the twin 1.
    - **either**, **or**: 1 and 1; the answer reads the larger, so that either does without the other.
    - **unread**: large numbers that nothing reads.

    A stand-in changes the answer if it changes the unit, and nothing makes up for it: zero sees what is not 0 (item,
    twin, constant, place); the twin what differs in it (twin, alarm); means at each position what differs between items
    (item), and where they include twins what differs there; means over positions also what differs between places. No
    stand-in of one unit at a time sees *either* and *or*.
    """
    at = torch.arange(positions).double()
    of_item = torch.linspace(-1, 1, items, dtype=torch.float64)[:, None].expand(-1, positions)
    of_place = (at - at.mean() + 0.25).expand(items, -1)
    one, none = torch.ones(items, positions).double(), torch.zeros(items, positions).double()
    noise = 50 * torch.randn(items, positions, generator=generator(0, "unread"), dtype=torch.float64)
    clean = torch.stack([of_item, one, one, of_place, none, one, one, noise], -1)
    corrupt = torch.stack([of_item, -one, one, of_place, one, one, one, noise.flip(0)], -1)
    return Uses().eval(), Pairs(clean, corrupt, torch.zeros(items, dtype=torch.int64))


SEES = {
    "resample": ("twin", "alarm"),
    "zero": ("item", "twin", "constant", "place"),
    "batch, tokenwise mean": ("item",),
    "batch, mean over tokens": ("item", "place"),
    "tokenwise mean, clean": ("item",),
    "tokenwise mean, corrupt": ("item", "twin", "alarm"),
    "tokenwise mean, clean and corrupt": ("item", "twin", "alarm"),
    "mean": ("item", "place"),
    "optimal": ("item", "place"),
}
"""What each stand-in sees of `plant_uses`, derived in its docstring. Optimal constants see what no constant says."""


@dataclass(frozen=True)
class Shift:
    """Metric: how far each item's answer is from the intact model's, the mean over positions of the squared change."""

    against_intact = True

    def __call__(self, output: Tensor, batch: object, intact: Tensor) -> Tensor:
        """Return the squared change `[items]`."""
        return (output - intact).square().mean(1)


def blind(pair: tuple[str, str]) -> set[str]:
    """Return which used units neither of two stand-ins sees."""
    return set(USES[:-1]) - set(SEES[pair[0]]) - set(SEES[pair[1]])


class Read(nn.Module):
    """A linear read-out of eight units, one logit a class."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.units, self.head = nn.Identity(), nn.Linear(len(weights), 1, bias=False)
        self.head.weight = nn.Parameter(weights[None])

    def forward(self, x: Tensor) -> Tensor:
        """Return the answer `[items]`."""
        return self.head(self.units(x))[:, 0]


def plant_reading(items: int = 400) -> Case:
    """Return a linear network in which a probe, magnitudes and patterns are wrong in known ways, as a case.

    A signal s is 1 in an input and −1 in its twin, n is noise, the same for both. Units, and what weight reads them:

    | unit | says | weight |
    |---|---|---|
    | 0 to 3 | s/4, s/2, s, 2s, each plus n | 1, 1, 1, 1 |
    | 4 | n alone: a probe subtracts it | 0 |
    | 5 | s, without noise: a probe's favourite | 0.1 |
    | 6 | 40: large, and always the same | 0.05 |
    | 7 | s/8 | 8 |

    Replaced by its twin's, a unit moves the answer by twice its part of s times its weight: ½, 1, 2, 4, 0, 0.2, 0, 2
    (unit 7 by 2). Pattern × weight is in that order; the probe is not, since units 4 and 5 help it and nothing reads
    them, or hardly anything; nor are magnitudes, of which unit 6 has the largest.
    """
    noise = 3 * torch.randn(items, generator=generator(0, "planted noise"), dtype=torch.float64)
    parts = torch.tensor([0.25, 0.5, 1.0, 2.0, 0.0, 1.0, 0.0, 0.125], dtype=torch.float64)
    shared = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    fixed = torch.tensor([0.0, 0, 0, 0, 0, 0, 40, 0], dtype=torch.float64)
    weights = torch.tensor([1.0, 1, 1, 1, 0, 0.1, 0.05, 8], dtype=torch.float64)
    clean, corrupt = (sign * parts + noise[:, None] * shared + fixed for sign in (1.0, -1.0))
    layer = Layer(Site("units", axis=1), weights.abs(), torch.zeros(len(weights)))
    pairs = Pairs(clean, corrupt, torch.zeros(items, dtype=torch.int64))
    return Case(
        "planted", Read(weights).eval(), pairs, _minus, (layer,), torch.arange(2 * items) < items, pairs, answers=False
    )


MOVED = (0.5, 1.0, 2.0, 4.0, 0.0, 0.2, 0.0, 2.0)
"""What replacing each unit of `plant_reading` by its twin's takes from the answer."""

TWIN = AblationType.RESAMPLE


def _minus(output: Tensor, pairs: Pairs) -> Tensor:
    return -output
