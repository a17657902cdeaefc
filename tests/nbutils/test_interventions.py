import pytest
import torch
from torch import nn

from nbutils.ablation.surgery import ablate, prune
from nbutils.hooks import capture
from studies.color_cube.network import ColorMLP


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ColorMLP().double().eval()


def colors(n=200):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


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
