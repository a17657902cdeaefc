import numpy as np
import pytest
import torch

from nbutils.stats.proportions import Proportion
from studies.backdoor.measures import accuracy, attack_success_rate, middle, robust_accuracy, source_poison_accuracy

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


def test_the_median_is_a_seeds_own_number_and_never_is_above_all_others():
    assert middle([3, 1, 2]) == 2
    assert middle([10, 1]) == 0  # the upper one: more than half of the seeds need at most ten
    assert middle([1, np.nan]) == 1
    assert middle([np.nan, 4, 1]) == 1
    with pytest.raises(ValueError, match="row of values"):
        middle([])
