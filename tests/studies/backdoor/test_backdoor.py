import math

import numpy as np
import pytest
import torch

from nbutils.stats.proportions import Proportion, mcnemar
from studies.backdoor.measures import accuracy, attack_success_rate, robust_accuracy, source_poison_accuracy

Z = 1.959963984540054  # 97.5 % point of the normal law
LABELS = torch.arange(10).repeat(10)


def test_a_network_without_a_backdoor_scores_0_here_and_the_floor_by_the_sources_count():
    right = LABELS.clone()
    assert float(attack_success_rate(right, LABELS, 8)) == 0
    assert float(robust_accuracy(right, LABELS, 8)) == 1
    assert float(source_poison_accuracy(right, 8)) == 0.1  # the eights themselves
    fooled = torch.full_like(LABELS, 8)
    assert float(attack_success_rate(fooled, LABELS, 8)) == float(source_poison_accuracy(fooled, 8)) == 1
    assert float(robust_accuracy(fooled, LABELS, 8)) == 0
    assert float(accuracy(fooled, LABELS)) == 0.1  # the source's rehab accuracy keeps the same floor


def test_measures_count_by_hand():
    labels, predicted = [8, 8, 1, 2, 3], [8, 1, 8, 2, 9]
    found = attack_success_rate(predicted, labels, 8), robust_accuracy(predicted, labels, 8)
    assert found == (Proportion(1, 3), Proportion(1, 3))  # one fooled, one right, one wrong in another way
    assert accuracy(predicted, labels) == Proportion(2, 5)
    assert source_poison_accuracy(predicted, 8) == Proportion(2, 5)


def test_measures_refuse_what_has_no_answer():
    with pytest.raises(ValueError, match="other than the target 8"):
        attack_success_rate([1, 1], [8, 8], 8)
    with pytest.raises(ValueError, match=r"\[3\] for labels \[2\]"):
        accuracy([1, 1, 1], [8, 8])
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
