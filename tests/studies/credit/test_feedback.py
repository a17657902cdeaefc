"""Fixed matrices that carry the error back."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F

from studies.credit.feedback import feedback_matrices, with_feedback
from studies.credit.network import ResidualMLP

WIDTH, CLASSES, BLOCKS = 16, 5, 3


def build():
    return ResidualMLP(12, WIDTH, CLASSES, BLOCKS)


def test_feedback_through_the_transposed_weights_is_backpropagation():
    torch.manual_seed(0)
    model = build()
    twin = with_feedback(model, copy.deepcopy(model))
    x, y = torch.randn(20, 12), torch.arange(20) % CLASSES
    for network in (model, twin):
        logits, hidden = network(x, return_hidden=True)
        network.slopes = torch.autograd.grad(F.cross_entropy(logits, y), hidden)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(model.slopes, twin.slopes, strict=True))
    other = with_feedback(model, build())
    logits, hidden = other(x, return_hidden=True)
    assert not torch.allclose(torch.autograd.grad(F.cross_entropy(logits, y), hidden)[0], model.slopes[0], atol=1e-4)


def test_feedback_matrices_follow_the_sources_rule():
    torch.manual_seed(42)
    build()
    expected = [torch.randn(WIDTH, CLASSES) / CLASSES**0.5 for _ in range(BLOCKS)]
    state = torch.get_rng_state()
    found = feedback_matrices(42, build)
    assert torch.equal(found, torch.stack(expected))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(feedback_matrices(123, build), found)
