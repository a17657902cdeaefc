"""The audit of one network: every measure of its credits, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from studies.credit.alignment import cosine, expected_sign_agreement, loss_decrease_ratio, weighted_cosine
from studies.credit.chance import fresh_feedback_null
from studies.credit.loss import LossFrom, loss_from
from studies.credit.network import ResidualMLP, cast
from studies.credit.perturbation import Method, PerturbationCorrelation, perturbation_correlation, unit_directions
from studies.credit.rounding import rounding_error

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Signals:
    """What a network computes for some samples, in float64.

    Attributes:
        hidden: h_0 … h_L, `[L + 1, N, d]`.
        gradients: ∂ℓ/∂h of each sample's own loss, `[L + 1, N, d]`.
        errors: e = softmax(logits) − one-hot, `[N, classes]`.
        labels: `[N]`.
    """

    hidden: Tensor
    gradients: Tensor
    errors: Tensor
    labels: Tensor

    def direct(self, feedback: Tensor) -> Tensor:
        """Return direct feedback's credits a_l = e B_lᵀ, `[L, N, d]`, for matrices `[L, d, classes]`."""
        return self.errors @ feedback.to(self.errors).mT


def signals(model: ResidualMLP, inputs: Tensor, labels: Tensor) -> Signals:
    """Run a network forward and backward once, in float64, and return what an audit needs.

    Of a model from `studies.credit.feedback.with_feedback`, `gradients` are feedback alignment's credits.

    Args:
        model: in any dtype; it is not changed.
        inputs: `[N, inputs]`.
        labels: `[N]`.
    """
    model = cast(model, torch.float64)
    with torch.enable_grad():
        logits, hidden = model(inputs.double(), return_hidden=True)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        gradients = torch.autograd.grad(loss, hidden)
    errors = logits.detach().softmax(1) - F.one_hot(labels, logits.shape[1])
    return Signals(torch.stack(hidden).detach(), torch.stack(gradients), errors, labels)


def audit(
    model: ResidualMLP,
    states: Signals,
    credits: Tensor,
    *,
    directions: int = 32,
    seed: int = 0,
    method: Literal["jvp", "gradient"] = "jvp",
    draws: int = 200,
    epsilon: float = 1e-3,
) -> pd.DataFrame:
    """Measure a network's credits, one row per layer l = 0 … L − 1.

    Args:
        model: the network.
        states: of that network (`signals`).
        credits: a_l, `[L, N, d]`.
        directions: M.
        seed: of directions, null and resampling.
        method: of the exact changes: `"jvp"`, by which the ceiling checks the gradient; or `"gradient"`
            (`PerturbationCorrelation.from_gradients`), far faster, with a ceiling of 1 by construction.
        draws: of the null.
        epsilon: of the float32 measures: absolute, as in the source, and the same number in units of ‖h‖.

    Returns:
        Columns layer; rho with low and high (bootstrap over samples); ceiling (the exact gradient, by the same
        changes); null_mean, null_sd, null_low and null_high (2.5 and 97.5 %); cosine (mean over samples),
        weighted_cosine; sign_agreement, sign_expected; loss_decrease; float32_rho and float32_ceiling (the source's
        measure, NaN where no loss changed), relative_rho and relative_ceiling (by a step in units of ‖h‖), unmoved,
        rounding; gradient_norm and hidden_norm (medians), gradient_rms.

    Raises:
        ValueError: credits of another shape.
    """
    import pandas as pd

    expected = (len(states.hidden) - 1, *states.hidden.shape[1:])
    if credits.shape != expected:
        raise ValueError(f"credits must be [L, N, d] = {list(expected)}; got {list(credits.shape)}")
    exact, single = cast(model, torch.float64), cast(model, torch.float32)
    v = unit_directions(states.hidden[0], directions, seed)
    rows = []
    for layer, (h, g, a) in enumerate(zip(states.hidden, states.gradients, credits, strict=False)):
        loss, loss32 = (loss_from(network, layer, states.labels) for network in (exact, single))
        of_gradient = PerturbationCorrelation.from_gradients(g, g, v)
        if method == "jvp":
            found = perturbation_correlation(h, a.double(), loss, directions=v)
        else:
            found = PerturbationCorrelation.from_gradients(a, g, v)
        steps: tuple[Method, ...] = ("finite", "relative")
        rough, relative = (
            perturbation_correlation(h.float(), a.float(), loss32, directions=v.float(), method=step, epsilon=epsilon)
            for step in steps
        )
        rows.append(
            {"layer": layer}
            | _score(found, seed)
            | {"ceiling": PerturbationCorrelation(of_gradient.predicted, found.actual).rho}
            | _summarise_null(fresh_feedback_null(states.errors, g, draws=draws, seed=seed))
            | _align(h, g, a, loss)
            | {"float32_rho": rough.rho, "unmoved": rough.unmoved, "rounding": rounding_error(h, loss, loss32)}
            | {"float32_ceiling": PerturbationCorrelation(of_gradient.predicted, rough.actual).rho}
            | {"relative_rho": relative.rho}
            | {"relative_ceiling": PerturbationCorrelation(of_gradient.predicted, relative.actual).rho}
        )
    return pd.DataFrame(rows)


def _score(found: PerturbationCorrelation, seed: int) -> dict[str, float]:
    interval = found.interval(seed=seed)
    return {
        "rho": found.rho,
        "low": interval.low,
        "high": interval.high,
        "sign_agreement": found.sign_agreement,
    }


def _summarise_null(null: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(null, [0.025, 0.975])
    return {"null_mean": null.mean(), "null_sd": null.std(ddof=1), "null_low": low, "null_high": high}


def _align(h: Tensor, g: Tensor, a: Tensor, loss: LossFrom) -> dict[str, float]:
    cosines = cosine(a, g)
    return {
        "cosine": float(cosines.nanmean()),
        "weighted_cosine": weighted_cosine(a, g),
        "sign_expected": expected_sign_agreement(cosines[cosines.isfinite()].cpu()),
        "loss_decrease": loss_decrease_ratio(h, a.double(), g, loss),
        "gradient_norm": float(g.norm(dim=1).median()),
        "gradient_rms": float(g.square().sum(1).mean().sqrt()),
        "hidden_norm": float(h.norm(dim=1).median()),
    }
