"""What stands in for an activation: the estimator gathers it once, a frozen edit puts it there.

`with edit(model, edits(sites, gather(model, ...))): model(x)`, or for the weights of a unit `zero_weights`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import torch
from torch import Tensor, nn

from nbutils.hooks import Edit, capture
from nbutils.interventions.sites import Site

Model = TypeVar("Model", bound=nn.Module)


class AblationType(Enum):
    """What replaces an activation.

    ZERO: zeros. RESAMPLE: the activation on the item's twin, the input that corresponds to it.
    TOKENWISE_MEAN_CLEAN: the mean over clean inputs, at each position (pixel, token) by itself.
    """

    ZERO = "zero"
    RESAMPLE = "resample"
    TOKENWISE_MEAN_CLEAN = "tokenwise mean, clean"


@dataclass(frozen=True, eq=False)
class Replace:
    """Edit that puts a value in place of units, and leaves the others as they are.

    Args:
        units: indices on `axis`; None for the whole activation.
        value: a number, or a tensor that broadcasts to the activation: `[1, ...]` for all items, `[items, ...]` for
            each its own.
        axis: the axis of the units.
    """

    units: tuple[int, ...] | None
    value: Tensor | float = 0.0
    axis: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        value = torch.as_tensor(self.value, dtype=x.dtype, device=x.device)
        try:
            value = value.expand_as(x)
        except RuntimeError:
            raise ValueError(
                f"a value {tuple(value.shape)} cannot stand in for an activation {tuple(x.shape)}"
            ) from None
        if self.units is None:
            return value.clone()
        index = torch.tensor(self.units, device=x.device)
        return x.index_copy(self.axis, index, value.index_select(self.axis, index))


def gather(
    model: nn.Module, modules: Sequence[str], ablation: AblationType, batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Return what replaces the outputs of modules under an ablation type.

    Means are summed in float64 batch by batch, so memory does not grow with the data, and neither the batch size nor
    an unequal last batch shows in them. The model runs in eval mode and is left as it was.

    Args:
        model: any module.
        modules: dotted module paths.
        ablation: `ZERO` needs no data and does not touch `batches`.
        batches: inputs `[items, ...]`; the twins, in order, for `RESAMPLE`.

    Returns:
        Module path -> value for `Replace`: `[1, ...]` for a mean, `[items, ...]` for `RESAMPLE`; empty for `ZERO`.

    Raises:
        KeyError: no such module.
        ValueError: no data.
    """
    for name in modules:
        Site(name).resolve(model)
    if ablation is AblationType.ZERO:
        return {}
    sums: dict[str, Tensor] = {}
    parts: dict[str, list[Tensor]] = {name: [] for name in modules}
    dtypes: dict[str, torch.dtype] = {}
    items = 0
    with capture(model, *modules) as seen, torch.no_grad():
        model.eval()
        for batch in batches:
            model(batch)
            items += len(batch)
            for name in modules:
                dtypes[name] = seen[name].dtype
                if ablation is AblationType.RESAMPLE:
                    parts[name].append(seen[name])
                else:
                    total = seen[name].sum(0, keepdim=True, dtype=torch.float64)
                    sums[name] = sums[name] + total if name in sums else total
    if not items:
        raise ValueError(f"{ablation.name} needs inputs to take the activations from; got none")
    if ablation is AblationType.RESAMPLE:
        return {name: torch.cat(part) for name, part in parts.items()}
    return {name: (total / items).to(dtypes[name]) for name, total in sums.items()}


def edits(sites: Iterable[Site], values: dict[str, Tensor] | None = None) -> dict[str, Edit]:
    """Return one frozen edit a module that replaces its sites' units.

    Args:
        sites: what to replace; those of one module must share their axis.
        values: as from `gather`; a module without one is replaced by zeros.

    Raises:
        ValueError: sites of one module on several axes.
    """
    grouped: dict[str, list[Site]] = {}
    for site in sites:
        grouped.setdefault(site.module, []).append(site)
    found: dict[str, Edit] = {}
    for module, members in grouped.items():
        axes = {site.axis for site in members}
        if len(axes) > 1:
            raise ValueError(f"the sites of {module!r} must share one axis; got {sorted(axes)}")
        units = [site.unit for site in members]
        chosen = None if None in units else tuple(sorted(set(units)))
        found[module] = Replace(chosen, (values or {}).get(module, 0.0), axes.pop())
    return found


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
