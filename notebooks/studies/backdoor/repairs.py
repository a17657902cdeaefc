"""Repair a network with a backdoor from clean data alone: find units, and remove them on a copy.

Both methods rank or score the units of given layers. A removed unit loses its weights *and* its bias
(`nbutils.ablation.weights.zero_weights`); the published code of both methods leaves biases. Where a batch norm takes in
what a convolution puts out, the two are one unit, and its place is the batch norm: there it is 0 once it is removed,
where the convolution's zero would leave the batch norm's shift.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nbutils import batches
from nbutils.ablation.flow import Flow
from nbutils.ablation.layers import copied, silence, unit_axes, unscripted, weighted, width
from nbutils.ablation.running import answer, running
from nbutils.ablation.weights import check_copy, zero_weights
from nbutils.batches import Batch
from nbutils.seeding import generator
from nbutils.sites import Site
from nbutils.training.optimizers import SGD, Adam

Model = TypeVar("Model", bound=nn.Module)

_TUNE_RATE, _TUNE_BATCH = 1e-3, 32  # of fine-tuning: Adam's learning rate, images per step
_MASK_RATE, _MASK_BATCH = 0.2, 64  # of neuron masks: learning rate, images per step
_PART = 500  # images that a network answers at a time
_CHECKED = 32  # images on which a copy is compared with the edit


@dataclass(frozen=True)
class Repair(Generic[Model]):
    """A repaired copy.

    Attributes:
        model: in evaluation mode; the original is as it was.
        removed: the units that were removed, in the order of removal or of layers.
    """

    model: Model
    removed: tuple[Site, ...]


def dormancy(model: nn.Module, layer: str | Site, images: Batch) -> Tensor:
    """Return the mean rectified activation of each unit of a layer on clean images `[units]`.

    A unit that answers to a trigger alone is near 0.

    Args:
        model: not changed, run in evaluation mode.
        layer: a place before its ReLU: a convolution, a linear layer (on tokens, too), or the batch norm of one.
        images: a batch of any kind, of any length.

    Raises:
        KeyError: no such layer.
        ValueError: the place does not say on which axis its units lie, or items are not on axis 0.
    """
    site = Site.of(layer).whole
    sums: list[Tensor] = []

    def add(found: Site, activation: Tensor) -> None:
        place = found.on(model)
        active = activation.relu().movedim(place.units_axis(activation), 0)  # (units, items and places)
        sums.append(active.flatten(1).double().mean(1) * len(activation))

    with running(model, [site], add) as run:
        for part in _parts(images):
            run(part)
    return sum(sums, torch.zeros_like(sums[0])) / batches.count(images)


def fine_prune(
    model: Model,
    layer: str | Site,
    images: Batch,
    labels: Tensor,
    *,
    max_drop: float = 0.01,
    tune_steps: int = 0,
    seed: int = 0,
) -> Repair[Model]:
    """Remove the units least active on clean images, as many as accuracy allows; then train on, if asked to.

    Liu, Dolan-Gavitt and Garg 2018, "Fine-pruning: Defending against backdooring attacks on deep neural networks",
    RAID: units of the last convolution go in the order of their mean activation (`dormancy`), one after the other, up
    to the last one before accuracy on the same clean images has fallen by more than `max_drop`. Fine-tuning is Adam on
    cross-entropy; removed units are held at 0.

    Args:
        model: gives logits `[N, classes]`; not changed.
        layer: e.g. the last convolution; the batch norm after it where there is one.
        images: clean, a batch of any kind with N items; not the ones that results are reported on.
        labels: `[N]`.
        max_drop: share of clean accuracy that may be lost, in [0, 1].
        tune_steps: steps of fine-tuning afterwards, on 32 images each; 0 for none.
        seed: of the batches.

    Raises:
        ValueError: labels do not fit the images, or `max_drop` is out of range.
        KeyError, ValueError: no such layer, it has no units with weights (see `Site`, `zero_weights`), or a batch norm
            follows, which is to be named.
    """
    _check(images, labels)
    if not 0 <= max_drop <= 1:
        raise ValueError(f"max_drop is a share in [0, 1]; got {max_drop}")
    place = _units(model, layer, images)
    order = [replace(place, unit=unit) for unit in dormancy(model, place, images).argsort(stable=True).tolist()]
    whole = _fast(copied(model).eval())
    pruned = copied(whole)
    silenced = weighted(pruned, place, any_axis=True)
    least = _count_right(pruned, images, labels) - max_drop * len(labels)
    removed = 0
    while removed < len(order):
        before = [parameter.detach().clone() for parameter in silenced.parameters()]
        silence(silenced, place.part, order[removed].indices)
        if _count_right(pruned, images, labels) < least:
            with torch.no_grad():
                for parameter, value in zip(silenced.parameters(), before, strict=True):
                    parameter.copy_(value)
            break
        removed += 1
    sites = tuple(order[:removed])
    if sites:
        check_copy(whole, pruned, sites, batches.select(images, slice(0, _CHECKED)))
    if tune_steps:
        _tune(pruned, sites, images, labels, tune_steps, seed)
    return Repair(pruned.to(memory_format=torch.contiguous_format), sites)


def neuron_masks(
    model: nn.Module,
    layers: Sequence[str],
    images: Batch,
    labels: Tensor,
    *,
    budget: float = 0.4,
    trade_off: float = 0.2,
    steps: int = 300,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Learn one mask per unit, low for units whose small perturbation breaks clean answers.

    Wu and Wang 2021, "Adversarial neuron pruning purifies backdoored deep models", NeurIPS: units of a backdoor are
    the ones through which adversarial perturbations of weights and biases act. With w and b of a unit,

        min over m in [0, 1]   α·L(m·w, m·b) + (1 − α)·max over |δ|, |ξ| <= ε of L((m + δ)·w, (m + ξ)·b)

    (their eq. 4), by gradient descent with momentum 0.9 on m; the inner maximum is one signed gradient step of size ε
    from a random start, then clipped. Departure: their mask spares the bias. Here a mask of 0 is exactly the removed
    unit, and what is learned is what `prune_by_masks` does.

    Args:
        model: gives logits `[N, classes]`; not changed, run in evaluation mode.
        layers: module paths of convolutions or linear layers, or of their batch norms where they have some; the output
            layer is no place to prune.
        images: clean, a batch of any kind with N items, a few hundred.
        labels: `[N]`.
        budget: ε in [0, 1].
        trade_off: α in [0, 1].
        steps: of the outer minimisation, on 64 images each.
        seed: of batches and random starts.

    Returns:
        Layer -> masks `[units]` in [0, 1].

    Raises:
        ValueError: labels do not fit the images, a budget or trade-off outside [0, 1], a layer without weights of its
            own or with parametrized ones, or with a batch norm after it, which is to be named.
        KeyError: no such layer.
    """
    _check(images, labels)
    if not 0 <= budget <= 1 or not 0 <= trade_off <= 1:
        raise ValueError(f"budget and trade_off lie in [0, 1]; got {budget} and {trade_off}")
    masked = _Masked(model, [_units(model, layer, images) for layer in layers])
    draws = generator(seed, "neuron masks")
    optimizer = SGD(masked.masks.values(), lr=_MASK_RATE, momentum=0.9)
    for _ in range(steps):
        index = torch.randint(len(labels), (_MASK_BATCH,), generator=draws)
        x, y = batches.select(images, index), labels[index]
        worst = masked.worst_noise(x, y, budget, draws)
        optimizer.zero_grad()
        (trade_off * masked.loss({}, x, y) + (1 - trade_off) * masked.loss(worst, x, y)).backward()
        optimizer.step()
        with torch.no_grad():
            for mask in masked.masks.values():
                mask.clamp_(0, 1)
    return {layer: mask.detach() for layer, mask in masked.masks.items()}


def prune_by_masks(
    model: Model, masks: Mapping[str, Tensor], threshold: float = 0.2, batch: Batch | None = None
) -> Repair[Model]:
    """Remove the units whose mask is at most the threshold (0.2 in the paper; see `neuron_masks`).

    Args:
        model: not changed.
        masks: layer -> `[units]`.
        threshold: in [0, 1].
        batch: inputs to check the copy on (see `zero_weights`).
    """
    sites = tuple(
        Site(layer, unit) for layer, mask in masks.items() for unit in torch.nonzero(mask <= threshold)[:, 0].tolist()
    )
    return Repair(zero_weights(model, sites, batch if sites else None).eval(), sites)


def _check(images: Batch, labels: Tensor) -> None:
    if not len(labels) or labels.shape != (batches.count(images, least=0),):
        raise ValueError(
            f"one label per image is needed; got images {batches.shapes(images)}, labels {list(labels.shape)}"
        )


def _units(model: nn.Module, layer: str | Site, images: Batch) -> Site:
    """Return the place of a layer's units.

    Raises:
        ValueError: it has no weights that belong to units, or a batch norm after it.
    """
    unscripted(model)
    site = Site.of(layer).whole
    weighted(model, site, any_axis=True)
    flow = Flow(model, batches.select(images, slice(0, 2)), [site])
    norm = flow.norm_of(flow.path(site)) if site.part == "output" else None
    if norm is not None:
        raise ValueError(
            f"the units of {site.module!r} go through the batch norm {norm!r}, which makes its shift of their zeros; "
            f"the two are one unit: name {norm!r}"
        )
    return site


def _fast(model: Model) -> Model:
    """Lay images out with channels last, which makes pooling faster."""
    flat = all(parameter.ndim < 5 for parameter in model.parameters())
    return model.to(memory_format=torch.channels_last) if flat else model


def _parts(images: Batch) -> Iterator[Batch]:
    for first in range(0, batches.count(images), _PART):
        yield batches.select(images, slice(first, first + _PART))


class _Masked:
    """A copy of a network whose units are scaled by masks that can be learned."""

    def __init__(self, model: nn.Module, places: Sequence[Site]) -> None:
        self.model = _fast(copied(model).eval().requires_grad_(False))
        self.masks: dict[str, Tensor] = {}  # layer -> [units]
        self.parts: dict[str, tuple[str, int, Tensor]] = {}  # parameter -> its layer, the units' axis, and its values
        names = {id(value): name for name, value in self.model.named_parameters()}
        for place in places:
            module = weighted(self.model, place, any_axis=True)
            for name, axis in unit_axes(module).items():
                value = module.get_parameter(name)
                self.parts[names[id(value)]] = (place.module, axis, value)
            ones = torch.ones(width(module), dtype=module.weight.dtype, device=module.weight.device)  # type: ignore[arg-type]
            self.masks[place.module] = ones.requires_grad_()

    def loss(self, noise: Mapping[str, Tensor], x: Batch, y: Tensor) -> Tensor:
        """Return the cross-entropy with each parameter scaled by its mask, plus its noise where there is any."""
        scaled = {}
        for name, (layer, axis, value) in self.parts.items():
            scale = self.masks[layer] + noise.get(name, 0.0)
            scaled[name] = value * scale.view(*[1] * axis, -1, *[1] * (value.ndim - 1 - axis))
        arguments, keywords = ((), x) if isinstance(x, Mapping) else ((x,) if isinstance(x, Tensor) else tuple(x), {})
        output = functional_call(self.model, scaled, arguments, dict(keywords))
        return nn.functional.cross_entropy(Site("").take(output), y)

    def worst_noise(self, x: Batch, y: Tensor, budget: float, draws: torch.Generator) -> dict[str, Tensor]:
        """Return parameter -> noise `[units]` within the budget, one signed gradient step up from a random start."""
        noise = {}
        for name, (layer, _, value) in self.parts.items():
            uniform = torch.rand(len(self.masks[layer]), generator=draws, dtype=torch.float64)
            noise[name] = (budget * (2 * uniform - 1)).to(value).requires_grad_()
        slopes = torch.autograd.grad(self.loss(noise, x, y), list(noise.values()))
        return {
            name: (start.detach() + budget * slope.sign()).clamp(-budget, budget)
            for (name, start), slope in zip(noise.items(), slopes, strict=True)
        }


def _count_right(model: nn.Module, images: Batch, labels: Tensor) -> int:
    with torch.no_grad():
        parts = zip(_parts(images), labels.split(_PART), strict=True)
        return sum(int((answer(model, x).argmax(1) == y).sum()) for x, y in parts)


def _tune(model: nn.Module, removed: Sequence[Site], images: Batch, labels: Tensor, steps: int, seed: int) -> None:
    """Train in place, and hold removed units at 0."""
    draws = generator(seed, "fine-pruning")
    optimizer = Adam(model.parameters(), lr=_TUNE_RATE)
    layers = [(weighted(model, site, any_axis=True), site) for site in removed]
    for _ in range(steps):
        index = torch.randint(len(labels), (_TUNE_BATCH,), generator=draws)
        optimizer.zero_grad()
        nn.functional.cross_entropy(answer(model, batches.select(images, index)), labels[index]).backward()
        optimizer.step()
        for layer, site in layers:
            silence(layer, site.part, site.indices)
