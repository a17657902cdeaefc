"""The null of fresh feedback, against ρ measured along directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studies.credit.alignment import weighted_cosine
from studies.credit.chance import fresh_feedback_null
from studies.credit.perturbation import PerturbationCorrelation, unit_directions


def test_the_null_is_fresh_feedback_measured_on_the_same_network(model, states):
    """Against ρ measured along directions, draw by draw; and wider than the Monte-Carlo error."""
    g = states.gradients[1]
    v = unit_directions(g, 32)
    draw = torch.Generator().manual_seed(3)
    measured, first_order = [], []
    for _ in range(60):
        a = states.errors @ torch.randn(32, 10, generator=draw, dtype=torch.float64).mT
        measured.append(PerturbationCorrelation.from_gradients(a, g, v).rho)
        first_order.append(weighted_cosine(a, g))
    null = fresh_feedback_null(states.errors, g, draws=400)
    assert np.abs(np.subtract(measured, first_order)).max() < 4 / (32 * 400) ** 0.5 * 2
    assert abs(null.mean()) < 4 * null.std() / 20
    assert null.std() == pytest.approx(np.std(measured), rel=0.4)
    assert null.std() > 3 / (32 * 400) ** 0.5
    np.testing.assert_allclose(null, fresh_feedback_null(states.errors, g * 1e-170, draws=400), rtol=1e-9)
    # A matrix that the network's own head suggests is beyond it.
    head = (model.out_ln.weight[:, None] * model.out_head.weight.mT).detach().double()
    assert weighted_cosine(states.errors @ head.mT, g) > null.max()
