"""Differences of two losses, recorded at every step, precision and length of states: what the live figure looks up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nbutils.seeding import generator
from studies.credit.audit import Signals
from studies.credit.loss import loss_from
from studies.credit.network import ResidualMLP, cast
from studies.credit.perturbation import Method, PerturbationCorrelation, perturbation_correlation, unit_directions
from studies.credit.steps import PRECISIONS

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

STEP, LOWEST, HIGHEST = 1e-3, -8, 5  # steps are STEP · 4^k, of k from LOWEST to HIGHEST
LONGEST = 10  # states are made up to 4^LONGEST times as long
IMAGES, DIRECTIONS, DRAWS = 160, 1, 200  # most images; directions of each; fresh feedback matrices
SAME = -(2**15)  # the code of a change that is exactly 0
MODES: dict[str, Method] = {"absolute": "finite", "relative": "relative"}


@dataclass(frozen=True)
class Examined:
    """A network that is examined.

    Attributes:
        label: what the choice calls it.
        model: the network.
        states: of that network, for some images (`studies.credit.audit.signals`).
    """

    label: str
    model: ResidualMLP
    states: Signals


@dataclass(frozen=True)
class Recorded:
    """Changes of the loss by one-sided differences, in one precision, at steps STEP · 4^k from `lowest` on.

    They are kept as what they differ by from the derivative, in 16 bits: an error of at most 2⁻¹⁶ of the largest such
    difference at that step, of none where the loss did not change. At shorter steps it did not change at all.

    Attributes:
        lowest: k of the first row.
        codes: `[steps, probes]`, int16; `SAME` where the loss did not change to the last bit.
        scales: `[steps]`; a change is the derivative and code · scale.
        amounts: how many different changes of the loss there were, 0 among them, `[steps]`.
    """

    lowest: int
    codes: NDArray[np.int16]
    scales: NDArray[np.float32]
    amounts: NDArray[np.int32]

    def at(self, k: int, derivative: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the changes per unit of length `[probes]` at the step STEP · 4^k, of derivatives `[probes]`."""
        if k < self.lowest:
            return np.zeros(len(derivative))
        codes, scale = self.codes[k - self.lowest], float(self.scales[k - self.lowest])
        return np.where(codes == SAME, 0.0, derivative + codes.astype(float) * scale)

    def packed(self) -> dict[str, Any]:
        """Return what the page needs."""
        codes = self.codes.astype("<i2").view(np.uint8)
        return {"lowest": self.lowest, "codes": codes, "scales": self.scales, "amounts": self.amounts}


@dataclass(frozen=True)
class Probed:
    """One layer of one network: what is predicted along each probe, a sample and a direction, and what is measured.

    Attributes:
        network, layer: whose.
        length: median ‖h‖.
        derivative: ⟨g, v⟩, `[probes]`: what the exact gradient predicts, and the exact change.
        chance: between which ends 95 % of fresh feedback matrices score on these probes.
        tables: mode -> precision -> changes by differences.
    """

    network: str
    layer: int
    length: float
    derivative: NDArray[np.float32]
    chance: tuple[float, float]
    tables: Mapping[str, Mapping[str, Recorded]]

    def packed(self) -> dict[str, Any]:
        """Return what the page needs."""
        tables = {mode: {name: one.packed() for name, one in own.items()} for mode, own in self.tables.items()}
        parts = {name: getattr(self, name) for name in ("network", "layer", "length", "derivative", "chance")}
        return parts | {"tables": tables}


def probes(networks: Sequence[Examined], layers: Sequence[int], *, seed: int = 0) -> list[Probed]:
    """Take steps from states of some layers, at most `IMAGES` of each, at all lengths in all precisions.

    Args:
        networks: with labels of their own, on the same images.
        layers: l, 0 to L − 1.
        seed: of the directions and of fresh feedback.
    """
    return [_probe(network, layer, seed) for network in networks for layer in layers]


def _probe(network: Examined, layer: int, seed: int) -> Probed:
    states, few = network.states, slice(IMAGES)
    h, g = states.hidden[layer, few], states.gradients[layer, few]
    v = unit_directions(h, DIRECTIONS, seed)
    derivative = _flat(PerturbationCorrelation.from_gradients(g, g, v).predicted)
    return Probed(
        network.label,
        layer,
        float(h.norm(dim=1).median()),
        derivative,
        chance_range(states.errors[few], v, derivative, seed=seed),
        {
            mode: {
                name: _record(network.model, layer, (h, v, states.labels[few]), derivative, name, mode)
                for name in PRECISIONS
            }
            for mode in MODES
        },
    )


def _record(
    model: ResidualMLP,
    layer: int,
    states: tuple[Tensor, Tensor, Tensor],
    derivative: NDArray[np.float32],
    precision: str,
    mode: str,
) -> Recorded:
    dtype = PRECISIONS[precision]
    h, v, labels = states
    h, v, rounded = h.to(dtype), v.to(dtype), loss_from(cast(model, dtype), layer, labels)
    unit = h.norm(dim=1) if mode == "relative" else h.new_ones(1)
    lowest = LOWEST - LONGEST * (mode == "absolute")  # a step of 1 at states 4 times as long: a quarter at these
    codes: list[NDArray[np.int16]] = []
    scales, amounts = [], []
    for k in range(lowest, HIGHEST + 1):
        epsilon = STEP * 4.0**k
        found = perturbation_correlation(h, h, rounded, directions=v, method=MODES[mode], epsilon=epsilon)
        moved = _flat(found.actual * (h.new_tensor(epsilon) * unit).double())  # of the loss
        change = found.actual.flatten().numpy(force=True)
        if not moved.any() and not codes:
            lowest = k + 1
            continue
        off = np.where(change == 0, 0.0, change - derivative)
        scale = np.float32(np.abs(off).max() / (2**15 - 1))
        codes.append(np.where(change == 0, SAME, np.round(off / (scale or 1))).astype(np.int16))
        scales.append(scale)
        amounts.append(len(np.unique(moved)))
    table = np.array(codes, np.int16).reshape(len(codes), len(derivative))
    return Recorded(lowest, table, np.array(scales, np.float32), np.array(amounts, np.int32))


def chance_range(
    errors: Tensor, v: Tensor, derivative: NDArray[np.float32], *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Return between which ends 95 % of fresh feedback matrices score on some probes, by derivatives.

    Args:
        errors: e, `[N, classes]`.
        v: directions `[M, N, d]`.
        derivative: along each, `[M · N]`.
        draws: matrices `[d, classes]`, those of `studies.credit.chance.fresh_feedback_null`.
        seed: of the draws.
    """
    shape = draws, v.shape[-1], errors.shape[1]
    matrices = torch.randn(shape, generator=generator(seed, "fresh feedback"), dtype=torch.float64).to(v)
    predicted = (torch.einsum("mnd,bdc->bmnc", v, matrices) * errors.to(v)).sum(-1).flatten(1)
    scores = [rho(one, derivative) for one in predicted.numpy(force=True)]
    low, high = np.nanquantile(scores, [0.025, 0.975])
    return float(low), float(high)


def rho(predicted: ArrayLike, measured: ArrayLike) -> float:
    """Return the perturbation correlation of some probes, `[probes]` twice; NaN where one side does not vary."""
    one, other = (torch.as_tensor(np.asarray(side, float))[None] for side in (predicted, measured))
    return PerturbationCorrelation(one, other).rho


def score(probed: Probed, view: Mapping[str, Any]) -> tuple[NDArray[np.float64], float]:
    """Return what a view measures at states as long as trained, `[probes]`, and ρ.

    A step at states c times as long is one of 1/c its length at these: a residual network all of whose writers into
    the stream are multiplied by a power of 2, and the norms' small constant by its square, is the same to the last bit.
    """
    k = view["step"] - view["length"] * (view["mode"] == "absolute")
    found = probed.tables[view["mode"]][view["precision"]].at(k, probed.derivative)
    return found, rho(probed.derivative, found)


def scores(probed: Sequence[Probed]) -> pd.DataFrame:
    """Return ρ at every recorded step, one row each, of states as long as trained.

    Returns:
        Columns network; layer; hidden_norm (median); mode; precision; step; rho of the exact gradient; same, the share
        of probes at which the loss did not change; amounts, by how many different amounts it changed.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for one in probed:
        for mode, tables in one.tables.items():
            for precision, table in tables.items():
                for place, amounts in enumerate(table.amounts):
                    k = table.lowest + place
                    found = table.at(k, one.derivative)
                    rows.append(
                        {"network": one.network, "layer": one.layer, "hidden_norm": one.length, "mode": mode}
                        | {"precision": precision, "step": STEP * 4.0**k}
                        | {"rho": rho(one.derivative, found), "same": float(np.mean(found == 0))}
                        | {"amounts": int(amounts) - int((found == 0).any())}
                    )
    return pd.DataFrame(rows)


def _flat(values: Tensor) -> NDArray[np.float32]:
    return values.float().flatten().numpy(force=True)
