import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from nbutils.data.pairs import PairLoader
from studies.circuits.faithfulness import (
    METRICS,
    answer_accuracy,
    answer_probability,
    area_under_curve,
    closeness_to,
    faithfulness,
    faithfulness_curve,
    kendall_agreement,
    kl_divergence,
    logit_difference,
)
from studies.circuits.sequences import greater_than, induction
from studies.circuits.transformer import Transformer


def test_measures_on_a_case_small_enough_to_check_by_eye():
    p = torch.tensor([[[0.5, 0.25, 0.25]], [[0.1, 0.1, 0.8]]])
    right = torch.tensor([[[True, False, False]], [[True, True, False]]])
    assert answer_accuracy(p.log(), right).tolist() == [1, 0]
    assert answer_probability(p.log(), right).tolist() == pytest.approx([0.5, 0.2])
    assert logit_difference(p.log(), right, ~right).tolist() == pytest.approx([np.log(2), -np.log(8)])
    assert kl_divergence(p.log(), p.log() + 3).tolist() == pytest.approx([0, 0], abs=1e-6)
    uniform = torch.zeros_like(p)
    assert kl_divergence(p.log(), uniform)[0].item() == pytest.approx(np.log(3) - 1.5 * np.log(2), abs=1e-6)
    assert kl_divergence(uniform, p.log())[0] != pytest.approx(kl_divergence(p.log(), uniform)[0])  # not symmetric
    assert answer_accuracy(torch.stack([p.log(), -p.log()]), right).shape == (2, 2)
    with pytest.raises(ValueError, match="needs a wrong token"):
        logit_difference(p, right, torch.zeros_like(right))


@pytest.mark.parametrize("make", [induction, greater_than])
@torch.no_grad()
def test_metrics_read_the_answers_positions(make):
    prompts = make(9)
    torch.manual_seed(0)
    model = Transformer(prompts.right.shape[-1], prompts.clean.shape[1], layers=1)
    loader = PairLoader(prompts, 4)
    closeness = closeness_to(model, loader)
    for batch in loader:
        logits = model(batch.clean)
        for metric in METRICS.values():
            assert metric(logits, batch).shape == (len(batch),)
        assert closeness(logits, batch).abs().max() < 1e-6
        elsewhere, there = logits.clone(), logits.clone()
        elsewhere[:, :-1] += torch.randn_like(elsewhere[:, :-1])
        there[:, -1] += torch.randn_like(there[:, -1])
        assert closeness(elsewhere, batch).abs().max() < 1e-6
        assert (closeness(there, batch) < 0).all()


def test_faithfulness_is_1_for_the_model_0_for_nothing_and_tells_the_two_means_apart():
    clean, ablated = np.array([2.0, 1.0, 5.0]), np.array([0.0, 0.0, 4.0])
    assert faithfulness(clean, clean, ablated).ratio_of_means == 1
    assert faithfulness(ablated, clean, ablated).mean_of_ratios == 0
    found = faithfulness(np.array([2.0, 0.5, 4.0]), clean, ablated)
    assert found.ratio_of_means == pytest.approx((2 + 0.5 + 0) / 4)
    assert found.mean_of_ratios == pytest.approx((1 + 0.5 + 0) / 3)
    assert (found.worst, found.prompts, found.undefined) == (0, 3, 0)
    assert found.sd == pytest.approx(np.std([1, 0.5, 0]))
    equal = faithfulness(np.array([1.0, 3.0]), np.array([2.0, 3.0]), np.array([0.0, 3.0]))
    assert (equal.mean_of_ratios, equal.prompts, equal.undefined) == (0.5, 1, 1)
    assert np.isnan(faithfulness([1.0], [1.0], [1.0]).ratio_of_means)
    with pytest.raises(ValueError, match="one value a prompt"):
        faithfulness([1.0], [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="finite"):
        faithfulness([np.nan], [1.0], [0.0])


def test_a_curve_has_a_row_a_circuit_and_an_area():
    clean, ablated = torch.ones(6), torch.zeros(6)
    shares = torch.tensor([0.0, 0.5, 1.0])
    frame = faithfulness_curve([0, 3, 4], shares[:, None].expand(3, 6), clean, ablated)
    assert frame.edges.tolist() == [0, 3, 4]
    assert frame.ratio_of_means.tolist() == frame.worst.tolist() == [0, 0.5, 1]
    assert area_under_curve(frame.edges, frame.ratio_of_means) == pytest.approx((0.75 + 0.75) / 4)
    assert area_under_curve([0, 1, 9], [1, 1, 1]) == 1
    for edges, values in (([0, 0], [1, 1]), ([1], [1]), ([2, 1], [0, 1]), ([0, 1], [0, np.inf])):
        with pytest.raises(ValueError, match="a curve"):
            area_under_curve(edges, values)
    with pytest.raises(ValueError, match="for each of 3 circuits"):
        faithfulness_curve([0, 3], shares[:, None].expand(3, 6), clean, ablated)


def test_kendalls_tau_ranks_by_size_and_its_bootstrap_is_that_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=40), rng.normal(size=40)
    assert kendall_agreement(a, -2 * a).tau == pytest.approx(1)  # signs do not rank
    assert kendall_agreement(a, 1 / a).tau == pytest.approx(-1)
    half = a + 0.3 * b
    found = kendall_agreement(a, half, resamples=300, seed=3)
    assert found.tau == pytest.approx(kendalltau(abs(a), abs(half)).statistic)
    assert found.low < found.tau < found.high
    counts = np.random.default_rng(3).multinomial(40, np.full(40, 1 / 40), size=300)
    taus = [kendalltau(np.repeat(abs(a), n), np.repeat(abs(half), n)).statistic for n in counts]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(taus, [0.025, 0.975])))
    assert kendall_agreement(a, half, resamples=300, seed=3) == found
    for bad in (a[:5], np.full(40, np.nan), np.zeros(40)):
        with pytest.raises(ValueError, match=r"same edges|rank nothing"):
            kendall_agreement(a, bad)
