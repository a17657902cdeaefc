import math

import pytest
import torch
from torch import nn

from nbutils.ablation.surgery import ablate, prune
from nbutils.hooks import capture, edit
from studies.color_cube.directions import difference_of_means, random_directions
from studies.color_cube.mappers import BezierMapper, BoundedFalloff, LinearMapper
from studies.color_cube.network import ColorMLP, UnitNorm
from studies.color_cube.steering import AxisAlignedSuppression, Repulsion, Suppression

E0 = (1.0, 0.0, 0.0, 0.0, 0.0)
HARD = BoundedFalloff(power=0)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ColorMLP().double().eval()


def colors(n=200):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def latents(n=300, width=5):
    z = torch.randn(n, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return z / z.norm(dim=1, keepdim=True)


def test_ablated_equals_pruned(model):
    """Algebra, not a result: a zero behind the norm and an absent dimension give the same output."""
    x = colors()
    one, other = ablate(model, "bottleneck", [0])(x), prune(model, "bottleneck", [0])(x)
    assert torch.allclose(one, other, atol=1e-12)
    assert not torch.allclose(one, model(x), atol=1e-3)  # and both differ from the whole model
    assert not torch.allclose(one, ablate(model, "bottleneck", [1])(x), atol=1e-3)


def test_surgery_works_on_a_copy(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = prune(ablate(model, "bottleneck", [0]), "bottleneck", [1, 3])
    with capture(pruned, "bottleneck") as seen:
        pruned(colors())
    assert seen["bottleneck"].shape == (200, 3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_zeroing_behind_the_norm_is_another_operation_than_ablation(model):
    x = colors()
    with edit(model, {"bottleneck": AxisAlignedSuppression((0,))}), capture(model, "bottleneck") as short:
        after_norm = model(x)
    ablated = ablate(model, "bottleneck", [0])
    with capture(ablated, "bottleneck") as stretched:
        before_norm = ablated(x)
    # The same direction; one vector is shorter, the other back at unit length.
    assert torch.allclose(UnitNorm()(short["bottleneck"]), stretched["bottleneck"], atol=1e-9)
    assert (short["bottleneck"].norm(dim=1) < 1 - 1e-6).any()
    assert torch.allclose(stretched["bottleneck"].norm(dim=1), torch.ones(200, dtype=x.dtype))
    assert (after_norm - before_norm).abs().max() > 1e-6  # far above rounding, small in an untrained model


@pytest.mark.parametrize("operation", [ablate, prune])
def test_surgery_names_what_it_cannot_do(model, operation):
    with pytest.raises(KeyError, match="bottleneck"):
        operation(model, "botleneck", [0])
    for dims in ([], [5], [-1]):
        with pytest.raises(ValueError, match="0 to 4"):
            operation(model, "bottleneck", dims)
    with pytest.raises(ValueError, match="linear layer before"):
        operation(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), "0", [0])
    with pytest.raises(ValueError, match="4 go in, 3 come out"):
        operation(nn.Sequential(nn.Linear(2, 4), nn.Flatten(), nn.Linear(3, 2)), "1", [0])


def test_a_linear_site_produces_its_own_output_and_other_weighted_sites_are_refused(model):
    ablated = ablate(model, "encoder.2", [0])
    with capture(ablated, "encoder.2") as seen:
        ablated(colors())
    assert (seen["encoder.2"][:, 0] == 0).all()
    assert torch.equal(ablated.encoder[0].weight, model.encoder[0].weight)
    assert prune(model, "encoder.2", [0])(colors()).shape == (200, 3)
    with pytest.raises(ValueError, match="weights of its own"):
        ablate(model, "encoder", [0])


def test_ablation_strength_runs_from_nothing_to_all(model):
    x = colors()
    assert torch.equal(ablate(model, "bottleneck", [0], strength=0.0)(x), model(x))
    half = ablate(model, "bottleneck", [0], strength=0.5)
    assert torch.allclose(half.encoder[4].weight[0], model.encoder[4].weight[0] / 2)
    assert torch.allclose(half.decoder[0].weight[:, 0], model.decoder[0].weight[:, 0] / 2)
    with pytest.raises(ValueError, match="strength"):
        ablate(model, "bottleneck", [0], strength=1.5)


def test_pruning_everything_is_refused(model):
    with pytest.raises(ValueError, match="no dimension"):
        prune(model, "bottleneck", range(5))


def test_hard_suppression_is_projection_on_its_side_and_identity_on_the_other():
    z = latents()
    out = Suppression(E0, HARD)(z)
    positive = z[:, 0] > 0
    assert (out[positive, 0].abs() < 1e-12).all()
    assert torch.equal(out[positive, 1:], z[positive, 1:])
    assert torch.equal(out[~positive], z[~positive])
    constant_gate = Suppression(E0, torch.ones_like)(z)  # a falloff that is not 0 at alignment 0
    assert torch.equal(constant_gate[~positive], z[~positive])
    both = Suppression(E0, HARD, both_ways=True)(z)
    assert both[:, 0].abs().max() < 1e-12
    assert z[:, 0].abs().max() > 0.5


def test_suppression_follows_the_direction_under_rotation():
    """Suppressing v in rotated latents is rotating the suppressed latents: no axis is special."""
    q, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    z, v = latents(), torch.tensor(E0, dtype=torch.float64)
    soft = BoundedFalloff(start=0.2, slope=0.8, power=2)
    assert torch.allclose(Suppression(v @ q, soft)(z @ q), Suppression(v, soft)(z) @ q, atol=1e-12)
    assert not torch.allclose(Suppression(v, soft)(z @ q), Suppression(v, soft)(z) @ q, atol=1e-3)


def test_strength_runs_from_nothing_to_all():
    z = latents()
    assert torch.equal(Suppression(E0, HARD, strength=0.0)(z), z)
    half, full = Suppression(E0, HARD, strength=0.5)(z), Suppression(E0, HARD)(z)
    assert torch.allclose(half, (z + full) / 2)


def test_falloff_formula():
    x = torch.tensor([-1.0, 0.0, 0.3, 0.5, 0.75, 1.0], dtype=torch.float64)
    gate = BoundedFalloff(start=0.5, slope=0.8, power=2)(x)
    assert gate.tolist() == pytest.approx([0, 0, 0, 0, 0.8 * 0.25, 0.8])
    assert HARD(x).tolist() == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("mapper", [LinearMapper(0.2, 0.6), BezierMapper(0.2, 0.6), BezierMapper(0.0, 0.3, 1.0)])
def test_mappers_squeeze_monotonically_onto_their_range(mapper):
    x = torch.linspace(-1, 1, 401, dtype=torch.float64)
    y = mapper(x)
    below = x <= mapper.start
    assert torch.equal(y[below], x[below])
    assert y[-1].item() == pytest.approx(mapper.end, abs=1e-7)
    assert (y.diff() > -1e-12).all()
    assert (y <= x + 1e-12).all()
    with pytest.raises(ValueError, match="start"):
        type(mapper)(0.6, 0.2)


def test_bezier_points_satisfy_its_equation_and_it_sets_in_without_a_kink():
    mapper = BezierMapper(0.2, 0.6)
    t = torch.tensor(0.37, dtype=torch.float64)
    p = [(0.2, 0.2), *[(0.2 + mapper.tension * 0.4,) * 2], (1 - mapper.tension * 0.4, 0.6), (1.0, 0.6)]
    b = [(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3]
    x, y = (sum(w * point[axis] for w, point in zip(b, p, strict=True)) for axis in (0, 1))
    assert mapper(x[None]).item() == pytest.approx(y.item(), abs=1e-7)
    slope = (mapper(torch.tensor([0.201], dtype=torch.float64)) - 0.2) / 0.001
    assert slope.item() == pytest.approx(1, abs=0.02)
    linear = (LinearMapper(0.2, 0.6)(torch.tensor([0.201], dtype=torch.float64)) - 0.2) / 0.001
    assert linear.item() == pytest.approx(0.5, abs=0.02)  # the linear one does kink


def test_repulsion_rotates_to_the_mapped_angle_and_keeps_the_length():
    z = latents() * 3
    mapper = LinearMapper(0.0, 0.4)
    out = Repulsion(E0, mapper)(z)
    cosine = z[:, 0] / 3
    ahead = cosine > 0
    assert torch.allclose(out.norm(dim=1), z.norm(dim=1))
    assert torch.allclose(out[ahead, 0] / 3, mapper(cosine[ahead]))
    assert torch.equal(out[~ahead], z[~ahead])
    rest, rest_out = z[ahead, 1:], out[ahead, 1:]  # what is orthogonal keeps its direction
    assert torch.allclose(UnitNorm()(rest), UnitNorm()(rest_out), atol=1e-9)


def test_parallel_vectors_turn_the_same_way_every_time_and_by_seed():
    z = torch.tensor([E0], dtype=torch.float64)
    first, again, other = (Repulsion(E0, LinearMapper(0, 0.5), seed=s)(z) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert first[0, 0].item() == pytest.approx(0.5)
    state = torch.get_rng_state()
    Repulsion(E0)(z)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("bad", [(0.0,) * 5, (1.0, 0.0)])
def test_directions_must_fit_and_not_vanish(bad):
    for steer in (Suppression(bad), Repulsion(bad)):
        with pytest.raises(ValueError, match="width 5"):
            steer(latents())


def test_repulsion_needs_a_plane():
    with pytest.raises(ValueError, match="nowhere to turn"):
        Repulsion((1.0,))(torch.ones(3, 1))


def test_difference_of_means_finds_a_planted_direction_and_the_mean_does_not():
    z = torch.randn(4000, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    label = (torch.rand(4000, generator=torch.Generator().manual_seed(5)) < 0.3).double()
    planted = torch.tensor([0.6, 0, 0.8, 0, 0], dtype=torch.float64)
    z = z + 2 * label[:, None] * planted + torch.tensor([3.0, 0, 0, 0, 0])
    assert (difference_of_means(z, label) @ planted).item() > 0.99
    assert (z.mean(0) / z.mean(0).norm() @ planted).item() < 0.9
    with pytest.raises(ValueError, match="with and without"):
        difference_of_means(z, torch.zeros(4000, dtype=torch.float64))


def test_random_directions_are_uniform_on_the_sphere():
    v = random_directions(4000, 5, seed=0)
    assert torch.allclose(v.norm(dim=1), torch.ones(4000, dtype=v.dtype))
    assert v.mean(0).norm().item() < 4 / math.sqrt(4000)
    assert torch.equal(v, random_directions(4000, 5, seed=0))
