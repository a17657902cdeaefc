"""Slices of linear modules: what some units of the input add to the output, and some units of the output alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nbutils.sites import Site, submodule


def weights(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Return the weight `[in, out]` and the bias of a linear module, `Conv1D` of transformers among them; else None."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    if isinstance(module, nn.Linear):
        return weight.T, bias
    return (weight, bias) if type(module).__name__ == "Conv1D" else None


def linear(model: nn.Module, name: str) -> tuple[Tensor, Tensor | None]:
    """Return the weight `[in, out]` and the bias of the linear module at a path.

    Raises:
        KeyError: no such module.
        ValueError: it is not a linear module.
    """
    module = submodule(model, name)
    if (found := weights(module)) is None:
        raise ValueError(
            f"{name!r} must be a linear module, so that each unit of its input has a share of its output; it is a "
            f"{type(module).__name__}"
        )
    return found


def written(model: nn.Module, site: Site, part: Tensor) -> Tensor:
    """Return what units of a linear module's input add to its output `[..., out]`, without its bias.

    Args:
        site: the units, a head's say; all when it has none.
        part: what is there `[..., units]`; of a single unit `[...]`.
    """
    weight, _ = linear(model, site.module)
    if site.unit is not None:
        weight = weight[_index(site, weight)]
    if isinstance(site.unit, int):
        part = part[..., None]
    if part.shape[-1] != len(weight):
        raise ValueError(f"values {tuple(part.shape)} do not fit {site}: their last axis must have {len(weight)}")
    return part.to(weight) @ weight


def columns(site: Site, width: int, device: torch.device) -> Tensor:
    """Return the indices of a site's units on the last axis; all when it has none."""
    return torch.tensor(site.indices or range(width), device=device)


def _index(site: Site, weight: Tensor) -> slice | Tensor:
    if isinstance(site.unit, range) and site.unit.step == 1:
        return slice(site.unit.start, site.unit.stop)
    return torch.tensor(site.indices, device=weight.device)
