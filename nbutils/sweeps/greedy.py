"""Search for the few units that carry a metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from nbutils.ablation.types import AblationType
from nbutils.ablation.values import Where
from nbutils.batches import Batch
from nbutils.sites import Site
from nbutils.sweeps.protocol import Measurement, Metric, Reference
from nbutils.sweeps.units import Sites, measure, named_sites, sweep

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Goal:
    """The goal of a greedy search, and its permitted cost.

    Attributes:
        lower: the metric to bring down.
        drop: fraction of its first value to remove, in (0, 1]; of one below 0, of its size.
        protect: a metric that may not fall: units that would take it more than `margin` below its first value are
            passed over. Without it the search may end a backdoor by breaking the network.
        margin: 0 or more, in the metric's unit.
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
        if not 0 < self.drop <= 1 or not self.margin >= 0:
            raise ValueError(f"drop must lie in (0, 1], margin is 0 or more; got {self.drop}, {self.margin}")

    def check(self, metrics: Iterable[str]) -> None:
        """Raise a KeyError unless the goal's metrics are among these."""
        there = list(metrics)
        for name in (self.lower, self.protect):
            if name is not None and name not in there:
                raise KeyError(f"no metric {name!r}; there are {', '.join(there)}")


def greedy(
    model: nn.Module,
    sites: Sites,
    batches: Iterable[Any],
    metric: Metric | Mapping[str, Metric],
    goal: Goal,
    ablation: AblationType = AblationType.ZERO,
    *,
    inputs: Callable[[Any], Batch] | None = None,
    reference: Reference | None = None,
    where: Where | None = None,
    output: int | str | None = None,
    memory: int | None = None,
) -> pd.DataFrame:
    """Replace, one after the other, the unit that lowers a metric most, until it has dropped far enough.

    Give it the selection split and nothing else: `nb.measure` then reports the units found on held-out items. Ties go
    to the first, in the order of the sites; a unit whose metric is NaN is passed over.

    Args:
        goal: when the search has reached its aim, and which units it may not take.
        others: as for `sweep`; the batches are gone through once per step.

    Returns:
        The path, tidy: `step`, `site`, `unit`, `metric`, `value`, `n`; step 0 is the model as it is, without site or
        unit. The search ends early where no unit that may be taken lowers the metric.

    Raises:
        KeyError, TypeError, ValueError: as for `sweep`; and for a goal that names no metric, or batches that can be
            gone through once.

    >>> import torch, nbutils as nb
    >>> from nbutils.sweeps.greedy import Goal
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False))
    >>> _ = torch.nn.init.eye_(model[0].weight)
    >>> batches = [(torch.eye(3), torch.arange(3))]
    >>> goal = Goal("accuracy", drop=0.5)
    >>> path = nb.greedy(model, {"output": "0"}, batches, nb.accuracy(), goal, inputs=lambda batch: batch[0])
    >>> path.unit.tolist(), path.value.round(2).tolist()
    ([<NA>, 1, 2], [1.0, 0.67, 0.33])
    """
    import numpy as np
    import pandas as pd

    if isinstance(batches, Iterator):
        raise ValueError(
            f"a search goes through the batches once per step; got a {type(batches).__name__}, which can be gone "
            "through once: give a list or a loader"
        )
    task = Measurement(batches, metric, ablation, inputs, reference, where, output)
    goal.check(task.metrics)
    options = {"inputs": inputs, "reference": reference, "where": where, "output": output, "memory": memory}
    places = named_sites(sites)
    start = measure(model, batches, metric, (), ablation, **options)  # type: ignore[arg-type]
    path = [start.assign(step=0, site=None, unit=pd.NA)]
    first = start.set_index("metric")["value"]
    value = first[goal.lower]
    aim = value - goal.drop * abs(value)
    taken: list[Site] = []
    while value > aim and len(taken) < goal.limit:
        label = f"unit {len(taken) + 1}"
        swept = sweep(model, places, batches, metric, ablation, ablated=taken, label=label, **options)  # type: ignore[arg-type]
        candidates = _affordable(swept, goal, first)
        if candidates["value"].isna().all() or candidates["value"].min() >= value:
            break
        best = candidates.loc[candidates["value"].idxmin()]
        value = best["value"]
        site = places[best["site"]]
        taken.append(replace(site, unit=int(best["unit"])) if site.unit is None else site)
        same = _equal(swept["site"], best["site"]) & (swept["unit"] == best["unit"])
        path.append(swept[same].assign(step=len(taken)))
    kinds = {
        "unit": "Int64" if all(isinstance(part["unit"].iloc[0], int | np.integer) for part in path[1:]) else object,
        "site": "string" if all(isinstance(label, str) for label in places) else object,
    }
    found = pd.concat([part.astype(kinds) for part in path], ignore_index=True)
    return found[["step", "site", "unit", "metric", "value", "n"]]


def _equal(column: pd.Series, label: object) -> pd.Series:
    """Return which entries of a column are a label; a tuple is one label, not a row of them."""
    return column.map(lambda one: one == label)


def _affordable(swept: pd.DataFrame, goal: Goal, first: pd.Series) -> pd.DataFrame:
    """Return the rows of the metric to lower, for the units whose loss the protected metric can bear."""
    rows = swept[swept["metric"] == goal.lower]
    if goal.protect is None:
        return rows
    protected = swept.loc[swept["metric"] == goal.protect, "value"].to_numpy()  # units in the same order
    return rows[protected >= first[goal.protect] - goal.margin - 1e-12]
