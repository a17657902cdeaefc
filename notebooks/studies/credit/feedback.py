"""Learning by other credit than the gradient: feedback alignment, direct feedback alignment, frozen blocks.

A hidden state is trained by a *credit*, which stands for ∂loss/∂h. Backpropagation computes it; feedback alignment
(Lillicrap et al. 2016, Nat. Commun. 7:13276) sends the error back through fixed random matrices in place of the
transposed weights; direct feedback alignment (Nøkland 2016, NeurIPS, arXiv:1609.01596) sends it to each layer in one
step, a_l = e B_lᵀ with e = softmax(logits) − one-hot.

The model is a residual one (`studies.credit.network`). Its source uses a_l at h_l, the input of block l, and has
as many matrices as blocks. So a_0 trains the embedding and a_l what block l adds to h_l; the final norm and the head
are trained by their gradient in every regime.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from threading import Lock
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nbutils.hooks import submodule
from nbutils.seeding import seeded
from nbutils.training.ensemble import Ensemble
from nbutils.training.loop import Step
from nbutils.training.objective import Objective
from studies.credit.network import ResidualMLP

Build = Callable[[], ResidualMLP]
Credit = Literal["backpropagation", "feedback", "direct feedback"]

_TOGETHER = 4  # members of one batched product; more of them leave the cache, and gain nothing at this width
_building = Lock()  # modules are initialised by a generator that all threads share


@dataclass(frozen=True)
class Regime:
    """How a network learns.

    Attributes:
        name: e.g. `"DFA"`; distinct within a study.
        credit: what trains embedding and blocks.
        penalty: the hidden-norm penalty λ as a multiple of the schedule's `penalty`; 0 is none. The loss gains
            λ Σ_l mean(h_l²), the mean over batch and dimensions, h_0 to h_L. Under direct feedback each h_l's own
            term goes into the credit at h_l, and no further down.
        blocks: whether blocks are trained; otherwise they stay as they were initialised.

    Raises:
        ValueError: no such credit, or a negative penalty.
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


def feedback_matrices(seed: int, build: Build = ResidualMLP) -> Tensor:
    """Return the fixed matrices B of a training seed, float32 `[num_blocks, width, classes]`.

    Standard normal / √classes, drawn with torch's generator seeded by `seed` itself, after a model has been built with
    it: the source's rule (`reconstruct_training_Bs`), by which a checkpoint without matrices gets them back. The global
    generator is left as it was.
    """
    with _building, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        shape = model.out_head.in_features, model.out_head.out_features
        return torch.stack([torch.randn(shape) for _ in range(model.num_blocks)]) / shape[1] ** 0.5


def fixed_network(seed: int, build: Build = ResidualMLP) -> ResidualMLP:
    """Return the network whose weights carry feedback alignment's error back: a fresh one, never trained."""
    with _building, seeded(seed, "feedback"):
        return build().requires_grad_(False)


def with_feedback(model: ResidualMLP, fixed: ResidualMLP) -> nn.Module:
    """Return a copy of a model that computes the same, but sends gradients back through other weights.

    Its linear layers multiply a gradient by the weights of `fixed` in place of their own; what it calls the gradient of
    a hidden state is feedback alignment's credit.
    """
    own = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    return _rebuilt(model, own, {name: tensor.detach().clone() for name, tensor in fixed.named_parameters()})


def study(
    build: Build, seeds: Sequence[int], regimes: Sequence[Regime], *, dtype: torch.dtype = torch.float32
) -> tuple[Ensemble, CreditRule]:
    """Return one ensemble of all regimes and seeds, and the rule to `fit` it with.

    Members of one seed start from the same weights. Float32 is what the source trained in.

    Args:
        build: makes the network.
        seeds: one or more.
        regimes: all seeds of the first come first; `ensemble.variants` has their names.
        dtype: of weights and arithmetic.

    Raises:
        ValueError: seeds or names that are not distinct.
    """
    ensemble = Ensemble(build, seeds, dtype=dtype).across([regime.name for regime in regimes])
    return ensemble, CreditRule(tuple(regime for regime in regimes for _ in seeds))


@dataclass(frozen=True)
class CreditRule:
    """The rule of `nbutils.training.fit` by which each member of an ensemble of residual networks learns.

    Every block has an autograd graph of its own and none reaches across blocks, in no regime: a credit is given to the
    block's output, and where the regime asks for it the block's input passes the next one on.

    Attributes:
        regimes: one a member.
    """

    regimes: tuple[Regime, ...]

    def select(self, members: Sequence[int]) -> CreditRule:
        """Return the rule for some of the members."""
        return CreditRule(tuple(self.regimes[i] for i in members))

    def bind(self, ensemble: Ensemble, objective: Objective) -> Step:
        """Return the step function of `nbutils.training.loop.Rule`.

        Raises:
            ValueError: another number of regimes than of members, or an objective with terms of its own.
        """
        if len(self.regimes) != len(ensemble):
            raise ValueError(f"expected a regime a member, {len(ensemble)}; got {len(self.regimes)}")
        if objective.terms:
            raise ValueError(f"a credit rule knows no terms but its own penalty; got {objective.terms[0].name!r}")
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
    """A few neighbouring members that learn alike, but for the size of the penalty."""

    def __init__(self, ensemble: Ensemble, objective: Objective, members: slice, regimes: list[Regime]) -> None:
        self.members, self.objective = members, objective
        self.direct = regimes[0].credit == "direct feedback"
        self.trained = regimes[0].blocks
        like = ensemble.flat
        self.penalties = like.new_tensor([regime.penalty for regime in regimes])
        # Views of the ensemble's memory: the optimizer changes them in place.
        own = {name: tensor.detach()[members] for name, tensor in ensemble.parameters.items()}
        self.gradients = {name: tensor[members] for name, tensor in ensemble.gradients.items()}
        seeds = ensemble.seeds[members]
        carriers: dict[str, Tensor] = {}
        if regimes[0].credit == "feedback":
            networks = [fixed_network(seed, ensemble.build) for seed in seeds]
            carriers = torch.func.stack_module_state(networks)[0]
            carriers = {name: tensor.detach().to(like) for name, tensor in carriers.items()}
        self.model = _rebuilt(ensemble[members.start], own, carriers)
        parameters = dict(self.model.named_parameters())
        self.names = {
            place: {name: tensor for name, tensor in parameters.items() if name.startswith(f"{place}.")}
            for place in ("embed", *(f"blocks.{i}" for i in range(self.model.num_blocks)), "out_ln", "out_head")
        }
        if self.direct:
            drawn = [feedback_matrices(seed, ensemble.build) for seed in seeds]
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

        weights = penalty * self.penalties
        pull = (2 * weights / (top.shape[1] * top.shape[2])).view(-1, 1, 1)  # ∂ mean(h²) / ∂h = 2h / (batch · width)
        for layer in reversed(range(model.num_blocks)):
            start, increment = added[layer]
            credit = torch.addcmul(error @ self.feedback[layer].mT if self.direct else credit, pull, hidden[layer + 1])
            own = self.names[f"blocks.{layer}"] if self.trained else {}
            wanted = [*own.values()] if self.direct else [*own.values(), start]
            if wanted:
                slopes = torch.autograd.grad(increment, wanted, credit)
                self._write(own, slopes[: len(own)])
                if not self.direct:
                    credit = credit + slopes[-1]
        credit = torch.addcmul(error @ self.feedback[0].mT if self.direct else credit, pull, hidden[0])
        own = self.names["embed"]
        self._write(own, torch.autograd.grad(embedded, list(own.values()), credit))
        norms = torch.stack([h.square().mean((1, 2)) for h in hidden]).sum(0).detach()
        losses = losses.detach()
        return losses, norms, losses + weights * norms

    def _write(self, parameters: Mapping[str, Tensor], gradients: Sequence[Tensor]) -> None:
        for name, gradient in zip(parameters, gradients, strict=True):
            self.gradients[name].copy_(gradient)


def _rebuilt(template: nn.Module, own: Mapping[str, Tensor], carriers: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a model on given parameters, which may have a leading axis of members.

    Args:
        template: has linear layers and layer norms; nothing else of it may have parameters.
        own: its parameters by name.
        carriers: by the names of weights, what gradients are multiplied by in their place; the weights if absent.
    """
    model = copy.deepcopy(template)
    for path, module in template.named_modules():
        if isinstance(module, nn.Linear):
            layer = _Linear(own[f"{path}.weight"], own[f"{path}.bias"], carriers.get(f"{path}.weight"))
        elif isinstance(module, nn.LayerNorm):
            layer = _LayerNorm(own[f"{path}.weight"], own[f"{path}.bias"], module.eps)
        else:
            continue
        parent, _, child = path.rpartition(".")
        setattr(submodule(model, parent) if parent else model, child, layer)
    return model


class _Linear(nn.Module):
    """x `[..., batch, in]` -> `[..., batch, out]`, with weights `[..., out, in]` that share the memory they come in."""

    def __init__(self, weight: Tensor, bias: Tensor, carrier: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.register_buffer("carrier", carrier, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.carrier is not None:
            return _Carried.apply(x, self.weight, self.bias, self.carrier)
        return x @ self.weight.mT + self.bias.unsqueeze(-2)


class _LayerNorm(nn.Module):
    """LayerNorm over the last axis, with weights and biases `[..., width]` for inputs `[..., batch, width]`."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(weight), nn.Parameter(bias), eps

    def forward(self, x: Tensor) -> Tensor:
        normal = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return torch.addcmul(self.bias.unsqueeze(-2), normal, self.weight.unsqueeze(-2))


class _Carried(torch.autograd.Function):
    """A linear layer whose gradient goes back through another matrix than its weights."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, carrier: Tensor) -> Tensor:
        ctx.save_for_backward(x, carrier)
        return x @ weight.mT + bias.unsqueeze(-2)

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, carrier = ctx.saved_tensors
        return slope @ carrier, slope.mT @ x, slope.sum(-2), None
