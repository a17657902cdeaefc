"""Order and threshold apart: effects of ablation on the ranks of tiles, and on the boundary between labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbutils.seeding import generator
from studies.shortcut.controls import MATCHED, Controls, channel_sets, matched_masks, strength, top
from studies.shortcut.pooled import Pool
from studies.shortcut.sweeps import mean_of, measured

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

MEASURES = "accuracy", "area under ROC", "called tumour", "accuracy at the median"


def threshold_measures(
    head: nn.Linear, items: Pool, reference: Pool, controls: Controls, *, draws: int = 20
) -> pd.DataFrame:
    """Measure a head of two logits under ablation by the mean, with and without its threshold.

    Args:
        head: features -> logits, the second of tumour.
        items: tiles of both labels.
        reference: source of means, and of the strength of channels.
        controls: rankings and K; of the random controls `matched random` alone is drawn, for `shortcut`.
        draws: of `matched random` per K above 0.

    Returns:
        A tidy frame: `control`, `k`, `measure`, `value`, one row per draw. Measures are shares in [0, 1]: the accuracy,
        the area under the ROC curve, the share of tiles called tumour, the accuracy of a boundary at the median logit.
    """
    channels = []
    for k in controls.ks:
        masks = {name: top(order, k)[None] for name, order in controls.rankings.items()}
        rng = generator(0, "ROC", k)
        masks[MATCHED] = matched_masks(masks["shortcut"][0], strength(head, reference), draws if k else 1, rng)
        for name, some in masks.items():
            channels += channel_sets(name, some)
    metrics = dict(zip(MEASURES, (_right, _above, _called, _right_at_median), strict=True))
    frame = measured(head, items, channels, metrics, mean_of(reference))
    frame.loc[frame["measure"] == "area under ROC", "value"] /= int((items.labels != 1).sum())
    return frame[["control", "k", "measure", "value"]].astype({"control": object})


def _margin(output: Tensor) -> Tensor:
    """Return how far an item is called tumour `[items]`: above 0."""
    return output[:, 1] - output[:, 0]


def _right(output: Tensor, items: Pool) -> Tensor:
    return ((_margin(output) > 0) == (items.labels == 1)).double()


def _called(output: Tensor, items: Pool) -> Tensor:
    return (_margin(output) > 0).double()


def _right_at_median(output: Tensor, items: Pool) -> Tensor:
    margin = _margin(output)
    return ((margin > margin.quantile(0.5)) == (items.labels == 1)).double()


def _above(output: Tensor, items: Pool) -> tuple[Tensor, Tensor]:
    """Return for every tumour tile how many normal ones lie below it, of equal ones half: their share is the area."""
    margin, positives = _margin(output), items.labels == 1
    negatives = margin[~positives].sort().values
    below = torch.searchsorted(negatives, margin) + torch.searchsorted(negatives, margin, right=True)
    return below.double() / 2, positives
