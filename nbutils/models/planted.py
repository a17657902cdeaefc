"""Networks whose answer is known by construction, to prove a method on before it is trusted on a trained one."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nbutils.data.digits import Trigger
from nbutils.hooks import edit, submodule
from nbutils.models.color_mlp import UnitNorm
from nbutils.models.mnist_net import LAYERS, MnistNet

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
