"""What a score takes for the shortcut, removed as whole directions instead of channels, and what the head makes of it.

A score names directions in the space of features: a probe's coefficients span some (a filter), class means span others
(a pattern), and of these the head reads one. Each can be removed at right angles, which is ablation of the first axes
of a basis learnt for that score, or as LEACE does. For one head either is a change of its weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from nbutils.stats.erasure import Whitening, one_hot
from studies.shortcut.margins import judged, margins, weights

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray
    from torch import nn

    from studies.shortcut.pooled import Pool

SCORES = "coefficient", "pattern", "pattern × weight"


def removals(
    features: ArrayLike,
    targets: ArrayLike,
    weight: ArrayLike,
    coefficients: ArrayLike | None = None,
    whitening: Whitening | None = None,
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Return (score, basis) -> what removal takes from a head's weights `[C]`.

    With d that change, a head's margin m(x) becomes m(x) − (x − mean of features)·d.

    Args:
        features: `[items, C]`.
        targets: `[items]`, classes.
        weight: `[C]`, of the margin.
        coefficients: `[classes or 1, C]`, of a probe for the targets on standardised features; None leaves it out.
        whitening: of the features, where there is one already.
    """
    features, targets, weight = np.asarray(features, dtype=np.float64), np.asarray(targets), np.asarray(weight)
    centred, scale = features - features.mean(0), features.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    standard = centred / scale
    whitening = Whitening.of(features) if whitening is None else whitening
    classes = one_hot(targets)
    shift = (classes * (classes.T @ (centred @ weight) / classes.sum(0))).sum(1, keepdims=True)
    concepts = {"pattern": classes, "pattern × weight": shift}
    spans = {name: standard.T @ (concept - concept.mean(0)) for name, concept in concepts.items()}
    if coefficients is not None:
        filters = np.asarray(coefficients, dtype=np.float64)
        concepts, spans = {"coefficient": standard @ filters.T} | concepts, {"coefficient": filters.T} | spans
    found = {}
    for name, concept in concepts.items():
        axes, sizes, _ = np.linalg.svd(spans[name], full_matrices=False)  # (C, numbers)
        axes = axes[:, sizes > 1e-8 * sizes.max()]
        found[name, "learnt rotation"] = axes @ (axes.T @ (weight * scale)) / scale
        found[name, "LEACE direction"] = whitening.erased(concept, weight)
    return found


def shuffled(targets: ArrayLike, slides: ArrayLike | None, draws: int, seed: int = 0) -> list[NDArray]:
    """Return draws of targets `[items]` shuffled over items, or over whole slides.

    Args:
        targets: `[items]`.
        slides: `[items]`, each with one target; None: items exchange theirs singly.
        draws: their number.
        seed: of the shuffles.

    Raises:
        ValueError: a slide has several targets.
    """
    targets = np.asarray(targets)
    units = np.arange(len(targets)) if slides is None else np.unique(np.asarray(slides), return_inverse=True)[1].ravel()
    own = targets[np.unique(units, return_index=True)[1]]
    if not np.array_equal(own[units], targets):
        raise ValueError("whole slides can exchange targets only where a slide has one; leave out slides=")
    rng = np.random.default_rng(seed)
    return [rng.permutation(own)[units] for _ in range(draws)]


def judged_removals(
    head: nn.Linear,
    fitted: Pool,
    items: Pool,
    coefficients: ArrayLike | None = None,
    *,
    whole_slides: bool,
    draws: int,
) -> pd.DataFrame:
    """Remove hospitals from a head in every way, and measure it; likewise of shuffled hospitals.

    Args:
        head: features -> two logits, the second of tumour.
        fitted: source of class means and covariances, with the groups `hospital` and `slide`.
        items: tiles to judge on.
        coefficients: as for `removals`.
        whole_slides: slides exchange their hospital in the shuffles; else items do.
        draws: shuffles; of coefficients there are none.

    Returns:
        A tidy frame: `score`, `basis`, `fit` (`hospital` or `shuffled`), `measure` (see `margins.MEASURES`), `value`, a
        mean over draws, `sd`.
    """
    import pandas as pd

    features, hospitals = fitted.features.double().numpy(), fitted.groups["hospital"].numpy()
    weight, whitening = weights(head).numpy(), Whitening.of(features)
    slides = fitted.groups["slide"].numpy() if whole_slides else None
    own = removals(features, hospitals, weight, coefficients, whitening)
    chance = [
        removals(features, targets, weight, whitening=whitening) for targets in shuffled(hospitals, slides, draws)
    ]
    whole = margins(head, items, fitted).whole
    centred = items.features.double() - torch.as_tensor(whitening.mean)
    rows = []
    for fit, found in (("hospital", [own]), ("shuffled", chance)):
        for score, basis in found[0]:
            change = centred @ torch.as_tensor(np.stack([each[score, basis] for each in found])).T  # (N, draws)
            for measure, values in judged((whole[:, None] - change).T.contiguous(), items.labels).items():
                spread = values.std(correction=0).item()
                rows.append((score, basis, fit, measure, values.mean().item(), spread))
    return pd.DataFrame(rows, columns=["score", "basis", "fit", "measure", "value", "sd"])
