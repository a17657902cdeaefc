import numpy as np
import pytest
import scipy.stats

from nbutils.stats.uncertainty import bootstrap_mean, standard_error


def test_bootstrap_intervals_cover_at_their_level():
    rng = np.random.default_rng(2)
    covered = [
        (i := bootstrap_mean(rng.exponential(size=40), resamples=400, seed=s)).low <= 1 <= i.high for s in range(200)
    ]
    assert 0.88 <= np.mean(covered) <= 0.98


def test_bootstrap_edge_cases():
    constant = bootstrap_mean([2.0, 2.0, 2.0])
    assert (constant.low, constant.mean, constant.high) == (2, 2, 2)
    for bad in ([1.0], [1.0, float("nan")], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="two or more finite"):
            bootstrap_mean(bad)
    assert bootstrap_mean([1.0, 2, 3, 5], seed=1) == bootstrap_mean([1.0, 2, 3, 5], seed=1)


def test_standard_error_is_scipys():
    values = [1.0, 4.0, 2.0, 8.0]
    assert standard_error(values) == pytest.approx(scipy.stats.sem(values))
