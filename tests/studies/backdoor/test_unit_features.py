import pytest
import torch

from studies.backdoor.features import maximise
from studies.backdoor.network import MnistNet


def test_each_image_raises_its_own_unit_within_the_range():
    torch.manual_seed(0)
    model = MnistNet().eval()
    units = [("conv1", 3), ("conv2", 5), ("fc1", 7), ("conv2", 8)]
    changes, gained = maximise(model, units, -0.5, 2.5, steps=20)
    assert (gained > 0).all()
    assert changes.abs().max() <= 1.5
    said = model.upto("conv2")(1 + changes[:, None])[:, :, 5, 5]
    assert said[1, 5] > said[3, 5]  # the other image raises another unit of the same layer
    assert said[3, 8] > said[1, 8]
    assert changes[0, 13:16, 13:16].abs().max() == changes[0].abs().max()  # all that the unit of conv1 sees
    with pytest.raises(KeyError, match="conv3"):
        maximise(model, [("conv3", 0)], 0, 1)
