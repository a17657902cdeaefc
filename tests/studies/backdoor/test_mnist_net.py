"""The network of the poisoned digits."""

from __future__ import annotations

import collections

import pytest
import torch
from safetensors.torch import save_file

from nbutils.hooks import submodule
from studies.backdoor.network import LAYERS, MnistNet, load_mnist_net


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(1)
    return MnistNet().eval()


def test_parameters_have_the_sources_names_and_shapes(trained):
    assert {name: tuple(tensor.shape) for name, tensor in trained.state_dict().items()} == {
        "net.0.weight": (32, 1, 3, 3),
        "net.0.bias": (32,),
        "net.3.weight": (64, 32, 3, 3),
        "net.3.bias": (64,),
        "net.7.weight": (16, 1600),
        "net.7.bias": (16,),
        "net.9.weight": (10, 16),
        "net.9.bias": (10,),
    }
    assert {name: len(submodule(trained, path).bias) for name, path in LAYERS.items()} == {
        "conv1": 32,
        "conv2": 64,
        "fc1": 16,
        "fc2": 10,
    }


def test_training_mode_changes_the_layout_and_not_the_numbers(trained):
    images = torch.randn(5, 1, 28, 28, requires_grad=True)
    results = []
    for mode in (True, False):
        logits = trained.train(mode)(images)
        results.append((logits, *torch.autograd.grad(logits.square().sum(), [images, *trained.parameters()])))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    seen = []
    handle = trained.train().net[2].register_forward_hook(lambda _m, _i, output: seen.append(output))
    trained(images)
    handle.remove()
    trained.eval()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)  # what the speed comes from


def test_the_network_is_the_source_s_which_rectifies_before_it_pools(trained):
    conv1, pool, relu, conv2, *_, flat, fc1, relu2, fc2 = trained.train().net
    theirs = torch.nn.Sequential(conv1, relu, pool, conv2, relu, pool, flat, fc1, relu2, fc2)
    images = torch.randn(50, 1, 28, 28)
    results = []
    for network in (trained.net, theirs):
        logits = network(images)
        results.append((logits, *torch.autograd.grad(logits.square().sum(), list(trained.parameters()))))
    trained.eval()
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("wrapped", ["", "module.", "net.", "model.net."])  # `net.` is also how its own names begin
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_dict_is_read_back(trained, tmp_path, suffix, wrapped):
    path = tmp_path / f"clean{suffix}"
    state = {wrapped + name: tensor.double() for name, tensor in trained.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(collections.OrderedDict(state), path)
    model = load_mnist_net(path)
    assert not model.training
    images = torch.randn(3, 1, 28, 28)
    assert torch.equal(model(images), trained(images))
