"""Images with labels: selections, and their digest."""

from __future__ import annotations

import pytest
import torch

from nbutils.data.digits import Digits
from nbutils.data.labelled import LabelledImages


@pytest.mark.parametrize("kind", [LabelledImages, Digits])
def test_a_selection_is_of_the_same_kind_and_told_apart_by_content(kind):
    images = kind(torch.arange(5 * 784.0).view(5, 1, 28, 28), torch.arange(5), "drawn")
    assert images.features.shape == (5, 784)
    some = images[torch.tensor([4, 0])]
    assert type(some) is kind
    assert (some.labels.tolist(), some.source) == ([4, 0], "drawn")
    assert torch.equal(some.images, images.images[[4, 0]])
    assert some.digest != images.digest == images[:].digest
    assert kind(images.images, images.labels.flip(0), "drawn").digest != images.digest
    assert repr(images) == f"{kind.__name__}(5 from drawn, {images.digest})"


def test_images_without_channels_and_labels_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"\[N, channels, height, width\] .* got \[5, 784\] and \[5\]"):
        LabelledImages(torch.zeros(5, 784), torch.arange(5), "drawn")
    with pytest.raises(ValueError, match=r"got \[5, 3, 8, 8\] and \[4\]"):
        LabelledImages(torch.zeros(5, 3, 8, 8), torch.arange(4), "drawn")
    with pytest.raises(ValueError, match=r"digits are images \[N, 1, 28, 28\]"):
        Digits(torch.zeros(5, 3, 8, 8), torch.arange(5), "drawn")
