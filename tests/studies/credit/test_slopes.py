"""Slopes of power laws, with intervals that cover what they say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from studies.credit.slopes import log_slope, slopes_over_training


def test_a_power_law_comes_back_and_its_interval_covers_it():
    rng, x = np.random.default_rng(0), np.geomspace(1, 100, 8)
    exact = log_slope(x, 3 * x**-0.8)
    assert (exact.slope, exact.low, exact.high) == pytest.approx((-0.8,) * 3)
    assert 10**exact.intercept == pytest.approx(3)
    fits = [log_slope(x, 3 * x**-0.8 * 10 ** rng.normal(0, 0.1, 8)) for _ in range(400)]
    assert np.mean([fit.low < -0.8 < fit.high for fit in fits]) == pytest.approx(0.95, abs=0.03)
    assert np.mean([fit.low < -1 < fit.high for fit in fits]) < 0.5  # and rules out another
    assert np.isnan(log_slope([1, 2], [3, 4]).low)
    assert np.isnan(log_slope([1, 1], [2, 3]).slope)
    assert np.isnan(log_slope([1, 2], [-1, 3]).slope)


def test_slopes_follow_the_states_over_training():
    rows = [
        {"seed": seed, "variant": f"{strength:g}", "step": step, "term": term, "value": value}
        for seed in (1, 2)
        for strength in (0.01, 0.1, 1.0)
        for step, power in ((0, 0.0), (50, -0.5), (100, -1.0))
        for term, value in (("hidden norm", strength ** (2 * power)), ("cross-entropy", 1.0))
    ]
    rows.append(rows[0] | {"variant": "another", "value": 99.0})
    found = slopes_over_training(pd.DataFrame(rows), {"0.01": 0.01, "0.1": 0.1, "1": 1.0})
    assert found.step.tolist() == [0, 50, 100]
    np.testing.assert_allclose(found.slope, [0, -0.5, -1], atol=1e-12)
