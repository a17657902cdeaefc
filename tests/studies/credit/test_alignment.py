"""Cosines, a step along a credit, and weights against feedback."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from studies.credit.alignment import cosine, loss_decrease_ratio, weight_alignment
from studies.credit.planted import plant_credit


def test_cosine_has_no_clamp():
    a, g = torch.tensor([[1.0, 1.0]]) * 1e-30, torch.tensor([[1.0, 0.0]]) * 1e-30
    assert cosine(a, g).item() == pytest.approx(0.5**0.5, abs=1e-7)
    assert F.cosine_similarity(a, g).item() < 1e-6  # what the clamp makes of it
    assert cosine(a.double() * 1e-200, g.double()).item() == pytest.approx(0.5**0.5)
    assert cosine(a * 0, g).isnan().all()


def test_a_step_along_the_gradient_is_the_best_and_across_it_none(states, losses):
    h, g, loss = states.hidden[1], states.gradients[1], losses(1)
    for c in (1.0, 0.6, 0.0, -1.0):
        ratio = loss_decrease_ratio(h, plant_credit(g, c), g, loss, step=1e-6)
        assert ratio == pytest.approx(c, abs=1e-3)
    assert loss_decrease_ratio(h, 7 * g, g, loss) == pytest.approx(1, abs=1e-12)


def test_weight_alignment_sees_the_head_and_nothing_that_carries_no_error(model):
    head = (model.out_ln.weight[:, None] * model.out_head.weight.mT).detach()
    sees = torch.stack([head - head.mean(0), head - head.mean(0) + torch.randn(32, 1), -head, torch.randn(32, 10)])
    found = weight_alignment(model, sees)
    assert found[:2] == pytest.approx([1, 1], abs=1e-6)
    assert -1 < found[2] < -0.9
    assert abs(found[3]) < 0.25
