"""A step in units of the state is as good as a derivative; one of fixed length is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studies.credit.perturbation import perturbation_correlation
from studies.credit.steps import step_sweep


@pytest.mark.parametrize("length", [1.0, 1e3, 1e8])
def test_relative_steps_do_not_see_how_long_the_last_state_is(model, states, losses, length):
    h, g = length * states.hidden[-1], states.gradients[-1] / length
    single = losses(3, torch.float32)
    relative = perturbation_correlation(h.float(), g.float(), single, method="relative", directions=8)
    assert relative.rho > 0.9999
    assert relative.unmoved == 0
    fixed = perturbation_correlation(h.float(), g.float(), single, method="finite", directions=8)
    assert fixed.rho > 0.999 if length == 1 else not fixed.rho > 0.9  # the control, and where it holds


def test_steps_are_each_samples_own_and_changes_are_per_length(states, losses):
    h = states.hidden[-1] * torch.logspace(-2, 6, len(states.labels), dtype=torch.float64)[:, None]
    exact = perturbation_correlation(h, h, losses(3), directions=2)
    found = perturbation_correlation(h, h, losses(3), directions=2, method="relative", epsilon=1e-7)
    scale = exact.actual.abs() + (exact.actual * h.norm(dim=1)).abs().mean() / h.norm(dim=1)
    assert ((found.actual - exact.actual).abs() / scale).max() < 1e-5


def test_the_curve_of_rounding_holds_in_every_precision_and_shifts_with_its_roundoff(model, states):
    of_state = states.hidden[-1], states.gradients[-1], states.labels
    lengths = [1e-10, 1e-7, 3e-7, 1e-6, 1e-5, 1e-2, 0.1]
    steps = dict.fromkeys(("float64", "float32", "bfloat16"), lengths)
    found = step_sweep(model, 3, of_state, steps, directions=8)
    assert found.precision.value_counts().to_dict() == dict.fromkeys(steps, 7)
    single = found[(found.precision == "float32") & (found.step > 1e-8)]
    np.testing.assert_allclose(single.rho, single.predicted, atol=0.1)
    assert single.rho.iloc[0] < 0.7 < 0.99 < single.rho.iloc[-2]
    assert (found[(found.precision == "float64") & (found.step < 0.05)].rho > 0.999).all()
    coarse = found[found.precision == "bfloat16"]
    assert coarse.rho.iloc[-1] > 0.9
    assert not coarse.rho.iloc[3] > 0.5  # where float32 is past its bend
    assert np.allclose(coarse.in_roundoffs, coarse.step * 2**8)


def test_the_sources_name_of_directions_is_understood(states, losses):
    h, g = states.hidden[0], states.gradients[0]
    ours, theirs = (perturbation_correlation(h, g, losses(0), **{name: 3}) for name in ("directions", "M"))
    assert torch.equal(ours.actual, theirs.actual)
    assert len(theirs.actual) == 3
