"""The area under K, and curves of slides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from studies.shortcut.controls import Controls
from studies.shortcut.dose_response import area_under_k, slide_curves
from studies.shortcut.pooled import Pool
from studies.shortcut.sweeps import sweep


def test_the_area_is_a_mean_over_doublings_of_k():
    ks = (0, 1, 3, 7)  # 1 + K doubles
    assert area_under_k(ks, np.full((2, 4), 0.05)) == pytest.approx([0.05, 0.05])
    assert area_under_k(ks, [0, 0, 1, 1]) == pytest.approx((0.5 + 1) / 3)
    assert area_under_k((0, 3), [0.0, 1.0]) == pytest.approx(area_under_k((0, 1, 3), [0.0, 0.5, 1.0]))
    linear = area_under_k((0, 4, 256), np.log2(1 + np.array([0, 4, 256])))
    assert linear == pytest.approx(np.log2(257) / 2)
    for bad, values in (((0, 4, 4), [0, 0, 0]), ((0, 4), [0, 0, 0]), ((0,), [0]), ((-1, 4), [0, 0])):
        with pytest.raises(ValueError, match="increasing"):
            area_under_k(bad, values)


def test_curves_of_slides_average_to_the_accuracy_and_share_their_start():
    torch.manual_seed(0)
    items = Pool(torch.randn(90, 8), torch.arange(90) % 2, {"slide": torch.arange(90) % 7 % 3})
    chosen = Controls({"shortcut": torch.arange(8)}, ks=(0, 2, 5), draws=4)
    frame = sweep(nn.Linear(8, 2), {"id": items, "ood": items[:30]}, items, chosen)
    curves, tiles = slide_curves(frame, "id", "random")
    assert curves.shape == (4, 3, 3)
    assert tiles.tolist() == items.groups["slide"].bincount().tolist()
    rows = frame[(frame.set == "id") & (frame.control == "random") & (frame.measure == "accuracy")]
    for place, k in enumerate((0, 2, 5)):
        expected = rows[rows.k == k].value.tolist() * (1 if k else 4)
        assert np.average(curves[..., place], axis=1, weights=tiles) == pytest.approx(expected)
    assert len({curve.tobytes() for curve in curves}) == 4
    assert slide_curves(frame, "ood", "shortcut")[1].sum() == 30
