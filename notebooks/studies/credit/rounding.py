"""What rounding leaves of the perturbation correlation: a curve that follows from the rounding of losses alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from studies.credit.loss import LossFrom

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def rounded_rho(gradient_rms: ArrayLike, width: int, rounding: float, epsilon: ArrayLike = 1e-3) -> NDArray[np.float64]:
    """Return the ρ of the exact gradient itself where losses are rounded.

    Along a random unit direction the loss changes by ε‖g‖/√d (SD), and rounding adds an independent error:
    ρ = 1 / √(1 + d·(rounding / (ε‖g‖))²).

    Args:
        gradient_rms: √mean‖g‖² over samples, any shape.
        width: d.
        rounding: SD of the rounding error of a difference of two losses, some 1e-7 in float32 (`rounding_error`).
        epsilon: length of the step, of a shape that broadcasts with the first.
    """
    signal = np.asarray(epsilon, dtype=float) * np.asarray(gradient_rms, dtype=float) / math.sqrt(width)
    return signal / np.hypot(signal, rounding)


def rounding_error(h: Tensor, exact: LossFrom, rounded: LossFrom, dtype: torch.dtype = torch.float32) -> float:
    """Return the SD of the rounding error of a difference of two rounded losses, of one sample at two states.

    √2 times the SD over samples of the error of one loss. That takes the two errors for independent, which they are
    not where the step changes few bits of the state: then they are partly the same, and cancel.

    Args:
        h: states `[N, d]`.
        exact: the loss from a state in float64 (`studies.credit.loss.loss_from`).
        rounded: the same in `dtype`.
        dtype: of fewer bits than float64.
    """
    low = h.to(dtype)
    with torch.no_grad():
        return math.sqrt(2) * float((rounded(low).double() - exact(low.double())).std())
