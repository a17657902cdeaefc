"""Measures of credit beside ρ: cosines with the gradient, a step along the credit, weights against feedback."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from studies.credit.loss import LossFrom
from studies.credit.network import ResidualMLP

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def cosine(a: Tensor, g: Tensor) -> Tensor:
    """Return the cosine of each pair of vectors, `[..., d]` twice -> `[...]`, float64; NaN where one is exactly 0.

    No clamp on the norms: that of `torch.nn.functional.cosine_similarity`, 1e-8, makes smaller vectors orthogonal.
    """
    a, g = a.double(), g.double()
    a, g = (x / x.abs().amax(-1, keepdim=True) for x in (a, g))  # squares of 1e-170 would vanish
    return (a * g).sum(-1) / (a.norm(dim=-1) * g.norm(dim=-1))


def weighted_cosine(a: Tensor, g: Tensor) -> float:
    """Return Σ⟨a, g⟩ / √(Σ‖a‖² Σ‖g‖²) over samples `[N, d]`: to first order, ρ."""
    return float(cosine(a.flatten(), g.flatten()))


def expected_sign_agreement(cosines: ArrayLike) -> float:
    """Return the share of isotropic directions in which ⟨a, v⟩ and ⟨g, v⟩ have the same sign: 1 − arccos(c) / π.

    Args:
        cosines: c of each sample; the mean over samples is returned.
    """
    return float(np.mean(1 - np.arccos(np.clip(np.asarray(cosines, dtype=float), -1, 1)) / np.pi))


def loss_decrease_ratio(h: Tensor, a: Tensor, g: Tensor, loss_from: LossFrom, *, step: float = 1e-4) -> float:
    """Return the decrease of the mean loss by a step along −a, as a share of that by an equal step along −g.

    Args:
        h: states `[N, d]`, float64.
        a: credits `[N, d]`.
        g: gradients `[N, d]`.
        loss_from: as `studies.credit.loss.loss_from` returns it.
        step: length of each sample's step in units of its ‖h‖.
    """
    with torch.no_grad():
        length = step * h.norm(dim=1, keepdim=True)
        base = loss_from(h)
        ours, best = ((base - loss_from(h - length * F.normalize(x, dim=1, eps=1e-300))).mean().item() for x in (a, g))
    return ours / best if best else math.nan


def weight_alignment(model: ResidualMLP, feedback: Tensor) -> NDArray[np.float64]:
    """Return the cosine of each feedback matrix with the head's own feedback, `[L]`.

    The shortest way from the loss to any h_l goes along the residual stream, through out_ln and out_head alone. Up to
    each sample's scale it carries e by P·diag(γ)·Wᵀ, where P removes the mean over dimensions. Means over classes are
    removed on both sides: e sums to 0, so they carry nothing.

    Args:
        model: with W of `out_head` and γ of `out_ln`.
        feedback: `[L, d, classes]`.
    """
    head = (model.out_ln.weight[:, None] * model.out_head.weight.mT).detach().double()  # (d, classes)
    head = head - head.mean(0)
    head, matrices = (x - x.mean(-1, keepdim=True) for x in (head, feedback.to(head)))
    return cosine(matrices.flatten(1), head.flatten().expand(len(matrices), -1)).cpu().numpy()
