"""Dose and response: units moved a part of the way to their stand-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nbutils.hooks import edit
from nbutils.sites import Site
from studies.across.cases import Case
from studies.across.standins import loss_without

if TYPE_CHECKING:
    import pandas as pd

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0)
STRONGEST = 8


def dose_response(
    case: Case,
    effects: pd.DataFrame,
    values: Mapping[str, Mapping[Site, Tensor]],
    doses: Sequence[float] = DOSES,
    strongest: int = STRONGEST,
) -> pd.DataFrame:
    """Return what moving a unit part of the way to its stand-in adds to the loss, for the strongest units of each kind.

    Args:
        case: the network.
        effects: as from `unit_effects`: which units are strongest.
        values: kind -> what stands in for each unit.
        doses: shares of the way, from 0, the unit as it is, to 1, the stand-in.
        strongest: how many units of each kind.

    Returns:
        A row per kind, unit and dose: `stand_in`, `unit`, `dose`, `effect`, and `share` of the effect at the last dose.
    """
    import pandas as pd

    intact, sites, rows = loss_without(case, (), {}), case.sites, []
    for kind, own in values.items():
        for unit in np.argsort(-effects[kind].abs().to_numpy(), kind="stable")[:strongest]:
            site = sites[unit]
            found = [_moved(case, site, own[site], dose) - intact for dose in doses]
            rows += [(kind, int(unit), dose, effect) for dose, effect in zip(doses, found, strict=True)]
    frame = pd.DataFrame(rows, columns=["stand_in", "unit", "dose", "effect"])
    whole = frame.groupby(["stand_in", "unit"])["effect"].transform("last")
    return frame.assign(share=frame["effect"] / whole.where(whole.abs() > 1e-9))


def _moved(case: Case, site: Site, value: Tensor, dose: float) -> float:
    """Return the mean loss with a unit some way to its stand-in."""

    def move(part: Tensor) -> Tensor:
        return part + dose * (value.to(part) - part)

    with torch.no_grad(), edit(case.model, {site: move}):
        return float(case.loss(case.model(case.pairs.clean), case.pairs).mean())


def bend(responses: pd.DataFrame) -> pd.Series:
    """Return how far each unit's response lies from a straight line, by kind and unit: the mean of share − dose.

    0: straight. Below: flat at first, then steep, so that the slope at the intact network says too little. Above: steep
    at first.
    """
    inner = responses[(responses["dose"] > 0) & (responses["dose"] < 1)]
    gap = (inner["share"] - inner["dose"]).clip(-1, 1)
    return gap.groupby([inner["stand_in"], inner["unit"]]).mean()
