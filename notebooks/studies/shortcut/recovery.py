"""What ablation by a ranking wins, against random channels of its own strength: curves over K, one number for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nbutils.seeding import generator
from nbutils.stats.uncertainty import seed_interval
from studies.shortcut.controls import RANDOM, matched_masks, random_masks, top
from studies.shortcut.dose_response import area_under_k
from studies.shortcut.margins import Margins, judged

if TYPE_CHECKING:
    import pandas as pd

OWN = -1  # the draw of the ranking itself


def twin_of(control: str) -> str:
    """Return the name of the random control that is matched to a ranking in strength."""
    return f"{control}, matched"


def recoveries(
    margins: Margins,
    slides: Tensor,
    rankings: Mapping[str, Tensor],
    strength: Tensor,
    ks: Sequence[int],
    *,
    draws: int,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Ablate the first K channels of each ranking, and as many random ones of the same strength.

    Args:
        margins: of the items to judge on.
        slides: `[N]`, of each item.
        rankings: control -> channels `[C]`, first ablated first.
        strength: `[C]`, for the match (`controls.matched_masks`).
        ks: numbers of channels, rising from 0.
        draws: random sets per K above 0 and ranking.
        seed: of the draws.

    Returns:
        Three tidy frames. `curves`: `control`, `measure` (see `margins.MEASURES`), `k`, `mean`, `sd`, `low` and `high`
        (95 % of draws); controls are the rankings, the `twin_of` each, and `random`, matched to nothing. `areas`:
        `control` (a ranking), `measure`, `draw` (`OWN`, or that of its twin), `area` under K. `slides`: `control`,
        `slide`, `gap`, the area of accuracy on a slide less the mean of its twin's, and `n`, the slide's items.
    """
    import pandas as pd

    names, slide, tiles = np.unique(slides.numpy(), return_inverse=True, return_counts=True)
    member = torch.nn.functional.one_hot(torch.as_tensor(slide)).double() / torch.as_tensor(tiles)  # (N, slides)
    curves, areas, gaps = [], [], []
    plain = [random_masks(len(strength), k, draws, generator(seed, RANDOM, k)) for k in ks]
    curves += _bands(RANDOM, ks, _measured(margins, torch.stack(plain))[0])
    for control, order in rankings.items():
        masks = torch.stack([_with_twins(order, strength, k, draws, seed) for k in ks])  # (ks, 1 + draws, C)
        found, right = _measured(margins, masks, member)
        curves += _bands(control, ks, {name: values[:, :1] for name, values in found.items()})
        curves += _bands(twin_of(control), ks, {name: values[:, 1:] for name, values in found.items()})
        for measure, values in found.items():
            area = area_under_k(ks, values.T)
            frame = pd.DataFrame({"measure": measure, "draw": np.arange(OWN, draws), "area": area})
            areas.append(frame.assign(control=control))
        gap = area_under_k(ks, np.moveaxis(right[:, 0] - right[:, 1:].mean(1), 0, -1))
        gaps.append(pd.DataFrame({"slide": names, "gap": gap, "n": tiles}).assign(control=control))
    return {"curves": pd.DataFrame(curves), "areas": pd.concat(areas), "slides": pd.concat(gaps)}


def differences(curves: pd.DataFrame, controls: Sequence[str]) -> pd.DataFrame:
    """Return what ablation by each ranking does beyond random channels as strong, with its interval over seeds.

    Args:
        curves: `control`, `measure`, `k`, `seed`, `mean`; of every control and of its twin (`twin_of`).
        controls: the rankings.

    Returns:
        `control`, `measure`, `k`, `mean`, `low`, `high` (95 %, Student's t; NaN of a single seed).

    Raises:
        KeyError: no curve of a control or its twin.
    """
    import pandas as pd

    table = curves.pivot_table(index=["control", "measure", "k"], columns="seed", values="mean", sort=False)
    rows = []
    for control in controls:
        if not {control, twin_of(control)} <= {*table.index.unique("control")}:
            raise KeyError(f"no curve of {control!r} and its twin")
        for (measure, k), gaps in (table.loc[control] - table.loc[twin_of(control)]).iterrows():
            ends = seed_interval(gaps.to_numpy()) if len(gaps) > 1 else None
            low, high = (ends.low, ends.high) if ends else (np.nan, np.nan)
            rows.append((control, measure, k, gaps.mean(), low, high))
    return pd.DataFrame(rows, columns=["control", "measure", "k", "mean", "low", "high"])


def _with_twins(order: Tensor, strength: Tensor, k: int, draws: int, seed: int) -> Tensor:
    """Return masks `[1 + draws, C]`: the ranking's first k, and its twins."""
    own = top(order, k)
    return torch.cat([own[None], matched_masks(own, strength, draws, generator(seed, "matched", k))])


def _measured(
    margins: Margins, masks: Tensor, member: Tensor | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return measure -> values `[ks, sets]`, and accuracies by slide `[ks, sets, slides]` where `member` is given."""
    found: dict[str, list[np.ndarray]] = {}
    right = []
    for some in masks:
        margin = margins.without(some)
        for name, values in judged(margin, margins.labels).items():
            found.setdefault(name, []).append(values.numpy())
        if member is not None:
            right.append((((margin > 0) == (margins.labels == 1)).double() @ member).numpy())
    return {name: np.stack(values) for name, values in found.items()}, np.array(right)


def _bands(control: str, ks: Sequence[int], found: Mapping[str, np.ndarray]) -> list[dict[str, object]]:
    rows = []
    for measure, values in found.items():
        low, high = np.quantile(values, (0.025, 0.975), axis=1)
        columns = zip(ks, values.mean(1), values.std(1), low, high, strict=True)
        rows += [
            {"control": control, "measure": measure, "k": k, "mean": mean, "sd": sd, "low": a, "high": b}
            for k, mean, sd, a, b in columns
        ]
    return rows
