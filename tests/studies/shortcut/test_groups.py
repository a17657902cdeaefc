"""Accuracy by group, the worst of them, the area under K, and what channels answer to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from studies.shortcut import pooled
from studies.shortcut.dose_response import area_under_k
from studies.shortcut.effects import channel_effects, spearman_agreement
from studies.shortcut.groups import group_accuracies, worst_group, worst_of_sweep

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
        with pytest.raises(ValueError, match="one value an item"):
            group_accuracies(HITS, *columns)


def test_the_worst_group_of_a_sweep_is_that_of_every_ablation():
    torch.manual_seed(0)
    head = nn.Linear(8, 2)
    features, labels = torch.randn(90, 8), torch.arange(90) % 2
    items = pooled.Pool(features, labels, {"slide": torch.arange(90) % 5, "hospital": torch.arange(90) % 2})
    frame = pooled.sweep(head, {"id": items}, items, {"shortcut": torch.arange(8)}, ks=(0, 4), draws=3)
    worst = worst_of_sweep(frame, "slide")
    assert len(worst) == (frame.measure == "accuracy").sum()
    assert {*worst.measure} == {"worst slide"}
    keys = ["control", "ablation", "k", "draw", "set"]
    slides = frame[frame.measure.astype(str).str.startswith("slide=")]
    expected = slides.groupby(keys, observed=True)["value"].min()
    assert worst.set_index(keys)["value"].sort_index().tolist() == expected.sort_index().tolist()
    assert (expected < frame[frame.measure == "accuracy"].set_index(keys)["value"].reindex(expected.index)).any()
    with pytest.raises(KeyError, match="no groups 'scanner'"):
        worst_of_sweep(frame, "scanner")


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


def test_effects_of_a_swap_are_those_of_the_channels_it_moves():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 6))
    twins = features + rng.choice([-1.0, 1.0], size=(400, 1)) * np.array([0, 1, 2, 3, 4, 0])
    assert channel_effects(features, twins) == pytest.approx([0, 1, 2, 3, 4, 0])
    scaled = channel_effects(features, twins, scale=[1, 1, 2, 3, 0, 1])
    assert scaled == pytest.approx([0, 1, 1, 1, 0, 0])
    assert spearman_agreement([0, 1, 2, 3, 4, 0], channel_effects(features, twins)).rho == pytest.approx(1)
    apart = spearman_agreement(rng.normal(size=300), rng.normal(size=300))
    assert abs(apart.rho) < 0.15
    assert apart.p_value > 0.01
    with pytest.raises(ValueError, match="no order"):
        spearman_agreement(np.ones(4), np.arange(4))
    with pytest.raises(ValueError, match="a twin an item"):
        channel_effects(features, twins[1:])
