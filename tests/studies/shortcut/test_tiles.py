"""The table of tiles: its rows chosen, its pixels as images, its columns checked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from studies.shortcut.drawn_tiles import render
from studies.shortcut.plans import plan


@pytest.fixture(scope="module")
def drawn():
    return render(plan(8, size=16))


def test_tiles_are_selected_by_slice_index_and_mask(drawn):
    found = replace(drawn, position=torch.arange(16).view(8, 2), split=np.array(list("abcdefgh"), dtype=object))
    mask = torch.zeros(8, dtype=torch.bool)
    mask[1:3] = True
    for items in (slice(1, 3), torch.tensor([1, 2]), np.array([1, 2]), mask):
        part = found[items]
        assert part.split.tolist() == ["b", "c"]
        assert part.position.tolist() == [[2, 3], [4, 5]]
        for name in ("pixels", "tumour", "hospital", "slide"):
            assert torch.equal(getattr(part, name), getattr(found, name)[1:3]), name
    assert len(found[found.tumour > 1]) == 0
    assert found.where("c").position.tolist() == [[4, 5]]
    with pytest.raises(KeyError, match="no tiles in split 'valid'; there are a, b, c"):
        found.where("valid")


def test_images_are_the_pixels_as_shares_and_lie_channels_last(drawn):
    images = drawn.images(slice(2, 4))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal((images * 255).round().byte(), drawn.images(slice(2, 4), torch.uint8))
    assert torch.equal(drawn.images(dtype=torch.uint8).permute(0, 2, 3, 1), drawn.pixels)


def test_columns_must_correspond(drawn):
    found = drawn
    with pytest.raises(ValueError, match=r"one row for each of 8 tiles; got \[2\]"):
        replace(found, tumour=found.tumour[:2])
    with pytest.raises(ValueError, match="tumour must be 0 to 1; got 0 to 7"):
        replace(found, tumour=torch.arange(8))
    with pytest.raises(ValueError, match=r"uint8 \[N, H, W, 3\]; got torch.float32"):
        replace(found, pixels=torch.zeros(8, 8, 8, 3))
