"""How long may the step of a difference be? ρ of the exact gradient against ε/‖h‖, in several precisions.

Behind the final LayerNorm the loss depends on the direction of a state alone, so a step counts in units of the state:
‖g‖ falls as 1/‖h‖, and what the loss changes by depends on ε‖g‖, hence on ε/‖h‖. Below, rounding drowns the change
(`studies.credit.rounding`); above, the loss curves. Between them any difference is as good as a derivative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from studies.credit.loss import loss_from
from studies.credit.network import ResidualMLP, cast
from studies.credit.perturbation import PerturbationCorrelation, perturbation_correlation, unit_directions
from studies.credit.rounding import rounded_rho, rounding_error

if TYPE_CHECKING:
    import pandas as pd

PRECISIONS = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def step_sweep(
    model: ResidualMLP,
    layer: int,
    states: tuple[Tensor, Tensor, Tensor],
    steps: Mapping[str, Sequence[float]],
    *,
    directions: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """Score the exact gradient by one-sided differences, one row per precision and step.

    Args:
        model: the network, in any dtype.
        layer: l, 0 to L.
        states: h_l and its gradients, both `[N, d]` and float64, and the labels `[N]`.
        steps: for each precision, a key of `PRECISIONS`, the steps ε in units of each sample's ‖h‖.
        directions: per sample.
        seed: of the directions.

    Returns:
        Columns precision; step; in_roundoffs, the step in units of the precision's own, 2⁻ᵖ; rho (NaN where no loss
        changed); predicted, from the rounding of losses alone; unmoved; hidden_norm (median), gradient_rms, rounding.

    Raises:
        KeyError: an unknown precision.
    """
    import pandas as pd

    h, g, labels = states
    exact = loss_from(cast(model, torch.float64), layer, labels)
    v = unit_directions(h, directions, seed)
    true = PerturbationCorrelation.from_gradients(g, g, v).predicted
    about = {"hidden_norm": float(h.norm(dim=1).median()), "gradient_rms": float(g.square().sum(1).mean().sqrt())}
    rows: list[dict[str, Any]] = []
    single = rounding_error(h, exact, loss_from(cast(model, torch.float32), layer, labels))
    for name, lengths in steps.items():
        dtype = PRECISIONS[name]
        rounded, roundoff = loss_from(cast(model, dtype), layer, labels), torch.finfo(dtype).eps / 2
        # Nothing is more exact than float64: its error is float32's, in proportion.
        own = 2.0**-29 * single if name == "float64" else rounding_error(h, exact, rounded, dtype)
        low, along = h.to(dtype), v.to(dtype)
        for step in lengths:
            found = perturbation_correlation(low, low, rounded, directions=along, method="relative", epsilon=step)
            rho = PerturbationCorrelation(true, found.actual).rho
            inverse = float(h.norm(dim=1).square().reciprocal().mean().rsqrt())  # of the mean noise, (σ / ε‖h‖)²
            predicted = float(rounded_rho(about["gradient_rms"], h.shape[1], own, step * inverse))
            rows.append(
                {"precision": name, "step": step, "in_roundoffs": step / roundoff, "rho": rho, "predicted": predicted}
                | {"unmoved": found.unmoved, "rounding": own}
                | about
            )
    return pd.DataFrame(rows)
