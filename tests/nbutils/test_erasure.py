"""Linear erasure: no linear probe beats a constant afterwards, and no erasure moves features less."""

from __future__ import annotations

import numpy as np
import pytest

from nbutils.stats.erasure import fit_eraser
from studies.shortcut.probes import fit_probe, probe_accuracy


@pytest.mark.parametrize("classes", [2, 4])
def test_after_erasure_no_linear_probe_beats_a_constant(classes):
    """LEACE's theorem, on correlated features of which some are the same."""
    rng = np.random.default_rng(2)
    targets = rng.integers(classes, size=500)
    features = rng.normal(size=(500, 16)) @ rng.normal(size=(16, 16))
    features += rng.normal(size=(classes, 16))[targets] * 2
    features = np.concatenate([features, features[:, :3]], 1)  # singular covariance
    eraser = fit_eraser(features, targets)
    erased = eraser(features)
    concept = np.eye(classes)[targets]
    covariance = (erased - erased.mean(0)).T @ (concept - concept.mean(0)) / 500
    assert np.abs(covariance).max() < 1e-10 < np.abs(features.T @ (concept - concept.mean(0)) / 500).max()
    commonest = np.bincount(targets).max() / len(targets)
    assert probe_accuracy(fit_probe(features, targets), features, targets).value > commonest + 0.3
    probe = fit_probe(erased, targets)
    assert np.abs(probe[-1].coef_).max() < 1e-3
    assert probe_accuracy(probe, erased, targets).value == pytest.approx(commonest)
    # And no more than that: rank one less than the classes, idempotent, means kept.
    assert np.linalg.matrix_rank(eraser.projection, tol=1e-8) == classes - 1
    assert eraser(erased) == pytest.approx(erased, abs=1e-8)
    assert erased.mean(0) == pytest.approx(features.mean(0), abs=1e-10)


def test_no_erasure_of_the_concept_moves_features_less():
    rng = np.random.default_rng(3)
    targets = rng.integers(2, size=400)
    features = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + np.outer(targets, rng.normal(size=5))
    moved = np.square(fit_eraser(features, targets)(features) - features).sum()
    centred = features - features.mean(0)
    direction = features[targets == 1].mean(0) - features[targets == 0].mean(0)
    projection = np.outer(direction, direction) / (direction @ direction)  # removes the difference of means as well
    assert moved < 0.999 * np.square(centred @ projection).sum()
    other = centred - centred @ projection
    assert np.abs(other.T @ (targets - targets.mean())).max() < 1e-8
    for bad in ((features, np.zeros(400)), (features, targets[1:])):
        with pytest.raises(ValueError, match="two classes or more"):
            fit_eraser(*bad)
