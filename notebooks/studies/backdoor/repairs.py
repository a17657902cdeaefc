"""Repair a network with a backdoor from clean data alone: find units, and remove them on a copy.

Both methods rank or score the units of given layers. A removed unit loses its weights *and* its bias
(`nbutils.ablation.weights.zero_weights`); the published code of both methods leaves biases.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nbutils.ablation.weights import zero_weights
from nbutils.hooks import capture, unchanged
from nbutils.seeding import generator
from nbutils.sites import Site, submodule
from nbutils.training.optimizers import SGD, Adam

Model = TypeVar("Model", bound=nn.Module)

_TUNE_RATE, _TUNE_BATCH = 1e-3, 32  # of fine-tuning: Adam's learning rate, images per step
_MASK_RATE, _MASK_BATCH = 0.2, 64  # of neuron masks: learning rate, images per step


@dataclass(frozen=True)
class Repair(Generic[Model]):
    """A repaired copy.

    Attributes:
        model: in evaluation mode; the original is as it was.
        removed: the units that were removed, in the order of removal or of layers.
    """

    model: Model
    removed: tuple[Site, ...]


def dormancy(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Return the mean rectified activation of each unit of a layer on clean images `[units]`.

    A unit that answers to a trigger alone is near 0.

    Args:
        model: not changed, run in evaluation mode.
        layer: module path of a convolution or linear layer before its ReLU.
        images: `[N, ...]`.

    Raises:
        KeyError: no such layer.
    """
    total = torch.zeros((), dtype=torch.float64, device=images.device)
    with unchanged(model), capture(model, layer) as seen, torch.no_grad():
        model.eval()
        for part in images.split(500):
            model(part)
            active = seen[layer].relu().transpose(0, 1).flatten(1).double()  # (units, items and places)
            total = total + active.mean(1) * len(part)
    return total / len(images)


def fine_prune(
    model: Model,
    layer: str,
    images: Tensor,
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
        layer: module path, e.g. of the last convolution.
        images: clean `[N, ...]`; not the ones that results are reported on.
        labels: `[N]`.
        max_drop: share of clean accuracy that may be lost, in [0, 1].
        tune_steps: steps of fine-tuning afterwards, on 32 images each; 0 for none.
        seed: of the batches.

    Raises:
        ValueError: labels do not fit the images, or `max_drop` is out of range.
        KeyError, ValueError: no such layer, or it has no units with weights (see `Site`, `zero_weights`).
    """
    _check(images, labels)
    if not 0 <= max_drop <= 1:
        raise ValueError(f"max_drop is a share in [0, 1]; got {max_drop}")
    order = [Site(layer, unit) for unit in dormancy(model, layer, images).argsort(stable=True).tolist()]
    pruned = copy.deepcopy(model).eval().to(memory_format=torch.channels_last)  # faster pooling
    least = _count_right(pruned, images, labels) - max_drop * len(labels)
    removed = 0
    while removed < len(order):
        candidate = zero_weights(pruned, [order[removed]])
        if _count_right(candidate, images, labels) < least:
            break
        pruned, removed = candidate, removed + 1
    sites = tuple(order[:removed])
    if tune_steps:
        _tune(pruned, sites, images, labels, tune_steps, seed)
    return Repair(pruned.to(memory_format=torch.contiguous_format), sites)


def neuron_masks(
    model: nn.Module,
    layers: Sequence[str],
    images: Tensor,
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
        layers: module paths of convolutions or linear layers; the output layer is no place to prune.
        images: clean `[N, ...]`, a few hundred.
        labels: `[N]`.
        budget: ε in [0, 1].
        trade_off: α in [0, 1].
        steps: of the outer minimisation, on 64 images each.
        seed: of batches and random starts.

    Returns:
        Layer -> masks `[units]` in [0, 1].

    Raises:
        ValueError: labels do not fit the images, a budget or trade-off outside [0, 1], or a layer without weights.
        KeyError: no such layer.
    """
    _check(images, labels)
    if not 0 <= budget <= 1 or not 0 <= trade_off <= 1:
        raise ValueError(f"budget and trade_off lie in [0, 1]; got {budget} and {trade_off}")
    masked = _Masked(model, layers)
    draws = generator(seed, "neuron masks")
    optimizer = SGD(masked.masks.values(), lr=_MASK_RATE, momentum=0.9)
    for _ in range(steps):
        index = torch.randint(len(images), (_MASK_BATCH,), generator=draws)
        x, y = images[index], labels[index]
        worst = masked.worst_noise(x, y, budget, draws)
        optimizer.zero_grad()
        (trade_off * masked.loss({}, x, y) + (1 - trade_off) * masked.loss(worst, x, y)).backward()
        optimizer.step()
        with torch.no_grad():
            for mask in masked.masks.values():
                mask.clamp_(0, 1)
    return {layer: mask.detach() for layer, mask in masked.masks.items()}


def prune_by_masks(model: Model, masks: Mapping[str, Tensor], threshold: float = 0.2) -> Repair[Model]:
    """Remove the units whose mask is at most the threshold (0.2 in the paper; see `neuron_masks`)."""
    sites = tuple(
        Site(layer, unit) for layer, mask in masks.items() for unit in torch.nonzero(mask <= threshold)[:, 0].tolist()
    )
    return Repair(zero_weights(model, sites).eval(), sites)


def _check(images: Tensor, labels: Tensor) -> None:
    if labels.shape != images.shape[:1] or not len(images):
        raise ValueError(f"one label per image is needed; got images {list(images.shape)}, labels {list(labels.shape)}")


class _Masked:
    """A copy of a network whose units are scaled by masks that can be learned."""

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False).to(memory_format=torch.channels_last)  # faster
        self.masks: dict[str, Tensor] = {}  # layer -> [units]
        self.parts: dict[str, tuple[str, Tensor]] = {}  # parameter -> its layer, and its values [units, ...]
        for layer in layers:
            module = submodule(self.model, layer)
            if not isinstance(module, nn.Conv2d | nn.Linear):
                raise ValueError(f"units with weights are needed; {layer!r} is a {type(module).__name__}")
            self.parts |= {f"{layer}.{name}": (layer, value) for name, value in module.named_parameters()}
            self.masks[layer] = torch.ones_like(module.weight.flatten(1)[:, 0]).requires_grad_()

    def loss(self, noise: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy with each parameter scaled by its mask, plus its noise where there is any."""
        scaled = {}
        for name, (layer, value) in self.parts.items():
            scale = self.masks[layer] + noise.get(name, 0.0)
            scaled[name] = value * scale.view(-1, *[1] * (value.ndim - 1))
        return nn.functional.cross_entropy(functional_call(self.model, scaled, (x,)), y)

    def worst_noise(self, x: Tensor, y: Tensor, budget: float, draws: torch.Generator) -> dict[str, Tensor]:
        """Return parameter -> noise `[units]` within the budget, one signed gradient step up from a random start."""
        noise = {}
        for name, (_, value) in self.parts.items():
            uniform = torch.rand(len(value), generator=draws, dtype=torch.float64)
            noise[name] = (budget * (2 * uniform - 1)).to(value).requires_grad_()
        slopes = torch.autograd.grad(self.loss(noise, x, y), list(noise.values()))
        return {
            name: (start.detach() + budget * slope.sign()).clamp(-budget, budget)
            for (name, start), slope in zip(noise.items(), slopes, strict=True)
        }


def _count_right(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    with torch.no_grad():
        parts = zip(images.split(500), labels.split(500), strict=True)
        return sum(int((model(x).argmax(1) == y).sum()) for x, y in parts)


def _tune(model: nn.Module, removed: Sequence[Site], images: Tensor, labels: Tensor, steps: int, seed: int) -> None:
    """Train in place, and hold removed units at 0."""
    draws = generator(seed, "fine-pruning")
    optimizer = Adam(model.parameters(), lr=_TUNE_RATE)
    for _ in range(steps):
        index = torch.randint(len(images), (_TUNE_BATCH,), generator=draws)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[index]), labels[index]).backward()
        optimizer.step()
        with torch.no_grad():
            for site in removed:
                for parameter in submodule(model, site.module).parameters():
                    parameter[site.unit] = 0
