"""Regimes: which credit trains the network, with what penalty, and whether blocks are trained at all.

A hidden state is trained by a *credit*, which stands for ∂ℓ/∂h: the gradient of backpropagation, or what feedback
makes of the error (`studies.credit.feedback`). The network is residual (`studies.credit.network`). Its source uses a_l
at h_l, the input of block l, and has as many matrices as blocks. So a_0 trains the embedding and a_l what block l adds
to h_l; the final norm and the head are trained by their gradient in every regime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from nbutils.training.ensemble import Ensemble
from nbutils.training.loop import Step
from nbutils.training.objective import Objective
from studies.credit.feedback import Build, feedback_matrices, fixed_network, rebuilt
from studies.credit.loss import hidden_norm, penalty_slope
from studies.credit.network import ResidualMLP

Credit = Literal["backpropagation", "feedback", "direct feedback"]

_TOGETHER = 4  # members per batched product; more of them leave the cache, and gain nothing at this width


@dataclass(frozen=True)
class Regime:
    """How a network learns.

    Attributes:
        name: e.g. `"DFA"`; distinct within a study.
        credit: trains embedding and blocks.
        penalty: λ of the hidden-norm penalty (`studies.credit.loss`) as a multiple of the schedule's `penalty`; 0 is
            none. Under direct feedback each h_l's own term goes into the credit at h_l, and no further down.
        blocks: whether blocks are trained; otherwise they keep their initial weights.

    Raises:
        ValueError: an unknown credit, or a negative penalty.
    """

    name: str
    credit: Credit = "direct feedback"
    penalty: float = 0.0
    blocks: bool = True

    def __post_init__(self) -> None:
        if self.credit not in get_args(Credit):
            raise ValueError(f"credit must be one of {', '.join(map(repr, get_args(Credit)))}; got {self.credit!r}")
        if not self.penalty >= 0:
            raise ValueError(f"penalty must be 0 or more; got {self.penalty}")


def study(
    build: Build,
    seeds: Sequence[int],
    regimes: Sequence[Regime],
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> tuple[Ensemble, CreditRule]:
    """Return one ensemble of all regimes and seeds, and its rule for `nbutils.training.fit`.

    Members of one seed start from the same weights.

    Args:
        build: makes the network.
        seeds: one or more.
        regimes: all seeds of the first come first; `ensemble.variants` has their names.
        dtype, device: of weights and arithmetic; the source's dtype is float32.

    Raises:
        ValueError: a seed or a name occurs twice.
    """
    ensemble = Ensemble(build, seeds, dtype=dtype, device=device).across([regime.name for regime in regimes])
    return ensemble, CreditRule(tuple(regime for regime in regimes for _ in seeds))


@dataclass(frozen=True)
class CreditRule:
    """The rule by which each member of an ensemble of residual networks learns, for `nbutils.training.fit`.

    In every regime each block has an autograd graph of its own: the block's output receives a credit, and under
    backpropagation and feedback alignment the block's input passes it on.

    Attributes:
        regimes: one per member.
    """

    regimes: tuple[Regime, ...]

    def select(self, members: Sequence[int]) -> CreditRule:
        """Return the rule for some of the members."""
        return CreditRule(tuple(self.regimes[i] for i in members))

    def bind(self, ensemble: Ensemble, objective: Objective) -> Step:
        """Return the step function of `nbutils.training.loop.Rule`.

        Raises:
            ValueError: regimes and members differ in number, or the objective has terms.
        """
        if len(self.regimes) != len(ensemble):
            raise ValueError(f"expected one regime per member, {len(ensemble)}; got {len(self.regimes)}")
        if objective.terms:
            raise ValueError(f"a credit rule has no terms but its own penalty; got {objective.terms[0].name!r}")
        parts, start = [], 0
        for _, group in groupby(self.regimes, lambda regime: (regime.credit, regime.blocks)):
            regimes = list(group)
            for first in range(0, len(regimes), _TOGETHER):
                few = regimes[first : first + _TOGETHER]
                parts.append(_Part(ensemble, objective, slice(start, start + len(few)), few))
                start += len(few)
        penalised = any(regime.penalty for regime in self.regimes)

        def step(batch: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
            if penalised and "penalty" not in weights:
                raise ValueError(f"the schedule has no column 'penalty'; it has {', '.join(weights)}")
            penalty = weights.get("penalty", 0.0)
            results = [
                part.learn(batch["input"][part.members], batch["target"][part.members], penalty) for part in parts
            ]
            losses, norms, totals = (torch.cat(column) for column in zip(*results, strict=True))
            return totals, {objective.name: losses, "hidden norm": norms}

        return step


class _Part:
    """A few neighbouring members of one regime, but for the size of the penalty."""

    def __init__(self, ensemble: Ensemble, objective: Objective, members: slice, regimes: list[Regime]) -> None:
        self.members, self.objective = members, objective
        self.direct = regimes[0].credit == "direct feedback"
        self.trained = regimes[0].blocks
        like = ensemble.flat
        self.penalties = like.new_tensor([regime.penalty for regime in regimes])
        # Views of the ensemble's memory: the optimizer changes them in place.
        own = {name: tensor.detach()[members] for name, tensor in ensemble.parameters.items()}
        self.gradients = {name: tensor[members] for name, tensor in ensemble.gradients.items()}
        seeds, build = ensemble.seeds[members], cast(Build, ensemble.build)
        carriers: dict[str, Tensor] = {}
        if regimes[0].credit == "feedback":
            networks = [fixed_network(seed, build) for seed in seeds]
            carriers = torch.func.stack_module_state(networks)[0]
            carriers = {name: tensor.detach().to(like) for name, tensor in carriers.items()}
        self.model = rebuilt(cast(ResidualMLP, ensemble[members.start]), own, carriers)
        parameters = dict(self.model.named_parameters())
        self.names = {
            place: {name: tensor for name, tensor in parameters.items() if name.startswith(f"{place}.")}
            for place in ("embed", *(f"blocks.{i}" for i in range(self.model.num_blocks)), "out_ln", "out_head")
        }
        if self.direct:
            drawn = [feedback_matrices(seed, build) for seed in seeds]
            self.feedback = torch.stack(drawn, dim=1).to(like)  # (blocks, members, width, classes)

    def learn(self, x: Tensor, labels: Tensor, penalty: float) -> tuple[Tensor, Tensor, Tensor]:
        """Write the members' gradients; return loss, Σ_l mean(h_l²) and their weighted sum, each `[members]`."""
        model = self.model
        embedded = model.embed(x)
        hidden, added = [embedded.detach()], []
        for block in model.blocks:
            start = hidden[-1].detach().requires_grad_(not self.direct)
            added.append((start, block(start)))
            hidden.append(start.detach() + added[-1][1].detach())
        top = hidden[-1].detach().requires_grad_()
        logits = model.out_head(model.out_ln(top))
        losses = self.objective.loss(logits, labels)
        head = self.names["out_ln"] | self.names["out_head"]
        *slopes, error, credit = torch.autograd.grad(losses.sum(), [*head.values(), logits, top])
        self._write(head, slopes)

        strength = penalty * self.penalties
        pull = penalty_slope(strength, top)
        for layer in reversed(range(model.num_blocks)):
            start, increment = added[layer]
            credit = torch.addcmul(error @ self.feedback[layer].mT if self.direct else credit, pull, hidden[layer + 1])
            own = self.names[f"blocks.{layer}"] if self.trained else {}
            wanted = [*own.values()] if self.direct else [*own.values(), start]
            if wanted:
                found = torch.autograd.grad(increment, wanted, credit)
                self._write(own, found[: len(own)])
                if not self.direct:
                    credit = credit + found[-1]
        credit = torch.addcmul(error @ self.feedback[0].mT if self.direct else credit, pull, hidden[0])
        own = self.names["embed"]
        self._write(own, torch.autograd.grad(embedded, list(own.values()), credit))
        losses, norms = losses.detach(), hidden_norm(hidden)
        return losses, norms, losses + strength * norms

    def _write(self, parameters: Mapping[str, Tensor], gradients: Sequence[Tensor]) -> None:
        for name, gradient in zip(parameters, gradients, strict=True):
            self.gradients[name].copy_(gradient)
