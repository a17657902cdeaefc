import pytest
import torch
from torch import nn

from nbutils.ablation.sites import Site


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


def test_a_site_selects_its_unit_and_knows_where_positions_lie():
    heads, image, hidden = torch.randn(2, 7, 3, 8), torch.randn(2, 4, 5, 6), torch.randn(2, 9)
    assert torch.equal(Site("a", 1, axis=-2).select(heads), heads[:, :, 1])
    assert Site("a").select(heads) is heads
    assert [site.unit for site in Site("a", axis=2).each(heads)] == [0, 1, 2]
    assert Site("a", 1, axis=2).position_axes(heads) == (1,)
    assert Site("a", 1, axis=-2).position_axes(heads) == (1,)
    assert Site("conv", 1).position_axes(image) == (2, 3)
    assert Site("mlp").position_axes(hidden) == ()
    assert Site("mlp").position_axes(heads[:, :, 0]) == (1,)
    assert Site("a", positions=(-3,), axis=2).position_axes(heads) == (1,)
    with pytest.raises(ValueError, match="no axis 4"):
        Site("a", positions=(4,)).position_axes(heads)
    with pytest.raises(ValueError, match="axis 0"):
        Site("a", positions=(0,))
