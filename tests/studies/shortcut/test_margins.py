"""Margins by one matrix product, against the head run again; order and threshold apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from studies.shortcut.controls import random_masks
from studies.shortcut.margins import MEASURES, judged, margins
from studies.shortcut.pooled import Pool


def head(bias=True):
    torch.manual_seed(0)
    return nn.Linear(12, 2, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
def test_measures_are_those_of_the_head_run_again(bias):
    layer = head(bias)
    items, reference = (
        Pool(torch.randn(81, 12), torch.arange(81) % 3 // 2),
        Pool(torch.randn(50, 12), torch.zeros(50).long()),
    )
    masks = torch.cat([torch.zeros(1, 12, dtype=torch.bool), random_masks(12, 5, 6, torch.Generator().manual_seed(1))])
    found = margins(layer, items, reference)
    many = found.without(masks)
    measures = judged(many, items.labels)
    assert tuple(measures) == MEASURES
    labels, mean = items.labels.numpy(), reference.features.mean(0, keepdim=True)
    for place, mask in enumerate(masks):
        with torch.no_grad():
            margin = layer(torch.where(mask, mean, items.features)).diff(dim=1)[:, 0].numpy()
        assert many[place].numpy() == pytest.approx(margin, abs=1e-5)
        at_median = ((margin > np.median(margin)) == labels).mean()
        by_hand = ((margin > 0) == labels).mean(), roc_auc_score(labels, margin), (margin > 0).mean(), at_median
        assert [values[place].item() for values in measures.values()] == pytest.approx(by_hand)
    assert many[0].tolist() == found.whole.tolist()


def test_a_shifted_boundary_changes_the_accuracy_and_not_the_order():
    layer, items = head(), Pool(torch.randn(80, 12), torch.arange(80) % 2)
    before = judged(margins(layer, items, items).whole[None], items.labels)
    with torch.no_grad():
        layer.bias[1] += 2.0
    after = judged(margins(layer, items, items).whole[None], items.labels)
    assert after["area under ROC"] == before["area under ROC"]
    assert after["accuracy at the median"] == before["accuracy at the median"]
    assert after["called tumour"] - before["called tumour"] > 0.2


def test_equals_count_half_and_what_has_no_order_is_refused():
    labels = torch.arange(10) % 2
    assert judged(torch.zeros(1, 10).double(), labels)["area under ROC"].item() == 0.5
    with pytest.raises(ValueError, match="both labels"):
        judged(torch.zeros(1, 10).double(), torch.zeros(10).long())
    with pytest.raises(ValueError, match="two logits"):
        margins(nn.Linear(12, 3), Pool(torch.randn(4, 12), labels[:4]), Pool(torch.randn(4, 12), labels[:4]))
