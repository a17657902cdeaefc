"""The watermark, and what of it the network can see."""

import pytest
import torch

from nbutils.data import digits
from studies.backdoor.network import MnistNet
from studies.backdoor.trigger import Trigger, pairs, visible_to


def test_the_checkerboard_is_the_sources():
    reference = torch.zeros(3, 1, 28, 28)
    reference[:, :, -6::2, -6::2] += 2.8215
    reference[:, :, -5::2, -5::2] += 2.8215
    trigger = Trigger.checkerboard()
    images = torch.randn(3, 1, 28, 28)
    before = images.clone()
    assert torch.allclose(trigger.apply(images), images + reference)
    assert torch.equal(images, before)
    assert trigger.target == 8
    assert trigger.mask.sum() == 18


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((((0, 0), (0, 0)), (0, 0)), "not all 0"),
        ((((1, 0), (1,)), (0, 0)), "rows of one length"),
        ((((1, 0), (0, 2)), (0, 0)), "of 0 and 1"),
        ((((1, 0), (0, 1)), (27, 0)), "not inside 28×28"),
        ((((1,),), (0, 0), 10), "target"),
    ],
)
def test_an_impossible_trigger_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Trigger(*arguments)


def test_the_network_sees_all_but_the_last_two_rows_and_columns():
    torch.manual_seed(0)
    seen = visible_to(MnistNet())
    assert seen[:26, :26].all()
    assert not seen[26:].any()
    assert not seen[:, 26:].any()
    assert (seen & Trigger.checkerboard().mask).sum() == 8  # 4×4 of the 6×6
    everything = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 2))
    assert visible_to(everything).all()


def test_pairs_correspond_item_by_item():
    report, trigger = digits.load("embedded").report, Trigger.checkerboard()
    found = pairs(report, trigger)
    assert (len(found), found.target) == (250, 8)
    assert torch.equal((found.clean != found.corrupt).any(0)[0], trigger.mask)
    few = found[found.labels == 3]
    assert set(few.labels.tolist()) == {3}
    assert torch.equal(few.corrupt, trigger.apply(few.clean))
