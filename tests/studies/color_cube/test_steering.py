import pytest
import torch

from nbutils.ablation.edits import edits
from nbutils.ablation.weights import zero_weights
from nbutils.hooks import capture, edit
from nbutils.sites import Site
from studies.color_cube.mappers import BoundedFalloff, LinearMapper
from studies.color_cube.network import ColorMLP, UnitNorm
from studies.color_cube.steering import Repulsion, Suppression

E0 = (1.0, 0.0, 0.0, 0.0, 0.0)
HARD = BoundedFalloff(power=0)


def latents(n=300, width=5):
    z = torch.randn(n, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return z / z.norm(dim=1, keepdim=True)


def test_zeroing_behind_the_norm_is_another_operation_than_ablation():
    torch.manual_seed(0)
    model = ColorMLP().double().eval()
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with edit(model, edits([Site("bottleneck", 0)])), capture(model, "bottleneck") as short:
        after_norm = model(x)
    ablated = zero_weights(model, [Site("bottleneck", 0, part="input")], x)
    with capture(ablated, "bottleneck") as stretched:
        before_norm = ablated(x)
    # The same direction; one vector is shorter, the other back at unit length.
    assert torch.allclose(UnitNorm()(short["bottleneck"]), stretched["bottleneck"], atol=1e-9)
    assert (short["bottleneck"].norm(dim=1) < 1 - 1e-6).any()
    assert torch.allclose(stretched["bottleneck"].norm(dim=1), torch.ones(200, dtype=x.dtype))
    assert (after_norm - before_norm).abs().max() > 1e-6  # far above rounding, small in an untrained model


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
    with pytest.raises(ValueError, match="plane to turn in"):
        Repulsion((1.0,))(torch.ones(3, 1))
