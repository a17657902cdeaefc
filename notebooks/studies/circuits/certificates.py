"""What pairs of stand-ins cannot see, and the circuits that both of a pair pass although something is missing.

An edge is *used* where some value put there would change the answers. A stand-in puts one value there: the used edges
at which that value changes nothing are its *blind spot*. A pair of stand-ins shares what both are blind to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


def seen_edges(scores: Mapping[str, Tensor], least: float) -> dict[str, Tensor]:
    """Return the edges whose replacement changes the measure by more than `least`: stand-in -> booleans `[edges]`."""
    return {name: values.abs() > least for name, values in scores.items()}


def shared_blind_spots(seen: Mapping[str, Tensor], used: Tensor) -> pd.DataFrame:
    """Return how many of the used edges neither of two stand-ins sees: a symmetric table, its diagonal one alone.

    Args:
        seen: as from `seen_edges`.
        used: booleans `[edges]`.
    """
    import pandas as pd

    blind = torch.stack([used & ~one for one in seen.values()]).int()
    return pd.DataFrame((blind @ blind.T).numpy(), list(seen), list(seen))


def certificates(faithful: ArrayLike, names: Sequence[str], passes: float, fails: float) -> pd.DataFrame:
    """Return what it says of a circuit that it passes under one or two stand-ins.

    Args:
        faithful: faithfulness `[circuits, stand-ins]`.
        names: of the stand-ins.
        passes: least faithfulness with which a circuit passes.
        fails: faithfulness below which it fails; from `passes` down to there it does neither.

    Returns:
        A row per stand-in and per pair, `one` and `other`, the same for one alone: `passed`, circuits that pass under
        both; `false`, those of them that fail under a third; `worst`, the least faithfulness of what passed, under any
        stand-in, NaN where nothing did.

    Raises:
        ValueError: a table that has not one column per stand-in, or `fails` above `passes`.
    """
    import pandas as pd

    values = np.asarray(faithful, dtype=float)
    if fails > passes:
        raise ValueError(f"a circuit fails below where it passes; got fails={fails} above passes={passes}")
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(f"one column for each of {len(names)} stand-ins is needed; got {values.shape}")
    good, worst = values >= passes, values.min(1)
    rows = []
    for i, j in [(i, i) for i in range(len(names))] + list(combinations(range(len(names)), 2)):
        both = good[:, i] & good[:, j]
        low = float(worst[both].min()) if both.any() else float("nan")
        rows.append((names[i], names[j], int(both.sum()), int((both & (worst < fails)).sum()), low))
    return pd.DataFrame(rows, columns=["one", "other", "passed", "false", "worst"])


def equally_strict(faithful: ArrayLike, names: Sequence[str], count: int, fails: float) -> pd.DataFrame:
    """Return what certificates are worth where each stand-in and each pair passes as many circuits.

    A stand-in that is harder to pass issues fewer false certificates for that alone. Here each passes the `count`
    circuits that are most faithful under it, by the lesser of two numbers for a pair.

    Args:
        faithful: faithfulness `[circuits, stand-ins]`.
        names, fails: as for `certificates`.
        count: circuits that pass.

    Returns:
        A row per stand-in and per pair, `one` and `other`: `bar`, the faithfulness from which on circuits pass; `false`
        and `worst`, as from `certificates`.
    """
    import pandas as pd

    values = np.asarray(faithful, dtype=float)
    if not 1 <= count <= len(values):
        raise ValueError(f"1 to {len(values)} circuits can pass; got count={count}")
    worst, rows = values.min(1), []
    for i, j in [(i, i) for i in range(len(names))] + list(combinations(range(len(names)), 2)):
        lesser = np.minimum(values[:, i], values[:, j])
        passed = np.argsort(-lesser, kind="stable")[:count]
        false = int((worst[passed] < fails).sum())
        rows.append((names[i], names[j], float(lesser[passed[-1]]), false, float(worst[passed].min())))
    return pd.DataFrame(rows, columns=["one", "other", "bar", "false", "worst"])
