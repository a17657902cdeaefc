import pytest
import torch

from nbutils.data import digits
from studies.across import networks


@pytest.fixture(scope="module")
def splits():
    return digits.load()


def test_a_partner_is_an_item_of_another_class():
    labels = torch.arange(10).repeat(4)[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    partner = networks.of_another_class(labels)
    assert sorted(partner.tolist()) == list(range(40))
    assert (labels[partner] != labels).all()


def test_training_depends_on_no_draw_outside(splits):
    once = networks.train_residual_mlp(splits, steps=2)
    torch.manual_seed(5)
    again, longer = networks.train_residual_mlp(splits, steps=2), networks.train_residual_mlp(splits, steps=3)
    assert torch.equal(once.model(once.pairs.clean), again.model(again.pairs.clean))
    assert not torch.equal(once.model(once.pairs.clean), longer.model(longer.pairs.clean))


def test_twins_differ_from_their_items_in_what_they_are_meant_to(splits):
    colors = networks.train_colors(1)
    changed = colors.pairs.clean != colors.pairs.corrupt
    assert changed[:, 0].all()
    assert not changed[:, 1:].any()
    watermarked = networks.train_digits(splits, 1)
    assert (watermarked.pairs.clean[:, :, :22] == watermarked.pairs.corrupt[:, :, :22]).all()
    assert set(watermarked.wired) == {"conv1", "conv2", "fc1"}
    answers = watermarked.model(watermarked.pairs.corrupt).argmax(1)
    assert (answers == watermarked.pairs.target).all()
    other = networks.train_residual_mlp(splits, 1, items=30).pairs
    assert len(other) == 30
    assert not (other.clean == other.corrupt).all(1).any()
