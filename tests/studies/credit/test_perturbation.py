"""ρ of planted credits, by derivatives and by differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studies.credit.alignment import expected_sign_agreement, weighted_cosine
from studies.credit.perturbation import PerturbationCorrelation, perturbation_correlation, unit_directions
from studies.credit.planted import plant_credit

N, D = 400, 32


@pytest.mark.parametrize("c", [1.0, 0.8, 0.5, 0.0, -1.0])
@pytest.mark.parametrize("method", ["jvp", "antithetic"])
def test_a_planted_cosine_comes_back(states, losses, c, method):
    h, g = states.hidden[1], states.gradients[1]
    found = perturbation_correlation(h, plant_credit(g, c), losses(1), method=method)
    error = (1 - c**2) * (D / (D + 2) / (32 * N)) ** 0.5
    # The samples' gradients differ in length, which widens the spread: the effective number is (Σ‖g‖²)² / Σ‖g‖⁴.
    squares = g.square().sum(1)
    error *= (squares.square().sum() * N).sqrt().item() / squares.sum().item()
    assert abs(found.rho - c) < 4 * error + (1e-9 if method == "jvp" else 1e-5)
    assert (np.abs(found.per_direction - c) < 4 * error * 32**0.5 + 1e-5).all()
    assert np.isclose(found.per_direction.mean(), c, atol=0.02)
    assert found.sign_agreement == pytest.approx(expected_sign_agreement([c]), abs=0.02)
    assert weighted_cosine(plant_credit(g, c), g) == pytest.approx(c, abs=1e-12)
    if abs(c) < 1:
        interval = found.interval(resamples=500)
        assert interval.low < found.rho < interval.high
        assert interval.low - 2 * error < c < interval.high + 2 * error
        assert interval.high - interval.low == pytest.approx(4 * error, rel=0.6)


def test_a_credit_of_other_samples_predicts_nothing(states, losses):
    """The negative control of the planted one: a real gradient, of the wrong sample."""
    h, g = states.hidden[1], states.gradients[1]
    wrong = g[states.labels.argsort().roll(N // 2).argsort()]
    assert perturbation_correlation(h, g, losses(1)).rho == pytest.approx(1, abs=1e-12)
    assert abs(perturbation_correlation(h, wrong, losses(1)).rho) < 0.5


def test_the_methods_measure_one_thing(states, losses):
    h, g = states.hidden[0], states.gradients[0]
    loss = losses(0)
    a = plant_credit(g, 0.4)
    found = {
        method: perturbation_correlation(h, a, loss, method=method, directions=5) for method in ("jvp", "antithetic")
    }
    found["gradient"] = PerturbationCorrelation.from_gradients(a, g, unit_directions(h, 5))
    found["finite"] = perturbation_correlation(h, a, loss, method="finite", directions=5, epsilon=1e-7)
    exact = found["jvp"].actual
    for method, tolerance in {"gradient": 1e-13, "antithetic": 1e-8, "finite": 1e-6}.items():
        assert torch.equal(found[method].predicted, found["jvp"].predicted)
        assert (found[method].actual - exact).abs().max() < tolerance, method
        assert found[method].rho == pytest.approx(found["jvp"].rho, abs=1e-5)
    given = perturbation_correlation(h, a, loss, directions=unit_directions(h, 5))
    assert torch.equal(given.actual, exact)
    other = perturbation_correlation(h, a, loss, directions=5, seed=1)
    assert (other.actual - exact).abs().max() > 1e-3  # directions are the seed's


def test_rho_is_a_correlation_and_not_yet_its_bootstrap(states, losses):
    found = perturbation_correlation(states.hidden[2], plant_credit(states.gradients[2], 0.3), losses(2), directions=4)
    flat = np.corrcoef(found.predicted.flatten(), found.actual.flatten())[0, 1]
    assert found.rho == pytest.approx(flat, abs=1e-12)
    each = [np.corrcoef(p, a)[0, 1] for p, a in zip(found.predicted, found.actual, strict=True)]
    np.testing.assert_allclose(found.per_direction, each, atol=1e-12)
    tiny = PerturbationCorrelation(found.predicted, found.actual * 1e-170)
    assert tiny.rho == pytest.approx(found.rho, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "exact"}, "'jvp', 'antithetic', 'finite', 'relative'; got 'exact'"),
        ({"h": torch.zeros(N, D)}, "one dtype"),
        ({"h": torch.zeros(N, D), "a": torch.zeros(N, D)}, "float64, where it is exact"),
        ({"a": torch.zeros(N, D + 1, dtype=torch.float64)}, r"must be \[N, d\]"),
        ({"directions": 0}, "1 or more; got 0"),
        ({"directions": torch.zeros(2, N, D + 1)}, r"\[M, 400, 32\]; got \[2, 400, 33\]"),
        ({"epsilon": 1e-3}, "for 'jvp'"),
        ({"method": "finite", "epsilon": 0.0}, "positive"),
    ],
)
def test_what_cannot_be_measured_is_said(states, losses, change, message):
    arguments = {"h": states.hidden[0], "a": states.gradients[0], "loss_from": losses(0), **change}
    with pytest.raises(ValueError, match=message):
        perturbation_correlation(**arguments)
