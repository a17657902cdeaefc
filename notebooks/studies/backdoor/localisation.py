"""In how many channels a backdoor lies, and networks poisoned under different drift penalties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nbutils import devices
from nbutils.data.digits import Digits
from nbutils.schedules.timeline import Timeline
from nbutils.sweeps.greedy import Goal, greedy
from nbutils.sweeps.metrics import IGNORED, accuracy
from nbutils.sweeps.units import measure, sweep
from nbutils.training.ensemble import Ensemble
from nbutils.training.fit import fit
from nbutils.training.objective import Objective, ParameterTerm, cross_entropy
from nbutils.training.regularizers import ParameterDrift
from studies.backdoor.batches import DigitBatches, clean_and_triggered
from studies.backdoor.network import LAYERS, MnistNet
from studies.backdoor.trigger import Trigger

if TYPE_CHECKING:
    import pandas as pd

CHANNELS = {name: LAYERS[name] for name in ("conv1", "conv2")}
_TIE = 1e-3  # most that the margin adds to a success: less than one image of a thousand


@dataclass(frozen=True)
class Margin:
    """A metric: the target's logit less the highest other one, over the items that a key of the batch counts.

    Attributes:
        key: entry of the batch `[items]`, -1 where an item does not count (see `clean_and_triggered`).
        target: the class.
    """

    key: str
    target: int

    def __call__(self, output: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return margins `[items]` for logits `[items, classes]`, and which items count."""
        others = output.detach().clone()
        others[:, self.target] = -torch.inf
        return output[:, self.target] - others.max(1).values, batch[self.key] != IGNORED


@dataclass(frozen=True)
class GradedSuccess:
    """A metric for searches: 1 where the target is answered, and a thousandth by the margin.

    Where several units each suffice, none lowers the success rate alone, and a search by the rate has nowhere to
    begin. The margin breaks such ties, and only ties: it adds less than one image of a thousand.

    Attributes: as of `Margin`.
    """

    key: str
    target: int

    def __call__(self, output: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return graded successes `[items]` in [0, 1 + 1/1000], and which items count."""
        margin, counts = Margin(self.key, self.target)(output, batch)
        margin = margin.double()
        return (margin > 0) + _TIE * (0.5 + 0.5 * margin / (100 + margin.abs())), counts


def effective_number(drops: Any) -> float:
    """Return among how many units an effect is spread: (Σd)²/Σd² over the drops that removals cause.

    The participation ratio: n where n units share it equally, 1 where one has it all. Drops below 0 count as none.

    Args:
        drops: `[units]`, an array or what makes one.

    Returns:
        From 1 to the number of units; NaN where nothing drops.
    """
    drops = np.clip(np.asarray(drops, dtype=float), 0, None)
    return float(drops.sum() ** 2 / (drops**2).sum()) if drops.any() else float("nan")


def carrier_number(model: nn.Module, digits: Digits, trigger: Trigger, layer: str = "conv2") -> float:
    """Return among how many channels of a layer a backdoor is spread, by single removals.

    The backdoor's strength is what the trigger adds to the target's margin, over images of the other classes; a
    channel's drop is what is lost of it without the channel (see `effective_number`). Damage that clean images suffer
    as well cancels.

    Args:
        model: not changed.
        digits: a few hundred.
        trigger: its target is the attack's.
        layer: one of `LAYERS`.
    """
    margins = {"triggered": Margin("attack", trigger.target), "clean": Margin("taken", trigger.target)}
    given: dict[str, Any] = {"batches": [clean_and_triggered(digits, trigger)], "metric": margins}
    given["inputs"] = itemgetter("images")
    before = measure(model, **given).set_index("metric").value
    table = sweep(model, {layer: LAYERS[layer]}, **given).pivot(index="unit", columns="metric", values="value")
    return effective_number((before.triggered - before.clean) - (table.triggered - table.clean))


class ScaledDrift:
    """The drift of each member (`ParameterDrift`) times a factor of its own: one schedule, several penalties.

    Args:
        drift: of all members.
        factors: one per member, 0 or more.

    Raises:
        ValueError: a factor below 0.
    """

    def __init__(self, drift: ParameterDrift, factors: Sequence[float]) -> None:
        if min(factors) < 0:
            raise ValueError(f"factors of a penalty are 0 or more; got {tuple(factors)}")
        self.drift, self.factors = drift, tuple(factors)

    def __call__(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the scaled drift of each member `[members]`."""
        drift = self.drift(parameters)
        return drift * torch.as_tensor(self.factors, dtype=drift.dtype, device=drift.device)

    def select(self, members: Sequence[int]) -> ScaledDrift:
        """Return the drift of some of the members."""
        return ScaledDrift(self.drift.select(members), [self.factors[i] for i in members])


@dataclass(frozen=True)
class Grid:
    """What is varied when networks are poisoned, and how carriers are searched for.

    Attributes:
        trigger: the watermark.
        clean, poison: the schedules of the two phases; `poison` has a column `drift` for a factor of 1.
        factors: of the drift penalty, one network each.
        rates: shares of poison, likewise.
        batch_size: images per step.
        goal: of the search among all channels of both convolutions; its metrics are `"attack"` and `"clean"`.
    """

    trigger: Trigger
    clean: Timeline
    poison: Timeline
    factors: tuple[float, ...]
    rates: tuple[float, ...]
    batch_size: int
    goal: Goal


def poison_and_count(train: Digits, chosen: Digits, seed: int, grid: Grid, device: str = "cpu") -> pd.DataFrame:
    """Train one clean network, poison it in every way of a grid, and count the channels that carry each backdoor.

    All networks of a seed start from the same clean one; those that differ in the penalty meet the same batches.

    Args:
        train: digits for both phases.
        chosen: others, to count carriers on.
        seed: of the clean network and of all orders.
        grid: what is varied.
        device: of networks and images.

    Returns:
        A row per network: `rate`, `factor`, `clean`, `asr`, `carriers` (the effective number in conv2, see
        `carrier_number`), `needed` (channels that the search took; NaN where it did not get there), `asr_left`.
    """
    import pandas as pd

    def batches(mode: Any, rate: float) -> DigitBatches:
        return DigitBatches(train, grid.trigger, mode, rate, min(grid.batch_size, len(train)))

    chosen = devices.moved(chosen, torch.device(device))
    start = Ensemble(MnistNet, [seed], dtype=torch.float32, device=device)
    fit(
        start,
        batches("clean", 0.5),  # type: ignore[arg-type]  # its `block` is frozen
        Objective([], cross_entropy, "cross-entropy"),
        grid.clean,
        label="clean",
    )
    rows = []
    for rate in grid.rates:
        poisoned = start.across([f"{factor:g}" for factor in grid.factors])
        term = ParameterTerm("drift", ScaledDrift(ParameterDrift(poisoned.state()), grid.factors))
        objective = Objective([term], cross_entropy, "cross-entropy")
        fit(
            poisoned,
            batches("poison", rate),  # type: ignore[arg-type]
            objective,
            grid.poison,
            label=f"poison, {rate:g}",
        )
        rows += [
            {"rate": rate, "factor": factor, **count_carriers(poisoned[member], chosen, grid.trigger, grid.goal)}
            for member, factor in enumerate(grid.factors)
        ]
    return pd.DataFrame(rows)


def count_carriers(model: nn.Module, chosen: Digits, trigger: Trigger, goal: Goal) -> dict[str, float]:
    """Return a poisoned network's clean accuracy, its ASR, and its numbers of carriers (see `poison_and_count`)."""
    metrics: dict[str, Any] = {
        "clean": accuracy("clean"),
        "asr": accuracy("attack"),
        "attack": GradedSuccess("attack", trigger.target),
    }
    batch = clean_and_triggered(chosen, trigger)
    path = greedy(model, CHANNELS, [batch], metrics, replace(goal, lower="attack"), inputs=itemgetter("images"))
    values = path.pivot(index="step", columns="metric", values="value")
    first, last = values.iloc[0], values.iloc[-1]
    reached = last.asr <= (1 - goal.drop) * first.asr + _TIE
    return {
        "clean": float(first.clean),
        "asr": float(first.asr),
        "carriers": carrier_number(model, chosen, trigger),
        "needed": float(len(values) - 1) if reached else float("nan"),
        "asr_left": float(last.asr),
    }
