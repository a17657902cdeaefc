"""Ablate sets of pooled channels, by the thousand, without running the network again.

What stands in for an activation is what `nbutils.interventions.ablation` says, of a network cut down to its pool and
head. Between the two there is one linear layer. Replacing channels S of an item by r adds Σ_{c∈S} (r_c − a_c)·w_c to
its logits, so the logits of many ablations are one matrix product of their masks with the effects of single channels.
Exact up to rounding, and to the last bit where nothing is ablated. Source document: M6, with the controls it lacks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nbutils.ablation.types import AblationType
from nbutils.ablation.values import gather
from nbutils.seeding import generator

if TYPE_CHECKING:
    import pandas as pd

KS = (0, 4, 8, 16, 32, 64, 128, 256)  # the source's
RANDOM, MATCHED = "random", "matched random"  # controls that are drawn, and not ranked

ABLATIONS = {
    "zero": AblationType.ZERO,
    "mean": AblationType.TOKENWISE_MEAN_CLEAN,
    "resample": AblationType.RESAMPLE,
    "same-label resample": AblationType.RESAMPLE,
}
"""Name -> what replaces a channel. Means and resamplings are taken from a reference: its mean (what the source calls
zeroing: 0 in standardised space), or an item's twin in it, drawn from all of it or from the items of the same label."""

_ELEMENTS = 4_000_000  # of a product at a time: [ablations, items], float32


@dataclass(frozen=True)
class Pool:
    """Pooled features of a set of items, and what is known of each; on the processor, as `extract` returns them.

    A head may be elsewhere: a copy of it comes to the features.

    Attributes:
        features: `[N, C]`.
        labels: `[N]`, integers: the true classes.
        groups: name -> `[N]`, integers, e.g. `{"slide": ..., "hospital": ...}`; accuracy is also given in each.

    Raises:
        ValueError: shapes that do not correspond, or no items.
    """

    features: Tensor
    labels: Tensor
    groups: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or not len(self.features):
            raise ValueError(f"features are [N, C] with N of 1 or more; got {list(self.features.shape)}")
        for name, column in {"labels": self.labels, **self.groups}.items():
            if column.shape != self.features.shape[:1] or column.is_floating_point():
                raise ValueError(
                    f"{name} must be {len(self.features)} integers; got {column.dtype} {list(column.shape)}"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, items: slice | Tensor) -> Pool:
        """Return some of the items: a slice, indices, or a mask `[N]`."""
        groups = {name: column[items] for name, column in self.groups.items()}
        return Pool(self.features[items], self.labels[items], groups)


def head_weight(head: nn.Linear) -> Tensor:
    """Return how much the head reads each channel `[C]`: the norm of its weights to the logits, less their mean.

    The mean over classes is taken off because what is added to every logit decides nothing.
    """
    weight = head.weight.detach().cpu()
    return (weight - weight.mean(0)).norm(dim=0)


def strength(head: nn.Linear, reference: Pool) -> Tensor:
    """Return what random channels are matched on `[C]`: the activation's standard deviation times `head_weight`."""
    return reference.features.std(0) * head_weight(head)


def rankings(shortcut: Tensor, morphology: Tensor | None, head: nn.Linear) -> dict[str, Tensor]:
    """Return the ranked controls: name -> channels `[C]`, those to be ablated first in front.

    Args:
        shortcut: `[C]`, how well each channel tells hospitals apart; more is more.
        morphology: `[C]`, likewise for tumour; None leaves that control out.
        head: gives the control that knows nothing of hospitals, `head weight`.

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
    order = torch.rand(draws, channels, generator=rng).argsort(1)
    return torch.zeros(draws, channels, dtype=torch.bool).scatter_(1, order[:, :k], True)


def matched_masks(chosen: Tensor, strength: Tensor, draws: int, rng: torch.Generator, strata: int = 16) -> Tensor:
    """Return `[draws, C]`: random channels that are as strong as the chosen ones.

    Channels are cut into strata of equal size by `strength`, and each draw takes from every stratum, uniformly, as
    many as `chosen` has there, the chosen ones themselves included. If what makes channels chosen were irrelevant
    given their strength, `chosen` would be one more such draw: the permutation test within strata is exact.

    Args:
        chosen: mask `[C]`.
        strength: `[C]`, e.g. `strength(...)`.
        draws: how many.
        rng: where the draws come from.
        strata: how many; each has C / strata channels.
    """
    channels = len(chosen)
    by_strength = strength.argsort(stable=True)
    stratum = torch.empty(channels, dtype=torch.long)
    stratum[by_strength] = torch.arange(channels) * strata // channels
    wanted = torch.bincount(stratum[chosen], minlength=strata)
    first = torch.bincount(stratum, minlength=strata).cumsum(0).roll(1)
    first[0] = 0
    # Sorted by stratum and at random within it: the first so many of every stratum are its draw.
    order = (stratum + torch.rand(draws, channels, generator=rng, dtype=torch.float64)).argsort(1)
    sorted_stratum = stratum[by_strength]
    taken = torch.arange(channels) - first[sorted_stratum] < wanted[sorted_stratum]
    return torch.zeros(draws, channels, dtype=torch.bool).scatter_(1, order[:, taken], True)


def twins(items: Pool, reference: Pool, *, same_label: bool, seed: int = 0) -> Tensor:
    """Return an item of the reference for each item, `[N]` indices, at random and with replacement.

    Args:
        items: whose twins.
        reference: where they are.
        same_label: only among those of the item's label.
        seed: of the draws.

    Raises:
        ValueError: a label that the reference does not have.
    """
    if not same_label:
        return torch.randint(len(reference), (len(items),), generator=generator(seed, "donors"))
    found = torch.empty(len(items), dtype=torch.long)
    for label in items.labels.unique().tolist():
        own, pool = items.labels == label, (reference.labels == label).nonzero()[:, 0]
        if not len(pool):
            raise ValueError(f"the reference has no item of label {label} to resample from")
        rng = generator(seed, "donors of a label", label)
        found[own] = pool[torch.randint(len(pool), (int(own.sum()),), generator=rng)]
    return found


def replacement(ablation: str, items: Pool, reference: Pool, seed: int = 0) -> Tensor:
    """Return what replaces the activations of items: `[1, C]`, or `[N, C]` for the two resamplings.

    Args:
        ablation: one of `ABLATIONS`.
        items: whose activations are to be replaced.
        reference: where means and twins come from, usually the training set.
        seed: of the twins (see `twins`).

    Raises:
        ValueError: no such ablation; a label that the reference does not have.
    """
    if ablation not in ABLATIONS:
        raise ValueError(f"ablation must be one of {', '.join(ABLATIONS)}; got {ablation!r}")
    kind, source = ABLATIONS[ablation], reference.features
    if kind is AblationType.RESAMPLE:
        source = source[twins(items, reference, same_label=ablation == "same-label resample", seed=seed)]
    pool = nn.Sequential()  # what is left of a network whose pooled features are its inputs
    pool.add_module("pool", nn.Identity())
    values = gather(pool, ["pool"], kind, [source])
    value = values["pool"].to(items.features)
    return value if value.ndim else value.expand(1, items.features.shape[1])


def replace_channels(features: Tensor, mask: Tensor, values: Tensor) -> Tensor:
    """Return features `[N, C]` with the masked channels `[C]` replaced by `values` `[1, C]` or `[N, C]`."""
    return torch.where(mask, values, features)


def sweep(
    head: nn.Linear,
    sets: Mapping[str, Pool],
    reference: Pool,
    rankings: Mapping[str, Tensor],
    *,
    ks: Sequence[int] = KS,
    draws: int = 200,
    ablations: Sequence[str] = tuple(ABLATIONS),
    match: str | None = "shortcut",
    seed: int = 0,
) -> pd.DataFrame:
    """Ablate K channels, by every ranking and at random, and measure the head's accuracy.

    Args:
        head: features -> logits; two classes or more.
        sets: name -> items to measure on.
        reference: what means and resamplings come from, and what random channels are matched on.
        rankings: control -> channels `[C]`, first ablated first (see `rankings`).
        ks: numbers of channels.
        draws: random sets of channels for each K and random control; the same ones under every ablation.
        ablations: what replaces an activation, of `ABLATIONS`.
        match: the ranking whose top K `matched random` imitates; None leaves that control out.
        seed: of all draws.

    Returns:
        A tidy frame: `control`, `ablation`, `k`, `draw`, `set`, `measure`, `value`, `n`. Controls are those of
        `rankings` (draw 0 only), `random` and `matched random` (one draw at K = 0). Measures are `accuracy` and, for
        every group, e.g. `slide=3`; `n` is how many items.

    Raises:
        KeyError: `match` is no ranking.
        ValueError: a K below 0 or above C; a ranking that is no order of the channels; widths that differ; no draws.
    """
    channels = head.in_features
    _check(channels, sets, reference, rankings, ks, draws)
    if match is not None and match not in rankings:
        raise KeyError(f"no ranking {match!r} to match; there are {', '.join(rankings)}")
    rows: list[tuple[str, int, int]] = []
    masks: list[Tensor] = []
    for k in ks:
        for name, order in rankings.items():
            rows.append((name, k, 0))
            masks.append(top(order, k)[None])
        times = draws if k else 1
        drawn = {RANDOM: random_masks(channels, k, times, generator(seed, RANDOM, k))}
        if match is not None:
            chosen = top(rankings[match], k)
            drawn[MATCHED] = matched_masks(chosen, strength(head, reference), times, generator(seed, MATCHED, k))
        for name, some in drawn.items():
            rows += [(name, k, draw) for draw in range(times)]
            masks.append(some)
    mask = torch.cat(masks)
    parts = []
    for name, items in sets.items():
        for ablation in ablations:
            hits, counts = _hits(head, items, replacement(ablation, items, reference, seed), mask)
            parts.append(_tidy(rows, name, ablation, hits, counts))
    import pandas as pd

    frame = pd.concat(parts, ignore_index=True)
    for column in ("control", "ablation", "set", "measure"):  # otherwise most of the frame is repeated words
        frame[column] = frame[column].astype("category")
    return frame


@torch.no_grad()
def logits(head: nn.Linear, items: Pool, values: Tensor, masks: Tensor) -> Tensor:
    """Return the logits `[ablations, N, classes]` of every ablation.

    Args:
        head: features -> logits.
        items: whose.
        values: `[1, C]` or `[N, C]`, what replaces activations (see `replacement`).
        masks: `[ablations, C]`, which channels.
    """
    head = _beside(head, items.features)
    change = values - items.features  # (N, C)
    moved = [masks.to(change) @ (change * weight).T for weight in head.weight]  # (ablations, N) for each class
    return head(items.features) + torch.stack(moved, -1)


@torch.no_grad()
def _hits(head: nn.Linear, items: Pool, values: Tensor, masks: Tensor) -> tuple[Tensor, dict[str, int]]:
    """Return right answers `[ablations, measures]`, and measure -> number of items."""
    counts, members = {"accuracy": len(items)}, [torch.ones(len(items), 1)]
    for name, column in items.groups.items():
        present, index, sizes = column.unique(return_inverse=True, return_counts=True)
        counts |= {f"{name}={group}": size for group, size in zip(present.tolist(), sizes.tolist(), strict=True)}
        members.append(nn.functional.one_hot(index, len(present)).float())
    member = torch.cat(members, 1)  # (N, measures)
    head = _beside(head, items.features)
    base = head(items.features)
    # Only differences to the first logit decide, so that two classes need one product.
    weight, lead = head.weight[1:] - head.weight[:1], base[:, 1:] - base[:, :1]
    masks = masks.to(items.features)
    hits = torch.zeros(len(masks), member.shape[1])
    for part in torch.arange(len(items)).split(max(1, _ELEMENTS // len(masks))):
        change = values.expand_as(items.features)[part] - items.features[part]
        best = torch.zeros(len(masks), len(part))
        chosen = torch.zeros(len(masks), len(part), dtype=torch.long)
        for other in range(len(weight)):
            ahead = lead[part, other] + masks @ (change * weight[other]).T  # (ablations, part)
            chosen.masked_fill_(ahead > best, other + 1)
            best = torch.maximum(best, ahead)
        hits += (chosen == items.labels[part]).float() @ member[part]
    return hits, counts


def _beside(head: nn.Linear, features: Tensor) -> nn.Linear:
    return head if head.weight.device == features.device else copy.deepcopy(head).to(features.device)


def _tidy(rows: list[tuple[str, int, int]], name: str, ablation: str, hits: Tensor, counts: dict[str, int]):
    import pandas as pd

    control, k, draw = zip(*rows, strict=True)
    width = len(counts)
    totals = np.array([*counts.values()])
    return pd.DataFrame(
        {
            "control": pd.Categorical(control).repeat(width),
            "ablation": ablation,
            "k": np.repeat(k, width),
            "draw": np.repeat(draw, width),
            "set": name,
            "measure": np.tile([*counts], len(rows)),
            "value": (hits.double().numpy() / totals).ravel(),
            "n": np.tile(totals, len(rows)),
        }
    )


def _check(channels, sets, reference, rankings, ks, draws) -> None:
    for name, pool in {**sets, "reference": reference}.items():
        if pool.features.shape[1] != channels:
            raise ValueError(f"the head reads {channels} channels; {name!r} has {pool.features.shape[1]}")
    for name, order in rankings.items():
        if not torch.equal(torch.as_tensor(order).sort().values, torch.arange(channels)):
            raise ValueError(f"ranking {name!r} must name each of the {channels} channels once")
        if name in (RANDOM, MATCHED):
            raise ValueError(f"{name!r} is drawn, and cannot be a ranking's name")
    if not ks or min(ks) < 0 or max(ks) > channels or len(set(ks)) < len(ks):
        raise ValueError(f"ks must be different numbers from 0 to {channels}; got {tuple(ks)}")
    if draws < 1:
        raise ValueError(f"draws must be 1 or more; got {draws}")


def _descending(score: Tensor) -> Tensor:
    return torch.as_tensor(score).argsort(descending=True, stable=True)
