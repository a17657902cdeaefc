"""Which stand-ins certify a circuit: found under one or two, held to account under all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from nbutils.sites import Site
from studies.across.cases import Case
from studies.across.standins import loss_without

if TYPE_CHECKING:
    import pandas as pd

SHARES = (0.1, 0.25, 0.5)  # of the units, that circuits keep


def joint_scores(effects: pd.DataFrame, kinds: Sequence[str]) -> np.ndarray:
    """Return how much each unit matters under the kind under which it matters most, `[units]`.

    Under each kind units count by their rank, from 0 to 1; so a kind with large effects does not outvote another.
    """
    ranks = [effects[kind].abs().rank(pct=True).to_numpy() for kind in kinds]
    return np.max(ranks, axis=0)


def certificates(
    case: Case,
    effects: pd.DataFrame,
    values: Mapping[str, Mapping[Site, Tensor]],
    shares: Sequence[float] = SHARES,
) -> pd.DataFrame:
    """Return how much of the behaviour circuits keep under every stand-in, by the stand-ins they were found under.

    A circuit is the units that matter most under one kind or two (`joint_scores`), of equal size whatever the kinds;
    all other units are replaced together. 1 is the intact network, 0 all units replaced.

    Args:
        case: the network.
        effects: as from `unit_effects`.
        values: kind -> what stands in for each unit (`unit_values`); these kinds find circuits, and judge them.
        shares: of the units, that circuits keep.

    Returns:
        A row per pair of kinds, share and judge: `first`, `second`, `share`, `judge`, `kept`.
    """
    import pandas as pd

    sites = case.sites
    intact = loss_without(case, (), {})
    nothing = {kind: loss_without(case, sites, values[kind]) for kind in values}
    rows = []
    for first, second in combinations_with_replacement(values, 2):
        order = np.argsort(-joint_scores(effects, (first, second)), kind="stable")
        for share in shares:
            gone = [sites[i] for i in order[round(share * len(sites)) :]]
            for judge, own in values.items():
                room = nothing[judge] - intact
                kept = (nothing[judge] - loss_without(case, gone, own)) / room if abs(room) > 1e-9 else np.nan
                rows.append((first, second, share, judge, kept))
    return pd.DataFrame(rows, columns=["first", "second", "share", "judge", "kept"])


def worst_kept(certified: pd.DataFrame, floor: float = 0.0) -> pd.Series:
    """Return what circuits keep under the judge that likes them least, the mean over sizes, by the pair of kinds.

    Args:
        certified: as from `certificates`.
        floor: less than that counts as that: to lose more than everything is no worse.
    """
    clipped = certified.assign(kept=certified["kept"].clip(floor, 1.0))
    return clipped.groupby(["first", "second", "share"], sort=False)["kept"].min().groupby(
        level=["first", "second"], sort=False
    ).mean()  # fmt: skip
