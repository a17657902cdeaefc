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


def test_a_batch_holds_the_vectors_and_labels_of_the_seeds_own_order(few):
    batches = ImageBatches(few, batch_size=5, block=4)
    assert batches.per_epoch == 6
    index = torch.stack([batches.draw(seed, 1)["index"][3] for seed in (0, 1)])
    assert not torch.equal(index[0], index[1])
    batch = batches.batch({"index": index}, torch.float64)
    assert batch["input"].shape == (2, 5, 12)
    assert torch.equal(batch["input"][..., 3], index.double())
    assert torch.equal(batch["target"], index % 10)
    with pytest.raises(ValueError, match="the 30 images; got 31"):
        ImageBatches(few, batch_size=31)
    assert repr(batches) != repr(ImageBatches(few[torch.arange(29, -1, -1)], batch_size=5, block=4))
