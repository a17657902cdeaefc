import math

import pytest
import torch
from torch.autograd import gradcheck

from nbutils.training.objective import Objective, Term
from nbutils.training.regularizers import ParameterDrift
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


@pytest.mark.parametrize(
    "loss",
    [
        Anchor(E0),
        AngularAnchor(E0),
        AntiAnchor(E0, full_sphere=True),
        AxisAlignedSubspace((0,)),
        Planarity(),
        Unitarity(),
    ],
)
def test_losses_are_one_a_sample_and_differentiable(loss):
    z = latents(2, 5, 3).requires_grad_()
    assert loss(z).shape == (2, 5)
    assert gradcheck(loss, z)


def test_losses_vanish_where_they_should_and_nowhere_else():
    red, anti, side = (
        torch.eye(3, dtype=torch.float64)[0],
        -torch.eye(3, dtype=torch.float64)[0],
        torch.tensor([0.0, 1, 0]),
    )
    z = torch.stack([red, anti, side.double(), 2 * red])
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
    assert Planarity()(torch.tensor([[0.0, 0, 3]])).item() == 9


def test_a_labelled_term_averages_over_the_label_only():
    z = torch.tensor([[[1.0, 0], [0, 1], [-1, 0]]], dtype=torch.float64)  # (1 member, 3 samples, 2)
    term = Term("anchor", AngularAnchor((1.0, 0.0)), "latent", label="red")
    for label, expected in (([0.0, 1, 1], 1.5), ([1.0, 0, 0], 0.0), ([0.0, 0, 0], 0.0)):
        assert term({"latent": z}, {"red": torch.tensor([label])}).item() == pytest.approx(expected)


def test_a_term_with_weight_zero_is_not_computed():
    def explode(_):
        raise AssertionError("computed")

    objective = Objective([Term("never", explode, "latent")])
    x = torch.zeros(2, 3, 1)
    total, values = objective(x, {"target": x + 1}, {}, {"never": 0.0})
    assert total.tolist() == [1, 1]
    assert values.keys() == {"reconstruction"}
    with pytest.raises(AssertionError, match="computed"):
        objective(x, {"target": x}, {"latent": x}, {"never": 0.1})


@pytest.mark.parametrize(
    "bad",
    [lambda: AxisAlignedSubspace(()), lambda: AxisAlignedSubspace((0, 0)), lambda: Separate(0.5),
     lambda: Separate(2.5, shift=False), lambda: AngularAnchor((1.0, 0.0))(latents(4, 3)),
     lambda: AxisAlignedSubspace((3,))(latents(4, 3))],
)  # fmt: skip
def test_impossible_arguments_are_refused(bad):
    with pytest.raises(ValueError, match=r"got|fit"):
        bad()


def test_separate_reaches_about_twenty_degrees():
    """The docstring's number: at 20° the pull has fallen below a twentieth."""
    for degrees, expected in ((0.5, 1.0), (20, 0.05)):
        z = torch.tensor(
            [[1.0, 0], [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]],
            dtype=torch.float64,
        )
        assert Separate()(z)[0].item() == pytest.approx(expected, abs=0.01)


def test_drift_is_the_mean_over_all_parameters_of_a_member():
    reference = {"w": latents(3, 4, 5), "b": latents(3, 2, seed=1)}
    moved = {name: tensor.clone() for name, tensor in reference.items()}
    drift = ParameterDrift(reference)
    assert drift(moved).tolist() == [0, 0, 0]
    moved["w"][1, 2, 3] -= 1.1
    moved["b"][2] += 2.2
    assert torch.allclose(drift(moved), torch.tensor([0, 1.1 / 22, 4.4 / 22], dtype=torch.float64))
    assert torch.allclose(drift.select([2])({k: v[2:] for k, v in moved.items()}), drift(moved)[2:])
    reference["w"] += 1  # the reference is a copy
    assert drift(moved)[0] == 0
    pull = torch.autograd.grad(drift({k: v.requires_grad_() for k, v in moved.items()}).sum(), list(moved.values()))
    assert torch.allclose(pull[1], torch.tensor([[0.0] * 2, [0] * 2, [1 / 22] * 2], dtype=torch.float64))
    for wrong in ({"w": moved["w"]}, {**moved, "b": moved["b"][:2]}):
        with pytest.raises(ValueError, match="reference"):
            drift(wrong)
