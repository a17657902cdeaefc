"""Signals of a network, and the table of its audit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from studies.credit.audit import audit
from studies.credit.planted import plant_credit


def test_signals_are_the_networks_own(states, losses):
    assert states.hidden.shape == states.gradients.shape == (4, 400, 32)
    assert torch.allclose(states.errors.sum(1), torch.zeros(400, dtype=torch.float64), atol=1e-12)
    for layer in range(4):
        h = states.hidden[layer].clone().requires_grad_()
        (g,) = torch.autograd.grad(losses(layer)(h).sum(), h)
        assert torch.allclose(g, states.gradients[layer], rtol=1e-9)
    feedback = torch.randn(3, 32, 10)
    one = states.direct(feedback)[2, 7]
    assert torch.allclose(one, feedback[2].double() @ states.errors[7])


def test_the_audit_puts_it_in_one_table(model, states):
    credits = torch.stack([plant_credit(g, 0.5) for g in states.gradients[:-1]])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = audit(model, states, credits, directions=8)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert table["layer"].tolist() == [0, 1, 2]
    assert np.allclose(table["rho"], 0.5, atol=0.08)
    assert np.allclose(table[["cosine", "weighted_cosine"]], 0.5)
    assert np.allclose(table["ceiling"], 1, atol=1e-9)
    assert ((table["low"] < table["rho"]) & (table["rho"] < table["high"])).all()
    assert (table["null_high"] < 0.4).all()
    assert np.allclose(table["sign_agreement"], table["sign_expected"], atol=0.03)
    assert np.allclose(table["loss_decrease"], 0.5, atol=0.01)
    assert (table["float32_ceiling"] > 0.9).all()
    assert np.allclose(table["hidden_norm"], states.hidden[:-1].norm(dim=2).median(1).values)
    quick = audit(model, states, credits, directions=8, method="gradient")
    pd.testing.assert_frame_equal(table, quick, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match=r"\[L, N, d\] = \[3, 400, 32\]; got \[2, 400, 32\]"):
        audit(model, states, credits[:2])
