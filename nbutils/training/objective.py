"""The objective of training: a main loss, and scheduled terms on activations and on parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from types import MappingProxyType
from typing import Protocol

import torch
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


PHASES = ("train", "validate")


@dataclass(frozen=True)
class Term:
    """One scheduled loss term.

    Args:
        name: its name in the history, and its weight's column in the dopesheet.
        loss: latents `[members, batch, ...]` -> loss per sample `[members, batch]`.
        site: dotted path of the module whose output it reads; of several, the losses are added.
        label: key of a batch entry `[members, batch]` that weights the samples: Σ loss·label / (Σ label + 1e-8).
            Several labels, each with its strength: samples are weighted by Σ strength·label. Without one, the mean
            over the batch.
        phase: where it is computed: in `"train"`, in `"validate"`, or both.
        column: its weight's column in the dopesheet, where that is not its name: terms can share one.

    Raises:
        ValueError: no site, no such phase, or a strength below 0.
    """

    name: str
    loss: Loss
    site: str | tuple[str, ...]
    label: str | Mapping[str, float] | None = None
    phase: tuple[str, ...] = ("train",)
    column: str | None = None

    def __post_init__(self) -> None:
        if not self.sites or not self.phase or not set(self.phase) <= set(PHASES):
            raise ValueError(
                f"term {self.name!r} needs a site, and phases among {PHASES}; got {self.site}, {self.phase}"
            )
        if isinstance(self.label, Mapping) and not (self.label and min(self.label.values()) >= 0):
            raise ValueError(f"term {self.name!r} needs strengths of 0 or more for its labels; got {dict(self.label)}")

    @property
    def sites(self) -> tuple[str, ...]:
        """The modules that it reads."""
        return (self.site,) if isinstance(self.site, str) else tuple(self.site)

    def __call__(self, activations: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Return the term of each member `[members]`, not yet weighted."""
        losses = reduce(torch.add, [self.loss(activations[site]) for site in self.sites])
        if self.label is None:
            return losses.mean(1)
        if isinstance(self.label, str):
            label = batch[self.label]
        else:
            label = reduce(torch.add, [strength * batch[name] for name, strength in self.label.items()])
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
        name: its name in the history, and its weight's column in the dopesheet.
        loss: e.g. `nbutils.training.regularizers.ParameterDrift`.
        phase: as for `Term`.
        column: as for `Term`.
    """

    name: str
    loss: ParameterLoss
    phase: tuple[str, ...] = ("train",)
    column: str | None = None

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
        return tuple(dict.fromkeys(site for term in self.terms if isinstance(term, Term) for site in term.sites))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the dopesheet that hold the terms' weights."""
        return tuple(dict.fromkeys(term.column or term.name for term in self.terms))

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
        phase: str = "train",
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total loss `[members]` and each term before weighting, by name.

        Args:
            output: `[members, batch, ...]`.
            batch: what the sampler made; `target` is read here.
            activations: site -> activations.
            weights: the schedule's values at this step, one per term.
            parameters: name -> `[members, ...]`.
            phase: `"train"` or `"validate"`: terms of another one are not computed.
        """
        total = self.loss(output, batch["target"])
        values = {self.name: total}
        for term in self.terms:
            weight = weights[term.column or term.name]
            if weight != 0 and phase in term.phase:
                values[term.name] = term(parameters) if isinstance(term, ParameterTerm) else term(activations, batch)
                total = total + weight * values[term.name]
        return total, values
