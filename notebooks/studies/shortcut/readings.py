"""What probes read of hospital and label: after ablation, above shuffled labels, after linear erasure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from studies.shortcut.erasure import fit_eraser
from studies.shortcut.pooled import Pool, beside
from studies.shortcut.probes import ThreeSets, fit_probe, probe_accuracy, probe_curves, shuffled_floor

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


def read_pools(
    head: nn.Linear,
    parts: Sequence[Pool],
    judged: Mapping[str, Pool],
    rankings: Mapping[str, ArrayLike],
    ks: Sequence[int],
    *,
    kind: str,
) -> dict[str, Any]:
    """Probe one network for the hospital and for the label, and erase the hospital linearly.

    Args:
        head: features -> logits.
        parts: three sets without a common slide, to rank channels on, to fit probes and the eraser on, to judge them
            on; with the groups `hospital` and `slide`.
        judged: name -> items on which the head is judged after erasure.
        rankings: control -> channels `[C]`, first ablated first.
        ks: numbers of channels, fewer than C.
        kind: name of the first target, `"hospital"` if a slide has one hospital.

    Returns:
        `probes`, the frame of `probe_curves` with a column `target`, this `kind` or `tumour`; by target, `floors`,
        accuracies `[10]` on shuffled targets, and `ceilings`, the accuracy of a new probe after erasure; by set,
        `erased`, the accuracy of the head after erasure.
    """
    import pandas as pd

    features = torch.cat([items.features for items in parts]).numpy()
    ends = np.cumsum([len(items) for items in parts])
    sets = ThreeSets(*np.split(np.arange(ends[-1]), ends[:-1]))
    slides, hospitals = (torch.cat([items.groups[name] for items in parts]).numpy() for name in ("slide", "hospital"))
    targets = {kind: hospitals, "tumour": torch.cat([items.labels for items in parts]).numpy()}
    eraser = fit_eraser(features[sets.fitting], hospitals[sets.fitting])
    left = eraser(features[sets.fitting]), eraser(features[sets.evaluation])
    curves: list[pd.DataFrame] = []
    floors, ceilings = {}, {}
    for name, target in targets.items():
        curves.append(probe_curves(features, target, sets, rankings, ks).assign(target=name))
        whole = slides if name == kind == "hospital" else None
        floors[name] = shuffled_floor(features, target, sets, slides=whole, repeats=10)
        again = fit_probe(left[0], target[sets.fitting])
        ceilings[name] = float(probe_accuracy(again, left[1], target[sets.evaluation]))
    erased = {name: _accuracy(head, eraser(items.features), items) for name, items in judged.items()}
    return {"probes": pd.concat(curves), "floors": floors, "ceilings": ceilings, "erased": erased}


@torch.no_grad()
def _accuracy(head: nn.Linear, features: ArrayLike, items: Pool) -> float:
    values = torch.as_tensor(features, dtype=torch.float32)
    answers = beside(head, values)(values).argmax(1)
    return (answers == items.labels).float().mean().item()
