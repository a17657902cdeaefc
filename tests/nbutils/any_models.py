"""Models that were not written for the package, small, and what is true of places in them: axes, positions, calls.

The axes are stated here by hand: the tests compare what the package makes of a model with them, never the other way.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, weight_norm
from torch.utils.checkpoint import checkpoint
from torchvision import models as vision
from torchvision.models import convnext, efficientnet, mobilenetv3


@dataclass(frozen=True)
class Place:
    """What is true of a place.

    Attributes:
        module, part, item: where, as for `Site`.
        axis: of the units, from the front.
        positions: axes of the positions.
        said: the module is of a class whose axis of units is known.
        given: the positions are not those that `Site` takes by itself.
        weights: `zero_weights` must take it: a layer whose weights are its units'.
        calls: how often a tensor is there for hooks to meet, in a pass.
        refused: no function may take it, but for zeros.
        shared: axis 0 has length 1, whatever the number of items.
        integers: it holds no numbers that have a mean.
    """

    module: str
    axis: int
    positions: tuple[int, ...] = ()
    part: str = "output"
    item: int | str | None = None
    said: bool = False
    given: bool = False
    weights: bool = False
    calls: int = 1
    refused: bool = False
    shared: bool = False
    integers: bool = False


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and places in it.

    Attributes:
        build: makes the model.
        batch: number of items -> a batch of inputs.
        key: which tensor of what the model puts out is its answer.
        part: what of the answer is compared and measured: a tensor `[items, ...]`.
        plain: model -> the same without what hides its modules (compilation), for hooks written by hand.
        close: how far two answers may be apart, of the largest.
        mixed: an item's answer depends on the other items.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[int], Any]
    places: tuple[Place, ...]
    key: int | str | None = None
    part: Callable[[Tensor], Tensor] = field(default=lambda answer: answer)
    plain: Callable[[nn.Module], nn.Module] = field(default=lambda model: model)
    close: float = 1e-5
    mixed: bool = False

    def answer(self, output: Any) -> Tensor:
        """Return what is compared, of what the model puts out."""
        return self.part(output if self.key is None else output[self.key])

    def __str__(self) -> str:
        return self.name


ITEMS = 4  # of a batch; some models have an axis of the same length, which is not the items
IMAGE, TOKENS = (2, 3), (1,)  # positions of [items, channels, height, width], and of [items, tokens, features]
layer = partial(Place, said=True, weights=True)
known = partial(Place, said=True)


def images(items: int, channels: int = 3, size: int = 32) -> Tensor:
    return torch.randn(items, channels, size, size)


def ids(items: int, length: int = 6, words: int = 20) -> Tensor:
    return torch.randint(1, words, (items, length))


def vectors(items: int, width: int = 5) -> Tensor:
    return torch.randn(items, width)


def sequences(items: int, length: int = 6, width: int = 8) -> Tensor:
    return torch.randn(items, length, width)


def masked(items: int) -> dict[str, Tensor]:
    """Tokens and which of them count; the first item has them all."""
    lengths = torch.tensor([6, 4, 5, 3]).repeat(-(-items // 4))[:items]
    return {"input_ids": ids(items), "attention_mask": (torch.arange(6) < lengths[:, None]).long()}


class Fn(nn.Module):
    """Parts, and a `forward` as a function of them and of the inputs."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = forward

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.run(self, *inputs, **keywords)


def spread(model: nn.Module) -> nn.Module:
    """Give weights, biases and statistics sizes at which every unit shows in the answer."""
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.ndim > 1:
                tensor.normal_(std=1.4 * tensor[0].numel() ** -0.5)
            else:
                tensor.uniform_(-1, 1).add_(0.3)
        for name, tensor in model.named_buffers():
            if name.endswith("running_mean"):
                tensor.normal_(std=0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
    return model


def convolutions() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 5, 3), nn.Hardswish(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 4)),
    )


def unet() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        low = self.down(x).relu_()
        middle = F.gelu(self.middle(low))
        return self.out(torch.cat([self.up(middle), x], 1))

    return Fn(
        forward,
        down=nn.Conv2d(2, 6, 3, stride=2, padding=1),
        middle=nn.Conv2d(6, 6, 3, padding=1, groups=6),
        up=nn.ConvTranspose2d(6, 4, 2, stride=2),
        out=nn.Conv2d(6, 2, 1),
    )


def mobilenet() -> nn.Module:
    block = partial(mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=1.0)
    blocks = [block(8, 3, 16, 8, True, "HS", stride=1), block(8, 3, 16, 16, True, "RE", stride=2)]
    return mobilenetv3.MobileNetV3(blocks, 16, num_classes=4)


def efficient() -> nn.Module:
    blocks = [efficientnet.MBConvConfig(2, 3, 2, 8, 8, 1), efficientnet.FusedMBConvConfig(2, 3, 1, 8, 16, 1)]
    return efficientnet.EfficientNet(blocks, dropout=0.2, stochastic_depth_prob=0.5, num_classes=4, last_channel=16)


def convnext_small() -> nn.Module:
    blocks = [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 1)]
    return vision.ConvNeXt(blocks, stochastic_depth_prob=0.5, num_classes=4)


def recurrent(kind: type[nn.RNNBase], **options: Any) -> nn.Module:
    def forward(self: Any, tokens: Tensor) -> Tensor:
        hidden, _ = self.rnn(self.embed(tokens))
        return self.out(hidden[:, -1])

    rnn = kind(8, 6, batch_first=True, **options)
    width = 12 if options.get("bidirectional") else 6
    return Fn(forward, embed=nn.Embedding(20, 8), rnn=rnn, out=nn.Linear(width, 4))


def items_second() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(self.rnn(x.transpose(0, 1))[0].transpose(0, 1).mean(1))

    return Fn(forward, rnn=nn.LSTM(8, 6), out=nn.Linear(6, 4))


def encoder(nested: bool) -> nn.Module:
    def forward(self: Any, x: Tensor, padding: Tensor | None = None) -> Tensor:
        hidden = self.enc(x, src_key_padding_mask=padding)
        return self.out(hidden[:, 0])

    one = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    return Fn(forward, enc=nn.TransformerEncoder(one, 2, enable_nested_tensor=nested), out=nn.Linear(8, 4))


def padded(items: int) -> dict[str, Tensor]:
    return {"x": sequences(items), "padding": masked(items)["attention_mask"] == 0}


def attention() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        mixed, weights = self.mha(x, x, x, average_attn_weights=False)
        return self.out(mixed.mean(1)) + weights[:, 0, 0, :4]

    return Fn(forward, mha=nn.MultiheadAttention(8, 2, batch_first=True), out=nn.Linear(8, 4))


class Heads(nn.Module):
    """Puts out `[items, heads, tokens, width]`, or with `last` `[items, tokens, heads, width]`."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 4))
        self.form = "btc,chd->bthd" if last else "btc,chd->bhtd"

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum(self.form, x, self.weight)


def heads(last: bool) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.heads(x) if last else self.heads(x).transpose(1, 2)
        return self.out(hidden.flatten(2).tanh()).mean(1)

    return Fn(forward, heads=Heads(last), out=nn.Linear(12, 4))


def siamese() -> nn.Module:
    tower = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))
    return Fn(lambda self, x: self.teacher(x), student=tower, teacher=tower)


def towers() -> nn.Module:
    tower = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
    return Fn(
        lambda self, a, b: self.out(self.tower(a) * self.tower(b) + self.once(a)),
        tower=tower,
        once=nn.Linear(5, 6),
        out=nn.Linear(6, 4),
    )


def autoencoder() -> nn.Module:
    def encode(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x.tanh()), self.scale(x).clamp(-2, 2)

    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, scale = self.encode(self.trunk(x))
        code = mean + torch.randn_like(mean) * scale.exp() if self.training else mean + 0.1 * scale
        return self.decode(code), mean, scale

    parts = Fn(encode, mean=nn.Linear(6, 3), scale=nn.Linear(6, 3))
    return Fn(forward, trunk=nn.Linear(5, 6), encode=parts, decode=nn.Linear(3, 5))


def inside(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(wrap(nn.Linear(5, 7)), nn.Tanh(), nn.Linear(7, 4))


def scripted() -> nn.Module:
    part = torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.Tanh()))
    return nn.Sequential(nn.Linear(5, 6), part, nn.Linear(6, 4))


def checkpointed() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(checkpoint(self.block, self.first(x), use_reentrant=False))

    block = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Tanh())
    return Fn(forward, first=nn.Linear(5, 6), block=block, out=nn.Linear(6, 4))


def positions() -> nn.Module:
    def forward(self: Any, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1])[None]
        return self.out(self.norm(self.words(tokens) + self.places(places)).tanh()).mean(1)

    return Fn(
        forward, words=nn.Embedding(20, 8), places=nn.Embedding(9, 8), norm=nn.RMSNorm(8), out=nn.Linear(8, 4)
    )


def windows() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        inner = self.inner(x.reshape(-1, 3, 8)).tanh()  # two windows of three tokens to an item
        return self.out(inner.reshape(x.shape[0], 6, 8)).mean(1)

    return Fn(forward, inner=nn.Linear(8, 8), out=nn.Linear(8, 4))


def transposed() -> nn.Module:
    """A part takes `[tokens, items, features]`."""
    return Fn(
        lambda self, x: self.out(self.inner(x.transpose(0, 1)).tanh().transpose(0, 1)).mean(1),
        inner=nn.Linear(8, 8),
        out=nn.Linear(8, 4),
    )


def keywords_only() -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(3, 6)

        def forward(self, *, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
            return self.a(left) * scale + self.b(right)

    return Fn(
        lambda self, *, left, right, flag: self.out(self.block(left=left, right=right, scale=2.0 if flag else 1.0)),
        block=Block(),
        out=nn.Linear(6, 4),
    )


Answer = namedtuple("Answer", "logits features")


def named_answer(kind: str) -> nn.Module:
    def trunk(self: Any, x: Tensor) -> Any:
        hidden = self.a(x).tanh()
        if kind == "dict":
            return {"hidden": hidden, "square": hidden**2, "count": len(x)}
        return Answer(hidden, hidden**2) if kind == "namedtuple" else [hidden, hidden**2]

    def forward(self: Any, x: Tensor) -> Any:
        found = self.trunk(x)
        hidden, square = (found["hidden"], found["square"]) if kind == "dict" else found
        logits = self.out(hidden + 0.5 * square)
        return {"logits": logits, "features": hidden} if kind == "dict" else Answer(logits, hidden)

    return Fn(forward, trunk=Fn(trunk, a=nn.Linear(5, 6)), out=nn.Linear(6, 4))


def written_over() -> nn.Module:
    """What a module put out is written into by the model."""

    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.drop(self.a(x))
        hidden += 1.0
        hidden.mul_(2)
        hidden[:, 0] = 0.5
        return self.out(hidden.tanh())

    return Fn(forward, a=nn.Linear(5, 6), drop=nn.Dropout(0.5), out=nn.Linear(6, 4))


def choice() -> nn.Module:
    experts = nn.ModuleDict({"tanh": nn.Linear(5, 6), "relu": nn.Sequential(nn.Linear(5, 6), nn.ReLU())})
    return Fn(
        lambda self, x, which: self.out(self.norms[0](self.experts[which](x)) + self.scale),
        experts=experts,
        norms=nn.ModuleList([nn.LayerNorm(6)]),
        scale=nn.ParameterList([torch.ones(6)])[0],
        out=nn.Linear(6, 4),
    )


def counting() -> nn.Module:
    """In training mode all of it is random, and it counts its calls."""

    def forward(self: Any, x: Tensor) -> Tensor:
        self.calls += 1
        return self.out(self.drop(self.norm(self.a(x))).relu())

    model = Fn(forward, a=nn.Linear(5, 6), norm=nn.BatchNorm1d(6), drop=nn.Dropout(0.5), out=nn.Linear(6, 4))
    model.register_buffer("calls", torch.zeros((), dtype=torch.long))
    return model


def hooked() -> nn.Module:
    """Hooks of the user's own stay, and count."""
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))
    model[1].register_forward_hook(lambda _module, _inputs, output: output * 3 + 1)
    model[3].register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 0.5,))
    return model


def replaced() -> nn.Module:
    """A `forward` of the object's own, and a branch that runs beside the chain."""
    model = Fn(
        lambda self, x: self.c((h := self.a(x).relu()) + self.b(h).relu()),
        a=nn.Linear(5, 6),
        b=nn.Linear(6, 6),
        c=nn.Linear(6, 4),
    )
    own = model.a.forward
    model.a.forward = lambda x: own(x).sin()
    return model


def bag() -> nn.Module:
    return Fn(lambda self, tokens: self.out(self.bag(tokens)), bag=nn.EmbeddingBag(20, 8), out=nn.Linear(8, 4))


def traced() -> nn.Module:
    return torch.fx.symbolic_trace(nn.Sequential(nn.Conv1d(8, 6, 3, dilation=2), nn.GroupNorm(2, 6), nn.Flatten()))


def resnet() -> nn.Module:
    return vision.ResNet(vision.resnet.BasicBlock, [1, 1, 1, 1], num_classes=4)


def googlenet() -> nn.Module:
    return vision.GoogLeNet(num_classes=4, aux_logits=True, init_weights=False)


def densenet() -> nn.Module:
    return vision.DenseNet(4, (2, 2), 8, drop_rate=0.2, num_classes=4)


def swin() -> nn.Module:
    return vision.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=4)


def vit() -> nn.Module:
    return vision.VisionTransformer(32, 8, 2, 2, 8, 12, num_classes=4)


def decoder() -> nn.Module:
    one = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True)
    return Fn(
        lambda self, x, memory: self.out(self.dec(x, memory)).mean(1),
        dec=nn.TransformerDecoder(one, 2),
        out=nn.Linear(8, 4),
    )


def volume() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv3d(1, 4, 2), nn.InstanceNorm3d(4, affine=True), nn.PReLU(4), nn.Dropout3d(), nn.AvgPool3d(2)),
        *(nn.Flatten(), nn.LazyLinear(3)),
    )


def built(make: Callable[[], nn.Module], *sample: Tensor) -> Callable[[], nn.Module]:
    """Run once, so that lazy parts know their sizes."""

    def build() -> nn.Module:
        model = make()
        model(*sample)
        return model

    return build


class Fourier(nn.Module):
    """Complex numbers inside."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x, dim=1)


def fourier() -> nn.Module:
    return Fn(
        lambda self, x: self.out(torch.fft.irfft(self.low(self.wave(x)) * 0.5, n=6, dim=1).tanh()).mean(1),
        wave=Fourier(),
        low=nn.Identity(),
        out=nn.Linear(8, 4),
    )


class Token(nn.Module):
    """One token for all items, as a view that repeats itself."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.token.expand(len(x), 1, 8)


def with_token() -> nn.Module:
    return Fn(
        lambda self, x: self.out(self.mix(torch.cat([self.token(x), x], 1)).tanh()[:, 0]),
        token=Token(),
        mix=nn.Conv1d(7, 5, 1),
        out=nn.Linear(8, 4),
    )


def codes() -> nn.Module:
    """Integers inside."""
    return Fn(
        lambda self, x: self.out(self.book(self.nearest(self.a(x).argmax(-1, keepdim=True)))).flatten(1),
        a=nn.Linear(5, 9),
        nearest=nn.Identity(),
        book=nn.Embedding(9, 8),
        out=nn.Linear(8, 4),
    )


def cell() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = x.new_zeros(len(x), 6)
        for step in x.unbind(1):
            hidden = self.cell(step, hidden)
        return self.out(hidden)

    return Fn(forward, cell=nn.GRUCell(8, 6), out=nn.Linear(6, 4))


def mapped() -> nn.Module:
    """A part sees one item at a time, without an axis of items."""
    return Fn(
        lambda self, x: self.out(torch.vmap(self.inner)(x).tanh()), inner=nn.Linear(5, ITEMS), out=nn.Linear(ITEMS, 4)
    )


def contrastive() -> nn.Module:
    """Each item's answer depends on the other items."""
    return Fn(lambda self, a, b: self.a(a).tanh() @ self.b(b).tanh().T, a=nn.Linear(5, 6), b=nn.Linear(5, 6))


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Doubled(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.flatten(1).mean(1, keepdim=True)


def unusual() -> nn.Module:
    """A chain of layers, each of which does more than its kind usually does."""
    return Doubled(
        *(nn.Conv2d(2, 6, 3, padding=1, padding_mode="circular", stride=2), nn.ReLU(), Standardized(6, 4, 3, padding=1)),
        *(nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(4, 4, 3, groups=2, dilation=2, padding="same")),
        *(nn.ReLU(), nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Linear(36, 4)),
    )


def normed_images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.LayerNorm([5, 4, 4]), nn.GELU(), nn.Flatten(), nn.Linear(80, 3))


def gru_answers() -> nn.Module:
    """The last state, `[layers, items, width]`, goes into the answer: axis 0 has length 1, and is not the items."""

    def forward(self: Any, x: Tensor) -> Tensor:
        hidden, state = self.rnn(x)
        return self.out(hidden.mean(1) + state[-1])

    return Fn(forward, rnn=nn.GRU(8, 6, batch_first=True), out=nn.Linear(6, 4))


L0, E0, S0 = "encoder.layers.encoder_layer_0", "enc.layers.0", "features.1.0"

CASES = [
    Case(
        "mlp",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)),
        vectors,
        (layer("0", 1), Place("1", 1), known("2", 1, part="input"), layer("4", 1), Place("", 1)),
    ),
    Case(
        "mlp on tokens",
        lambda: Fn(lambda s, x: s.b(s.a(x).relu()).mean(1), a=nn.Linear(8, 6), b=nn.Linear(6, 4)),
        sequences,
        (layer("a", 2, TOKENS), known("b", 2, TOKENS, part="input"), layer("b", 2, TOKENS)),
    ),
    Case(
        "convolutions, batch norm, in-place activations",
        convolutions,
        partial(images, size=12),
        (layer("0", 1, IMAGE), layer("1", 1, IMAGE), Place("2", 1, IMAGE), known("3", 1, IMAGE), layer("4", 1, IMAGE)),
    ),
    Case(
        "U-net",
        unet,
        partial(images, channels=2, size=8),
        (layer("down", 1, IMAGE), layer("middle", 1, IMAGE), known("up", 1, IMAGE), known("out", 1, IMAGE, "input")),
    ),
    Case(
        "ResNet",
        resnet,
        images,
        (
            *(layer("layer1.0.conv1", 1, IMAGE), layer("layer2.0.downsample.1", 1, IMAGE), Place("layer3.0", 1, IMAGE)),
            *(layer("layer4.0.bn2", 1, IMAGE), known("avgpool", 1, IMAGE), Place("layer1.0.relu", 1, IMAGE, calls=2)),
        ),
    ),
    Case(
        "DenseNet",
        densenet,
        images,
        (
            *(layer("features.denseblock1.denselayer1.conv2", 1, IMAGE), Place("features.denseblock1", 1, IMAGE)),
            *(layer("features.denseblock2.denselayer2.norm1", 1, IMAGE), Place("features.transition1", 1, IMAGE)),
        ),
    ),
    Case(
        "MobileNetV3",
        mobilenet,
        images,
        (
            *(layer("features.1.block.1.0", 1, IMAGE), Place("features.1.block.1", 1, IMAGE)),
            *(layer("features.2.block.2.fc1", 1, IMAGE), Place("features.2.block.2", 1, IMAGE)),
            *(Place("features.2.block.2.scale_activation", 1, IMAGE), layer("features.3.1", 1, IMAGE)),
        ),
    ),
    Case(
        "EfficientNet",
        efficient,
        images,
        (
            *(layer("features.1.0.block.0.1", 1, IMAGE), Place("features.1.0.block.1", 1, IMAGE)),
            *(Place("features.2", 1, IMAGE), layer("classifier.1", 1)),
        ),
    ),
    Case(
        "ConvNeXt",
        convnext_small,
        images,
        (
            *(layer("features.1.0.block.0", 1, IMAGE), layer("features.1.0.block.2", 3, (1, 2))),
            *(layer("features.1.0.block.3", 3, (1, 2)), Place("features.1.0", 1, IMAGE), Place("features.0.1", 1, IMAGE)),
        ),
    ),
    Case(
        "GoogLeNet",
        googlenet,
        images,
        (
            *(layer("inception3a.branch2.1.conv", 1, IMAGE), Place("inception3a", 1, IMAGE)),
            *(layer("fc", 1), Place("aux1.fc1", 1, calls=0)),
        ),
    ),
    Case(
        "Swin",
        swin,
        images,
        (
            *(Place(f"{S0}.attn", 3, (1, 2)), layer(f"{S0}.mlp.0", 3, (1, 2)), layer("features.0.2", 3, (1, 2))),
            *(Place(f"{S0}", 3, (1, 2)), Place(f"{S0}.attn.qkv", 3, (1, 2), calls=0), layer("head", 1)),
        ),
    ),
    Case(
        "vision transformer",
        vit,
        images,
        (
            *(layer(f"{L0}.mlp.0", 2, TOKENS), layer(f"{L0}.ln_1", 2, TOKENS), known(f"{L0}.self_attention", 2, TOKENS)),
            *(layer("conv_proj", 1, IMAGE), Place(L0, 2, TOKENS), known("heads.head", 1, part="input")),
            Place(f"{L0}.self_attention.out_proj", 2, TOKENS, calls=0),
        ),
    ),
    Case(
        "LSTM",
        partial(recurrent, nn.LSTM),
        ids,
        (layer("embed", 2, TOKENS), known("rnn", 2, TOKENS), Place("rnn", 2, item=1, calls=0), layer("out", 1)),
    ),
    Case(
        "GRU, both directions, two layers",
        partial(recurrent, nn.GRU, num_layers=2, bidirectional=True, dropout=0.3),
        ids,
        (known("rnn", 2, TOKENS), known("rnn", 2, TOKENS, "input"), Place("rnn", 2, item=1, refused=True)),
    ),
    Case("LSTM, items second", items_second, sequences, (Place("rnn", 2, refused=True), layer("out", 1))),
    Case(
        "transformer encoder, fused",
        partial(encoder, False),
        sequences,
        (
            *(layer(f"{E0}.norm1", 2, TOKENS), layer(f"{E0}.linear1", 2, TOKENS), known(E0, 2, TOKENS)),
            *(known(f"{E0}.self_attn", 2, TOKENS), Place(f"{E0}.self_attn.out_proj", 2, TOKENS, calls=0)),
            Place("enc", 2, TOKENS),
        ),
    ),
    Case(
        "transformer encoder, padded and nested",
        partial(encoder, True),
        padded,
        (layer(f"{E0}.linear2", 2, TOKENS), known("enc.layers.1", 2, TOKENS), Place("enc", 2, TOKENS)),
    ),
    Case(
        "transformer decoder",
        decoder,
        lambda n: (sequences(n), sequences(n, 4)),
        (
            *(known("dec.layers.0.multihead_attn", 2, TOKENS), known("dec.layers.1", 2, TOKENS)),
            layer("dec.layers.0.linear1", 2, TOKENS),
        ),
    ),
    Case(
        "attention with its weights",
        attention,
        sequences,
        (known("mha", 2, TOKENS), Place("mha", 1, (2, 3), item=1), Place("mha", 2, TOKENS, "input", 1)),
    ),
    Case("heads on axis 1", partial(heads, False), sequences, (Place("heads", 1, (2,), given=True),)),
    Case("heads on axis 2", partial(heads, True), sequences, (Place("heads", 2, (1,)), Place("heads", 3, (1, 2)))),
    Case("one module, two names", siamese, vectors, (layer("student.0", 1), layer("teacher.2", 1), Place("teacher", 1))),
    Case(
        "one module, run twice",
        towers,
        lambda n: (vectors(n), vectors(n)),
        (Place("tower.0", 1, calls=2), layer("once", 1), Place("tower", 1, calls=2)),
    ),
    Case(
        "autoencoder, tuples",
        autoencoder,
        vectors,
        (
            *(Place("encode", 1), Place("encode", 1, item=1), layer("encode.scale", 1), layer("trunk", 1)),
            Place("", 1, item=0),
        ),
        key=0,
    ),
    Case(
        "weight_norm",
        partial(inside, parametrizations.weight_norm),
        vectors,
        (known("0", 1), Place("1", 1), known("2", 1, part="input"), layer("2", 1)),
    ),
    Case("weight_norm, the old one", partial(inside, weight_norm), vectors, (known("0", 1), Place("1", 1))),
    Case("spectral_norm", partial(inside, parametrizations.spectral_norm), vectors, (known("0", 1), Place("1", 1))),
    Case(
        "compiled",
        lambda: torch.compile(spread(inside(lambda part: part)), backend="eager"),
        vectors,
        (Place("_orig_mod.0", 1), Place("_orig_mod.1", 1), Place("_orig_mod.2", 1)),
        plain=lambda model: Fn(lambda s, x: s._orig_mod(x), _orig_mod=model._orig_mod),
    ),
    Case("scripted in part", scripted, vectors, (layer("0", 1), Place("1", 1, calls=0), Place("1.0", 1, calls=0))),
    Case(
        "checkpointed", checkpointed, vectors, (layer("first", 1), layer("block.0", 1), Place("block", 1), layer("out", 1))
    ),
    Case(
        "positions shared by all items",
        positions,
        ids,
        (layer("places", 2, TOKENS, shared=True), layer("words", 2, TOKENS), layer("norm", 2, TOKENS, weights=False)),
    ),
    Case("windows on axis 0", windows, sequences, (Place("inner", 2, (1,), refused=True), layer("out", 2, TOKENS))),
    Case(
        "items on axis 1 in a part", transposed, partial(sequences, length=ITEMS), (Place("inner", 2, refused=True), layer("out", 2, TOKENS))
    ),
    Case(
        "keywords only",
        keywords_only,
        lambda n: {"left": vectors(n), "right": vectors(n, 3), "flag": True},
        (layer("block.a", 1), Place("block", 1, part="input", item="right"), Place("block", 1)),
    ),
    Case(
        "dict",
        partial(named_answer, "dict"),
        vectors,
        (Place("trunk", 1, item="hidden"), Place("trunk", 1, item="square"), Place("", 1, item="logits")),
        key="logits",
    ),
    Case(
        "named tuple",
        partial(named_answer, "namedtuple"),
        vectors,
        (Place("trunk", 1), Place("trunk", 1, item=1), Place("", 1, item=0)),
        key=0,
    ),
    Case("list", partial(named_answer, "list"), vectors, (Place("trunk", 1, item=1), layer("trunk.a", 1)), key=0),
    Case(
        "one logit",
        lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1)),
        vectors,
        (layer("0", 1), Place("1", 1), layer("2", 1)),
    ),
    Case(
        "no axis of classes",
        lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1), nn.Flatten(0)),
        vectors,
        (layer("0", 1), Place("1", 1)),
    ),
    Case("traced Conv1d, GroupNorm", traced, lambda n: sequences(n, 8, 9), (layer("0", 1, (2,)), known("1", 1, (2,)))),
    Case(
        "Conv3d, lazy",
        built(volume, torch.randn(2, 1, 5, 5, 5)),
        lambda n: torch.randn(n, 1, 5, 5, 5),
        (layer("0", 1, (2, 3, 4)), known("1", 1, (2, 3, 4)), known("2", 1, (2, 3, 4)), known("4", 1, (2, 3, 4))),
    ),
    Case(
        "Fourier",
        fourier,
        sequences,
        (Place("wave", 2, TOKENS), Place("low", 2, TOKENS), known("out", 2, TOKENS, "input")),
    ),
    Case("a token for all", with_token, sequences, (Place("token", 2, TOKENS), layer("mix", 1, (2,)))),
    Case("integers", codes, vectors, (Place("nearest", 1, integers=True), Place("book", 1, part="input", integers=True))),
    Case("a cell in a loop", cell, sequences, (Place("cell", 1, calls=6), layer("out", 1))),
    Case("a part under vmap", mapped, vectors, (Place("inner", 1, calls=0), layer("out", 1))),
    Case("items compared", contrastive, lambda n: (vectors(n), vectors(n)), (layer("a", 1), layer("b", 1)), mixed=True),
    Case(
        "unusual chain",
        unusual,
        partial(images, channels=2, size=12),
        (
            *(layer("0", 1, IMAGE), Place("2", 1, IMAGE), layer("5", 1, IMAGE), known("4", 1, IMAGE)),
            *(known("5", 1, IMAGE, "input"), known("7", 1, IMAGE), Place("3", 1, IMAGE)),
        ),
    ),
    Case("layer norm of images", normed_images, partial(images, size=6), (Place("1", 1, IMAGE), Place("2", 1, IMAGE))),
    Case("GRU, its last state", gru_answers, sequences, (known("rnn", 2, TOKENS), Place("rnn", 2, item=1, refused=True))),
    Case(
        "in parallel",
        lambda: nn.DataParallel(convolutions()),
        partial(images, size=12),
        (layer("module.0", 1, IMAGE), Place("module.2", 1, IMAGE)),
    ),
    Case("embedding bag", bag, ids, (Place("bag", 1), layer("out", 1))),
    Case("written over in place", written_over, vectors, (layer("a", 1), Place("drop", 1), layer("out", 1))),
    Case(
        "containers",
        choice,
        lambda n: (vectors(n), "relu"),
        (
            *(layer("experts.relu.0", 1), Place("experts.relu", 1), layer("norms.0", 1)),
            Place("experts.tanh", 1, calls=0),
        ),
    ),
    Case("random and counting in training", counting, vectors, (layer("a", 1), layer("norm", 1), Place("drop", 1))),
    Case("hooks of the user's own", hooked, vectors, (known("1", 1), Place("2", 1), known("3", 1, part="input"))),
    Case("a forward of the object's own", replaced, vectors, (Place("a", 1), layer("b", 1))),
    Case(
        "bfloat16",
        lambda: inside(lambda part: part).bfloat16(),
        lambda n: vectors(n).bfloat16(),
        (layer("2", 1), Place("1", 1), Place("0", 1)),
        close=3e-2,
    ),
]
