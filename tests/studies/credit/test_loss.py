"""The loss and its penalty."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from studies.credit.alignment import cosine
from studies.credit.loss import OBJECTIVE, hidden_norm, loss_from, penalty_slope
from studies.credit.network import ResidualMLP


def test_the_loss_from_any_state_is_the_networks_loss():
    torch.manual_seed(0)
    model = ResidualMLP(12, 8, 5, num_blocks=3)
    x, labels = torch.randn(6, 12), torch.tensor([0, 1, 2, 3, 4, 0])
    logits, hidden = model(x, return_hidden=True)
    expected = F.cross_entropy(logits, labels, reduction="none")
    assert OBJECTIVE.loss(logits[None], labels[None]).item() == pytest.approx(expected.mean().item())
    for layer, h in enumerate(hidden):
        assert torch.allclose(loss_from(model, layer, labels)(h), expected, atol=1e-6)
        twice = loss_from(model, layer, labels)(torch.stack([h, h + 1]))
        assert torch.allclose(twice[0], expected, atol=1e-6)
        assert twice.shape == (2, 6)
    assert not torch.allclose(loss_from(model, 1, labels)(hidden[0]), expected, atol=1e-3)


def test_the_penaltys_slope_is_its_gradient_in_each_member_and_state():
    hidden = [torch.randn(2, 6, 4, dtype=torch.float64).requires_grad_() for _ in range(3)]
    strength = torch.tensor([0.5, 2.0], dtype=torch.float64)
    slopes = torch.autograd.grad((strength * hidden_norm(hidden)).sum(), hidden)
    for h, slope in zip(hidden, slopes, strict=True):
        assert torch.allclose(penalty_slope(strength, h) * h, slope, atol=1e-15)


def test_the_loss_does_not_depend_on_the_length_of_the_final_state(states, losses):
    h, g = states.hidden[-1] * 100, states.gradients[-1] / 100  # where LayerNorm's epsilon is nothing
    slopes = cosine(g, h)
    assert slopes.abs().max() < 1e-3
    loss = losses(3)
    (at_h,) = torch.autograd.grad(loss(leaf := h.clone().requires_grad_()).sum(), leaf)
    (at_ch,) = torch.autograd.grad(loss(leaf := (50 * h).requires_grad_()).sum(), leaf)
    assert torch.allclose(at_ch, at_h / 50, rtol=1e-3, atol=at_h.abs().max().item() * 1e-5)
    # Not so before a block: its branch sees the normalised state, the stream does not.
    early = states.hidden[0] * 100
    (at_h,) = torch.autograd.grad(losses(0)(leaf := early.clone().requires_grad_()).sum(), leaf)
    (at_ch,) = torch.autograd.grad(losses(0)(leaf := (early / 80).requires_grad_()).sum(), leaf)
    assert not torch.allclose(at_ch, at_h * 80, rtol=0.05)
