"""Channel-Lipschitz pruning: find a backdoor's channels by their weights alone, without any data.

Zheng, Tang, Li and Liu 2022, "Data-free backdoor removal based on channel Lipschitzness", ECCV, arXiv 2208.03111.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nbutils.ablation.layers import weighted
from nbutils.ablation.weights import zero_weights
from nbutils.sites import Site
from studies.backdoor.repairs import Model, Repair


def channel_lipschitz(model: nn.Module, layer: str) -> Tensor:
    """Return how much each channel of a convolution can amplify a change of its input `[units]`, by its weights.

    The paper's upper bound: the largest singular value of a channel's kernel as a matrix, inputs × places.

    Args:
        model: not changed.
        layer: a convolution or a linear layer without a batch norm after it.

    Raises:
        KeyError: no such layer.
        ValueError: it has no weights that belong to units.
    """
    weight = weighted(model, Site(layer)).get_parameter("weight").detach()
    matrices = weight.flatten(2) if weight.ndim > 2 else weight[:, None]
    return torch.linalg.matrix_norm(matrices.double(), ord=2)


def prune_by_lipschitz(model: Model, layers: Iterable[str], spread: float = 3.0) -> Repair[Model]:
    """Remove the channels that could amplify far more than others of their layer.

    Args:
        model: not changed.
        layers: convolutions (see `channel_lipschitz`).
        spread: u in the paper: a channel goes if its bound lies above its layer's mean by more than so many standard
            deviations. 3 is the paper's choice.

    Raises:
        KeyError, ValueError: as for `channel_lipschitz`.
    """
    removed = []
    for layer in layers:
        bounds = channel_lipschitz(model, layer)
        removed += [Site(layer, int(unit)) for unit in torch.nonzero(bounds > bounds.mean() + spread * bounds.std())]
    return Repair(zero_weights(model, removed).eval(), tuple(removed))
