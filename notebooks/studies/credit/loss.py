"""The loss of the study: cross-entropy, and a penalty on the norm of hidden states.

    ℓ = cross-entropy(logits, labels) + λ Σ_l mean(h_l²)

The mean is over batch and dimensions, l runs from 0 to L. λ is the schedule's `penalty` times the regime's own
(`studies.credit.regimes.Regime`). Credits are audited against the cross-entropy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nbutils.training.objective import Objective, cross_entropy
from studies.credit.network import ResidualMLP

LossFrom = Callable[[Tensor], Tensor]
"""Hidden states `[..., N, width]` to the loss of each sample `[..., N]`, in the states' dtype."""

OBJECTIVE = Objective(loss=cross_entropy, name="cross-entropy")
"""The main loss; the penalty is the rule's own (`studies.credit.regimes.CreditRule`)."""


def hidden_norm(hidden: Sequence[Tensor]) -> Tensor:
    """Return Σ_l mean(h_l²) of each member, `[members]`, for states `[members, batch, width]`."""
    return torch.stack([h.square().mean((1, 2)) for h in hidden]).sum(0)


def penalty_slope(strength: Tensor, h: Tensor) -> Tensor:
    """Return the factor by which a state enters the penalty's gradient, ∂(λ mean(h²)) / ∂h = factor · h.

    Args:
        strength: λ of each member, `[members]`.
        h: a state `[members, batch, width]`; the factor is the same for all states of this shape.

    Returns:
        2λ / (batch · width), `[members, 1, 1]`.
    """
    return (2 * strength / (h.shape[1] * h.shape[2])).view(-1, 1, 1)


def loss_from(model: ResidualMLP, layer: int, labels: Tensor) -> LossFrom:
    """Return the function from h_layer to the cross-entropy of each sample.

    Args:
        model: computes in its own dtype.
        layer: l, 0 to L.
        labels: `[N]`, int64.
    """

    def losses(h: Tensor) -> Tensor:
        scores = F.log_softmax(model.logits_from(h, layer), dim=-1)
        return -scores.gather(-1, labels.expand(h.shape[:-1])[..., None])[..., 0]

    return losses
