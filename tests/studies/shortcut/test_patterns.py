"""Scores by class means: they see what a unit shows, whatever a probe's coefficients do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studies.shortcut import controls
from studies.shortcut.patterns import class_spread, pattern_scores, pattern_weight_scores
from studies.shortcut.planted import plant_features
from studies.shortcut.probes import channel_scores, fit_probe


def test_coefficients_blame_a_channel_of_noise_that_its_pattern_clears():
    """Haufe's example: x1 = s + n, x2 = n. The best filter is x1 - x2, though x2 knows nothing of s."""
    rng = np.random.default_rng(0)
    targets, noise = rng.integers(2, size=4000), rng.normal(size=4000)
    features = np.stack([targets + noise, noise], 1) + 0.1 * rng.normal(size=(4000, 2))
    coefficients = channel_scores(fit_probe(features, targets))
    pattern = pattern_scores(features, targets)
    assert coefficients[1] > 0.8 * coefficients[0]
    assert pattern[0] == pytest.approx(0.5 / features[:, 0].std(), abs=0.03)
    assert pattern[1] < 0.05 < 0.3 < pattern[0]


def test_a_pattern_has_no_unit_and_counts_every_class_once():
    rng = np.random.default_rng(1)
    targets = np.repeat([0, 1, 2], [10, 90, 300])
    features = rng.normal(size=(400, 3)) + np.array([0.0, 1.0, 5.0])[targets][:, None]
    features[:, 2] = 0.1  # never moves, and its mean rounds
    means = [features[targets == each, 0].mean() for each in range(3)]
    assert class_spread(features, targets)[0] == pytest.approx(np.std(means))
    scores = pattern_scores(features, targets)
    assert scores[2] == 0
    assert pattern_scores(features * [100, 1, 1], targets) == pytest.approx(scores)
    weight = np.array([2.0, -3.0, 1.0])
    assert pattern_weight_scores(features, targets, weight) == pytest.approx(
        class_spread(features, targets) * [2, 3, 1]
    )
    assert pattern_weight_scores(features * [100, 1, 1], targets, weight / [100, 1, 1]) == pytest.approx(
        pattern_weight_scores(features, targets, weight)
    )
    with pytest.raises(ValueError, match="two classes or more"):
        class_spread(features, np.zeros(400))


def test_each_score_fails_on_what_was_planted_against_it():
    planted = plant_features(1500, rho=0.0, channels=256, block=16, hard=True)
    features, hospital = planted.features.numpy(), planted.hospital.numpy()
    scores = {
        "coefficient": channel_scores(fit_probe(features, hospital)),
        "pattern": pattern_scores(features, hospital),
        "pattern × weight": pattern_weight_scores(features, hospital, controls.head_weight(planted.head)),
    }
    order = {name: torch.as_tensor(score).argsort(descending=True, stable=True) for name, score in scores.items()}
    rank = {name: some.argsort() for name, some in order.items()}
    assert {*order["pattern"][: len(planted.decoys)].tolist()} == {*planted.decoys}
    assert (scores["pattern × weight"][[*planted.decoys]] == 0).all()
    assert {*order["pattern × weight"][: len(planted.shortcut)].tolist()} == {*planted.shortcut}
    assert rank["coefficient"][[*planted.cancelling]].double().median() < 40
    assert rank["pattern"][[*planted.cancelling]].double().median() > 60
    assert {*planted.shortcut} < {*planted.stain}
    assert not {*planted.decoys, *planted.cancelling} & {*planted.stain, *planted.morphology}
