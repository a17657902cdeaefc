"""Where float32 breaks down."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studies.credit.perturbation import perturbation_correlation
from studies.credit.rounding import rounded_rho, rounding_error


def test_float32_follows_the_predicted_curve_and_float64_does_not_care(states, losses):
    """The loss has the gradient g/c at c·h: scale the final state up, and the exact gradient drowns in rounding."""
    single, double = losses(3, torch.float32), losses(3)
    measured, predicted, norms = [], [], []
    for scale in (1, 100, 1e3, 3e3, 1e4):
        h = (scale * states.hidden[-1]).float().double()
        (slope,) = torch.autograd.grad(double(leaf := h.clone().requires_grad_()).sum(), leaf)
        norms.append(slope.square().sum(1).mean().sqrt().item())
        measured.append(perturbation_correlation(h.float(), slope.float(), single, method="finite").rho)
        predicted.append(rounded_rho(norms[-1], 32, rounding_error(h, double, single)))
        assert perturbation_correlation(h, slope, double).rho == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(measured, predicted, atol=0.08)
    assert measured[0] > 0.999
    assert 0.3 < measured[2] < 0.9  # the curve is tried where it bends
    assert measured[-1] < 0.15
    assert norms[0] / norms[-1] == pytest.approx(1e4, rel=0.01)
    assert rounded_rho(0.0, 32, 1e-7) == 0


def test_where_no_bit_changes_float32_measures_nothing(states, losses):
    h = (1e9 * states.hidden[-1]).float()
    found = perturbation_correlation(h, states.gradients[-1].float(), losses(3, torch.float32), method="finite")
    assert found.unmoved > 0.99
    assert np.isnan(found.rho) or abs(found.rho) < 0.1
    near = perturbation_correlation(
        states.hidden[-1].float(),
        states.gradients[-1].float(),
        losses(3, torch.float32),
        method="finite",
    )
    assert near.unmoved == 0
