"""Probes on slides apart: what they find, and when there is nothing to find."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from studies.shortcut import probes
from studies.shortcut.planted import plant_features
from studies.shortcut.probes import (
    UndefinedProbeError,
    channel_scores,
    fit_probe,
    probe_accuracy,
    probe_curves,
    shuffled_floor,
    three_sets,
)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def study():
    """Return planted features as arrays, and three sets of slides."""
    planted = plant_features(1500, rho=0.5, channels=128, block=12)
    features, tumour, hospital, slide = (
        part.numpy() for part in (planted.features, planted.tumour, planted.hospital, planted.slide)
    )
    return planted, features, tumour, hospital, slide, three_sets(slide, hospital, tumour)


def test_the_three_sets_share_no_slide_and_have_every_kind(study):
    _, _, tumour, hospital, slide, sets = study
    parts = (sets.ranking, sets.fitting, sets.evaluation)
    assert sorted(np.concatenate(parts)) == list(range(1500))
    for a in range(3):
        for b in range(a):
            assert not {*slide[parts[a]]} & {*slide[parts[b]]}
    for kind in range(6):
        shares = [((hospital == kind // 2) & (tumour == kind % 2))[part].mean() for part in parts]
        assert max(shares) - min(shares) < 0.1
    assert not np.array_equal(three_sets(slide, hospital, tumour, seed=1).ranking, sets.ranking)
    with pytest.raises(ValueError, match=r"\[1\] are on 2 slides"):
        three_sets(np.arange(9) // 2, np.isin(np.arange(9), (0, 1, 2, 3)).astype(int))
    with pytest.raises(ValueError, match="three slides or more; got 2"):
        three_sets(np.arange(8) // 4, np.zeros(8))


def test_a_probe_reads_the_planted_hospital_and_its_scores_are_column_norms(study):
    planted, features, _, hospital, slide, sets = study
    probe = fit_probe(features[sets.ranking], hospital[sets.ranking])
    scores = channel_scores(probe)
    assert scores == pytest.approx((probe[-1].coef_ ** 2).sum(0) ** 0.5)
    assert {*np.argsort(-scores)[:12]} == {*planted.stain}
    again = channel_scores(fit_probe(features[sets.ranking] * 1000 + 7, hospital[sets.ranking]))
    assert again == pytest.approx(scores, rel=1e-2)  # standardised inside
    fitted = fit_probe(features[sets.fitting], hospital[sets.fitting])
    reached = probe_accuracy(fitted, features[sets.evaluation], hospital[sets.evaluation])
    floor = shuffled_floor(features, hospital, sets, slides=slide, repeats=10)
    assert reached.total == len(sets.evaluation)
    assert reached.value > 0.95
    assert floor.max() < 0.75
    assert floor.mean() < np.bincount(hospital[sets.evaluation]).max() / len(sets.evaluation) + 0.1
    assert len({*floor}) > 1


def test_the_shuffled_floor_moves_whole_slides_and_judges_on_true_targets(study, monkeypatch):
    _, features, tumour, hospital, slide, sets = study
    fitted = []

    def recorded(some, targets, **options):
        fitted.append(targets)
        return fit_probe(some, targets, **options)

    monkeypatch.setattr(probes, "fit_probe", recorded)
    shuffled_floor(features, hospital, sets, slides=slide, repeats=3)
    shuffled_floor(features, hospital, sets, repeats=3)
    per_slide = [max(len({*drawn[slide[sets.fitting] == s]}) for s in {*slide[sets.fitting]}) for drawn in fitted]
    assert per_slide[:3] == [1, 1, 1]
    assert min(per_slide[3:]) == 3
    assert not any(np.array_equal(drawn, hospital[sets.fitting]) for drawn in fitted)
    with pytest.raises(ValueError, match="where a slide has one"):
        shuffled_floor(features, tumour, sets, slides=slide)


def test_one_hospital_is_undefined_and_not_a_number(study):
    _, features, _, hospital, _, sets = study
    with pytest.raises(UndefinedProbeError, match="two classes or more"):
        fit_probe(features[hospital == 2], hospital[hospital == 2])
    probe = fit_probe(features[sets.fitting], hospital[sets.fitting])
    with pytest.raises(UndefinedProbeError, match=r"one class only \(1\)"):
        probe_accuracy(probe, features[hospital == 1], hospital[hospital == 1])
    with pytest.raises(UndefinedProbeError, match=r"holds \[7\], the probe was fitted on \[0 1 2\]"):
        probe_accuracy(probe, features[:3], np.array([0, 1, 7]))


def test_a_fixed_probe_falls_where_a_refitted_one_finds_another_copy():
    """The hospital is written twice: as the difference of two channels, and in eight others."""
    rng = np.random.default_rng(1)
    slide, hospital = np.repeat(np.arange(30), 20), np.repeat(np.arange(30) % 2, 20)
    features = rng.normal(size=(600, 20))
    features[:, 1] *= 5
    features[:, 0] = 0.3 * features[:, 0] + features[:, 1] + 6 * hospital
    features[:, 2:10] += 0.6 * hospital[:, None]
    sets = three_sets(slide, hospital)
    orders = {"hospital": np.arange(20), "noise": np.arange(20)[::-1]}
    curves = probe_curves(features, hospital, sets, orders, (0, 1, 10))
    assert list(curves.columns) == ["control", "k", "probe", "value", "n"]
    value = curves.set_index(["control", "k", "probe"]).value
    assert value["hospital", 0, "fixed"] == value["hospital", 0, "refitted"] == value["noise", 0, "fixed"] > 0.9
    assert value["hospital", 1, "refitted"] > 0.75 > 0.7 > value["hospital", 1, "fixed"]
    assert value["hospital", 10, "refitted"] < 0.6  # no copy is left
    assert value["noise", 10, "refitted"] > 0.9
    gone = features.copy()
    gone[:, 0] = features[sets.fitting][:, 0].mean()
    slow = probe_accuracy(
        fit_probe(gone[sets.fitting], hospital[sets.fitting]), gone[sets.evaluation], hospital[sets.evaluation]
    )
    assert value["hospital", 1, "refitted"] == pytest.approx(slow.value, abs=0.006)
