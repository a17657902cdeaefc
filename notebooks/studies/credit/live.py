"""The live figure: what a difference sees of the loss, at every step, precision and length of states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from nbutils import layout
from nbutils.plotting.live import LiveFigure
from nbutils.plotting.marks import COLOURS, mark, registry
from nbutils.plotting.theme import current
from nbutils.seeding import generator
from studies.credit.audit import Signals
from studies.credit.loss import loss_from
from studies.credit.network import ResidualMLP, cast
from studies.credit.perturbation import Method, PerturbationCorrelation, perturbation_correlation, unit_directions
from studies.credit.steps import PRECISIONS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

SCRIPT = Path(__file__).with_name("audit.js")
STEP, LOWEST, HIGHEST = 1e-3, -8, 5  # steps are STEP · 4^k, of k from LOWEST to HIGHEST
LONGEST = 10  # states are made up to 4^LONGEST times as long
IMAGES, DIRECTIONS, DRAWS = 160, 1, 200  # most images; directions of each; fresh feedback matrices
PUBLISHED_LENGTH = 4e8  # of vanilla DFA's states
SAME = -(2**15)  # the code of a change that is exactly 0
MODES: dict[str, Method] = {"absolute": "finite", "relative": "relative"}
ABOUT = """
Each dot is a step from one state in a random direction: across, the change of the loss that the exact gradient
predicts; up, the change that a difference of two losses measures. On the dashed line they agree and the score ρ is 1.
Here step and states are as long as published, and no loss changes: take the step as a share of each state, or make
the states shorter, and watch the dots.
"""

# Pixels, and points of type, of the two panels.
PANEL, GAP = (425, 400), 12
BOX = 62, 48, 415, 346  # left, top, right, bottom of what is drawn in
POINT, TYPE, DOT = 0.75, 10.1, 6  # a pixel, and type, in points; pixels across a dot
KEY = 100  # pixels from one precision's name to the next
LOW, HIGH = -0.5, 1.1  # of ρ; what lies beyond stands at the end
SCREEN = 96  # pixels per inch
UNITS = {"absolute": "step ε, of a fixed length", "relative": "step ε, as a share of each state’s length ‖h‖"}


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


def live_audit(probed: Sequence[Probed]) -> LiveFigure:
    """Return the audit of some networks, to move; the last layer of the first is shown first.

    Args:
        probed: as from `probes`.

    Raises:
        ValueError: there is nothing to show, or not every network has every layer once.
    """
    networks, layers = (list(dict.fromkeys(getattr(one, name) for one in probed)) for name in ("network", "layer"))
    if not probed or [(one.network, one.layer) for one in probed] != [(n, la) for n in networks for la in layers]:
        raise ValueError(f"expected every layer of every network, got {[(one.network, one.layer) for one in probed]}")
    shown = probed[len(layers) - 1]
    first: dict[str, Any] = {"network": shown.network, "layer": shown.layer}
    first |= {"precision": "float32", "mode": "absolute", "step": 0, "length": _fours(PUBLISHED_LENGTH / shown.length)}
    entries = registry(layout.marks())
    data = {
        "networks": networks,
        "layers": layers,
        "probed": [one.packed() for one in probed],
        "precisions": [
            {
                "name": name,
                "accent": COLOURS.index(entries[name][0]),
                "marker": entries[name][1],
                "roundoff": torch.finfo(dtype).eps / 2,
            }
            for name, dtype in PRECISIONS.items()
        ],
        "step": STEP,
        "lowest": LOWEST,
        "highest": HIGHEST,
        "longest": LONGEST,
        "first": first,
    }
    return LiveFigure(SCRIPT, data, lambda: plot_first_view(shown, first), ABOUT)


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


def plot_first_view(probed: Probed, view: Mapping[str, Any]) -> Figure:
    """Plot what the live figure shows first: measured against true changes, and ρ against the step."""
    width, height = 2 * PANEL[0] + GAP, PANEL[1]
    fig = Figure(figsize=(width / SCREEN, height / SCREEN))
    fig.set_layout_engine("none")  # pixels are the canvases'
    left, top, right, bottom = BOX
    for start, draw in ((0, _draw_probes), (PANEL[0] + GAP, _draw_scores)):
        place = (start + left) / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height
        ax = fig.add_axes(place)
        ax.tick_params(labelsize=TYPE, length=4 * POINT)
        ax.yaxis.set_label_coords((9 - left) / (right - left), 0.5)
        ax.xaxis.set_label_coords(0.5, -40 / (bottom - top))
        ax.xaxis.label.set_verticalalignment("center")
        ax.yaxis.label.set_verticalalignment("center")
        draw(ax, probed, view)
    return fig


def _draw_probes(ax: Axes, probed: Probed, view: Mapping[str, Any]) -> None:
    theme, look = current(), mark(view["precision"])
    found, value = score(probed, view)
    size = float(np.sqrt(np.square(probed.derivative.astype(float)).mean())) or 1.0
    x, y = probed.derivative / size, found / size
    across = 1.06 * (float(np.abs(x).max()) or 1)
    up = max(1.06 * float(np.abs(y).max()), across)
    ax.plot([-across, across], [-across, across], color=theme.ink, linestyle="--", linewidth=POINT)
    ax.axhline(0, color=theme.muted, linestyle="-", linewidth=POINT)
    same = found == 0
    looks: dict[str, Any] = {"marker": look.marker, "s": (DOT * POINT) ** 2, "zorder": 3}
    ax.scatter(x[same], y[same], facecolors="none", edgecolors=look.color, linewidths=POINT, **looks)
    ax.scatter(x[~same], y[~same], color=look.color, alpha=0.65, linewidths=0, **looks)
    ax.set(xlim=(-across, across), ylim=(-up, up))
    ax.set_xlabel("true change of the loss, in its SDs", fontsize=TYPE)
    ax.set_ylabel("measured change, in the same", fontsize=TYPE)
    _write(ax, 12, plain(value), fontweight="bold")
    _write(ax, 33, f"no change at {same.sum()} of {len(same)} probes (hollow)")


def _draw_scores(ax: Axes, probed: Probed, view: Mapping[str, Any]) -> None:
    theme, ks = current(), range(LOWEST, HIGHEST + 1)
    steps = STEP * 4.0 ** np.array(ks)
    ax.set_xscale("log")
    ax.axhspan(*probed.chance, color=theme.muted, alpha=0.3, linewidth=0)
    ax.axhline(1, color=theme.ink, linestyle="--", linewidth=POINT)
    ax.axvline(STEP * 4.0 ** view["step"], color=theme.ink, linestyle="-", linewidth=POINT)
    for name in sorted(PRECISIONS, key=view["precision"].__eq__):
        look, chosen = mark(name), name == view["precision"]
        values = np.array([score(probed, {**view, "precision": name, "step": k})[1] for k in ks])
        at, lost = np.clip(np.nan_to_num(values), LOW, HIGH), np.isnan(values)
        ax.plot(steps, at, color=look.color, linestyle="-", linewidth=POINT * (2.4 if chosen else 1))
        looks: dict[str, Any] = {"marker": look.marker, "s": ((DOT + chosen) * POINT) ** 2, "zorder": 3}
        ax.scatter(steps[lost], at[lost], facecolors=theme.paper, edgecolors=look.color, linewidths=POINT, **looks)
        ax.scatter(steps[~lost], at[~lost], color=look.color, linewidths=0, **looks)
    ax.set(ylim=(LOW, HIGH), xlim=(steps[0] / 2, steps[-1] * 2), yticks=[0, 0.5, 1])
    ax.set_xticks(10.0 ** np.arange(-7, 1), [*(f"$10^{{{power}}}$" for power in range(-7, 0)), "1"])
    ax.minorticks_off()
    ax.set_xlabel(UNITS[view["mode"]], fontsize=TYPE)
    ax.set_ylabel("ρ of the exact gradient", fontsize=TYPE)
    _write(ax, 12, "ρ at every step; grey: chance", fontweight="bold")
    for place, name in enumerate(PRECISIONS):
        look, x = mark(name), KEY * place
        _write(ax, 33, name, x + 14)
        at = {"transform": ax.transAxes, "clip_on": False}
        ax.plot(*_above(x + 5, 33), look.marker, color=look.color, markersize=DOT * POINT, **at)


def _above(x: float, y: float) -> tuple[float, float]:
    """Return a place x pixels right of a panel's axis and y from its top, in axes' units."""
    left, top, right, bottom = BOX
    return x / (right - left), 1 + (top - y) / (bottom - top)


def _write(ax: Axes, y: float, words: str, x: float = 0, **looks: Any) -> None:
    ax.text(*_above(x, y), words, transform=ax.transAxes, va="center", fontsize=TYPE, **looks)


def plain(value: float) -> str:
    """Return ρ as the figure writes it."""
    return "ρ undefined" if math.isnan(value) else f"ρ = {value:.3f}".replace("-0.000", "0.000").replace("-", "−")


def _fours(times: float) -> int:
    """Return the power of 4 that is nearest to a number above 0, of those that states are made longer by."""
    return int(np.clip(round(math.log(times, 4)), 0, LONGEST))


def _flat(values: Tensor) -> NDArray[np.float32]:
    return values.float().flatten().numpy(force=True)
