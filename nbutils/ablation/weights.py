"""The ablation of a unit's weights, on a copy."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import nn

from nbutils.ablation.sites import Site

Model = TypeVar("Model", bound=nn.Module)


def zero_weights(model: Model, sites: Iterable[Site]) -> Model:
    """Return a copy in which the weights *and* the bias of units are zero.

    Their outputs are then exactly 0, the same as `ZERO` at the output; with the bias left in place they would not be.

    Args:
        model: any module.
        sites: units (on axis 1) of `nn.Conv2d` or `nn.Linear` modules; a site without a unit means all of them.

    Raises:
        KeyError, ValueError: as for `Site.resolve`; and ValueError for another kind of module or axis.
    """
    model = copy.deepcopy(model)
    for site in sites:
        layer = site.resolve(model)
        if not isinstance(layer, nn.Conv2d | nn.Linear) or site.axis != 1:
            raise ValueError(
                f"weights belong to units of a Conv2d or Linear on axis 1; got {site} at a {type(layer).__name__}"
            )
        rows = slice(None) if site.unit is None else site.unit
        with torch.no_grad():
            layer.weight[rows] = 0
            if layer.bias is not None:
                layer.bias[rows] = 0
    return model
