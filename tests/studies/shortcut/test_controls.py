"""Controls: rankings, random channels, random channels of the same strength."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbutils.seeding import generator
from studies.shortcut.controls import Controls, matched_masks, random_masks, rankings, top


def test_random_masks_are_uniform_and_matched_ones_keep_each_stratum():
    strength = torch.rand(64, generator=generator(0, "strength"))
    order = strength.argsort(descending=True)
    chosen = top(order, 12)  # the strongest
    uniform = random_masks(64, 12, 4000, generator(1, "uniform"))
    matched = matched_masks(chosen, strength, 4000, generator(1, "matched"), strata=8)
    for masks in (uniform, matched):
        assert (masks.sum(1) == 12).all()
        assert len({row.numpy().tobytes() for row in masks}) > 50
    assert torch.allclose(uniform.float().mean(0), torch.tensor(12 / 64), atol=0.03)
    # Strata of 8: the strongest is taken whole, of the next one half, each channel of it equally often.
    often = matched.float().mean(0)
    assert (often[order[:8]] == 1).all()
    assert torch.allclose(often[order[8:16]], torch.tensor(0.5), atol=0.04)
    assert (often[order[16:]] == 0).all()
    means = torch.stack([(masks * strength).sum(1).mean() / 12 for masks in (uniform, matched)])
    target = strength[chosen].mean()
    assert (means[1] - target).abs() < 0.03 < (means[0] - target).abs()


def test_rankings_put_the_most_aligned_first_and_ties_in_order():
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 5.0, 0.0, 2.0], [1.0, 0.0, 0.0, -2.0]]))
    found = rankings(torch.tensor([0.0, 2.0, 2.0, 3.0]), torch.tensor([4.0, 3.0, 2.0, 1.0]), layer)
    assert {name: order.tolist() for name, order in found.items()} == {
        "shortcut": [3, 1, 2, 0],
        "morphology": [0, 1, 2, 3],
        "head weight": [1, 3, 0, 2],  # what is added to both logits counts nothing: channel 0 is last with 2
        "least aligned": [0, 1, 2, 3],
    }
    assert "morphology" not in rankings(torch.rand(4), None, layer)


def test_controls_that_do_not_fit_are_named():
    order = torch.arange(24)
    for change, message in [
        ({"ks": (0, 25)}, "from 0 to 24"),
        ({"ks": (4, 4)}, "different"),
        ({"draws": 0}, "draws"),
        ({"rankings": {}}, "one ranking or more"),
        ({"rankings": {"shortcut": torch.zeros(24, dtype=torch.long)}}, "each of the 24 channels once"),
        ({"rankings": {"shortcut": order, "random": order}}, "'random' is drawn"),
    ]:
        with pytest.raises(ValueError, match=message):
            Controls(**({"rankings": {"shortcut": order}, "ks": (0, 4), "draws": 2} | change))
    with pytest.raises(KeyError, match="no ranking 'hospital' to match; there are shortcut"):
        Controls({"shortcut": order}, ks=(0, 4), match="hospital")
