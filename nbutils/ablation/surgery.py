"""Weight edits on a copy of a model: silence latent dimensions, or take them out.

Both find the linear layer that produces a latent and the one that consumes it, in the order in which the modules are
registered. Source document: Ex 2.9.1.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from nbutils.hooks import submodule

Model = TypeVar("Model", bound=nn.Module)


def ablate(model: Model, site: str, dims: Sequence[int], strength: float = 1.0) -> Model:
    """Return a copy in which latent dimensions are always zero: producer rows and biases, and consumer columns, are 0.

    Args:
        model: any module in which `site` stands between two linear layers.
        site: dotted path of the latent's module, e.g. `"bottleneck"`.
        dims: latent dimensions.
        strength: in [0, 1]; what is zeroed at 1 is multiplied by 1 − strength below.

    Raises:
        KeyError: no such site.
        ValueError: no linear layer on one side, widths that disagree, weights at the site itself, or dims or strength
            out of range.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in [0, 1]; got {strength}")
    model = copy.deepcopy(model)
    producer, consumer = _neighbors(model, site)
    dropped = _checked(dims, producer.out_features)
    with torch.no_grad():
        producer.weight[dropped] *= 1 - strength
        if producer.bias is not None:
            producer.bias[dropped] *= 1 - strength
        consumer.weight[:, dropped] *= 1 - strength
    return model


def prune(model: Model, site: str, dims: Sequence[int]) -> Model:
    """Return a copy in which latent dimensions do not exist: a latent of width K becomes one of width K − len(dims).

    Algebraically the same as `ablate` when what stands between the two layers treats a zero like an absence.

    Args, raises: as for `ablate`; and ValueError if no dimension would be left.

    >>> import nbutils as nb, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
    >>> nb.prune(model, "1", [0, 3])[0].out_features
    3
    """
    model = copy.deepcopy(model)
    producer, consumer = _neighbors(model, site)
    dropped = _checked(dims, producer.out_features)
    kept = [k for k in range(producer.out_features) if k not in dropped]
    if not kept:
        raise ValueError(f"pruning {dropped} would leave no dimension at {site!r}")
    producer.weight = nn.Parameter(producer.weight.detach()[kept].clone())
    if producer.bias is not None:
        producer.bias = nn.Parameter(producer.bias.detach()[kept].clone())
    consumer.weight = nn.Parameter(consumer.weight.detach()[:, kept].clone())
    producer.out_features = consumer.in_features = len(kept)
    return model


def _neighbors(model: nn.Module, site: str) -> tuple[nn.Linear, nn.Linear]:
    target = submodule(model, site)
    modules = list(model.modules())
    at = modules.index(target)
    inside = set(target.modules())
    if next(target.parameters(), None) is not None and not isinstance(target, nn.Linear):
        raise ValueError(f"{site!r} has weights of its own; name the module whose output is the latent")
    before = [m for m in modules[: at + 1] if isinstance(m, nn.Linear)]  # a linear site produces its own output
    after = [m for m in modules[at:] if isinstance(m, nn.Linear) and m not in inside]
    if not before or not after:
        raise ValueError(f"{site!r} needs a linear layer before it and one after it")
    producer, consumer = before[-1], after[0]
    if producer.out_features != consumer.in_features:
        raise ValueError(
            f"the layers around {site!r} disagree: {producer.out_features} go in, {consumer.in_features} come out"
        )
    return producer, consumer


def _checked(dims: Sequence[int], width: int) -> list[int]:
    if not dims or min(dims) < 0 or max(dims) >= width:
        raise ValueError(f"dims must be indices from 0 to {width - 1}, at least one; got {tuple(dims)}")
    return sorted(set(dims))
