"""Accuracies under thousands of ablations of pooled channels: every control, K, draw and stand-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from studies.shortcut.controls import Controls, strength
from studies.shortcut.pooled import ABLATIONS, Pool, beside, replacement

if TYPE_CHECKING:
    import pandas as pd

_ELEMENTS = 4_000_000  # of a product at a time: [ablations, items], float32


def sweep(
    head: nn.Linear,
    sets: Mapping[str, Pool],
    reference: Pool,
    controls: Controls,
    *,
    ablations: Sequence[str] = tuple(ABLATIONS),
) -> pd.DataFrame:
    """Ablate the channels of every control and measure the head's accuracy.

    Args:
        head: features -> logits; two classes or more.
        sets: name -> items to measure on.
        reference: source of means and resamplings, and of the strength that random channels are matched on.
        controls: the channels, the same ones under every ablation.
        ablations: names of `ABLATIONS`.

    Returns:
        A tidy frame: `control`, `ablation`, `k`, `draw`, `set`, `measure`, `value`, `n`. Controls are the ranked ones,
        `random` and `matched random`. Measures are `accuracy` and, for every group, e.g. `slide=3`; `n` is the number
        of items.

    Raises:
        ValueError: items of another number of channels than the head reads or the controls rank.
    """
    import pandas as pd

    widths = {name: items.channels for name, items in sets.items()}
    for name, width in {**widths, "reference": reference.channels, "controls": controls.channels}.items():
        if width != head.in_features:
            raise ValueError(f"the head reads {head.in_features} channels; {name!r} has {width}")
    rows, masks = controls.masks(strength(head, reference))
    parts = []
    for name, items in sets.items():
        for ablation in ablations:
            hits, counts = _count_hits(head, items, replacement(ablation, items, reference, controls.seed), masks)
            parts.append(_tidy(rows, hits, counts).assign(set=name, ablation=ablation))
    frame = pd.concat(parts, ignore_index=True)[["control", "ablation", "k", "draw", "set", "measure", "value", "n"]]
    for column in ("control", "ablation", "set", "measure"):  # otherwise most of the frame is repeated words
        frame[column] = frame[column].astype("category")
    return frame


@torch.no_grad()
def _count_hits(head: nn.Linear, items: Pool, values: Tensor, masks: Tensor) -> tuple[Tensor, dict[str, int]]:
    """Return right answers `[ablations, measures]`, and measure -> number of items."""
    counts, members = {"accuracy": len(items)}, [torch.ones(len(items), 1)]
    for name, column in items.groups.items():
        present, index, sizes = column.unique(return_inverse=True, return_counts=True)
        counts |= {f"{name}={group}": size for group, size in zip(present.tolist(), sizes.tolist(), strict=True)}
        members.append(nn.functional.one_hot(index, len(present)).float())
    member = torch.cat(members, 1)  # (N, measures)
    head = beside(head, items.features)
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


def _tidy(rows: list[tuple[str, int, int]], hits: Tensor, counts: dict[str, int]) -> pd.DataFrame:
    """Return `control`, `k`, `draw`, `measure`, `value` and `n` of right answers `[ablations, measures]`."""
    import pandas as pd

    control, k, draw = zip(*rows, strict=True)
    width = len(counts)
    totals = np.array([*counts.values()])
    return pd.DataFrame(
        {
            "control": pd.Categorical(control).repeat(width),
            "k": np.repeat(k, width),
            "draw": np.repeat(draw, width),
            "measure": np.tile([*counts], len(rows)),
            "value": (hits.double().numpy() / totals).ravel(),
            "n": np.tile(totals, len(rows)),
        }
    )
