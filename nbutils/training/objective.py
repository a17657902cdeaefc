"""The objective of training: a main loss, and scheduled terms on activations and on parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor], Tensor]


def mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each member: `[members, batch, ...]` twice -> `[members]`."""
    return (output - target).square().flatten(1).mean(1)


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of each member: logits `[members, batch, classes]`, labels `[members, batch]`."""
    losses = F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none")
    return losses.view(target.shape).mean(1)


@dataclass(frozen=True)
class Term:
    """One scheduled loss term.

    Args:
        name: its weight's column in the dopesheet, and its name in the history.
        loss: latents `[members, batch, ...]` -> loss per sample `[members, batch]`.
        site: dotted path of the module whose output it reads.
        label: key of a batch entry `[members, batch]` that weights the samples: Σ loss·label / (Σ label + 1e-8).
            Without one, the mean over the batch.
    """

    name: str
    loss: Loss
    site: str
    label: str | None = None

    def __call__(self, activations: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Return the term of each member `[members]`, not yet weighted."""
        losses = self.loss(activations[self.site])
        if self.label is None:
            return losses.mean(1)
        label = batch[self.label]
        return (losses * label).sum(1) / (label.sum(1) + 1e-8)


class ParameterLoss(Protocol):
    """A loss on parameters."""

    def __call__(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of each member `[members]` for parameters by name, `[members, ...]`."""

    def select(self, members: Sequence[int]) -> ParameterLoss:
        """Return the loss for some of the members."""


@dataclass(frozen=True)
class ParameterTerm:
    """One scheduled loss term on the weights themselves.

    Args:
        name: its weight's column in the dopesheet, and its name in the history.
        loss: e.g. `nbutils.training.regularizers.ParameterDrift`.
    """

    name: str
    loss: ParameterLoss

    def __call__(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the term of each member `[members]`, not yet weighted."""
        return self.loss(parameters)


@dataclass(frozen=True)
class Objective:
    """A main loss plus scheduled terms.

    Args:
        loss: (output, target) `[members, batch, ...]` -> `[members]`.
        terms: scheduled terms; one whose weight is 0 at a step is not computed there.
        name: the main loss's name in the history.
    """

    terms: Sequence[Term | ParameterTerm] = ()
    loss: Callable[[Tensor, Tensor], Tensor] = mean_squared_error
    name: str = "reconstruction"

    @property
    def sites(self) -> tuple[str, ...]:
        """Modules whose activations the terms read."""
        return tuple(dict.fromkeys(term.site for term in self.terms if isinstance(term, Term)))

    def select(self, members: Sequence[int]) -> Objective:
        """Return the objective for some members of the ensemble."""
        terms = [
            replace(term, loss=term.loss.select(members)) if isinstance(term, ParameterTerm) else term
            for term in self.terms
        ]
        return replace(self, terms=terms)

    def __call__(
        self,
        output: Tensor,
        batch: Mapping[str, Tensor],
        activations: Mapping[str, Tensor],
        weights: Mapping[str, float],
        parameters: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total loss `[members]` and each term before weighting, by name.

        Args:
            output: `[members, batch, ...]`.
            batch: what the sampler made; `target` is read here.
            activations: site -> activations.
            weights: the schedule's values at this step, one per term.
            parameters: name -> `[members, ...]`.
        """
        total = self.loss(output, batch["target"])
        values = {self.name: total}
        for term in self.terms:
            if weights[term.name] != 0:
                values[term.name] = term(parameters) if isinstance(term, ParameterTerm) else term(activations, batch)
                total = total + weights[term.name] * values[term.name]
        return total, values
