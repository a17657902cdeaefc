"""Feature visualisation: the image that a unit answers to most."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nbutils.data.digits import SIZE
from nbutils.training.optimizers import Adam
from studies.backdoor.network import MnistNet

_RATE = 0.1  # Adam's, on pixels
_ROUGHNESS = 0.002  # penalty on squared differences of neighbouring pixels


def maximise(
    model: MnistNet, units: Sequence[tuple[str, int]], low: float, high: float, *, steps: int = 100
) -> tuple[Tensor, Tensor]:
    """Raise units' activations at the centre of their maps by gradient steps on pixels, starting from grey.

    Activation maximisation with a penalty on roughness: Erhan et al. 2009; Olah, Mordvintsev and Schubert 2017,
    "Feature visualization", Distill.

    Args:
        model: not changed.
        units: (layer, unit), layers as in `studies.backdoor.network.LAYERS`; one image each.
        low, high: range of pixels, in units of normalised images.
        steps: of Adam.

    Returns:
        Changes from grey `[units, 28, 28]`, and what the activations gained `[units]`.

    Raises:
        KeyError: no such layer.
    """
    device = next(model.parameters()).device
    images = torch.full((len(units), 1, SIZE, SIZE), (low + high) / 2, device=device, requires_grad=True)
    optimizer = Adam([images], lr=_RATE)
    layers = {layer for layer, _ in units}
    activations = []
    for _ in range(steps + 1):
        maps = {layer: model.upto(layer)(images) for layer in layers}
        centre = {layer: m[:, :, m.shape[2] // 2, m.shape[3] // 2] if m.ndim == 4 else m for layer, m in maps.items()}
        activation = torch.stack([centre[layer][i, unit] for i, (layer, unit) in enumerate(units)])
        rough = images.diff(dim=2).square().sum((1, 2, 3)) + images.diff(dim=3).square().sum((1, 2, 3))
        activations.append(activation.detach())
        (images.grad,) = torch.autograd.grad((_ROUGHNESS * rough - activation).sum(), [images])
        optimizer.step()
        images.data.clamp_(low, high)
    return images.detach()[:, 0] - (low + high) / 2, activations[-1] - activations[0]
