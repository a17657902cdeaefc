"""What probes read of hospital and label: after ablation, above shuffled labels, after linear erasure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nbutils.stats.erasure import fit_eraser
from studies.shortcut.margins import judged
from studies.shortcut.pooled import Pool
from studies.shortcut.probes import ThreeSets, fit_probe, probe_accuracy, probe_curves, shuffled_floor

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


def read_pools(
    parts: Sequence[Pool], rankings: Mapping[str, ArrayLike], ks: Sequence[int], *, kind: str
) -> dict[str, Any]:
    """Probe one network for the hospital and for the label, before and after ablation and linear erasure.

    Args:
        parts: three sets without a common slide, to rank channels on, to fit probes and the eraser on, to judge them
            on; with the groups `hospital` and `slide`.
        rankings: control -> channels `[C]`, first ablated first.
        ks: numbers of channels, fewer than C.
        kind: name of the first target, `"hospital"` if a slide has one hospital.

    Returns:
        `probes`, the frame of `probe_curves` with a column `target`, this `kind` or `tumour`; by target, `floors`,
        accuracies `[10]` on shuffled targets, and `ceilings`, the accuracy of a new probe after erasure.
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
    return {"probes": pd.concat(curves), "floors": floors, "ceilings": ceilings}


def retrained(fitted: Pool, items: Pool) -> dict[str, float]:
    """Return measures (`margins.MEASURES`) of a last layer trained again on other items, by the fit of a probe.

    Where labels and hospitals are balanced in `fitted` this is deep feature reweighting: the features keep the
    shortcut, the layer no longer gains by it. Kirichenko et al. 2023, arXiv 2204.02937.
    """
    margin = fit_probe(fitted.features, fitted.labels).decision_function(items.features.double().numpy())
    return {name: values.item() for name, values in judged(torch.as_tensor(margin)[None], items.labels).items()}
