"""The audited network: its states, and its output from any one of them."""

from __future__ import annotations

import pytest
import torch

from studies.credit.network import ResidualMLP


def build():
    return ResidualMLP(12, 8, 5, num_blocks=3)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build().eval()


def test_hidden_states_are_the_inputs_of_blocks(model):
    x = torch.randn(6, 12)
    logits, hidden = model(x, return_hidden=True)
    assert len(hidden) == model.num_blocks + 1 == len(model.blocks) + 1
    assert torch.equal(logits, model(x))
    seen = {}
    for place, block in enumerate(model.blocks):
        block.register_forward_hook(lambda _m, inputs, output, place=place: seen.update({place: (inputs[0], output)}))
    model(x)
    for block in model.blocks:
        block._forward_hooks.clear()
    for layer, (before, added) in seen.items():
        assert torch.equal(before, hidden[layer])
        assert torch.allclose(before + added, hidden[layer + 1])
    assert torch.allclose(model.out_head(model.out_ln(hidden[-1])), logits)
    assert sum(p.numel() for p in ResidualMLP().parameters()) == 3073 * 256 + 4 * (2 * 257 * 256 + 512) + 512 + 2570


def test_the_logits_follow_from_any_state(model):
    logits, hidden = model(torch.randn(6, 12), return_hidden=True)
    for layer, h in enumerate(hidden):
        assert torch.allclose(model.logits_from(h, layer), logits, atol=1e-6)
    for layer in (-1, 4):
        with pytest.raises(IndexError, match=f"between 0 and 3; got {layer}"):
            model.logits_from(hidden[0], layer)
    with pytest.raises(ValueError, match="num_blocks must be 1 or more; got 0"):
        ResidualMLP(num_blocks=0)
