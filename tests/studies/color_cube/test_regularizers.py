import math

import pytest
import torch

from studies.color_cube.regularizers import (
    Anchor,
    AngularAnchor,
    AntiAnchor,
    AxisAlignedSubspace,
    Planarity,
    Separate,
    Unitarity,
)

E0 = (1.0, 0.0, 0.0)


def latents(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_separate(z, power, shift):
    """The definition, as one would write it down."""
    unit = z / (z.norm(dim=-1, keepdim=True) + 1e-8)
    cos = unit @ unit.T
    cos = torch.where(torch.isclose(cos, torch.ones_like(cos)), torch.zeros_like(cos), cos)
    return (((cos + 1) / 2 if shift else cos) ** power).sum(-1)


@pytest.mark.parametrize(("power", "shift"), [(100.0, True), (1.0, True), (7.0, True), (2.5, True), (6.0, False)])
def test_separate_and_its_gradient_equal_the_definition(power, shift):
    z = latents(12, 3)
    z[5] = z[2]  # the same sample drawn twice does not repel itself
    weights = torch.linspace(0.5, 2, 12, dtype=z.dtype)
    for upstream in (torch.ones_like(weights), weights):  # the fast way back and the general one
        a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
        ours, naive = Separate(power, shift)(a), naive_separate(b, power, shift)
        assert torch.allclose(ours, naive, rtol=1e-10, atol=1e-12)
        (ours * upstream).sum().backward()
        (naive * upstream).sum().backward()
        assert torch.allclose(a.grad, b.grad, rtol=1e-8, atol=1e-12)
    assert not torch.allclose(a.grad, torch.zeros_like(a.grad))


def test_separate_of_an_ensemble_is_that_of_each_member():
    z = latents(21, 8, 4)  # more members than one chunk
    together = Separate()(z)
    assert torch.allclose(together, torch.stack([Separate()(member) for member in z]), rtol=1e-12)


def test_losses_vanish_where_they_should_and_nowhere_else():
    red, side, _ = torch.eye(3, dtype=torch.float64)
    z = torch.stack([red, -red, side, 2 * red])
    expected = {
        Anchor(E0): [0, 4, 2, 1],
        AngularAnchor(E0): [0, 2, 1, 0],
        AntiAnchor(E0): [1, 0, 0, 1],
        AntiAnchor(E0, full_sphere=True): [1, 0, 0.5, 1],
        AxisAlignedSubspace((0,)): [0, 0, 1, 0],
        AxisAlignedSubspace((0,), invert=True): [1, 1, 0, 4],
        Unitarity(): [0, 0, 0, 1],
        Planarity(): [0, 0, 0, 0],
    }
    for loss, values in expected.items():
        assert loss(z).tolist() == pytest.approx(values), loss
        assert torch.equal(loss(torch.stack([z, 2 * z])), torch.stack([loss(z), loss(2 * z)])), loss  # two members
    assert Planarity()(torch.tensor([[1.0, 2, 3]])).item() == 9


@pytest.mark.parametrize(
    "bad",
    [
        lambda: AxisAlignedSubspace(()),
        lambda: AxisAlignedSubspace((0, 0)),
        lambda: Separate(0.5),
        lambda: Separate(2.5, shift=False),
        lambda: AngularAnchor((1.0, 0.0))(latents(4, 3)),
        lambda: AxisAlignedSubspace((3,))(latents(4, 3)),
    ],
)
def test_impossible_arguments_are_refused(bad):
    with pytest.raises(ValueError, match="got"):
        bad()


def test_separate_reaches_about_twenty_degrees():
    """The docstring's number: at 20° the pull has fallen below a twentieth."""
    for degrees, expected in ((0.5, 1.0), (20, 0.05)):
        z = torch.tensor(
            [[1.0, 0], [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]],
            dtype=torch.float64,
        )
        assert Separate()(z)[0].item() == pytest.approx(expected, abs=0.01)
