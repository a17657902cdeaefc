"""Pooled features are those of the network in eval mode."""

from __future__ import annotations

import copy

import pytest
import torch

from studies.shortcut.features import extract
from studies.shortcut.networks import NarrowTileNet


def test_features_are_the_networks_in_eval_mode_and_leave_it_as_it_was():
    torch.manual_seed(0)
    model = NarrowTileNet().train()
    images = torch.randint(256, (20, 3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    before = copy.deepcopy(model.state_dict())
    found = extract(model, images, batch_size=7)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    expected = copy.deepcopy(model).eval().pooled(images)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, model.pooled(images), atol=1e-2)  # as in training mode
    model.load_state_dict(before)
    found.requires_grad_()  # an ordinary tensor, not one of inference mode
    rough = extract(model, images, precision="bfloat16")
    assert 0 < (rough - expected).abs().max() / expected.max() < 0.05
    with pytest.raises(ValueError, match="float16"):
        extract(model, images, precision="float16")
