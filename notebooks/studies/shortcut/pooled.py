"""Pooled channels of a network replaced, without a new pass through it.

Stand-ins for activations are those of `nbutils.ablation`, for a network cut down to its pool and head. Between the two
there is one linear layer. Replacing channels S of an item by r adds Σ_{c∈S} (r_c − a_c)·w_c to its logits, so
the logits of many ablations are one matrix product of their masks with the effects of single channels: exact up to
rounding, and to the last bit where nothing is ablated. Source document: "M6" of notebook 03.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nbutils.ablation.types import AblationType
from nbutils.ablation.values import gather
from nbutils.seeding import generator

ABLATIONS = {
    "zero": AblationType.ZERO,
    "mean": AblationType.TOKENWISE_MEAN_CLEAN,
    "resample": AblationType.RESAMPLE,
    "same-label resample": AblationType.RESAMPLE,
}
"""Name -> what replaces a channel. Means and resamplings are taken from a reference: its mean (what the source calls
zeroing: 0 in standardised space), or an item's twin in it, drawn from all items or from those of the same label."""


@dataclass(frozen=True)
class Pool:
    """Pooled features of items, their labels and groups; on the processor, as `extract` returns them.

    A head may be elsewhere: a copy of it comes to the features.

    Attributes:
        features: `[N, C]`.
        labels: `[N]`, integers: the true classes.
        groups: name -> `[N]`, integers, e.g. `{"slide": ..., "hospital": ...}`: a sweep gives accuracy in each, too.

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

    @property
    def channels(self) -> int:
        """Their number, C."""
        return self.features.shape[1]

    def __getitem__(self, items: slice | Tensor) -> Pool:
        """Return some of the items: a slice, indices, or a mask `[N]`."""
        groups = {name: column[items] for name, column in self.groups.items()}
        return Pool(self.features[items], self.labels[items], groups)


def twins(items: Pool, reference: Pool, *, same_label: bool, seed: int = 0) -> Tensor:
    """Return a random item of the reference for each item, `[N]` indices, with replacement.

    Args:
        items: N items that need a twin.
        reference: the source of twins.
        same_label: twins have the item's label.
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
        items: N items, whose activations are to be replaced.
        reference: the source of means and twins, usually the training set.
        seed: of the twins (see `twins`).

    Raises:
        ValueError: no such ablation; a label that the reference does not have.
    """
    if ablation not in ABLATIONS:
        raise ValueError(f"ablation must be one of {', '.join(ABLATIONS)}; got {ablation!r}")
    kind, source = ABLATIONS[ablation], reference.features
    if kind is AblationType.RESAMPLE:
        source = source[twins(items, reference, same_label=ablation == "same-label resample", seed=seed)]
    pool = nn.Sequential()  # the rest of a network whose inputs are the pooled features
    pool.add_module("pool", nn.Identity())
    values = gather(pool, ["pool"], kind, [source])
    value = values["pool"].to(items.features)
    return value if value.ndim else value.expand(1, items.features.shape[1])


def replace_channels(features: Tensor, mask: Tensor, values: Tensor) -> Tensor:
    """Return features `[N, C]` with the masked channels `[C]` replaced by `values` `[1, C]` or `[N, C]`."""
    return torch.where(mask, values, features)


@torch.no_grad()
def logits(head: nn.Linear, items: Pool, values: Tensor, masks: Tensor) -> Tensor:
    """Return the logits `[ablations, N, classes]` of every ablation.

    Args:
        head: features -> logits.
        items: N items.
        values: `[1, C]` or `[N, C]`, in place of activations (see `replacement`).
        masks: `[ablations, C]`, bool: the channels to replace.
    """
    head = beside(head, items.features)
    change = values - items.features  # (N, C)
    moved = [masks.to(change) @ (change * weight).T for weight in head.weight]  # (ablations, N) for each class
    return head(items.features) + torch.stack(moved, -1)


def beside(head: nn.Linear, features: Tensor) -> nn.Linear:
    """Return the head on the device of the features: itself, or a copy."""
    return head if head.weight.device == features.device else copy.deepcopy(head).to(features.device)
