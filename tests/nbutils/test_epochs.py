"""The order of epochs: every sample once, whatever part of it is asked for."""

from __future__ import annotations

import pytest
import torch

from nbutils.data import epochs
from nbutils.seeding import generator


def test_an_epoch_shows_each_sample_at_most_once_in_its_own_order():
    index = epochs.order(3, ("digits", "clean"), 23, 5, range(8))  # two epochs of four steps; three samples sit out
    for epoch, shown in enumerate(index.view(2, 20)):
        assert torch.equal(shown, torch.randperm(23, generator=generator(3, "digits", "clean", epoch))[:20])
    assert not torch.equal(index[:4], index[4:])
    for other in (epochs.order(4, ("digits", "clean"), 23, 5, range(8)), epochs.order(3, ("x",), 23, 5, range(8))):
        assert not torch.equal(other, index)


def test_steps_are_the_same_in_whichever_block_they_are_drawn():
    whole = epochs.order(0, ("x",), 23, 5, range(30))
    for steps in (range(1), range(3, 5), range(7, 30)):
        assert torch.equal(epochs.order(0, ("x",), 23, 5, steps), whole[steps.start : steps.stop])


@pytest.mark.parametrize("batch_size", [0, 24])
def test_a_batch_that_no_epoch_has_is_refused(batch_size):
    assert epochs.length(23, 5) == 4
    with pytest.raises(ValueError, match=f"between 1 and the 23 tiles; got {batch_size}"):
        epochs.length(23, batch_size, "tiles")
    with pytest.raises(ValueError, match="between 1 and the 23 samples"):
        epochs.order(0, ("x",), 23, batch_size, range(1))
