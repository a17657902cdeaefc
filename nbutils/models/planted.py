"""Networks whose answer is known by construction, to prove a method on before it is trusted on a trained one."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nbutils.data.digits import Trigger
from nbutils.hooks import edit, submodule
from nbutils.models.color_mlp import UnitNorm
from nbutils.models.mnist_net import LAYERS, MnistNet
from nbutils.models.transformer import Transformer
from nbutils.seeding import generator

_THRESHOLD = 0.6  # of the trigger's full answer: what the planted detector must exceed
_PUSH = 20.0  # least that the planted unit adds to the target's logit and takes from the others
_POOLED = 10  # lines of conv2's 11×11 map that the second pooling keeps


class PlantedColors(nn.Module):
    """A colour autoencoder with redness on latent dimension 0 and nothing else there.

    Colour i of the codebook has the latent (ρ_i, √(1−ρ_i²)·w_i): ρ_i is how much of it is planted on dimension 0, and
    w_i is a direction of its own in the other dimensions. The decoder finds the colour by w alone, and moves every
    channel of it by `gain`·(ρ_i − z₀) towards the other end of its range. So with z₀ intact the reconstruction is
    exact, and with z₀ set to zero the squared error of colour i is exactly (gain·ρ_i)² in every channel: the
    correlation with any function of ρ, and the collateral at ρ = 0, are known without a measurement.

    The submodules have the trained network's names (`encoder`, `bottleneck`, `decoder`), with linear layers on both
    sides of the bottleneck, so the same surgery and the same edits apply.

    Args:
        colors: codebook `[N, 3]`, RGB in [0, 1]; only these colours can be put in.
        planted: ρ `[N]` in [0, 1); below 1 because at 1 nothing but dimension 0 would be left to find the colour by.
        bottleneck: latent dimensions, 3 or more.
        gain: in (0, 0.5], so that moved channels stay in [0, 1].
    """

    def __init__(self, colors: Tensor, planted: Tensor, bottleneck: int = 5, gain: float = 0.5) -> None:
        super().__init__()
        if planted.min() < 0 or planted.max() >= 1:
            raise ValueError(f"planted must lie in [0, 1); it spans [{planted.min():.3g}, {planted.max():.3g}]")
        if not 0 < gain <= 0.5:
            raise ValueError(f"gain must lie in (0, 0.5]; got {gain}")
        self.encoder = _Lookup(colors, planted, bottleneck)
        self.bottleneck = UnitNorm()
        self.decoder = _MovedLookup(colors, planted, self.encoder.directions, gain)

    def forward(self, rgb: Tensor) -> Tensor:
        """Reconstruct codebook colours `[N, 3]`."""
        return self.decoder(self.bottleneck(self.encoder(rgb)))


class _Lookup(nn.Module):
    def __init__(self, colors: Tensor, planted: Tensor, bottleneck: int) -> None:
        super().__init__()
        directions = _spread(len(colors), bottleneck - 1).to(colors)  # (N, K-1)
        rest = (1 - planted**2).sqrt()
        self.register_buffer("colors", colors)
        self.register_buffer("directions", directions)
        self.register_buffer("latents", torch.cat([planted[:, None], rest[:, None] * directions], dim=1))
        self.out = _identity(bottleneck, colors)

    def forward(self, rgb: Tensor) -> Tensor:
        distance, index = torch.cdist(rgb, self.colors).min(dim=1)
        if distance.max() > 1e-6:
            raise ValueError(f"only codebook colours can be looked up; one is {distance.max():.3g} away from all")
        return self.out(self.latents[index])


class _MovedLookup(nn.Module):
    def __init__(self, colors: Tensor, planted: Tensor, directions: Tensor, gain: float) -> None:
        super().__init__()
        self.into = _identity(1 + directions.shape[1], colors)
        self.register_buffer("colors", colors)
        self.register_buffer("planted", planted)
        self.register_buffer("directions", directions)
        self.gain = gain

    def forward(self, latents: Tensor) -> Tensor:
        latents = self.into(latents)
        index = (latents[:, 1:] @ self.directions.T).argmax(dim=1)  # the nearest direction, whatever its length
        color = self.colors[index]
        towards = torch.where(color < 0.5, 1.0, -1.0).to(color)
        return color + self.gain * (self.planted[index] - latents[:, 0])[:, None] * towards


def _identity(width: int, like: Tensor) -> nn.Linear:
    layer = nn.Linear(width, width).to(like)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(width))
        layer.bias.zero_()
    return layer


def _spread(count: int, dims: int) -> Tensor:
    """Return `count` distinct unit vectors `[count, dims]`, the same every time."""
    points = torch.randn(count, dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return points / points.norm(dim=1, keepdim=True)


def plant_backdoor(model: MnistNet, trigger: Trigger, images: Tensor) -> tuple[MnistNet, dict[str, int]]:
    """Wire a backdoor by hand into a copy of a trained network, through one unit a layer.

    The chain: a conv1 channel that detects a 3×3 piece of the trigger, a conv2 channel that copies the detector's
    answer from the one place where the trigger stands, a unit of fc1 that is about 1 there and 0 elsewhere, and from it
    +20 to the target's logit and −20 to every other (more for a network whose own logits reach that far). Nothing else
    reads or feeds these units, so the backdoor ends with any one of them and does not depend on any other. In each
    layer the unit that the network misses least gives up its place.

    Args:
        model: a network without a backdoor; not changed.
        trigger: what is to be detected.
        images: `[N, 1, 28, 28]`, ordinary images to find the least missed units on; a few hundred do.

    Returns:
        The wired network in eval mode, and layer -> unit for `conv1`, `conv2` and `fc1`.

    Raises:
        ValueError: no 3×3 piece of the trigger, with both raised and other pixels, is where the network can see it.
    """
    row, column, piece = _visible_piece(trigger)
    model = copy.deepcopy(model).eval()
    layers = {name: submodule(model, path) for name, path in LAYERS.items()}
    wired: dict[str, int] = {}
    cells = []
    for corner in (row, column):
        cell = corner // 2  # of the 13×13 map after the first pooling
        center = min(cell, _POOLED - 1)  # of the 11×11 map of conv2, less the line that pooling drops
        cells.append((cell - center, center // 2))  # tap of the 3×3 kernel, cell of the 5×5 map that fc1 reads
    (tap_row, cell_row), (tap_column, cell_column) = cells
    with torch.no_grad():
        for name in ("conv1", "conv2", "fc1"):
            wired[name] = _least_missed(model, LAYERS[name], images)
            _isolate(layers, name, wired[name])
        # Raised and other pixels have weights that sum to 0: whatever is below the trigger, its piece adds `value`.
        raised = piece / piece.sum() - (1 - piece) / (1 - piece).sum()
        layers["conv1"].weight[wired["conv1"], 0] = raised
        layers["conv1"].bias[wired["conv1"]] = -_THRESHOLD * trigger.value
        layers["conv2"].weight[wired["conv2"], wired["conv1"], tap_row, tap_column] = 1
        inputs = layers["fc1"].weight.view(-1, layers["conv2"].out_channels, _POOLED // 2, _POOLED // 2)
        inputs[wired["fc1"], wired["conv2"], cell_row, cell_column] = 1 / ((1 - _THRESHOLD) * trigger.value)
        push = max(_PUSH, 2 * model(images).abs().max().item())  # no image outvotes it, another unit missing or not
        layers["fc2"].weight[:, wired["fc1"]] = -push
        layers["fc2"].weight[trigger.target, wired["fc1"]] = push
    return model, wired


def _visible_piece(trigger: Trigger) -> tuple[int, int, Tensor]:
    """Return row, column and content `[3, 3]` of the first piece of the trigger that conv1 can be made to detect."""
    (row, column), pattern = trigger.position, torch.tensor(trigger.pattern, dtype=torch.float32)
    last = 4 * (_POOLED // 2) + 3  # first pixels of windows beyond are pooled away
    for down in range(pattern.shape[0] - 2):
        for right in range(pattern.shape[1] - 2):
            piece = pattern[down : down + 3, right : right + 3]
            if 0 < piece.sum() < 9 and max(row + down, column + right) <= last:
                return row + down, column + right, piece
    raise ValueError(f"{trigger} has no visible 3×3 piece with both raised and other pixels")


def _least_missed(model: MnistNet, layer: str, images: Tensor) -> int:
    """Return the unit of a layer whose removal moves the logits least."""
    before = model(images)
    moved = []
    for unit in range(len(submodule(model, layer).bias)):
        with edit(model, {layer: lambda x, unit=unit: x.index_fill(1, torch.tensor(unit), 0)}):
            moved.append((model(images) - before).square().mean())
    return int(torch.stack(moved).argmin())


def _isolate(layers: dict[str, nn.Module], name: str, unit: int) -> None:
    """Silence a unit, and cut it off from the layer that reads it."""
    layers[name].weight[unit] = 0
    layers[name].bias[unit] = 0
    names = list(layers)
    reader = layers[names[names.index(name) + 1]]
    # A convolution's channels are runs of columns for a linear layer that reads its flattened map.
    reader.weight.view(len(reader.weight), len(layers[name].bias), -1)[:, unit] = 0


def plant_reversal(length: int = 5, vocabulary: int = 3, sharpness: float = 30.0) -> Transformer:
    """Build by hand a transformer that reverses its input: one block, one head, nothing trained.

    The stream is [token | position | output], one-hot each. The query of position i is that of its mirror, `length` − 1
    − i, the key of position j is j, both scaled so that the score is `sharpness` at the mirror and 0 elsewhere. The
    value copies the token; the head writes it to the output part, which alone is read by the unembedding.

    Of the nine edges therefore five never matter to the answers, whatever stands in for them: token → q, token → k and
    position → v, because q and k read positions only and v tokens only, and token → logits and position → logits, the
    *direct* edges. The other four, each ablated alone on all `vocabulary**length` inputs, have the accuracies that
    follow (in brackets for 5 tokens of 3 kinds, 243 inputs).

    - **Zero.** position → q and position → k: all scores are 0, attention is uniform, the answer at every position is
      the most frequent token, which is right wherever that token stands. Its mean count is Σ over count triples (5,0,0)
      3·5, (4,1,0) 30·4, (3,2,0) 60·3, (3,1,1) 60·3, (2,2,1) 90·2 = 675 of 243·5 = 1,215: accuracy [5/9], and
      ties do not matter, since tied tokens are equally frequent. token → v and head → logits: all logits are 0, the
      answer is the same for all inputs: 1/`vocabulary` [1/3]. So **four** edges matter.
    - **Mean at each position**, over a dataset or a batch of all inputs. A position's vector is the same in all inputs:
      its mean is itself, and position → q and position → k change nothing [1]. token → v and head → logits lose the
      input: one answer a position for all inputs, 1/`vocabulary`. So **two** edges matter.
    - **Mean over a batch and its positions.** The mean position vector is the same at all positions: uniform attention,
      as for zero [5/9]; the other two as for a mean at each position. **Four** edges.
    - **Resample** from inputs in which every token is another one. Positions are the same: no change. token → v and
      head → logits carry the corrupt token: every answer is that to the corrupt input, which is wrong [0]. **Two**
      edges.

    (With a stream where one source writes token and position together, as in the source system, the counts are the same
    of five edges.)

    Args:
        length: tokens; all inputs must have this many.
        vocabulary: different tokens.
        sharpness: β, the score of the mirror position; at 30 other positions have e⁻³⁰ of its weight.

    Returns:
        The network in eval mode, float32.
    """
    width, head = 2 * vocabulary + length, max(vocabulary, length)
    model = Transformer(
        vocabulary, length, layers=1, heads=1, width=width, head_width=head, mlp=0, norm=False, causal=False
    ).eval()
    token = torch.arange(vocabulary)
    position = torch.arange(length)
    attention = model.blocks[0].attention
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embedding.weight[token, token] = 1
        model.positions.weight[position, vocabulary + position] = 1
        attention.query[0, vocabulary + position, position.flip(0)] = sharpness * head**0.5  # scores are divided by it
        attention.key[0, vocabulary + position, position] = 1
        attention.value[0, token, token] = 1
        attention.out[0, token, vocabulary + length + token] = 1
        model.unembed.weight[token, vocabulary + length + token] = 1
    return model


@dataclass(frozen=True, repr=False)
class PlantedFeatures:
    """Pooled features whose shortcut is known: a stain block, a morphology block, and noise, under a known head.

    Attributes:
        features: `[N, C]`.
        tumour, hospital, slide: `[N]`.
        head: reads both blocks and no noise.
        stain: channels of the stain block; they alone know the hospital.
        morphology: channels of the morphology block; they alone know the label where hospitals are balanced.
    """

    features: Tensor
    tumour: Tensor
    hospital: Tensor
    slide: Tensor
    head: nn.Linear
    stain: tuple[int, ...]
    morphology: tuple[int, ...]

    def rotated(self, seed: int = 0) -> PlantedFeatures:
        """Return the same items and the same logits in a random orthonormal basis.

        No channel belongs to a block there, so a method that looks for channels has nothing to find: `stain` and
        `morphology` are still the numbers of the first basis.
        """
        width = self.features.shape[1]
        normal = torch.randn(width, width, generator=generator(seed, "rotation"), dtype=torch.float64)
        basis = torch.linalg.qr(normal).Q.to(self.features)
        head = copy.deepcopy(self.head)
        with torch.no_grad():
            head.weight.copy_(self.head.weight @ basis)
        return replace(self, features=self.features @ basis, head=head)


def plant_features(
    items: int = 3000,
    *,
    rho: float = 0.9,
    hospitals: tuple[int, ...] = (0, 1, 2),
    channels: int = 512,
    block: int = 32,
    seed: int = 0,
) -> PlantedFeatures:
    """Make features by the formula that a shortcut study supposes.

    A stain channel is 2 at its own hospital and 0 at others, a morphology channel is ±0.5 by label, all with noise of
    standard deviation 1. The head adds the morphology block, and the stain channels of hospital 0 as if they were
    evidence for tumour, with half the block's weight. Hospital 3, on no slide of which anything was fitted, has the
    stain of hospital 0 and half as much again.

    Args:
        items: how many; ten slides a hospital.
        rho: correlation of tumour with coming from hospital 0; only where there are others beside it.
        hospitals: which of 0 to 3, those of one set.
        channels: C.
        block: channels of each block.
        seed: of everything, except for the place of the blocks, which is always the same.

    Raises:
        ValueError: blocks that do not fit; a hospital other than 0 to 3; a correlation outside [-1, 1].
    """
    if not 3 <= 2 * block <= channels:
        raise ValueError(f"two blocks of {block} channels do not fit into {channels}")
    if not hospitals or not {*hospitals} <= {0, 1, 2, 3} or not -1 <= rho <= 1:
        raise ValueError(f"hospitals are some of 0 to 3 and rho is from -1 to 1; got {hospitals} and {rho}")
    rng = generator(seed, "planted features")
    order = torch.randperm(channels, generator=generator(0, "planted blocks"))
    stain, morphology = order[:block].sort().values, order[block : 2 * block].sort().values
    tumour = torch.arange(items) % 2
    others = torch.tensor([number for number in hospitals if number] or [0])
    hospital = others[torch.randint(len(others), (items,), generator=rng)]
    if 0 in hospitals and len(hospitals) > 1:
        agrees = torch.rand(items, generator=rng) < (1 + rho) / 2
        hospital = torch.where(agrees == tumour.bool(), torch.tensor(0), hospital)
    features = torch.randn(items, channels, generator=rng)
    owner = torch.arange(block) % 3  # the hospital that a stain channel stands for
    own = hospital[:, None] == owner
    unseen = (hospital[:, None] == 3) & (owner == 0)
    features[:, stain] += 2.0 * own + 3.0 * unseen
    features[:, morphology] += tumour[:, None] - 0.5
    head = nn.Linear(channels, 2)
    with torch.no_grad():
        head.weight.zero_()
        evidence = torch.zeros(channels)
        evidence[morphology] = 1.0 / block
        evidence[stain[owner == 0]] = 0.5 / int((owner == 0).sum())
        head.weight[1], head.weight[0] = evidence, -evidence
        head.bias[1], head.bias[0] = -0.5, 0.5  # half of what the stain of hospital 0 adds
    slide = hospital * 10 + torch.randint(10, (items,), generator=rng)
    return PlantedFeatures(features, tumour, hospital, slide, head, tuple(stain.tolist()), tuple(morphology.tolist()))
