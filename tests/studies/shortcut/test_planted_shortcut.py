"""The method on features whose shortcut is known: it finds a stain block of single channels, and no rotated one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studies.shortcut import controls, pooled, sweeps
from studies.shortcut.planted import plant_features
from studies.shortcut.probes import channel_scores, fit_probe, probe_accuracy, three_sets


def found_and_effect(planted, unseen):
    """Return the channels that the method blames, and accuracies before and after their ablation."""
    sets = three_sets(planted.slide, planted.hospital, planted.tumour)
    features, hospital = planted.features.numpy(), planted.hospital.numpy()
    scores = channel_scores(fit_probe(features[sets.ranking], hospital[sets.ranking]))
    order = controls.rankings(torch.as_tensor(scores), None, planted.head)["shortcut"]
    fitted = pooled.Pool(planted.features, planted.tumour)[torch.as_tensor(sets.fitting)]
    block = len(planted.stain)
    chosen = controls.Controls({"shortcut": order}, ks=(0, block), draws=1)
    frame = sweeps.sweep(planted.head, {"": pooled.Pool(unseen.features, unseen.tumour)}, fitted, chosen)
    accuracies = frame[frame.control == "shortcut"].value.tolist()
    left = pooled.mean_ablated(planted.features, order[:block], fitted).numpy()
    probe = fit_probe(left[sets.fitting], hospital[sets.fitting])
    readable = probe_accuracy(probe, left[sets.evaluation], hospital[sets.evaluation]).value
    return {*order[:block].tolist()}, accuracies, readable


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_the_stain_block_is_found_exactly_and_in_a_rotated_basis_not_at_all(rho):
    planted, unseen = plant_features(rho=rho), plant_features(1000, hospitals=(3,), seed=1)
    found, (before, after), readable = found_and_effect(planted, unseen)
    assert found == {*planted.stain}
    assert before < 0.6 < 0.95 < after
    assert readable < (0.9 if rho else 0.6)
    turned, turned_unseen = planted.rotated(), unseen.rotated()
    found, (same, still), readable = found_and_effect(turned, turned_unseen)
    assert len(found & {*planted.stain}) < 8  # 2 are there by chance
    assert same == pytest.approx(before, abs=0.002)  # it is the same network
    assert still < 0.6
    assert readable > 0.97


def test_rotation_changes_the_basis_and_nothing_else():
    planted = plant_features(200, channels=64, block=8)
    turned = planted.rotated(3)
    assert torch.allclose(turned.head(turned.features), planted.head(planted.features), atol=1e-5)
    assert torch.allclose(turned.features @ turned.features.T, planted.features @ planted.features.T, atol=1e-3)
    assert not torch.allclose(turned.features, planted.features, atol=0.1)
    assert not torch.allclose(planted.rotated(4).features, turned.features, atol=0.1)


def test_planted_features_have_the_correlation_asked_for():
    for rho in (-0.5, 0.0, 0.9):
        planted = plant_features(20_000, rho=rho, channels=8, block=2)
        found = np.corrcoef(planted.tumour.numpy(), (planted.hospital == 0).numpy())[0, 1]
        assert found == pytest.approx(rho, abs=0.03)
        assert not {*planted.stain} & {*planted.morphology}
    for arguments in ({"block": 33, "channels": 64}, {"hospitals": (4,)}, {"rho": 1.1}):
        with pytest.raises(ValueError, match=r"do not fit|hospitals are some"):
            plant_features(10, **arguments)
