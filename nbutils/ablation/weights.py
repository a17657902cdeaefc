"""The ablation of a unit's weights, on a copy."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from nbutils import batches
from nbutils.ablation.edits import edits
from nbutils.batches import Batch
from nbutils.hooks import capture, edit, unchanged
from nbutils.sites import Site, submodule

Model = TypeVar("Model", bound=nn.Module)

# Class -> the axis of the weight that a unit of the output lies on, and one of the input.
_LINEAR: dict[type[nn.Module], tuple[int, int]] = dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), (0, 1))
_AXES = {**_LINEAR, nn.Embedding: (1, 1)}
_SCALES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)
CLOSE = 1e-5  # of the largest answer: how far the copy's may be from those under the edit


def zero_weights(model: Model, sites: Iterable[str | Site], batch: Batch | None = None) -> Model:
    """Return a copy in which the weights *and* the bias of units are zero.

    What the module puts out there is then exactly 0, the same as `ZERO` at the site; with the bias left in place it
    would not be. A site at a layer's *input* loses the weights that read it. A convolution and the batch norm after it
    are one unit at the batch norm's output.

    Args:
        model: any module.
        sites: units of linear layers, convolutions, embeddings or norms; a site without a unit means all of them.
        batch: inputs to check the copy on: it must answer as the model does under the edit.

    Raises:
        KeyError: no such module.
        ValueError: a module whose weights do not belong to units, are parametrized, shared with another module or not
            on this machine; a unit that does not exist; or a copy that answers otherwise than the model under the edit.

    >>> import nbutils as nb, torch
    >>> model = nb.zero_weights(torch.nn.Linear(2, 3), [nb.Site("", 1)])
    >>> model.weight[1].tolist(), model.bias[1].item()
    ([0.0, 0.0], 0.0)
    """
    chosen = [Site.of(place) for place in sites]
    shared = Counter(id(tensor) for _, tensor in model.named_parameters(remove_duplicate=False))
    aliases = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for site in chosen:
            layer = submodule(model, site.module)
            for name, tensor in layer.named_parameters(recurse=False):
                if shared[id(tensor)] > aliases[id(layer)]:
                    raise ValueError(
                        f"the {name} of {site.module!r} is another module's, too: zero in one is zero in both"
                    )
            for weight, axis in _parts(submodule(pruned, site.module), site.on(pruned)):
                units = site.indices if site.unit is not None else range(weight.shape[axis])
                weight.index_fill_(axis, torch.tensor(units, device=weight.device), 0)
    if batch is not None:
        _check(model, pruned, chosen, batch)
    return pruned


def _parts(layer: nn.Module, site: Site) -> list[tuple[nn.Parameter, int]]:
    """Return the weights and biases that make a site's units, or that read them; each with the axis of the units."""
    kind = next((kind for kind in (*_AXES, *_SCALES) if type(layer) is kind), None)
    transposed = type(layer).__name__ == "Conv1D" and site.axis == -1  # a linear layer with its weight [in, out]
    if parametrize.is_parametrized(layer) or hasattr(layer, "weight_g"):
        raise ValueError(
            f"the weights of {site.module!r} are computed anew from others at every pass (parametrized): zeros would "
            "not stay; remove the parametrization first, or edit the activation"
        )
    if (kind is None and not transposed) or not _same_axis(site, layer) or getattr(layer, "weight", None) is None:
        raise ValueError(
            "weights belong to units of a Linear, Conv, Embedding or norm layer, on the axis that it says; got "
            f"{site} at a {type(layer).__name__}"
        )
    if layer.get_parameter("weight").device.type == "meta":
        raise ValueError(f"the weights of {site.module!r} are not on this machine (device 'meta')")
    if site.part == "input" and (getattr(layer, "groups", 1) != 1 or kind is nn.Embedding):
        raise ValueError(f"no weight of {site.module!r} belongs to one unit of its input; edit the activation instead")
    weight = layer.get_parameter("weight")
    bias = [(layer.get_parameter("bias"), 0)] if getattr(layer, "bias", None) is not None else []
    if kind in _SCALES:
        if site.part == "input" or weight.ndim != 1:
            raise ValueError(f"{site.name} has no weights of its own; name the layer that makes it")
        return [(weight, 0), *bias]
    out_axis, in_axis = _AXES.get(type(layer), (1, 0))
    if site.part == "input":
        return [(weight, in_axis)]
    return [(weight, out_axis), *bias]


def _same_axis(site: Site, layer: nn.Module) -> bool:
    """Return whether a site's units lie on the axis that its layer says."""
    return site.axis == Site("").on(layer).axis


@torch.no_grad()
def _check(model: nn.Module, pruned: nn.Module, sites: list[Site], batch: Batch) -> None:
    """Compare the copy's answer with the model's under the edit."""
    with unchanged(model), unchanged(pruned):
        model.eval()
        pruned.eval()
        with edit(model, edits(sites)), capture(model, Site("")) as under_edit:
            batches.run(model, batch)
        with capture(pruned, Site("")) as alone:
            batches.run(pruned, batch)
    expected, found = under_edit[Site("")], alone[Site("")]
    apart = (expected - found).abs().max().item()
    if not apart <= CLOSE * max(1.0, expected.abs().max().item()):
        raise ValueError(
            f"the copy answers otherwise than the model under the edit of {', '.join(map(str, sites))}: by up to "
            f"{apart:.3g}; are these weights used elsewhere, too?"
        )
