"""Accuracy by group, and the worst of them."""

from __future__ import annotations

import numpy as np
import pytest

from studies.shortcut.groups import group_accuracies, worst_group

HOSPITAL = np.array([0, 0, 0, 1, 1, 1, 1])
TUMOUR = np.array([0, 0, 1, 1, 1, 0, 0])
HITS = np.array([1, 1, 0, 1, 0, 1, 1], dtype=bool)


def test_accuracies_by_group_by_hand():
    found = {group: (p.successes, p.total) for group, p in group_accuracies(HITS, HOSPITAL, TUMOUR).items()}
    assert found == {(0, 0): (2, 2), (0, 1): (0, 1), (1, 0): (2, 2), (1, 1): (1, 2)}
    group, accuracy = worst_group(HITS, HOSPITAL, TUMOUR)
    assert (group, accuracy.value) == ((0, 1), 0)
    assert worst_group(HITS, TUMOUR)[0] == (1,)
    for columns in ((), (HOSPITAL[1:],)):
        with pytest.raises(ValueError, match="one value per item"):
            group_accuracies(HITS, *columns)
