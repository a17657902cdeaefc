"""Layers whose weights belong to units: which make a unit, which read it, and what is refused."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nbutils.sites import Site, submodule

Model = TypeVar("Model", bound=nn.Module)

_CONV: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NORMS: tuple[type[nn.Module], ...] = (
    *BATCH_NORMS,
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
)


def of_kind(layer: nn.Module, kinds: Iterable[type[nn.Module]]) -> bool:
    """Return whether a layer does what one of these classes does; a subclass with a `forward` of its own does not."""
    return any(isinstance(layer, kind) and type(layer).forward is kind.forward for kind in kinds)


def axes(layer: nn.Module) -> tuple[int, int | None] | None:
    """Return the axes of a layer's weight `[groups, ...]` (see `grouped`) that units of its output and input lie on.

    None where the layer does not mix units: each unit that it puts out depends on one that it takes in.
    """
    if of_kind(layer, (nn.Linear, *_CONV)):
        return None if depthwise(layer) else (1, 2)
    if of_kind(layer, _TRANSPOSED) or _transposed_linear(layer):
        return (2, 1)
    return (2, None) if of_kind(layer, [nn.Embedding]) else None


def depthwise(layer: nn.Module) -> bool:
    """Return whether a layer is a convolution of each channel alone."""
    sizes = {getattr(layer, name, None) for name in ("groups", "in_channels", "out_channels")}
    return of_kind(layer, _CONV) and len(sizes) == 1 and sizes != {1}


def grouped(layer: nn.Module) -> Tensor:
    """Return a view `[groups, ...]` of a mixing layer's weight."""
    return layer.get_parameter("weight").unflatten(0, (getattr(layer, "groups", 1), -1))


def width(layer: nn.Module, part: str = "output") -> int:
    """Return how many units a layer with weights puts out, or takes in."""
    at = axes(layer)
    if at is None:
        return len(layer.get_parameter("weight"))
    axis = at[0] if part == "output" else at[1]
    weight = grouped(layer)
    return len(weight) * weight.shape[axis]  # type: ignore[index]  # `weighted` refused an embedding's input


def weighted(model: nn.Module, site: Site, *, any_axis: bool = False) -> nn.Module:
    """Return the layer whose weights make a site's units, or read them.

    Args:
        model: any module.
        site: of a layer with weights.
        any_axis: take the axis at its word, for a caller who compares with the edit.

    Raises:
        KeyError: no such module.
        ValueError: its weights do not belong to units, or are not what runs.
    """
    layer = submodule(model, site.module)
    if isinstance(layer, nn.MultiheadAttention) and site.part == "output":
        layer = layer.out_proj  # runs without being called
    elif "." in site.module and isinstance(submodule(model, site.module.rpartition(".")[0]), nn.MultiheadAttention):
        outer = site.module.rpartition(".")[0]
        raise ValueError(f"{site.module!r} is never called: the attention computes with its weights; name {outer!r}")
    refuse(model, site.module, layer)
    told = f"{site.name}, a {type(layer).__name__}"
    if axes(layer) is None and not depthwise(layer) and not of_kind(layer, NORMS):
        raise ValueError(
            f"weights belong to units of Linear, Conv, Embedding and norm layers; got {told}: name the layer that "
            "makes its units, or edit the activation"
        )
    weight = layer._parameters.get("weight")
    if weight is None:
        raise ValueError(f"{told}, has no weights that could be zero (affine=False, or the like); edit the activation")
    if of_kind(layer, NORMS) and (site.part == "input" or weight.ndim != 1):
        raise ValueError(f"no weight belongs to one unit of {told}; name the layer that makes it")
    if site.part == "input" and of_kind(layer, [nn.Embedding]):
        raise ValueError(f"an embedding takes in indices, not units: {site}")
    if site.item not in (None, 0, "input"):
        raise ValueError(f"{told}, is one tensor, without the item {site.item!r}")
    own = Site("").on(layer).axis
    if not any_axis and site.axis not in (None, own):
        raise ValueError(
            f"units of {told}, lie on axis {own}, and weights belong to no others; got {site}. With a batch, an axis "
            "counted from the other end is accepted"
        )
    least = width(layer, site.part)
    if any(unit >= least for unit in site.indices):
        raise ValueError(f"{site.name} has units 0 to {least - 1}; got {site}")
    return layer


def refuse(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Refuse a layer whose weights are not its own, not here, or not what runs.

    Raises:
        ValueError: parametrized, replaced, shared, offloaded or quantized; the message says which.
    """
    computed = [key for key, value in vars(layer).items() if isinstance(value, Tensor) and value.requires_grad]
    computed += [key for key in ("weight", "bias") if f"{key}_orig" in layer._parameters or f"{key}_g" in vars(layer)]
    computed += [key for key in ("weight", "bias") if f"{key}_g" in layer._parameters]
    if parametrize.is_parametrized(layer) or computed:
        sources = [key for key in layer._parameters if key not in ("weight", "bias")]
        sources = sources or list(getattr(layer, "parametrizations", ()))
        raise ValueError(
            f"the weights of {name!r} are computed anew from others at every pass (parametrized: "
            f"{', '.join(sources)}): what is written to them does not stay; remove the parametrization first, or "
            "edit the activation"
        )
    if "forward" in vars(layer):
        raise ValueError(f"the forward of {name!r} was replaced: what runs may not use its weights")
    shared = Counter(id(tensor) for _, tensor in model.named_parameters(remove_duplicate=False))
    aliases = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for key, tensor in layer.named_parameters(recurse=False):
        if tensor.device.type == "meta":
            raise ValueError(f"the {key} of {name!r} is not on this machine (device 'meta')")
        if not tensor.is_floating_point() or tensor.is_quantized:
            raise ValueError(f"the {key} of {name!r} is {tensor.dtype}: quantized weights are not edited")
        if shared[id(tensor)] > aliases[id(layer)]:
            raise ValueError(f"the {key} of {name!r} is another module's, too: what is done to one is done to both")


def unit_axes(layer: nn.Module) -> dict[str, int]:
    """Return the parameters that make a layer's units, with the axis on which the units lie.

    Raises:
        ValueError: they lie on none, as for a transposed convolution of several groups.
    """
    at = axes(layer)
    if at is not None and at[0] == 2 and getattr(layer, "groups", 1) != 1:
        raise ValueError(f"no axis of the weight of {layer} holds its units")
    return {
        name: at[0] - 1 if at is not None and name == "weight" else 0
        for name, _ in layer.named_parameters(recurse=False)
    }


def unscripted(model: nn.Module) -> None:
    """Refuse a model that is scripted, or in part.

    Raises:
        ValueError: the message names the module.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{name or 'the model'!r} is scripted: its weights are not edited; use what was scripted")


def copied(model: Model) -> Model:
    """Return a deep copy.

    Raises:
        ValueError: a module keeps a computed weight, which cannot be copied; the message names it.
    """
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                raise ValueError(
                    f"{name or 'the model'!r} keeps {key!r}, computed at the last pass (weight_norm or spectral_norm "
                    "of torch.nn.utils, parametrized the old way), and cannot be copied; remove it first"
                )
    return copy.deepcopy(model)


@torch.no_grad()
def silence(layer: nn.Module, part: str, units: Sequence[int]) -> None:
    """Set the weights and biases that make units to zero, or the weights that read them, in place."""
    at = axes(layer) or ((1, 2) if depthwise(layer) else None)
    if at is None:
        layer.get_parameter("weight")[list(units)] = 0
    else:
        weight = grouped(layer)
        axis = at[0] if part == "output" else at[1]
        size = weight.shape[axis]  # type: ignore[index]
        for unit in units:
            weight[unit // size].select(axis - 1, unit % size).zero_()  # type: ignore[operator]
    if part == "output" and layer._parameters.get("bias") is not None:
        layer.get_parameter("bias")[list(units)] = 0


def _transposed_linear(layer: nn.Module) -> bool:
    """Return whether a layer is linear with its weight `[in, out]`, as GPT-2 of transformers has them."""
    return type(layer).__name__ == "Conv1D" and getattr(layer, "weight", torch.empty(0)).ndim == 2
