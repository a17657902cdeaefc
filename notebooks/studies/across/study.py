"""All measurements of one network, as one function that a session computes in any process, and keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbutils.ablation.types import AblationType
from nbutils.sweeps.units import measure
from studies.across.cases import Case
from studies.across.certificates import certificates
from studies.across.doses import dose_response
from studies.across.predictors import EDGES, edge_league, league, predictions
from studies.across.repair import case_repair, repair_share
from studies.across.standins import (
    REFERENCE,
    departures,
    rank_agreement,
    stand_ins,
    unit_effects,
    unit_values,
)

if TYPE_CHECKING:
    import pandas as pd

JUDGES = ("resample", "zero", "tokenwise mean, corrupt", "mean", REFERENCE)
"""Stand-ins that find circuits and judge them, and that doses go to: one of each group that ranks units alike."""

KINDS = {kind.value: kind for kind in (*AblationType, AblationType.MEAN)}
RANKED = ("zero", "mean", "resample")
"""Stand-ins whose exact effects the predictors are to rank."""


def examine(case: Case, seed: int, steps: int) -> dict[str, Any]:
    """Return what a network shows under all stand-ins, read-outs and doses.

    Args:
        case: the network, and what is asked of it.
        seed: the network's; also of the random predictor.
        steps: of the search for optimal constants.

    Returns:
        Tables `effects` (`layer`, `unit`, a column per stand-in), `agreement` (a row per stand-in), `predicted` (a row
        per unit and stand-in), `league` (a row per predictor and stand-in), `certified`, `doses`, `repair` (direct and
        total effects under zeros and under the twin, where there are logits); and `intact`, the loss without ablation.
    """
    import pandas as pd

    kinds = stand_ins(case, steps)
    constants = unit_values(case, kinds[-1])
    effects = unit_effects(case, kinds, constants)
    away = departures(case, kinds, constants)
    values = {kind.value: constants if kind is kinds[-1] else unit_values(case, kind) for kind in kinds}
    leagues, predicted = [], []
    for name in RANKED:
        kind = KINDS[name]
        found = predictions(case, kind, seed=seed)
        row = league(found, effects[name])
        row[EDGES] = edge_league(case, kind)
        leagues.append(row.rename_axis("predictor").rename("spearman").reset_index().assign(stand_in=name))
        predicted.append(found.assign(stand_in=name))
    agreement = rank_agreement(effects).assign(departure=away.mean()).rename_axis("stand_in").reset_index()
    judged = {name: values[name] for name in JUDGES}
    results: dict[str, Any] = {
        "effects": effects.reset_index(),
        "agreement": agreement,
        "league": pd.concat(leagues, ignore_index=True),
        "predicted": pd.concat(predicted, ignore_index=True),
        "certified": certificates(case, effects, judged),
        "doses": dose_response(case, effects, judged),
        "intact": measure(case.model, case.loader, case.metric).value.item(),
    }
    return results | ({"repair": _repaired(case)} if case.answers else {})


def _repaired(case: Case) -> pd.DataFrame:
    import pandas as pd

    frames = []
    for name in ("zero", "resample"):
        found = case_repair(case, KINDS[name])
        frames.append(found.rename_axis("part").reset_index().assign(stand_in=name, share=repair_share(found)))
    return pd.concat(frames).astype({"part": str})
