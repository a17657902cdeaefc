"""Batches of flattened images."""

from __future__ import annotations

import pytest
import torch

from nbutils.data.labelled import LabelledImages
from studies.credit.batches import ImageBatches


@pytest.fixture
def few():
    features = torch.arange(30.0)[:, None] * torch.ones(12)
    return LabelledImages(features.view(30, 3, 2, 2), torch.arange(30) % 10, "embedded digits")


def test_an_epoch_shows_each_image_once_in_the_seeds_own_order(few):
    batches = ImageBatches(few, batch_size=5, block=4)
    assert batches.per_epoch == 6
    steps = torch.cat([batches.draw(0, block)["index"] for block in range(3)])
    for epoch in steps.unflatten(0, (2, 6)):
        assert sorted(epoch.flatten().tolist()) == list(range(30))
    assert not torch.equal(steps[:6], steps[6:])
    assert torch.equal(batches.draw(0, 1)["index"], steps[4:8])
    assert not torch.equal(batches.draw(1, 1)["index"], steps[4:8])
    batch = batches.batch({"index": steps[:2]}, torch.float64)
    assert torch.equal(batch["input"][..., 3], steps[:2].double())
    assert torch.equal(batch["target"], steps[:2] % 10)
    assert batch["input"].shape == (2, 5, 12)
    with pytest.raises(ValueError, match="the 30 images; got 31"):
        ImageBatches(few, batch_size=31)
    assert repr(batches) != repr(ImageBatches(few[torch.arange(29, -1, -1)], batch_size=5, block=4))
