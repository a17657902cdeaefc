import numpy as np
import pytest
from scipy.stats import kendalltau

from studies.circuits.rankings import agreement_between_seeds, kendall_agreement, kendall_tau, kendall_tau_of_both

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=40), RNG.normal(size=40)


def test_kendalls_tau_ranks_by_size():
    assert kendall_tau(A, -2 * A) == pytest.approx(1)  # signs do not rank
    assert kendall_tau(A, 1 / A) == pytest.approx(-1)
    for bad in (A[:5], np.full(40, np.nan), np.zeros(40)):
        with pytest.raises(ValueError, match=r"same edges|rank nothing"):
            kendall_tau(A, bad)


def test_the_bootstrap_over_edges_is_that_of_scipy():
    half = A + 0.3 * B
    found = kendall_agreement(A, half, resamples=300, seed=3)
    assert found.tau == pytest.approx(kendalltau(abs(A), abs(half)).statistic)
    assert found.low < found.tau < found.high
    counts = np.random.default_rng(3).multinomial(40, np.full(40, 1 / 40), size=300)
    taus = [kendalltau(np.repeat(abs(A), n), np.repeat(abs(half), n)).statistic for n in counts]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(taus, [0.025, 0.975])))


def test_seeds_agree_by_the_mean_over_pairs_of_different_seeds():
    noise = RNG.normal(size=(4, 40))
    alike, apart = agreement_between_seeds(A + 0.1 * noise), agreement_between_seeds(noise)
    pairs = [kendall_tau(noise[i], noise[j]) for i in range(4) for j in range(i)]
    assert apart["mean τ"] == pytest.approx(np.mean(pairs))
    assert apart["least"] == min(pairs)
    assert apart["low"] < apart["mean τ"] < apart["high"] < alike["low"]
    assert agreement_between_seeds([A, A, -A]) == pytest.approx({"mean τ": 1, "low": 1, "high": 1, "least": 1})
    # A pair of a seed with itself would pull the resamples towards 1.
    assert agreement_between_seeds([A, 1 / A])["high"] == pytest.approx(-1)


def test_among_edges_that_both_see_blindness_is_no_disagreement():
    half_blind = np.where(np.arange(40) < 20, 0, A)
    tau, edges = kendall_tau_of_both(A, half_blind)
    assert (tau, edges) == (pytest.approx(1), 20)
    assert kendall_tau(A, half_blind) < 0.9  # over all edges the same order looks like another one
    assert kendall_tau_of_both(half_blind, half_blind[::-1])[1] == 0
    assert np.isnan(kendall_tau_of_both(half_blind, half_blind[::-1])[0])
    assert kendall_tau_of_both(1 / A, half_blind)[0] == pytest.approx(-1)
