"""How far tiles are called tumour with any channels at their mean: one matrix product for thousands of sets of them.

After the pool a network of two logits is linear: a channel's part of the margin between them is its distance from the
mean times its weight, and ablation takes parts away.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from studies.shortcut.pooled import Pool

MEASURES = "accuracy", "area under ROC", "called tumour", "accuracy at the median"


@dataclass(frozen=True)
class Margins:
    """The logit of tumour less that of normal tissue, of items, in double precision.

    Attributes:
        whole: `[N]`, of the unmodified head.
        parts: `[N, C]`, what each channel adds to it beyond its mean.
        labels: `[N]`, 1 for tumour.
    """

    whole: Tensor
    parts: Tensor
    labels: Tensor

    def without(self, masks: Tensor) -> Tensor:
        """Return margins `[sets, N]` with the channels of masks `[sets, C]` at their mean."""
        return self.whole - masks.to(self.parts) @ self.parts.T


def weights(head: nn.Linear) -> Tensor:
    """Return a head's weights to the margin `[C]`, in double precision.

    Raises:
        ValueError: a head of other than two logits.
    """
    if head.out_features != 2:
        raise ValueError(f"a margin is between two logits; got a head of {head.out_features}")
    weight = head.weight.detach().cpu().double()
    return weight[1] - weight[0]


def margins(head: nn.Linear, items: Pool, reference: Pool) -> Margins:
    """Take a head's margins apart into the parts of channels.

    Args:
        head: features -> two logits, the second of tumour.
        items: tiles.
        reference: source of means.

    Raises:
        ValueError: a head of other than two logits.
    """
    weight, features = weights(head), items.features.double()
    bias = 0.0 if head.bias is None else (head.bias[1] - head.bias[0]).item()
    parts = (features - reference.features.double().mean(0)) * weight
    return Margins(features @ weight + bias, parts, items.labels)


def judged(margin: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return measure -> values `[sets]` of margins `[sets, N]`; all are shares in [0, 1].

    `accuracy`; `area under ROC`, the share of pairs of a tumour and a normal tile in the right order, of equals half;
    `called tumour`, the share above the boundary; `accuracy at the median`, that of a boundary put where half of the
    tiles lie above it: recalibrated without a label, for sets of which half are tumour.

    Raises:
        ValueError: one label only.
    """
    tumour = labels == 1
    if tumour.all() or not tumour.any():
        raise ValueError("an area under the ROC curve needs tiles of both labels")
    called = margin > 0
    normal, ill = margin[:, ~tumour].sort(1).values, margin[:, tumour].contiguous()
    below = torch.searchsorted(normal, ill) + torch.searchsorted(normal, ill, right=True)
    at_median = margin > margin.quantile(0.5, dim=1, keepdim=True)
    return {
        "accuracy": (called == tumour).double().mean(1),
        "area under ROC": below.double().mean(1) / 2 / normal.shape[1],
        "called tumour": called.double().mean(1),
        "accuracy at the median": (at_median == tumour).double().mean(1),
    }
