"""Ablating units of a hidden state: exact changes of the loss, and what credits predict of them."""

from __future__ import annotations

import pytest
import torch

import nbutils as nb
from studies.credit.ablation import STATE, NetworkFrom, ablation_changes, predicted_changes, rank_correlation
from studies.credit.loss import loss_from
from studies.credit.network import cast
from studies.credit.planted import plant_credit

LAYER = 1


@pytest.fixture(scope="module")
def few(states):
    """Return h_1, its gradients and labels for some samples."""
    return states.hidden[LAYER][:40], states.gradients[LAYER][:40], states.labels[:40]


@pytest.fixture(scope="module")
def losses_of_few(model, few):
    """Return the function from h_1 to each sample's loss."""
    return loss_from(cast(model, torch.float64), LAYER, few[2])


def test_a_change_is_the_loss_with_the_unit_at_zero_less_the_loss(model, few, losses_of_few):
    h, _, labels = few
    changes = ablation_changes(model, LAYER, h, labels)
    loss = losses_of_few
    for unit in (0, 7, 31):
        without = h.clone()
        without[:, unit] = 0
        with torch.no_grad():
            change = loss(without) - loss(h)
        assert changes[unit] == pytest.approx(change.mean().item(), abs=1e-12)


def test_the_gradient_predicts_small_changes_and_no_other_credit_does(model, few):
    h, g, labels = few
    far, near = (ablation_changes(model, LAYER, h, labels, share=share) for share in (1e-2, 1e-4))
    errors = [
        abs(changes - predicted_changes(g, h, share=share)).max() / share
        for changes, share in ((far, 1e-2), (near, 1e-4))
    ]
    assert errors[1] < 0.02 * errors[0]  # of second order
    assert rank_correlation(predicted_changes(g, h), near) > 0.999
    assert rank_correlation(predicted_changes(-g, h), near) < -0.999
    random = predicted_changes(plant_credit(g, 0.0), h, share=1e-4)
    assert abs(near - random).max() / 1e-4 > 100 * errors[1]
    assert abs(rank_correlation(random, near)) < 4 / 31**0.5


def test_the_gradients_prediction_is_the_packages_attribution(model, few):
    h, g, labels = few
    loss = nb.cross_entropy(labels=lambda _: labels)
    found = nb.attribute(NetworkFrom(model, LAYER), STATE, [h], loss, nb.AblationType.ZERO)
    assert predicted_changes(g, h) == pytest.approx(found.value.to_numpy(), abs=1e-12)


def test_a_share_lies_between_nothing_and_all(model, few):
    h, g, labels = few
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"share of the way lies in \(0, 1\]"):
            predicted_changes(g, h, share=share)
        with pytest.raises(ValueError, match=r"share of the way lies in \(0, 1\]"):
            ablation_changes(model, LAYER, h, labels, share=share)
