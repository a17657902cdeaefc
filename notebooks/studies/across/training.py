"""The networks of the five studies, trained together: each by its own batches, losses and network, at small size.

Every seed's networks are members of ensembles, so what a seed gives does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from nbutils.data.digits import DigitSplits
from nbutils.schedules.timeline import Timeline
from nbutils.training.ensemble import Ensemble
from nbutils.training.fit import fit
from nbutils.training.objective import Objective, ParameterTerm, Term, cross_entropy
from nbutils.training.regularizers import ParameterDrift
from studies.backdoor.batches import DigitBatches
from studies.backdoor.network import MnistNet
from studies.backdoor.trigger import Trigger
from studies.circuits.sequences import InductionBatches
from studies.circuits.transformer import Transformer, answer_cross_entropy
from studies.color_cube.data import ColorBatches
from studies.color_cube.network import ColorMLP
from studies.color_cube.regularizers import AngularAnchor, AntiAnchor, AxisAlignedSubspace, Separate
from studies.credit.batches import ImageBatches
from studies.credit.loss import OBJECTIVE
from studies.credit.network import ResidualMLP
from studies.shortcut import drawn_tiles, plans
from studies.shortcut.batches import TileBatches
from studies.shortcut.networks import NarrowTileNet

RED = (1.0, 0.0, 0.0, 0.0, 0.0)  # where training puts red on the latent sphere
TRIGGER = Trigger.checkerboard()
MLP_WIDTH, LAYERS = 32, 3  # of the residual MLP; of the transformer, one more than study 05's, so that parts can follow
TILES, RHO, ATYPIA = 640, 0.9, 0.35  # tiles to train on, correlation of label and hospital, study 03's difficulty

NAMES = ("colours", "digits", "tiles", "residual MLP", "induction")
"""The five networks, in the order of their studies."""


@dataclass(frozen=True)
class Trained:
    """One seed's network of a study, and what it was before.

    Attributes:
        model: in eval mode.
        before: the same network before the training that is studied: at its initialisation, or of the backdoored
            digits the clean network.
    """

    model: nn.Module
    before: nn.Module


def train(name: str, seeds: Sequence[int], timeline: Timeline, splits: DigitSplits, **options: Any) -> list[Trained]:
    """Return one network of a study per seed.

    Args:
        name: one of `NAMES`.
        seeds: of the ensemble.
        timeline: with a phase per network, and `clean` and `poison` for the digits.
        splits: digits, for two of the networks.
        options: `device`; and of `nbutils.training.fit.fit`.

    Raises:
        KeyError: no such network.
    """
    if name not in NAMES:
        raise KeyError(f"no network {name!r}; there are {', '.join(NAMES)}")
    device = options.pop("device", "cpu")
    if name == "digits":
        return _train_digits(seeds, timeline, splits, device, options)
    build, batches, objective = _plan(name, splits)
    before = Ensemble(build, seeds, dtype=torch.float32, device=device)
    after = before.select(range(len(before)))
    fit(after, batches, objective, timeline.section(name), label=name, **options)
    return _members(after, before)


def _plan(name: str, splits: DigitSplits) -> tuple[Callable[[], nn.Module], Any, Objective]:
    """Return what builds a network, its batches and its objective, all the study's own."""
    if name == "colours":
        terms = [
            Term("separate", Separate(power=100.0), "bottleneck"),
            Term("anchor", AngularAnchor(RED), "bottleneck", label="red"),
            Term("anti-anchor", AntiAnchor(tuple(-x for x in RED)), "bottleneck"),
            Term("anti-subspace", AxisAlignedSubspace((0,), invert=True), "bottleneck"),
        ]
        return ColorMLP, ColorBatches(), Objective(terms)
    if name == "tiles":
        tiles = drawn_tiles.render(plans.plan(TILES, rho=RHO, atypia=ATYPIA))
        batches = TileBatches(tiles.images(dtype=torch.uint8), tiles.tumour, (), 24)
        return NarrowTileNet, batches, Objective(loss=cross_entropy, name="cross-entropy")
    if name == "residual MLP":
        return partial(ResidualMLP, 784, MLP_WIDTH), ImageBatches(splits.train[:2_000], 64), OBJECTIVE
    build = partial(Transformer, 20, 14, layers=LAYERS, heads=2, width=32)
    return build, InductionBatches(), Objective(loss=answer_cross_entropy, name="cross-entropy")


def _train_digits(
    seeds: Sequence[int], timeline: Timeline, splits: DigitSplits, device: Any, options: dict[str, Any]
) -> list[Trained]:
    """Return study 02's networks: clean digits first, then half of each batch with the watermark."""
    ensemble = Ensemble(MnistNet, seeds, dtype=torch.float32, device=device)
    phases: dict[str, Ensemble] = {}
    checkpoint = options.pop("checkpoint", None)
    for phase in ("clean", "poison"):
        terms = [] if phase == "clean" else [ParameterTerm("drift", ParameterDrift(phases["clean"].state()))]
        batches: Any = DigitBatches(splits.train, TRIGGER, phase)
        objective = Objective(terms, cross_entropy, "cross-entropy")
        own = None if checkpoint is None else checkpoint.with_stem(f"{checkpoint.stem}-{phase}")
        phases[phase] = ensemble.select(range(len(ensemble)))
        fit(phases[phase], batches, objective, timeline.section(phase), checkpoint=own, label=phase, **options)
        ensemble = phases[phase]
    return _members(phases["poison"], phases["clean"])


def _members(after: Ensemble, before: Ensemble) -> list[Trained]:
    return [Trained(after[i].eval(), before[i].eval()) for i in range(len(after))]
