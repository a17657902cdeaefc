"""Weights set to zero are the activation set to zero, on every kind of layer that has weights of units, or refused."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.nn.utils import prune as torch_prune

from nbutils.ablation.edits import edits
from nbutils.ablation.surgery import prune
from nbutils.ablation.weights import zero_weights
from nbutils.hooks import edit
from nbutils.sites import Site

X, IMAGES, TOKENS = torch.randn(4, 6), torch.randn(4, 6, 5, 5), torch.randn(4, 3, 6)
KINDS = {
    "linear on tokens": (lambda: nn.Linear(6, 4), Site("0", (1, 3)), TOKENS),
    "its axis from the front": (lambda: nn.Linear(6, 4), Site("0", 1, 2), TOKENS),
    "convolution in groups": (lambda: nn.Conv2d(6, 4, 3, groups=2), Site("0", (0, 3)), IMAGES),
    "what groups read": (lambda: nn.Conv2d(6, 4, 3, groups=2), Site("0", (1, 4), part="input"), IMAGES),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), Site("0", 2), IMAGES),
    "what depthwise reads": (lambda: nn.Conv2d(6, 6, 3, groups=6), Site("0", 2, part="input"), IMAGES),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3), Site("0", 1), IMAGES),
    "transposed in groups": (lambda: nn.ConvTranspose2d(6, 4, 3, groups=2), Site("0", (1, 2)), IMAGES),
    "what transposed reads": (lambda: nn.ConvTranspose2d(6, 4, 3, groups=2), Site("0", 4, part="input"), IMAGES),
    "batch norm": (lambda: nn.BatchNorm2d(6), Site("0", 1), IMAGES),
    "group norm": (lambda: nn.GroupNorm(2, 6), Site("0", 1), IMAGES),
    "instance norm": (lambda: nn.InstanceNorm2d(6, affine=True), Site("0", 1), IMAGES),
    "RMS norm": (lambda: nn.RMSNorm(6), Site("0", 1), TOKENS),
    "all of a layer norm": (lambda: nn.LayerNorm(6), Site("0"), TOKENS),
}


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_zero_weights_are_a_zero_activation(name):
    build, site, x = KINDS[name]
    torch.manual_seed(0)
    model = nn.Sequential(build(), nn.Tanh()).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    silent = zero_weights(model, [site], x)
    with edit(model, edits([site])):
        assert torch.allclose(silent(x), model(x), atol=1e-6)
    assert not torch.allclose(silent(x), model(x), atol=1e-3)


@torch.no_grad()
def test_a_convolution_and_its_batch_norm_are_two_places():
    """A zero of the convolution leaves the batch norm's shift; the unit is silent at the batch norm."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)).eval()
    nn.init.ones_(model[1].bias)
    conv, unit = (zero_weights(model, [Site(name, 1)], IMAGES) for name in ("0", "1"))
    assert conv[:3](IMAGES)[:, 1].min() > 0.5
    assert unit[:3](IMAGES)[:, 1].max() == 0
    after = zero_weights(
        model, [Site("2", 1, 1)], IMAGES
    )  # the ReLU has no weights: the norm before it makes its units
    assert torch.equal(after[1].weight, unit[1].weight)
    assert torch.equal(after[0].weight, model[0].weight)
    with pytest.raises(ValueError, match="has 36 units, and '1', which makes them, 4"):
        zero_weights(model, [Site("3", 1)], IMAGES)


def test_an_attention_computes_with_the_weights_of_its_output_layer():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True).eval()
    silent = zero_weights(model, [Site("self_attn", 2)], TOKENS)
    assert not silent.self_attn.out_proj.weight[2].any()
    with pytest.raises(ValueError, match="name 'self_attn'"):
        zero_weights(model, [Site("self_attn.out_proj", 2)])


@pytest.mark.parametrize(
    "wrap",
    [
        *(parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal),
        *(weight_norm, spectral_norm, lambda layer: torch_prune.l1_unstructured(layer, "weight", amount=0.3)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_computed_weights_are_refused_by_name(wrap):
    for at in (0, 1):
        layers = [nn.Linear(6, 5), nn.Linear(5, 2)]
        layers[at] = wrap(layers[at])
        model = nn.Sequential(layers[0], nn.Tanh(), layers[1]).eval()
        model(X)
        named = "'0'" if at == 0 else "'2'"
        with pytest.raises(ValueError, match=f"{named}.*(parametrized|cannot be copied)"):
            prune(model, [Site("0", 2)], X)
        with pytest.raises(ValueError, match=f"{named}.*parametrized"):
            zero_weights(model, [Site(named.strip("'"), 1)])


@pytest.mark.filterwarnings("ignore:.torch.jit.:FutureWarning")
def test_scripted_models_are_refused():
    model = torch.jit.script(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2)))
    for call in (zero_weights, prune):
        with pytest.raises(ValueError, match="'the model' is scripted"):
            call(model, [Site("0", 2)], X)


class Scaled(nn.Module):
    """A layer whose weights are read by other code, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x):
        return self.first(x) + nn.functional.linear(x, self.second.weight * self.first.weight.sum())


def test_what_runs_otherwise_is_refused():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"answers otherwise than the model under the edit.* used elsewhere"):
        zero_weights(Scaled().eval(), [Site("first", 2)], X)
    assert zero_weights(Scaled().eval(), [Site("first", 2)]).first.bias[2] == 0  # unseen without a batch
    with pytest.raises(ValueError, match="'second' does not run"):
        zero_weights(Scaled().eval(), [Site("second", 2)], X)
    replaced = nn.Sequential(nn.Linear(6, 5))
    replaced[0].forward = lambda x: x
    with pytest.raises(ValueError, match="forward of '0' was replaced"):
        zero_weights(replaced, [Site("0", 2)])
    with pytest.raises(ValueError, match="not on this machine"):
        zero_weights(nn.Sequential(nn.Linear(6, 5, device="meta")), [Site("0", 2)])
    with pytest.raises(ValueError, match="no weights that could be zero"):
        zero_weights(nn.Sequential(nn.BatchNorm2d(6, affine=False)), [Site("0", 2)])
    with pytest.raises(ValueError, match="lie on axis -1"):
        zero_weights(nn.Sequential(nn.Linear(6, 5)), [Site("0", 2, axis=1)])
    with pytest.raises(ValueError, match="answers otherwise"):  # axis 1 is the tokens
        zero_weights(nn.Sequential(nn.Linear(6, 5)), [Site("0", 2, axis=1)], TOKENS)
    with pytest.raises(ValueError, match="units 0 to 5"):
        zero_weights(nn.Sequential(nn.BatchNorm2d(6)), [Site("0", 6)])
    with pytest.raises(ValueError, match="'0', a LSTM"):
        zero_weights(nn.Sequential(nn.LSTM(6, 5, batch_first=True)), [Site("0", 2)])
