"""Answers of channels, and their agreement with a score."""

from __future__ import annotations

import numpy as np
import pytest

from studies.shortcut.effects import channel_effects, spearman_agreement


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
    with pytest.raises(ValueError, match="one twin per item"):
        channel_effects(features, twins[1:])
