import pytest
import torch

from nbutils.hooks import capture
from studies.color_cube.network import ColorMLP, UnitNorm


def test_unit_norm_keeps_directions_and_zero():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert torch.allclose(UnitNorm()(x), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_the_bottleneck_is_a_sphere_and_outputs_are_clamped_outside_training_only():
    torch.manual_seed(0)
    model = ColorMLP(bottleneck=4, hidden=7, nonlinear=3)
    with torch.no_grad():
        model.decoder[-1].weight *= 20  # so that outputs leave the gamut
        x = torch.rand(50, 3)
        with capture(model, "encoder", "bottleneck") as seen:
            free = model.train()(x)
        clamped = model.eval()(x)
    assert torch.allclose(seen["bottleneck"].norm(dim=1), torch.ones(50))
    assert not torch.allclose(seen["encoder"].norm(dim=1), torch.ones(50), atol=0.1)
    assert free.min() < 0
    assert free.max() > 1
    assert torch.equal(clamped, free.clamp(0, 1))


@pytest.mark.parametrize("name", ["bottleneck", "hidden", "nonlinear"])
def test_a_network_without_a_layer_or_a_unit_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be 1 or more; got 0"):
        ColorMLP(**{name: 0})
