"""Search for the few units that carry a measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from nbutils.ablation.types import AblationType
from nbutils.sites import Site
from nbutils.sweeps.measures import Measures
from nbutils.sweeps.units import MEMORY, Layers, measure, named_sites, sweep

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Goal:
    """The goal of a greedy search, and its permitted cost.

    Attributes:
        lower: the measure to bring down.
        drop: fraction of its first value to remove, in (0, 1].
        protect: a measure that may not fall: units that would take it more than `margin` below its first value are
            passed over. Without it the search may end a backdoor by breaking the network.
        margin: in [0, 1].
        limit: maximal number of units.

    Raises:
        ValueError: a `drop` or a `margin` out of range.
    """

    lower: str
    drop: float = 0.95
    protect: str | None = None
    margin: float = 0.01
    limit: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.drop <= 1 or not 0 <= self.margin <= 1:
            raise ValueError(f"drop must lie in (0, 1], margin in [0, 1]; got {self.drop}, {self.margin}")

    def check(self, measures: Measures) -> None:
        """Raise a KeyError unless the goal's measures are among these."""
        for name in (self.lower, self.protect):
            if name is not None and name not in measures.wanted:
                raise KeyError(f"no measure {name!r}; there are {', '.join(measures.wanted)}")


def greedy(
    model: nn.Module,
    layers: Layers,
    measures: Measures,
    goal: Goal,
    ablation: AblationType = AblationType.ZERO,
    *,
    reference: Mapping[str, Tensor] | None = None,
    memory: int = MEMORY,
) -> pd.DataFrame:
    """Replace, one after the other, the unit that lowers a measure most, until it has dropped far enough.

    Give it the selection split and nothing else: `measure` then reports the units found on held-out
    items. Ties go to the first, in the order of the layers.

    Args:
        goal: when the search has reached its aim, and which units it may not take.
        others: as for `sweep`.

    Returns:
        The path, tidy: `step`, `layer`, `unit`, `measure`, `value`, `n`; step 0 is the model as it is, without layer
        or unit. The search ends early where no unit that may be taken lowers the measure.

    Raises:
        KeyError, ValueError: as for `sweep`; and for a goal that names no measure.

    >>> import torch, nbutils as nb
    >>> from nbutils.sweeps.greedy import Goal
    >>> from nbutils.sweeps.measures import Measures
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False))
    >>> _ = torch.nn.init.eye_(model[0].weight)
    >>> measures = Measures({"x": torch.eye(3)}, {"accuracy": ("x", torch.arange(3))})
    >>> path = nb.greedy(model, {"output": "0"}, measures, Goal("accuracy", drop=0.5))
    >>> path.unit.tolist(), path.value.round(2).tolist()
    ([<NA>, 1, 2], [1.0, 0.67, 0.33])
    """
    import pandas as pd

    goal.check(measures)
    sites = named_sites(layers)
    start = measure(model, measures, (), ablation, reference=reference, memory=memory)
    path = [start.assign(step=0, layer=None, unit=pd.NA)]
    first = start.set_index("measure")["value"]
    value = first[goal.lower]
    aim = (1 - goal.drop) * value
    taken: list[Site] = []
    while value > aim and len(taken) < goal.limit:
        label = f"unit {len(taken) + 1}"
        swept = sweep(model, layers, measures, ablation, reference=reference, ablated=taken, memory=memory, label=label)
        candidates = _affordable(swept, goal, first)
        if candidates.empty or candidates["value"].min() >= value:
            break
        best = candidates.loc[candidates["value"].idxmin()]
        value = best["value"]
        site = sites[best["layer"]]
        taken.append(replace(site, unit=int(best["unit"])))
        same = (swept["layer"] == best["layer"]) & (swept["unit"] == best["unit"])
        path.append(swept[same].assign(step=len(taken)))
    found = pd.concat([part.astype({"unit": "Int64", "layer": "string"}) for part in path], ignore_index=True)
    return found[["step", "layer", "unit", "measure", "value", "n"]]


def _affordable(swept: pd.DataFrame, goal: Goal, first: pd.Series) -> pd.DataFrame:
    """Return the rows of the measure to lower, for the units whose loss the protected measure can bear."""
    rows = swept[swept["measure"] == goal.lower]
    if goal.protect is None:
        return rows
    protected = swept.loc[swept["measure"] == goal.protect, "value"].to_numpy()  # units in the same order
    return rows[protected >= first[goal.protect] - goal.margin - 1e-12]
