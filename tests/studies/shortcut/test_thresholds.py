"""Order and threshold apart, against scikit-learn's ROC area and the head run again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from studies.shortcut.controls import Controls, top
from studies.shortcut.pooled import Pool
from studies.shortcut.thresholds import MEASURES, threshold_measures


def test_the_measures_are_those_of_the_head_run_again():
    torch.manual_seed(0)
    head = nn.Linear(12, 2)
    items = Pool(torch.randn(81, 12), torch.arange(81) % 3 // 2)
    reference = Pool(torch.randn(50, 12), torch.zeros(50).long())
    chosen = Controls({"shortcut": torch.randperm(12), "oracle": torch.randperm(12)}, ks=(0, 5))
    frame = threshold_measures(head, items, reference, chosen, draws=3)
    assert (frame.control == "matched random").sum() == (1 + 3) * len(MEASURES)
    labels, mean = items.labels.numpy(), reference.features.mean(0, keepdim=True)
    for name, order in chosen.rankings.items():
        for k in chosen.ks:
            with torch.no_grad():
                margin = head(torch.where(top(order, k), mean, items.features)).diff(dim=1)[:, 0].numpy()
            found = frame[(frame.control == name) & (frame.k == k)].set_index("measure").value[[*MEASURES]]
            at_median = ((margin > np.median(margin)) == labels).mean()
            accuracy, called = ((margin > 0) == labels).mean(), (margin > 0).mean()
            assert found.tolist() == pytest.approx([accuracy, roc_auc_score(labels, margin), called, at_median])


def test_a_shifted_boundary_changes_the_accuracy_and_not_the_order():
    torch.manual_seed(0)
    head = nn.Linear(12, 2)
    items = Pool(torch.randn(80, 12), torch.arange(80) % 2)
    chosen = Controls({"shortcut": torch.arange(12)}, ks=(0, 4))
    before = threshold_measures(head, items, items, chosen)
    with torch.no_grad():
        head.bias[1] += 2.0
    after = threshold_measures(head, items, items, chosen)
    change = (after.value - before.value).abs().groupby(before.measure).max()
    assert change["area under ROC"] == change["accuracy at the median"] == 0
    assert change["called tumour"] > 0.2
