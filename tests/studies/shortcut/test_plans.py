"""Plans of tiles: correlation of label and hospital, stains of slides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studies.shortcut import plans

EVERYWHERE = (0, 1, 2, 3, 4)


@pytest.mark.parametrize("rho", [0, 0.5, 0.8, 0.9, 1, -0.9])
def test_the_correlation_asked_for_is_there(rho):
    plan = plans.plan(1000, rho=rho)
    assert np.corrcoef(plan.tumour, plan.hospital == 0)[0, 1] == pytest.approx(rho, abs=0.005)
    assert plan.tumour.float().mean() == pytest.approx(0.5, abs=0.002)
    assert plan.hospital.bincount() == pytest.approx([500, 250, 250], abs=2)
    tiles_a_slide = (plan.hospital * 10 + plan.slide).bincount(minlength=30)
    assert tiles_a_slide[:10] == pytest.approx([50] * 10, abs=2)
    assert tiles_a_slide[10:] == pytest.approx([25] * 20, abs=2)


def test_hospitals_spread_as_published_and_the_last_lies_outside_the_others():
    hospitals = np.array(plans.HOSPITALS)
    spread = hospitals.std(0, ddof=1)
    assert ((spread[:2] > 2) & (spread[:2] < 4.5)).all()
    assert ((spread[2:4] > 4.5) & (spread[2:4] < 9)).all()
    assert ((hospitals[:, 6] >= 235) & (hospitals[:, 6] <= 250)).all()
    others, last = hospitals[:4], hospitals[4]
    assert (last > others.max(0)).sum() + (last < others.min(0)).sum() >= 3  # so it is in no mixture of them

    stains = plans.plan(500, hospitals=EVERYWHERE).stains().maxima.log()
    plan = plans.plan(500, hospitals=EVERYWHERE)
    assert torch.equal(stains, plan.stains().maxima.log())
    one = stains[plan.hospital == 1].unique(dim=0)
    assert len(one) == 10  # slides
    assert 0.02 < one.std(0).mean() < 0.09  # a third of 0.15, of ten draws


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": 1.1}, r"rho must lie in \[-1, 1\].*got 1.1"),
        ({"rho": 0.5, "hospitals": (4,)}, r"0 for a single hospital; got 0.5 for \(4,\)"),
        ({"hospitals": (0, 5)}, r"hospitals are 0 to 4.*got \(0, 5\)"),
        ({"slides": ()}, r"one or more of each"),
        ({"size": 50}, "multiple of 8.*got 50"),
        ({"atypia": -1}, "atypia must be 0 or more"),
        ({"count": 0}, "count must be 1 or more"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plans.plan(**{"count": 8, **arguments})
