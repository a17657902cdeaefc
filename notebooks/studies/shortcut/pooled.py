"""Pooled features of a network, and what follows them: a network cut down to its pool and head.

Channels are ablated there as anywhere: sites of `after_pool(head, items)`, whose batches are a `Pool`. Source document:
"M6" of notebook 03.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nbutils.ablation.edits import edits
from nbutils.ablation.types import AblationType
from nbutils.ablation.values import gather
from nbutils.hooks import edit
from nbutils.seeding import generator
from nbutils.sites import Site


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


def twins(reference: Pool, *, same_label: bool = False, seed: int = 0) -> Callable[[Pool], Tensor]:
    """Return where resampling takes its values: items -> features `[N, C]` of a random item of the reference for each.

    Drawn with replacement; the same items get the same twins.

    Args:
        reference: the source of twins, usually the training set.
        same_label: twins have the item's label.
        seed: of the draws.

    Returns:
        What `nb.sweep` takes as `reference`. It raises a ValueError for a label that the reference does not have.
    """

    def drawn(items: Pool) -> Tensor:
        if not same_label:
            chosen = torch.randint(len(reference), (len(items),), generator=generator(seed, "donors"))
            return reference.features[chosen]
        found = torch.empty(len(items), dtype=torch.long)
        for label in items.labels.unique().tolist():
            own, pool = items.labels == label, (reference.labels == label).nonzero()[:, 0]
            if not len(pool):
                raise ValueError(f"the reference has no item of label {label} to resample from")
            rng = generator(seed, "donors of a label", label)
            found[own] = pool[torch.randint(len(pool), (int(own.sum()),), generator=rng)]
        return reference.features[found]

    return drawn


def after_pool(head: nn.Linear, items: Pool) -> nn.Sequential:
    """Return the rest of a network on the items' device, features -> logits: `pool`, whose units are channels; `fc`."""
    return nn.Sequential(OrderedDict(pool=nn.Identity(), fc=beside(head, items.features)))


def mean_ablated(features: Tensor, channels: Tensor, reference: Pool) -> Tensor:
    """Return features `[N, C]` with some channels at their mean over a reference."""
    pool, site = nn.Identity(), Site("", tuple(channels.tolist()), 1)
    values = gather(pool, [site], AblationType.TOKENWISE_MEAN_CLEAN, [reference.features])
    with edit(pool, edits([site], values)):
        return pool(features)


def beside(head: nn.Linear, features: Tensor) -> nn.Linear:
    """Return the head on the device of the features: itself, or a copy."""
    return head if head.weight.device == features.device else copy.deepcopy(head).to(features.device)
