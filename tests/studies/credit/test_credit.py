"""Measures of credit on planted credits, against finite differences, and where float32 breaks down."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from studies.credit import audit as credit
from studies.credit.audit import perturbation_correlation
from studies.credit.network import ResidualMLP

N, D, LAYERS = 400, 32, 3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ResidualMLP(20, D, 10, LAYERS)


@pytest.fixture(scope="module")
def states(model):
    draw = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(N, 20, generator=draw), torch.randint(10, (N,), generator=draw)
    return credit.signals(model, inputs, labels)


def losses(model, states, layer, dtype=torch.float64):
    return ResidualMLP.loss_from(_cast(model, dtype), layer, states.labels)


def _cast(model, dtype):
    twin = ResidualMLP(20, D, 10, LAYERS).to(dtype)
    twin.load_state_dict(model.state_dict())
    return twin


def planted(g, c):
    """Return credits of ‖g‖ whose cosine with g is c in every sample."""
    noise = torch.randn(g.shape, generator=torch.Generator().manual_seed(2), dtype=g.dtype)
    noise -= (noise * g).sum(1, keepdim=True) / g.square().sum(1, keepdim=True) * g
    across = noise / noise.norm(dim=1, keepdim=True) * g.norm(dim=1, keepdim=True)
    return c * g + (1 - c**2) ** 0.5 * across


def test_signals_are_the_networks_own(model, states):
    assert states.hidden.shape == states.gradients.shape == (LAYERS + 1, N, D)
    assert torch.allclose(states.errors.sum(1), torch.zeros(N, dtype=torch.float64), atol=1e-12)
    for layer in range(LAYERS + 1):
        h = states.hidden[layer].clone().requires_grad_()
        (g,) = torch.autograd.grad(losses(model, states, layer)(h).sum(), h)
        assert torch.allclose(g, states.gradients[layer], rtol=1e-9)
    feedback = torch.randn(LAYERS, D, 10)
    one = states.direct(feedback)[2, 7]
    assert torch.allclose(one, feedback[2].double() @ states.errors[7])


@pytest.mark.parametrize("c", [1.0, 0.8, 0.5, 0.0, -1.0])
@pytest.mark.parametrize("method", ["jvp", "antithetic"])
def test_a_planted_cosine_comes_back(model, states, c, method):
    h, g = states.hidden[1], states.gradients[1]
    found = perturbation_correlation(h, planted(g, c), losses(model, states, 1), method=method)
    error = (1 - c**2) * (D / (D + 2) / (32 * N)) ** 0.5
    # The samples' gradients differ in length, which widens the spread: the effective number is (Σ‖g‖²)² / Σ‖g‖⁴.
    squares = g.square().sum(1)
    error *= (squares.square().sum() * N).sqrt().item() / squares.sum().item()
    assert abs(found.rho - c) < 4 * error + (1e-9 if method == "jvp" else 1e-5)
    assert (np.abs(found.per_direction - c) < 4 * error * 32**0.5 + 1e-5).all()
    assert np.isclose(found.per_direction.mean(), c, atol=0.02)
    assert found.sign_agreement == pytest.approx(credit.expected_sign_agreement([c]), abs=0.02)
    assert credit.weighted_cosine(planted(g, c), g) == pytest.approx(c, abs=1e-12)
    if abs(c) < 1:
        interval = found.interval(resamples=500)
        assert interval.low < found.rho < interval.high
        assert interval.low - 2 * error < c < interval.high + 2 * error
        assert interval.high - interval.low == pytest.approx(4 * error, rel=0.6)


def test_a_credit_of_other_samples_predicts_nothing(model, states):
    """The negative control of the planted one: a real gradient, of the wrong sample."""
    h, g = states.hidden[1], states.gradients[1]
    wrong = g[states.labels.argsort().roll(N // 2).argsort()]
    assert perturbation_correlation(h, g, losses(model, states, 1)).rho == pytest.approx(1, abs=1e-12)
    assert abs(perturbation_correlation(h, wrong, losses(model, states, 1)).rho) < 0.5


def test_the_methods_measure_one_thing(model, states):
    h, g = states.hidden[0], states.gradients[0]
    loss = losses(model, states, 0)
    a = planted(g, 0.4)
    found = {
        method: perturbation_correlation(h, a, loss, method=method, directions=5) for method in ("jvp", "antithetic")
    }
    found["gradient"] = credit.PerturbationCorrelation.from_gradients(a, g, credit.unit_directions(h, 5))
    found["finite"] = perturbation_correlation(h, a, loss, method="finite", directions=5, epsilon=1e-7)
    exact = found["jvp"].actual
    for method, tolerance in {"gradient": 1e-13, "antithetic": 1e-8, "finite": 1e-6}.items():
        assert torch.equal(found[method].predicted, found["jvp"].predicted)
        assert (found[method].actual - exact).abs().max() < tolerance, method
        assert found[method].rho == pytest.approx(found["jvp"].rho, abs=1e-5)
    given = perturbation_correlation(h, a, loss, directions=credit.unit_directions(h, 5))
    assert torch.equal(given.actual, exact)
    other = perturbation_correlation(h, a, loss, directions=5, seed=1)
    assert (other.actual - exact).abs().max() > 1e-3  # directions are the seed's


def test_rho_is_a_correlation_and_not_yet_its_bootstrap(model, states):
    found = perturbation_correlation(
        states.hidden[2], planted(states.gradients[2], 0.3), losses(model, states, 2), directions=4
    )
    flat = np.corrcoef(found.predicted.flatten(), found.actual.flatten())[0, 1]
    assert found.rho == pytest.approx(flat, abs=1e-12)
    each = [np.corrcoef(p, a)[0, 1] for p, a in zip(found.predicted, found.actual, strict=True)]
    np.testing.assert_allclose(found.per_direction, each, atol=1e-12)
    tiny = credit.PerturbationCorrelation(found.predicted, found.actual * 1e-170)
    assert tiny.rho == pytest.approx(found.rho, abs=1e-12)


def test_float32_follows_the_predicted_curve_and_float64_does_not_care(model, states):
    """The loss has the gradient g/c at c·h: scale the final state up, and the exact gradient drowns in rounding."""
    single, double = losses(model, states, LAYERS, torch.float32), losses(model, states, LAYERS)
    measured, predicted, norms = [], [], []
    for scale in (1, 100, 1e3, 3e3, 1e4):
        h = (scale * states.hidden[-1]).float().double()
        (slope,) = torch.autograd.grad(double(leaf := h.clone().requires_grad_()).sum(), leaf)
        norms.append(slope.square().sum(1).mean().sqrt().item())
        measured.append(perturbation_correlation(h.float(), slope.float(), single, method="finite").rho)
        predicted.append(credit.float32_rho(norms[-1], D, credit.rounding_error(h, double, single)))
        assert perturbation_correlation(h, slope, double).rho == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(measured, predicted, atol=0.08)
    assert measured[0] > 0.999
    assert 0.3 < measured[2] < 0.9  # the curve is tried where it bends
    assert measured[-1] < 0.15
    assert norms[0] / norms[-1] == pytest.approx(1e4, rel=0.01)
    assert credit.float32_rho(0.0, D, 1e-7) == 0


def test_where_no_bit_changes_float32_measures_nothing(model, states):
    h = (1e9 * states.hidden[-1]).float()
    found = perturbation_correlation(
        h, states.gradients[-1].float(), losses(model, states, LAYERS, torch.float32), method="finite"
    )
    assert found.unmoved > 0.99
    assert np.isnan(found.rho) or abs(found.rho) < 0.1
    near = perturbation_correlation(
        states.hidden[-1].float(),
        states.gradients[-1].float(),
        losses(model, states, LAYERS, torch.float32),
        method="finite",
    )
    assert near.unmoved == 0


def test_the_loss_does_not_depend_on_the_length_of_the_final_state(model, states):
    h, g = states.hidden[-1] * 100, states.gradients[-1] / 100  # where LayerNorm's epsilon is nothing
    slopes = credit.cosine(g, h)
    assert slopes.abs().max() < 1e-3
    loss = losses(model, states, LAYERS)
    (at_h,) = torch.autograd.grad(loss(leaf := h.clone().requires_grad_()).sum(), leaf)
    (at_ch,) = torch.autograd.grad(loss(leaf := (50 * h).requires_grad_()).sum(), leaf)
    assert torch.allclose(at_ch, at_h / 50, rtol=1e-3, atol=at_h.abs().max().item() * 1e-5)
    # Not so before a block: its branch sees the normalised state, the stream does not.
    early = states.hidden[0] * 100
    (at_h,) = torch.autograd.grad(losses(model, states, 0)(leaf := early.clone().requires_grad_()).sum(), leaf)
    (at_ch,) = torch.autograd.grad(losses(model, states, 0)(leaf := (early / 80).requires_grad_()).sum(), leaf)
    assert not torch.allclose(at_ch, at_h * 80, rtol=0.05)


def test_cosine_has_no_clamp():
    a, g = torch.tensor([[1.0, 1.0]]) * 1e-30, torch.tensor([[1.0, 0.0]]) * 1e-30
    assert credit.cosine(a, g).item() == pytest.approx(0.5**0.5, abs=1e-7)
    assert F.cosine_similarity(a, g).item() < 1e-6  # what the clamp makes of it
    assert credit.cosine(a.double() * 1e-200, g.double()).item() == pytest.approx(0.5**0.5)
    assert credit.cosine(a * 0, g).isnan().all()


def test_a_step_along_the_gradient_is_the_best_and_across_it_none(model, states):
    h, g, loss = states.hidden[1], states.gradients[1], losses(model, states, 1)
    for c in (1.0, 0.6, 0.0, -1.0):
        ratio = credit.loss_decrease_ratio(h, planted(g, c), g, loss, step=1e-6)
        assert ratio == pytest.approx(c, abs=1e-3)
    assert credit.loss_decrease_ratio(h, 7 * g, g, loss) == pytest.approx(1, abs=1e-12)


def test_weight_alignment_sees_the_head_and_nothing_that_carries_no_error(model):
    head = (model.out_ln.weight[:, None] * model.out_head.weight.mT).detach()
    sees = torch.stack([head - head.mean(0), head - head.mean(0) + torch.randn(D, 1), -head, torch.randn(D, 10)])
    found = credit.weight_alignment(model, sees)
    assert found[:2] == pytest.approx([1, 1], abs=1e-6)
    assert -1 < found[2] < -0.9
    assert abs(found[3]) < 0.25


def test_the_null_is_fresh_feedback_measured_on_the_same_network(model, states):
    """Against ρ measured along directions, draw by draw; and wider than the Monte-Carlo error."""
    g = states.gradients[1]
    v = credit.unit_directions(g, 32)
    draw = torch.Generator().manual_seed(3)
    measured, first_order = [], []
    for _ in range(60):
        a = states.errors @ torch.randn(D, 10, generator=draw, dtype=torch.float64).mT
        measured.append(credit.PerturbationCorrelation.from_gradients(a, g, v).rho)
        first_order.append(credit.weighted_cosine(a, g))
    null = credit.fresh_feedback_null(states.errors, g, draws=400)
    assert np.abs(np.subtract(measured, first_order)).max() < 4 / (32 * N) ** 0.5 * 2
    assert abs(null.mean()) < 4 * null.std() / 20
    assert null.std() == pytest.approx(np.std(measured), rel=0.4)
    assert null.std() > 3 / (32 * N) ** 0.5
    np.testing.assert_allclose(null, credit.fresh_feedback_null(states.errors, g * 1e-170, draws=400), rtol=1e-9)
    # A matrix that the network's own head suggests is beyond it.
    head = (model.out_ln.weight[:, None] * model.out_head.weight.mT).detach().double()
    assert credit.weighted_cosine(states.errors @ head.mT, g) > null.max()


def test_the_audit_puts_it_in_one_table(model, states):
    credits = torch.stack([planted(g, 0.5) for g in states.gradients[:-1]])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = credit.audit(model, states, credits, directions=8)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert table["layer"].tolist() == [0, 1, 2]
    assert np.allclose(table["rho"], 0.5, atol=0.08)
    assert np.allclose(table[["cosine", "weighted_cosine"]], 0.5)
    assert np.allclose(table["ceiling"], 1, atol=1e-9)
    assert ((table["low"] < table["rho"]) & (table["rho"] < table["high"])).all()
    assert (table["null_high"] < 0.4).all()
    assert np.allclose(table["sign_agreement"], table["sign_expected"], atol=0.03)
    assert np.allclose(table["loss_decrease"], 0.5, atol=0.01)
    assert (table["float32_ceiling"] > 0.9).all()
    assert np.allclose(table["hidden_norm"], states.hidden[:-1].norm(dim=2).median(1).values)
    quick = credit.audit(model, states, credits, directions=8, method="gradient")
    pd.testing.assert_frame_equal(table, quick, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match=r"\[L, N, d\] = \[3, 400, 32\]; got \[2, 400, 32\]"):
        credit.audit(model, states, credits[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "exact"}, "'jvp', 'antithetic', 'finite'; got 'exact'"),
        ({"h": torch.zeros(N, D)}, "one dtype"),
        ({"h": torch.zeros(N, D), "a": torch.zeros(N, D)}, "float64, where it is exact"),
        ({"a": torch.zeros(N, D + 1, dtype=torch.float64)}, r"must be \[N, d\]"),
        ({"directions": 0}, "1 or more; got 0"),
        ({"directions": torch.zeros(2, N, D + 1)}, r"\[M, 400, 32\]; got \[2, 400, 33\]"),
        ({"epsilon": 1e-3}, "for 'jvp'"),
        ({"method": "finite", "epsilon": 0.0}, "positive"),
    ],
)
def test_what_cannot_be_measured_is_said(model, states, change, message):
    arguments = {"h": states.hidden[0], "a": states.gradients[0], "loss_from_h": losses(model, states, 0), **change}
    with pytest.raises(ValueError, match=message):
        perturbation_correlation(**arguments)
