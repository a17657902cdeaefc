"""Order and threshold apart: effects of ablation on the ranks of tiles, and on the boundary between labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbutils.seeding import generator
from studies.shortcut.controls import MATCHED, Controls, matched_masks, strength, top
from studies.shortcut.pooled import Pool, logits, replacement

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
    import pandas as pd
    from scipy.stats import rankdata

    positives = (items.labels == 1).numpy()
    mean = replacement("mean", items, reference)
    rows = []
    for k in controls.ks:
        masks = {name: top(order, k)[None] for name, order in controls.rankings.items()}
        rng = generator(0, "ROC", k)
        masks[MATCHED] = matched_masks(masks["shortcut"][0], strength(head, reference), draws if k else 1, rng)
        for name, some in masks.items():
            margin = logits(head, items, mean, some).diff(dim=-1)[..., 0].numpy()  # (masks, tiles), above 0: tumour
            above = rankdata(margin, axis=1)[:, positives].sum(1) - positives.sum() * (positives.sum() + 1) / 2
            middle = margin > np.median(margin, axis=1, keepdims=True)
            values = (
                ((margin > 0) == positives).mean(1),
                above / positives.sum() / (~positives).sum(),
                (margin > 0).mean(1),
                (middle == positives).mean(1),
            )
            rows += [(name, k, measure, v) for measure, value in zip(MEASURES, values, strict=True) for v in value]
    return pd.DataFrame(rows, columns=["control", "k", "measure", "value"])
