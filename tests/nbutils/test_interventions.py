"""Units taken out of a model: the rest answers as if they were zero, or the call says why they cannot go."""

import pytest
import torch
from torch import nn

from nbutils.ablation.edits import edits
from nbutils.ablation.flow import tensors
from nbutils.ablation.surgery import prune
from nbutils.ablation.weights import zero_weights
from nbutils.hooks import capture, edit
from nbutils.sites import Site
from studies.color_cube.network import ColorMLP

LATENT = Site("bottleneck", 0, part="input")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ColorMLP().double().eval()


def colors(n=200):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def images(channels=3):
    return torch.randn(3, channels, 8, 8, generator=torch.Generator().manual_seed(2))


def network(*layers):
    """Return layers in a row, with batch norms that do something."""
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


class Branches(nn.Module):
    """Registered in another order than they run; two readers; a layer that never runs between them."""

    def __init__(self):
        super().__init__()
        self.out, self.side, self.never, self.hidden = (
            nn.Linear(*widths) for widths in ((6, 2), (6, 3), (6, 6), (4, 6))
        )

    def forward(self, x):
        h = self.hidden(x).relu()
        return self.out(h), self.side(h)


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 2)

    def forward(self, x):
        return self.linear(self.conv(x).relu().permute(0, 2, 3, 1).flatten(1))


class Joined(nn.Module):
    """A sum, a product or a row of two layers' units."""

    def __init__(self, join):
        super().__init__()
        width = 8 if join is torch.cat else 4
        self.one, self.two, self.out, self.join = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(width, 2), join

    def forward(self, x):
        parts = self.one(x), self.two(x)
        return self.out(self.join(parts, 1) if self.join is torch.cat else self.join(*parts))


def depthwise():
    first = (nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU6())
    return network(*first, nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 2, 1))


CONV = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3))
PLACES = {
    "conv, batch norm": (lambda: network(*CONV), Site("1", (1, 3)), images()),
    "batch norm without weights": (
        lambda: network(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Conv2d(6, 2, 3)),
        *(Site("1", 2), images()),
    ),
    "after the ReLU": (lambda: network(*CONV), Site("2", 1, 1), images()),
    "pool, flatten": (
        lambda: network(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)),
        *(Site("0", 2), images()),
    ),
    "channels last": (ChannelsLast, Site("conv", 2), images()),
    "depthwise": (depthwise, Site("4", (0, 5)), images()),
    "transposed": (
        lambda: network(nn.ConvTranspose2d(3, 6, 3), nn.PReLU(6), nn.ConvTranspose2d(6, 2, 3)),
        *(Site("0", 2), images()),
    ),
    "tokens": (lambda: network(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)), Site("0", (2, 4)), torch.randn(3, 5, 4)),
    "embedding": (lambda: network(nn.Embedding(9, 6), nn.Linear(6, 2)), Site("0", 1), torch.arange(9).view(3, 3)),
    "order and two readers": (Branches, Site("hidden", (0, 5)), {"x": torch.randn(3, 4)}),
    "beside others": (lambda: Joined(torch.cat), Site("two", 1), torch.randn(3, 3)),
    "a gate": (lambda: Joined(torch.mul), Site("out", 1, part="input"), torch.randn(3, 3)),
    "a norm of vectors": (ColorMLP, LATENT, torch.rand(3, 3)),
}


@pytest.mark.parametrize("name", PLACES)
@torch.no_grad()
def test_without_units_a_model_answers_as_with_zeros(name):
    build, site, batch = PLACES[name]
    torch.manual_seed(0)
    model = build().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = prune(model, [site], batch)
    told = sum(tensor.numel() for tensor in pruned.parameters())
    assert told < sum(tensor.numel() for tensor in model.parameters()) or name == "batch norm without weights"
    fresh = {k: v * 0.7 for k, v in batch.items()} if isinstance(batch, dict) else batch
    if not isinstance(fresh, dict) and fresh.is_floating_point():
        fresh = fresh.flip(-1) * 0.7  # inputs that it was not checked on
    run = (lambda m: m(**fresh)) if isinstance(fresh, dict) else (lambda m: m(fresh))
    with edit(model, edits([site])):
        expected = run(model)
    for right, found, whole in zip(*map(tensors, (expected, run(pruned), run(model))), strict=True):
        assert torch.allclose(right, found, atol=1e-5)
        assert (right - whole).abs().max() > 1e-4  # the units did something
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


REFUSED = {
    "a batch norm's shift": (lambda: network(*CONV), Site("0", 1), "not 0 where the units are.* its place is '1'"),
    "a sum": (lambda: Joined(torch.add), Site("one", 1), "joined there .* those of 'two'"),
    "a layer norm": (
        lambda: network(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2)),
        *(Site("0", 1), "not 0 where the units are, but up to .* '1', a LayerNorm"),
    ),
    "a norm over units": (
        lambda: network(nn.Linear(3, 6), nn.RMSNorm(6), nn.Linear(6, 2)),
        *(Site("0", 1), "answers otherwise .* by up to .* passing '1'"),
    ),
    "a softmax": (lambda: network(nn.Linear(3, 6), nn.Softmax(-1), nn.Linear(6, 2)), Site("0", 1), "'1', a Softmax"),
    "groups": (
        lambda: network(nn.Conv2d(3, 6, 1), nn.GroupNorm(3, 6), nn.Conv2d(6, 2, 1)),
        *(Site("0", 1), "no rule takes units out of '1', a GroupNorm"),
    ),
    "a recurrent reader": (
        lambda: network(nn.Linear(3, 6), nn.LSTM(6, 2, batch_first=True)),
        *(Site("0", 1), "no rule takes units out of '1', a LSTM"),
    ),
    "the answer": (lambda: network(nn.Linear(3, 6)), Site("0", 1), "no layer reads"),
    "all of them": (lambda: network(nn.Linear(3, 6), nn.Linear(6, 2)), Site("0"), "no unit would be left"),
    "each of them": (lambda: network(nn.Linear(3, 2), nn.Linear(2, 2)), Site("0", (0, 1)), "no unit would be left"),
    "no such unit": (lambda: network(nn.Linear(3, 2), nn.Linear(2, 2)), Site("0", 2), "units 0 to 1"),
    "after the norm": (ColorMLP, Site("bottleneck", 0), "answers otherwise"),
    "never run": (Branches, Site("never", 1), "it ran 0 times"),
    "columns": (
        lambda: network(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 2)),
        *(Site("1", 7), "has 256 units, and '0', which makes them, 4"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_units_that_cannot_be_taken_out_are_refused_by_name(name):
    build, site, message = REFUSED[name]
    torch.manual_seed(0)
    model = build().eval()
    convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
    width = 4 if isinstance(model, Branches) else 3
    batch = images() if convolutional else torch.randn(*((4, 5) if "recurrent" in name else (4,)), width)
    with pytest.raises(ValueError, match=message):
        prune(model, [site], batch)


def test_layers_that_run_twice_or_are_shared_are_refused():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="'1', which makes or reads the units, must run once; it ran 2 times"):
        prune(nn.Sequential(nn.Linear(4, 4), layer, nn.Tanh(), layer), [Site("0", 1)], torch.randn(3, 4))
    tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    for call in (lambda: prune(tied, [Site("0", 1)], torch.randn(3, 4)), lambda: zero_weights(tied, [Site("0", 1)])):
        with pytest.raises(ValueError, match="the weight of '0' is another module's"):
            call()


def test_residual_networks_lose_inner_units_and_keep_those_of_the_stream():
    block = pytest.importorskip("torchvision").models.resnet.BasicBlock
    down = nn.Sequential(nn.Conv2d(6, 4, 1, stride=2), nn.BatchNorm2d(4))
    model = network(nn.Conv2d(3, 6, 3), block(6, 6), block(6, 4, 2, down), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(4, 2))
    sites = [Site("1.bn1", (1, 5)), Site("2.bn1", 3)]
    pruned = prune(model, sites, images())
    assert (pruned[1].conv1.out_channels, pruned[1].conv2.in_channels, pruned[2].bn1.num_features) == (4, 4, 3)
    with torch.no_grad(), edit(model, edits(sites)):
        assert torch.allclose(model(2 * images()), pruned(2 * images()), atol=1e-5)
    for stream, other in (("1.bn2", "'0'"), ("2.bn2", "'2.downsample.0'"), ("2.downsample.1", "'2.conv2'")):
        with pytest.raises(ValueError, match=f"joined (there|with).*{other}"):
            prune(model, [Site(stream, 3)], images())


def test_silent_is_pruned_where_a_norm_treats_a_zero_like_an_absence(model):
    """Algebra, not a result: a zero before the norm and an absent dimension give the same output."""
    x = colors()
    one, other = zero_weights(model, [LATENT], x)(x), prune(model, [LATENT], x)(x)
    assert torch.allclose(one, other, atol=1e-12)
    assert torch.equal(one, zero_weights(model, [Site("encoder.4", 0)])(x))  # the layer that makes it
    assert not torch.allclose(one, model(x), atol=1e-3)  # and both differ from the whole model
    assert not torch.allclose(one, zero_weights(model, [Site("encoder.4", 1)])(x), atol=1e-3)


def test_surgery_works_on_a_copy_and_repeats(model):
    before, state = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    pruned = prune(zero_weights(model, [Site("encoder.4", 0)]), [Site("encoder.4", (1, 3))], colors())
    with capture(pruned, "bottleneck") as seen:
        pruned(colors())
    assert seen["bottleneck"].shape == (200, 3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in (*model.modules(), *pruned.modules())
    )
    with pytest.raises(KeyError, match="bottleneck"):
        prune(model, [Site("botleneck", 0)], colors())


@pytest.mark.parametrize(("kind", "of"), [("GPT2", "mlp.c_fc"), ("Llama", "mlp.down_proj")])
def test_neurons_of_transformers_go(kind, of):
    transformers = pytest.importorskip("transformers")
    sizes = {"GPT2": {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 16}}.get(
        kind, {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    )
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(vocab_size=20, bos_token_id=0, eos_token_id=0, **sizes)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    layers = "h" if kind == "GPT2" else "layers"
    part = "output" if kind == "GPT2" else "input"  # there a gate multiplies the neurons before they are read
    batch = {"input_ids": torch.randint(0, 20, (3, 6)), "use_cache": False}
    pruned = prune(model, [Site(f"{layers}.0.{of}", (1, 2), part=part)], batch)
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in pruned.parameters()) > 30
