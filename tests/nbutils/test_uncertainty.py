"""Intervals over seeds and slides, permutation p-values, false discoveries, equivalence."""

from __future__ import annotations

import numpy as np
import pytest

from nbutils.stats.uncertainty import (
    Interval,
    benjamini_hochberg,
    bootstrap_mean,
    bootstrap_seeds_and_slides,
    difference_in_differences,
    permutation_p,
    seed_interval,
    within_margin,
)


def draws(rng, seeds=12, slides=10, between_seeds=0.0, between_slides=0.0, noise=0.0):
    """Return values `[seeds, slides]` with mean 0: effects of seeds, of slides (the same for all seeds), and noise."""
    return (
        between_seeds * rng.normal(size=(seeds, 1))
        + between_slides * rng.normal(size=slides)
        + noise * rng.normal(size=(seeds, slides))
    )


@pytest.mark.parametrize("effects", [{"between_seeds": 1.0}, {"between_slides": 1.0}, {"noise": 1.0}])
def test_intervals_cover_whatever_the_values_differ_by(effects):
    rng = np.random.default_rng(0)
    found = [bootstrap_seeds_and_slides(draws(rng, 15, 15, **effects), resamples=400, seed=s) for s in range(150)]
    assert 0.85 <= np.mean([i.low <= 0 <= i.high for i in found]) <= 1


def test_forgetting_that_slides_are_shared_makes_intervals_too_narrow():
    rng = np.random.default_rng(1)
    values = [draws(rng, 15, 15, between_slides=1.0) for _ in range(100)]
    covered = {
        shared: np.mean(
            [
                i.low <= 0 <= i.high
                for i in (bootstrap_seeds_and_slides(v, shared_slides=shared, resamples=300) for v in values)
            ]
        )
        for shared in (True, False)
    }
    assert covered[True] > 0.85 > covered[False] + 0.2


def test_the_mean_is_weighted_within_a_seed_and_not_between():
    values, weights = [[0.0, 1.0], [0.0, 1.0]], [[3, 1], [1, 1]]
    assert bootstrap_seeds_and_slides(values, weights).mean == pytest.approx((0.25 + 0.5) / 2)
    assert bootstrap_seeds_and_slides(values, [3, 1]).mean == pytest.approx(0.25)
    single = bootstrap_seeds_and_slides([[0.0], [1.0], [2.0]])
    assert (single.low, single.mean, single.high) == (0, 1, 2)
    assert bootstrap_seeds_and_slides(values) == bootstrap_seeds_and_slides(values)
    for bad, match in (([[1.0, 2.0]], "two seeds"), ([[1.0], [np.nan]], "finite"), ([1.0, 2.0], "seeds, slides")):
        with pytest.raises(ValueError, match=match):
            bootstrap_seeds_and_slides(bad)
    with pytest.raises(ValueError, match="weights must be"):
        bootstrap_seeds_and_slides(values, [1, 2, 3])


def test_a_difference_in_differences_forgets_what_both_sides_share():
    rng = np.random.default_rng(2)
    model = rng.normal(size=(10, 1))
    unseen, known = 0.3 + model + 0.01 * rng.normal(size=(10, 8)), model + 0.01 * rng.normal(size=(10, 5))
    found = difference_in_differences(unseen, known)
    assert found.mean == pytest.approx(0.3, abs=0.02)
    assert found.high - found.low < 0.05  # seeds are resampled together
    apart = difference_in_differences(unseen, known[rng.permutation(10)])
    assert apart.mean == pytest.approx(found.mean)
    assert apart.high - apart.low > 0.5
    with pytest.raises(ValueError, match="same seeds"):
        difference_in_differences(unseen, known[1:])


def test_equivalence_needs_the_whole_interval():
    assert within_margin(Interval(0.0, -0.01, 0.015), 0.02)
    assert not within_margin(Interval(0.0, -0.03, 0.015), 0.02)
    assert not within_margin(Interval(0.0, -0.5, 0.5), 0.02)  # not different from 0, and not shown to be 0 either
    with pytest.raises(ValueError, match="above 0"):
        within_margin(Interval(0, 0, 0), 0)


def test_permutation_p_by_hand_and_uniform_under_chance():
    null = [0.0, 1.0, 2.0, 3.0]
    assert permutation_p(2.0, null) == 3 / 5
    assert permutation_p(9.0, null) == 1 / 5
    assert permutation_p(9.0, null, "less") == 1
    assert permutation_p(9.0, null, "two-sided") == 2 / 5
    rng = np.random.default_rng(3)
    p = np.array([permutation_p(x[0], x[1:]) for x in rng.normal(size=(2000, 20))])
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.015)
    for bad in ([], [np.nan]):
        with pytest.raises(ValueError, match="finite draws"):
            permutation_p(0.0, bad)
    with pytest.raises(ValueError, match="alternative"):
        permutation_p(0.0, null, "more")


def test_benjamini_hochberg_by_hand():
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])


def test_few_seeds_are_covered_by_students_t_and_not_by_resampling():
    rng = np.random.default_rng(2)
    draws = rng.normal(size=(400, 5))
    covered = [np.mean([(i := of(v)).low <= 0 <= i.high for v in draws]) for of in (seed_interval, bootstrap_mean)]
    assert covered[0] == pytest.approx(0.95, abs=0.03)
    assert covered[1] < 0.9
    assert seed_interval([1.0, 2.0, 3.0]).low == pytest.approx(2 - 4.302653 / 3**0.5)  # t of two degrees of freedom
    assert seed_interval(np.arange(20.0)) == bootstrap_mean(np.arange(20.0))
    with pytest.raises(ValueError, match="two or more finite"):
        seed_interval([1.0])
