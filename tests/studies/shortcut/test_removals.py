"""Directions that a score names, removed: from the head, as from the features; and of shuffled labels."""

from __future__ import annotations

import numpy as np
import pytest

from nbutils.stats.erasure import Whitening, fit_eraser, one_hot
from studies.shortcut.margins import weights
from studies.shortcut.planted import plant_features
from studies.shortcut.pooled import Pool
from studies.shortcut.removals import judged_removals, removals, shuffled


def data(items=600, seed=0):
    planted = plant_features(items, rho=0.0, channels=48, block=12, seed=seed)
    pool = Pool(planted.features, planted.tumour, {"hospital": planted.hospital, "slide": planted.slide})
    return planted, pool


def test_erasing_from_the_head_is_erasing_from_the_features():
    planted, pool = data()
    features, hospital = pool.features.double().numpy(), planted.hospital.numpy()
    weight = weights(planted.head).numpy()
    eraser = fit_eraser(features, hospital)
    change = Whitening.of(features).erased(one_hot(hospital), weight)
    assert features @ weight - (features - features.mean(0)) @ change == pytest.approx(eraser(features) @ weight)
    assert removals(features, hospital, weight)["pattern", "LEACE direction"] == pytest.approx(change)


def test_after_removal_the_hospital_no_longer_moves_the_margin():
    planted, pool = data()
    features, hospital = pool.features.double().numpy(), planted.hospital.numpy()
    weight = weights(planted.head).numpy()

    def spread(d):
        margin = features @ weight - (features - features.mean(0)) @ d
        return np.std([margin[hospital == each].mean() for each in range(3)])

    found = removals(features, hospital, weight, np.zeros((1, 48)) + np.eye(48)[0])
    before = spread(np.zeros(48))
    assert spread(found["pattern", "LEACE direction"]) < 1e-6 * before
    assert spread(found["pattern × weight", "LEACE direction"]) < 0.05 * before  # one direction of two
    for score in ("pattern", "pattern × weight"):
        assert spread(found[score, "learnt rotation"]) < 0.2 * before
    # A filter on one silent channel takes nothing but that channel away.
    silent = found["coefficient", "learnt rotation"]
    assert np.abs(silent[1:]).max() == 0
    assert spread(silent) == pytest.approx(before, rel=0.2)


def test_shuffled_hospitals_repair_nothing_where_there_are_tiles_enough():
    planted, pool = data()
    unseen = plant_features(400, hospitals=(3,), channels=48, block=12, seed=1)
    items = Pool(unseen.features, unseen.tumour)
    frame = judged_removals(planted.head, pool, items, whole_slides=False, draws=5)
    frame = frame[(frame.score == "pattern") & (frame.basis == "LEACE direction")]
    value = frame.set_index(["fit", "measure"]).value
    assert value["hospital", "accuracy"] - value["shuffled", "accuracy"] > 0.2
    few, _ = data(40)  # fewer tiles than channels: any labels can be told apart, and any erasure shakes the head
    weight, slim = weights(few.head).numpy(), few.features.double().numpy()
    lost = [
        np.abs(removals(slim, labels, weight)["pattern", "LEACE direction"]).sum()
        for labels in shuffled(few.hospital, None, 5)
    ]
    whole = [
        np.abs(removals(pool.features.double().numpy(), labels, weight)["pattern", "LEACE direction"]).sum()
        for labels in shuffled(planted.hospital, None, 5)
    ]
    assert np.mean(lost) > 1.3 * np.mean(whole)


def test_whole_slides_exchange_their_hospital():
    hospital, slide = np.array([0, 0, 1, 1, 2, 2]), np.array([5, 5, 6, 6, 9, 9])
    for targets in shuffled(hospital, slide, 4):
        assert (targets[::2] == targets[1::2]).all()
        assert sorted(targets) == sorted(hospital)
    with pytest.raises(ValueError, match="whole slides"):
        shuffled(hospital, np.zeros(6), 1)
