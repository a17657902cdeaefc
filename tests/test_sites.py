import pytest
import torch
from torch import nn

from nbutils.interventions.sites import Site


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))


def test_a_site_finds_its_module_and_names_near_misses(model):
    assert Site("0", unit=3).resolve(model) is model[0]
    assert Site("3", unit=4).resolve(model) is model[3]
    with pytest.raises(KeyError, match="nearest: 0"):
        Site("0.0").resolve(model)


@pytest.mark.parametrize(("module", "unit"), [("0", 4), ("3", 5)])
def test_a_unit_that_does_not_exist_is_refused(model, module, unit):
    with pytest.raises(ValueError, match=f"units 0 to {unit - 1}; got {unit}"):
        Site(module, unit=unit).resolve(model)
    for bad in ({"unit": -1}, {"axis": 0}):
        with pytest.raises(ValueError, match=r"axis 0|index of 0"):
            Site(module, **bad)


def test_units_are_counted_on_the_named_axis():
    output = torch.zeros(2, 7, 3, 8)  # items, positions, heads, width
    assert [Site("attention", axis=axis).count(output) for axis in (1, 2, -2, -1)] == [7, 3, 3, 8]
    with pytest.raises(ValueError, match="0 to 2 on axis -2; got 3"):
        Site("attention", unit=3, axis=-2).count(output)
    for axis in (4, -4):  # axis -4 is the items
        with pytest.raises(ValueError, match="no axis"):
            Site("attention", axis=axis).count(output)
