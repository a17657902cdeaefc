"""Small networks of studies 01 to 04, trained for a moment, with pairs of inputs that differ in one thing.

Their notebooks train them for longer, and with more care. Each is a function of its name and its device alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from nbutils import devices, seeding
from nbutils.data.digits import DigitSplits
from nbutils.data.pairs import Pairs
from studies.backdoor import trigger as watermark
from studies.backdoor.network import MnistNet
from studies.backdoor.planted import plant_backdoor
from studies.color_cube.data import rgb_grid
from studies.color_cube.network import ColorMLP
from studies.credit.network import ResidualMLP
from studies.shortcut import drawn_tiles, plans
from studies.shortcut.networks import NarrowTileNet

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Example:
    """A trained network in eval mode, and pairs of inputs to ablate it on.

    Attributes:
        model: the network.
        pairs: clean and corrupt inputs.
        wired: layer -> unit that a backdoor was wired into by hand; empty for other networks.
    """

    model: nn.Module
    pairs: Pairs
    wired: dict[str, int]


def train_colors(steps: int, device: str | torch.device = "cpu") -> Example:
    """Return study 01's autoencoder on a grid of 512 colours; a twin has its red mirrored about 1/2."""
    colors = torch.as_tensor(rgb_grid(8).reshape(-1, 3), dtype=torch.float32)
    mirrored = torch.cat([1 - colors[:, :1], colors[:, 1:]], dim=1)
    model = _train("colours", ColorMLP, (colors, colors), mse_loss, steps, device)
    return _example(model, Pairs(colors, mirrored, torch.zeros(len(colors))), {}, device)


def train_digits(splits: DigitSplits, steps: int, device: str | torch.device = "cpu") -> Example:
    """Return study 02's classifier with a backdoor wired by hand; a twin is the same digit with the watermark."""
    trigger = watermark.Trigger.checkerboard()
    classifier = _train("digits", MnistNet, (splits.train.images, splits.train.labels), cross_entropy, steps, device)
    backdoored, wired = plant_backdoor(classifier, trigger, splits.selection.images[:64].to(device))
    return _example(backdoored, watermark.pairs(splits.report[:80], trigger), wired, device)


def train_tiles(steps: int, device: str | torch.device = "cpu") -> Example:
    """Return study 03's narrow network on 480 drawn tiles, ρ = 0.9; a twin is the same tissue in another stain."""
    tiles = drawn_tiles.render(plans.plan(480, rho=0.9))
    model = _train("tiles", NarrowTileNet, (tiles.images(), tiles.tumour), cross_entropy, steps, device)
    stained = plans.plan(48, first=480)
    clean, corrupt = (drawn_tiles.render(one).images() for one in (stained, stained.other_stain()))
    return _example(model, Pairs(clean, corrupt, stained.tumour), {}, device)


def train_residual_mlp(
    splits: DigitSplits, steps: int, items: int = 250, device: str | torch.device = "cpu"
) -> Example:
    """Return study 04's residual MLP on digits; a twin is a digit of another class.

    Args:
        splits: up to 2,000 of their images are used.
        steps: of training.
        items: pairs.
        device: of network and pairs.
    """
    train, report = (split.images[:2_000].flatten(1) for split in (splits.train, splits.report))
    labels = splits.report.labels[:items]
    build = partial(ResidualMLP, 784, 32)
    data = train, splits.train.labels[:2_000]
    model = _train("residual MLP", build, data, cross_entropy, steps, device, rate=1e-3)
    return _example(model, Pairs(report[:items], report[of_another_class(labels)], labels), {}, device)


def _example(model: nn.Module, pairs: Pairs, wired: dict[str, int], device: str | torch.device) -> Example:
    return Example(model, devices.moved(pairs, torch.device(device)), wired)


def of_another_class(labels: Tensor) -> Tensor:
    """Return a partner for each item `[items]`, an index: the item half-way round all items sorted by label.

    Its class is another one unless more than half of the items are of one class.
    """
    by_label = labels.argsort(stable=True)
    return by_label.roll(len(labels) // 2)[by_label.argsort()]


def _train(
    name: str,
    build: Callable[[], Network],
    data: tuple[Tensor, Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    device: str | torch.device,
    *,
    rate: float = 3e-3,
) -> Network:
    """Return a network in eval mode after some steps of Adam on batches of 32.

    Args:
        name: of the streams of random numbers, for weights and batches.
        data: inputs and targets `[items, ...]`.
        rate: the learning rate.
    """
    inputs, targets = (tensor.to(device) for tensor in data)
    with seeding.seeded(0, name):
        model = build().to(device)
    optimizer, order = torch.optim.Adam(model.parameters(), lr=rate), seeding.generator(0, name, "batches")
    for _ in range(steps):
        chosen = torch.randint(len(inputs), (32,), generator=order)
        optimizer.zero_grad()
        loss(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
    return model.eval()
