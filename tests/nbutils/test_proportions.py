import math

import numpy as np
import pytest

from nbutils.stats.proportions import Proportion, mcnemar

Z = 1.959963984540054  # 97.5 % point of the normal law


def test_impossible_counts_are_refused():
    for successes, total in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="0 <= successes <= total"):
            Proportion(successes, total)


@pytest.mark.parametrize(("successes", "total"), [(8, 10), (0, 20), (20, 20), (9737, 10000)])
def test_wilson_bounds_solve_its_equation(successes, total):
    """The bounds are the p at which the observed share is z standard errors *of p* away."""
    interval = Proportion(successes, total).interval()
    share = successes / total
    for p in (interval.low, interval.high):
        assert (share - p) ** 2 == pytest.approx(Z**2 * p * (1 - p) / total, abs=1e-9)
    assert interval.low < interval.high
    assert interval.low <= share <= interval.high


def test_wilson_by_hand_and_not_wald():
    z2 = Z**2
    center, half = (0.8 + z2 / 20) / (1 + z2 / 10), math.sqrt(z2 * (0.16 / 10 + z2 / 400)) / (1 + z2 / 10)
    found = Proportion(8, 10).interval()
    assert (found.low, found.high) == pytest.approx((center - half, center + half), abs=1e-6)
    assert Proportion(0, 20).interval().high == pytest.approx(z2 / (20 + z2), abs=1e-6)  # Wald's would be 0


def test_mcnemar_by_hand():
    first = np.array([True] * 6 + [False] * 1 + [True] * 50 + [False] * 3)
    second = np.array([False] * 6 + [True] * 1 + [True] * 50 + [False] * 3)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second, found.total) == (6, 1, 60)
    assert found.p_value == pytest.approx(2 * (1 + 7) / 2**7)  # P(0 or 1 of 7), both tails
    assert found.difference == pytest.approx(5 / 60)
    assert mcnemar(second, first).difference == -found.difference
    assert mcnemar(first, first).p_value == 1


def test_mcnemar_sees_pairs_and_not_only_shares():
    """The same two shares: 10 discordant items all one way, or 10 more of each way."""
    base = np.zeros(200, dtype=bool)
    first, second = base.copy(), base.copy()
    first[:10] = True
    assert mcnemar(first, second).p_value < 0.01
    first[:40], second[10:40] = True, True
    nested = mcnemar(first, second).p_value
    second[:] = False
    second[100:130] = True
    crossed = mcnemar(first, second).p_value
    assert nested < 0.01 < 0.2 < crossed
    with pytest.raises(ValueError, match="booleans"):
        mcnemar([1, 0], [0, 1])
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        mcnemar([True] * 2, [True] * 3)
