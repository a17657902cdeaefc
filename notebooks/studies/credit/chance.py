"""What chance alone gives: the perturbation correlation of feedback matrices drawn afresh."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbutils.seeding import generator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def fresh_feedback_null(errors: Tensor, gradients: Tensor, *, draws: int = 200, seed: int = 0) -> NDArray[np.float64]:
    """Return ρ of fresh random feedback on the same network and samples, `[draws]`.

    All samples share one B, so this spreads several times wider than the Monte-Carlo error of ρ. To first order
    (`studies.credit.perturbation`) no direction is needed, and all draws share the sums over samples.

    Args:
        errors: e, `[N, classes]`.
        gradients: ∂ℓ/∂h_l, `[N, d]`.
        draws: matrices `[d, classes]`, standard normal; their scale does not matter.
        seed: of the draws.
    """
    errors = errors.double()
    gradients = gradients.double() / gradients.abs().max()
    generate = generator(seed, "fresh feedback")
    shape = draws, gradients.shape[1], errors.shape[1]
    matrices = torch.randn(shape, generator=generate, dtype=torch.float64).to(errors)
    products = (matrices * (gradients.mT @ errors)).sum((1, 2))  # Σ ⟨e Bᵀ, g⟩
    squares = ((matrices @ (errors.mT @ errors)) * matrices).sum((1, 2))  # Σ ‖e Bᵀ‖²
    return (products / (squares * gradients.square().sum()).sqrt()).cpu().numpy()
