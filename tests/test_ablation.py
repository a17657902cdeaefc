import pytest
import torch
from torch import nn

from nbutils.hooks import capture, edit
from nbutils.interventions.ablation import AblationType, Replace, edits, gather, zero_weights
from nbutils.interventions.sites import Site

LAYERS = {"0": 32, "3": 64, "7": 16}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1600, 16), nn.ReLU(), nn.Linear(16, 10)),
    ).eval()


def images(n=10, seed=1):
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_zero_weights_and_bias_equal_a_zero_activation(model, layer):
    sites = [Site(layer, 3), Site(layer, 5)]
    with edit(model, edits(sites)):
        activation = model(images())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert torch.allclose(zero_weights(model, sites)(images()), activation, atol=1e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())  # a copy was edited
    left = zero_weights(model, sites)
    left.get_submodule(layer).bias[[3, 5]] = 1.0  # weights without the bias is another operation
    assert (left(images()) - activation).abs().max() > 1e-4


@torch.no_grad()
def test_a_site_without_a_unit_is_the_whole_layer(model):
    with edit(model, edits([Site("3")])):
        whole = model(images())
    assert torch.allclose(zero_weights(model, [Site("3")])(images()), whole, atol=1e-6)
    assert torch.allclose(whole, whole[:1].expand_as(whole))  # nothing of the image gets through
    assert not torch.allclose(model(images()), model(images())[:1].expand(10, -1), atol=1e-3)


@torch.no_grad()
def test_replace_touches_its_units_only_and_on_any_axis():
    x = torch.randn(4, 6, 3, 5)
    for axis in (1, 2, -1):
        replaced = Replace((0, 2), 7.0, axis)(x).movedim(axis, 0)
        rest = [unit for unit in range(x.shape[axis]) if unit not in (0, 2)]
        assert (replaced[[0, 2]] == 7).all()
        assert torch.equal(replaced[rest], x.movedim(axis, 0)[rest])
    with pytest.raises(ValueError, match="cannot stand in"):
        Replace((0,), torch.zeros(3, 6, 3, 5))(x)  # a value for 3 items, 4 items


@torch.no_grad()
def test_means_are_exact_for_unequal_batches(model):
    x = images(10)
    with capture(model, "0", "7") as seen:
        model(x)
    for size in (10, 4, 3):  # the last batch has 10, 2 and 1
        means = gather(model, ["0", "7"], AblationType.TOKENWISE_MEAN_CLEAN, x.split(size))
        for name in means:
            assert torch.allclose(means[name], seen[name].mean(0, keepdim=True), atol=1e-6)
    mean_of_means = torch.stack([part.mean(0) for part in seen["7"].split(3)]).mean(0)
    assert (mean_of_means - means["7"]).abs().max() > 1e-3


@torch.no_grad()
def test_resampled_activations_are_those_of_the_twin(model):
    x, twin = images(seed=1), images(seed=2)
    values = gather(model, ["3"], AblationType.RESAMPLE, twin.split(4))
    with edit(model, edits([Site("3")], values)):
        assert torch.allclose(model(x), model(twin), atol=1e-5)  # nothing but layer 3 leads to the output
    with edit(model, edits([Site("3", 0), Site("3", 1)], values)), capture(model, "3") as seen:
        some = model(x)
    assert torch.equal(seen["3"][:, :2], values["3"][:, :2])
    assert (some - model(twin)).abs().max() > 1e-3
    assert gather(model, ["3"], AblationType.ZERO, ()) == {}


def test_gathering_runs_in_eval_mode_and_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.9), nn.Linear(5, 2)).train()
    x = torch.randn(8, 6)
    twice = [gather(model, ["2"], AblationType.RESAMPLE, [x])["2"] for _ in range(2)]
    assert torch.equal(*twice)
    assert not torch.equal(model(x), model(x))  # it is back in training mode, where the dropout acts
    assert not any(module._forward_hooks for module in model.modules())


def test_what_cannot_be_replaced_is_named(model):
    with pytest.raises(KeyError, match="nearest"):
        gather(model, ["net.0"], AblationType.ZERO, ())
    with pytest.raises(ValueError, match="RESAMPLE needs inputs"):
        gather(model, ["0"], AblationType.RESAMPLE, [])
    with pytest.raises(ValueError, match="share one axis"):
        edits([Site("0", 1), Site("0", 2, axis=2)])
    for site in (Site("1", 0), Site("0", 0, axis=2)):
        with pytest.raises(ValueError, match="Conv2d or Linear"):
            zero_weights(model, [site])
