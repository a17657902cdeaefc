"""Controls of an ablation: the channels at the front of a ranking, random ones, random ones of the same strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nbutils.seeding import generator
from nbutils.sites import Site
from studies.shortcut.pooled import Pool

KS = (0, 4, 8, 16, 32, 64, 128, 256)  # the source's
RANDOM, MATCHED = "random", "matched random"  # controls by draw, not by rank


@dataclass(frozen=True)
class ChannelSet:
    """Channels that are ablated at one time, and the control and draw they are of.

    Attributes:
        control, draw: as in `Controls`.
        site: the channels in `pooled.after_pool`; None for none of them.
    """

    control: str
    draw: int
    site: Site | None

    @property
    def k(self) -> int:
        """Number of channels."""
        return 0 if self.site is None else len(self.site.indices)


@dataclass(frozen=True)
class Controls:
    """Sets of K channels: the first of each ranking, and draws at random.

    Attributes:
        rankings: control -> channels `[C]`, first ablated first (see `rankings`).
        ks: numbers of channels, from 0 to C, each once.
        draws: random sets per K above 0 and random control, 1 or more.
        match: the ranking whose first K `matched random` imitates; None leaves that control out.
        seed: of all draws.

    Raises:
        KeyError: `match` is no ranking.
        ValueError: a K below 0 or above C, or twice; a ranking that is no order of the channels; no rankings or draws.
    """

    rankings: Mapping[str, Tensor]
    ks: Sequence[int] = KS
    draws: int = 200
    match: str | None = "shortcut"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rankings:
            raise ValueError("controls need one ranking or more; got none")
        if self.match is not None and self.match not in self.rankings:
            raise KeyError(f"no ranking {self.match!r} to match; there are {', '.join(self.rankings)}")
        for name, order in self.rankings.items():
            if not torch.equal(torch.as_tensor(order).sort().values, torch.arange(self.channels)):
                raise ValueError(f"ranking {name!r} must name each of the {self.channels} channels once")
            if name in (RANDOM, MATCHED):
                raise ValueError(f"{name!r} is drawn, and cannot be a ranking's name")
        ks = self.ks
        if not ks or min(ks) < 0 or max(ks) > self.channels or len(set(ks)) < len(ks):
            raise ValueError(f"ks must be different numbers from 0 to {self.channels}; got {tuple(ks)}")
        if self.draws < 1:
            raise ValueError(f"draws must be 1 or more; got {self.draws}")

    @property
    def channels(self) -> int:
        """Their number, C."""
        return len(next(iter(self.rankings.values())))

    def sets(self, strength: Tensor) -> list[ChannelSet]:
        """Return the sets of channels: of every K in turn, of every control, of every draw.

        Ranked controls, and K = 0, have the draw 0 only.

        Args:
            strength: `[C]`, for the match of random channels (see `strength`).
        """
        found: list[ChannelSet] = []
        for k in self.ks:
            masks = {name: top(order, k)[None] for name, order in self.rankings.items()}
            times = self.draws if k else 1
            masks[RANDOM] = random_masks(self.channels, k, times, generator(self.seed, RANDOM, k))
            if self.match is not None:
                rng = generator(self.seed, MATCHED, k)
                masks[MATCHED] = matched_masks(masks[self.match][0], strength, times, rng)
            for name, some in masks.items():
                found += channel_sets(name, some)
        return found


def channel_sets(control: str, masks: Tensor) -> list[ChannelSet]:
    """Return the sets of channels, all of one size, that masks `[draws, C]` choose."""
    chosen = masks.nonzero()[:, 1].view(len(masks), -1).tolist()
    return [ChannelSet(control, draw, Site("pool", some, 1) if some else None) for draw, some in enumerate(chosen)]


def head_weight(head: nn.Linear) -> Tensor:
    """Return how much the head reads each channel `[C]`: the norm of its weights to the logits, less their mean.

    The mean over classes is taken off: a number added to every logit decides nothing.
    """
    weight = head.weight.detach().cpu()
    return (weight - weight.mean(0)).norm(dim=0)


def strength(head: nn.Linear, reference: Pool) -> Tensor:
    """Return the strength of channels `[C]`: the activation's standard deviation times `head_weight`."""
    return reference.features.std(0) * head_weight(head)


def rankings(shortcut: Tensor, morphology: Tensor | None, head: nn.Linear) -> dict[str, Tensor]:
    """Return the ranked controls: name -> channels `[C]`, first ablated first.

    Args:
        shortcut: `[C]`, how well each channel tells hospitals apart; more is better.
        morphology: `[C]`, likewise for tumour; None leaves that control out.
        head: gives a control without knowledge of hospitals, `head weight`.

    Returns:
        `shortcut`, `morphology`, `head weight`, and `least aligned`, the reverse of the first. Of equals, lower
        channels come first.
    """
    scores = {"shortcut": shortcut, "morphology": morphology, "head weight": head_weight(head)}
    found = {name: _descending(score) for name, score in scores.items() if score is not None}
    return {**found, "least aligned": _descending(-torch.as_tensor(shortcut))}


def top(order: Tensor, k: int) -> Tensor:
    """Return the mask `[C]` of the first `k` channels of a ranking."""
    mask = torch.zeros(len(order), dtype=torch.bool)
    mask[order[:k]] = True
    return mask


def random_masks(channels: int, k: int, draws: int, rng: torch.Generator) -> Tensor:
    """Return `[draws, channels]`, each with `k` channels chosen uniformly."""
    order = _sorted(torch.rand(draws, channels, generator=rng))
    return torch.zeros(draws, channels, dtype=torch.bool).scatter_(1, order[:, :k], True)


def matched_masks(chosen: Tensor, strength: Tensor, draws: int, rng: torch.Generator, strata: int = 16) -> Tensor:
    """Return `[draws, C]`: random channels as strong as the chosen ones.

    Channels are cut into strata of equal size by `strength`, and each draw takes from every stratum, uniformly, as
    many as `chosen` has there, the chosen ones themselves included. If what makes channels chosen were irrelevant
    given their strength, `chosen` would be one more such draw: the permutation test within strata is exact.

    Args:
        chosen: mask `[C]`.
        strength: `[C]`, e.g. `strength(...)`.
        draws: their number.
        rng: their source.
        strata: their number; each has C / strata channels.
    """
    channels = len(chosen)
    by_strength = strength.argsort(stable=True)
    stratum = torch.empty(channels, dtype=torch.long)
    stratum[by_strength] = torch.arange(channels) * strata // channels
    wanted = torch.bincount(stratum[chosen], minlength=strata)
    first = torch.bincount(stratum, minlength=strata).cumsum(0).roll(1)
    first[0] = 0
    # Sorted by stratum and at random within it: the first so many of every stratum are its draw.
    order = _sorted(stratum + torch.rand(draws, channels, generator=rng, dtype=torch.float64))
    sorted_stratum = stratum[by_strength]
    taken = torch.arange(channels) - first[sorted_stratum] < wanted[sorted_stratum]
    return torch.zeros(draws, channels, dtype=torch.bool).scatter_(1, order[:, taken], True)


def _sorted(draws: Tensor) -> Tensor:
    """Return the order of each row; numpy takes a sixth of torch's time."""
    return torch.from_numpy(np.argsort(draws.numpy(), axis=1))


def _descending(score: Tensor) -> Tensor:
    return torch.as_tensor(score).argsort(descending=True, stable=True)
