"""The five networks in one vocabulary: a network, pairs of inputs, a loss, layers of units, and what they stand for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbutils.data.digits import DigitSplits
from nbutils.data.pairs import PairBatch, PairLoader, Pairs
from nbutils.hooks import capture
from nbutils.sites import Site
from studies.across import networks
from studies.across.effects import squared_error
from studies.across.training import ATYPIA, TRIGGER, Trained
from studies.backdoor.network import MnistNet
from studies.circuits.sequences import induction
from studies.circuits.transformer import Attention, Transformer
from studies.color_cube.data import redness, rgb_grid
from studies.color_cube.network import ColorMLP
from studies.credit.network import ResidualMLP
from studies.shortcut import drawn_tiles, plans
from studies.shortcut.networks import NarrowTileNet

ITEMS = 32  # pairs to ablate on
RED_FROM = 0.3  # redness from which a colour counts as red
FIRST_TILE = 5_000  # drawings that no network was trained on


@dataclass(frozen=True)
class Layer:
    """Units side by side, with the weights at both of their ends.

    Attributes:
        site: of all units; one of `len(reads)`.
        reads: `[units]`, the norm of the weights by which later parts read a unit.
        moved: `[units]`, how far training moved the weights that write a unit, in norm.
    """

    site: Site
    reads: Tensor
    moved: Tensor

    def __len__(self) -> int:
        return len(self.reads)

    def unit(self, number: int) -> Site:
        """Return the site of one unit."""
        site = self.site
        return Site(site.module, number, site.axis, positions=site.positions)


@dataclass(frozen=True)
class Case:
    """One seed's network of a study, and what is asked of it.

    Attributes:
        name: one of `training.NAMES`.
        model: answers with one row per item; in eval mode.
        pairs: inputs with the property that is studied, and their twins without it.
        loss: of one item, `(output, pairs) -> [items]`: what an ablation adds to it is its effect.
        layers: units; together they are what a circuit is made of.
        concept: what a probe should tell, `[2M]`: of all clean readings, then of their twins.
        answers: whether the model answers with logits.
        place: which position of an activation a probe reads; None: the mean over all.
        readings: more pairs, for probes, class means and the spread of the data; ablations are run on `pairs`.
        batch_size: of the loader of pairs.
    """

    name: str
    model: nn.Module
    pairs: Pairs
    loss: Callable[[Tensor, Pairs], Tensor]
    layers: tuple[Layer, ...]
    concept: Tensor
    readings: Pairs
    answers: bool = True
    place: int | None = None
    batch_size: int = 16

    @property
    def sites(self) -> list[Site]:
        """All units, layer by layer."""
        return [layer.unit(number) for layer in self.layers for number in range(len(layer))]

    @property
    def loader(self) -> PairLoader:
        """The pairs in batches."""
        return PairLoader(self.pairs, self.batch_size)

    def metric(self, output: Tensor, batch: PairBatch) -> Tensor:
        """Return the loss of a batch's items."""
        return self.loss(output, batch.pairs)

    def activations(self, layer: Layer) -> Tensor:
        """Return what a probe reads, `[2M, units]`: of the clean readings, then of their twins."""
        site, found = layer.site, []
        with torch.no_grad():
            for inputs in (self.readings.clean, self.readings.corrupt):
                with capture(self.model, site) as seen:
                    self.model(inputs)
                found.append(self._read(seen[site], site))
        return torch.cat(found).double()

    def _read(self, tensor: Tensor, site: Site) -> Tensor:
        axis = site.units_axis(tensor)
        moved = tensor.movedim(axis, -1)  # (items, ..., units)
        if moved.ndim == 4 and self.place is not None:
            moved = moved.sum(2)  # all heads of a layer write one coordinate
        if self.place is not None:
            return moved[:, self.place]
        return moved.flatten(1, -2).mean(1) if moved.ndim > 2 else moved


def cross_entropy(output: Tensor, pairs: Pairs) -> Tensor:
    """Return the cross-entropy of each item's class `[items]`, in nats, of logits `[items, classes]`."""
    return functional.cross_entropy(output, pairs.labels, reduction="none")


def colours(trained: Trained) -> Case:
    """Return study 01's case: red colours, and the same with red mirrored about 1/2; the loss is the squared error."""
    model, before = cast("ColorMLP", trained.model), trained.before
    grid = torch.as_tensor(rgb_grid(9).reshape(-1, 3), dtype=torch.float32)
    red = grid[redness(grid) >= RED_FROM]
    mirrored = torch.cat([1 - red[:, :1], red[:, 1:]], 1)
    chain = [("encoder.1", "encoder.0", "encoder.2"), ("encoder.3", "encoder.2", "encoder.4")]
    chain += [("bottleneck", "encoder.4", "decoder.0")]
    chain += [("decoder.1", "decoder.0", "decoder.2"), ("decoder.3", "decoder.2", "decoder.4")]
    layers = tuple(
        _layer(Site(place, axis=1), _weight(model, reader).norm(dim=0), model, before, f"{writer}.weight")
        for place, writer, reader in chain
    )
    pairs = Pairs(red, mirrored, torch.zeros(len(red), dtype=torch.int64))
    chosen = pairs[:: max(1, len(red) // ITEMS)]
    return Case("colours", model, chosen, squared_error, layers, _twins(len(red)), pairs, answers=False)


def digits(trained: Trained, splits: DigitSplits) -> Case:
    """Return study 02's case: watermarked digits, and the same without; the loss is that of the attacker's answer.

    The network from the second convolution's output on: what comes before is not ablated.
    """
    model, before = cast("MnistNet", trained.model), trained.before
    chosen = splits.report[splits.report.labels != TRIGGER.target]
    names = ("conv2", "pool", "relu", "flatten", "fc1", "relu2", "fc2")
    tail = nn.Sequential(OrderedDict(zip(names, (nn.Identity(), *model.net[4:]), strict=True))).eval()
    with torch.no_grad():
        clean, corrupt = (model.upto("conv2")(x) for x in (TRIGGER.apply(chosen.images), chosen.images))
    reads = _weight(model, "net.7").view(16, 64, -1).square().sum((0, 2)).sqrt()
    layers = (
        _layer(Site("conv2", axis=1), reads, model, before, "net.3.weight"),
        _layer(Site("fc1", axis=1), _weight(model, "net.9").norm(dim=0), model, before, "net.7.weight"),
    )
    pairs = Pairs(clean, corrupt, torch.full((len(chosen),), TRIGGER.target))
    return Case("digits", tail, pairs[:ITEMS], cross_entropy, layers, _twins(len(chosen)), pairs)


def tiles(trained: Trained) -> Case:
    """Return study 03's case: tiles of the hospital that goes with tumour, and the same tissue in another stain.

    The loss is that of the answer that the hospital suggests; the units are the pooled channels, as in the study.
    """
    model, before = cast("NarrowTileNet", trained.model), trained.before
    tail = nn.Sequential(OrderedDict(pooled=nn.Identity(), head=model.fc)).eval()
    with torch.no_grad():
        clean, corrupt = (model.pooled(images) for images in _stained())
    layers = (_layer(Site("pooled", axis=1), _weight(model, "fc").norm(dim=0), model, before, "widen.0.weight"),)
    pairs = Pairs(clean, corrupt, torch.ones(len(clean), dtype=torch.int64))
    return Case("tiles", tail, pairs[:ITEMS], cross_entropy, layers, _twins(len(clean)), pairs)


@cache
def _stained(items: int = 200) -> tuple[Tensor, Tensor]:
    """Return tiles of the first hospital, and their twins in another stain."""
    plan = plans.plan(items, hospitals=(0,), first=FIRST_TILE, atypia=ATYPIA)
    clean, corrupt = (drawn_tiles.render(one).images() for one in (plan, plan.other_stain()))
    return clean, corrupt


def residual_mlp(trained: Trained, splits: DigitSplits) -> Case:
    """Return study 04's case: digits, and digits of another class; the units are the blocks' hidden ones."""
    model, before = cast("ResidualMLP", trained.model), trained.before
    images, labels = splits.report.features, splits.report.labels
    partner = networks.of_another_class(labels)
    layers = tuple(
        _layer(Site(f"blocks.{i}.2", axis=1), _weight(model, f"blocks.{i}.3").norm(dim=0), model, before,
               f"blocks.{i}.1.weight")
        for i in range(model.num_blocks)
    )  # fmt: skip
    concept = torch.cat([labels, labels[partner]])
    pairs = Pairs(images, images[partner], labels)
    return Case("residual MLP", model, pairs[:ITEMS], cross_entropy, layers, concept, pairs)


class LastPosition(nn.Module):
    """A transformer that answers with the logits at its last position, `[items, vocabulary]`."""

    def __init__(self, net: Transformer) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the last position's logits."""
        return self.net(tokens)[:, -1]


def transformer(trained: Trained, items: int = 400) -> Case:
    """Return study 05's case: prompts, and prompts whose answer is another token.

    A unit is a coordinate of the residual stream in what one layer writes there, all of its heads together.
    """
    model, before = cast("Transformer", trained.model), trained.before
    prompts = induction(items, seed=10_001)
    right, wrong = (tokens[:, 0].int().argmax(1) for tokens in (prompts.right, prompts.wrong))
    later = _readers(model)
    layers = []
    for i in range(len(model.blocks)):
        site = Site(f"net.blocks.{i}.attention.heads", axis=3, positions=(1,))
        layers.append(_layer(site, later[i + 1], model, before, f"blocks.{i}.attention.out", axis=2))
    concept = torch.cat([right, wrong])
    pairs = Pairs(prompts.clean, prompts.corrupt, right)
    net = LastPosition(model).eval()
    return Case("induction", net, pairs[:ITEMS], cross_entropy, tuple(layers), concept, pairs, place=-1)


def _readers(model: Transformer) -> list[Tensor]:
    """Return how strongly blocks from each number on read each coordinate, `[blocks + 1][width]`."""
    read = [_weight(model, "unembed").square().sum(0)]
    for block in reversed(model.blocks):
        attention = cast("Attention", block.attention)
        own = sum(getattr(attention, name).detach().square().sum((0, 2)) for name in ("query", "key", "value"))
        read.append(read[-1] + own)
    return [square.sqrt() for square in reversed(read)]


def _twins(items: int) -> Tensor:
    """Return what tells inputs from twins, `[2 · items]`."""
    return torch.arange(2 * items) < items


def _weight(model: nn.Module, name: str) -> Tensor:
    return model.get_parameter(f"{name}.weight").detach()


def _layer(site: Site, reads: Tensor, model: nn.Module, before: nn.Module, weight: str, *, axis: int = 0) -> Layer:
    change = (model.get_parameter(weight) - before.get_parameter(weight)).detach().movedim(axis, 0)
    return Layer(site, reads, change.flatten(1).norm(dim=1))


def make_case(name: str, trained: Trained, splits: DigitSplits) -> Case:
    """Return the case of a network by its name."""
    makers: dict[str, Callable[[], Case]] = {
        "colours": lambda: colours(trained),
        "digits": lambda: digits(trained, splits),
        "tiles": lambda: tiles(trained),
        "residual MLP": lambda: residual_mlp(trained, splits),
        "induction": lambda: transformer(trained),
    }
    return makers[name]()
