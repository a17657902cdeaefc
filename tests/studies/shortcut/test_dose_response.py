"""The area under K."""

from __future__ import annotations

import numpy as np
import pytest

from studies.shortcut.dose_response import area_under_k


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
