"""Units taken out of a model, on a copy that is compared with the ablation of their activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from nbutils import batches
from nbutils.ablation.flow import Flow, keep_inputs
from nbutils.ablation.layers import BATCH_NORMS, axes, copied, depthwise, grouped, of_kind, refuse, unscripted, width
from nbutils.ablation.weights import check_copy
from nbutils.batches import Batch
from nbutils.hooks import edit, unchanged, watch
from nbutils.sites import Site, submodule

Model = TypeVar("Model", bound=nn.Module)


def prune(model: Model, sites: Iterable[str | Site], batch: Batch) -> Model:
    """Return a copy in which units do not exist: a layer of width K becomes one of width K less those.

    A run on the batch finds the layer that makes the units, the layers that read them, and the norms in between, which
    lose them all. The copy answers on the batch as the model does where the units are set to zero at the site
    (`ZERO`), or nothing is returned: so a reader must see 0 where a unit is 0. A batch norm makes something else of
    it: name the batch norm itself, its units are those of the convolution before it. Units that are added to others (a
    residual stream), or normalised with them by a layer norm, cannot be taken out.

    Args:
        model: any module; not changed.
        sites: units, at the layer that makes them, or at the input or output of a module before they are read.
        batch: inputs to trace and to check the copy on.

    Raises:
        KeyError: no such module.
        ValueError: units that are made by several layers, read by none, by one without a rule, or together with
            others; weights that `zero_weights` refuses; or a copy that answers otherwise.

    >>> import nbutils as nb, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
    >>> nb.prune(model, [nb.Site("0", 0), nb.Site("0", 3)], torch.randn(4, 2))[0].out_features
    3
    """
    groups: dict[Site, dict[int, None]] = {}
    chosen = [Site.of(place) for place in sites]
    for site in chosen:
        if not site.indices:
            raise ValueError(f"which units are to go? {site} is all of them, and no unit would be left")
        groups.setdefault(site.whole, {}).update(dict.fromkeys(site.indices))
    unscripted(model)
    for whole in groups:
        refuse(model, whole.module, submodule(model, whole.module))
    copy, hint = copied(model), ""
    for whole, units in groups.items():
        cut = _trace(copy, whole.on(copy), sorted(units), batch)
        _apply(copy, cut)
        hint += str(cut)
    check_copy(model, copy, chosen, batch, hint=hint)
    return copy


@dataclass(frozen=True)
class _Cut:
    """What units are taken out of.

    Attributes:
        units: their indices where they are made.
        makers: paths of the layers that put them out; of several the units are multiplied (as by a gate) or added.
        between: paths of modules that hold a weight per unit, with the units' indices.
        readers: paths of the layers that read them, with the indices of their inputs.
        passed: paths of the modules that units pass on their way to readers.
        beside: paths of other layers whose units the readers take in, too.
    """

    units: list[int]
    makers: list[str]
    between: dict[str, list[int]]
    readers: dict[str, list[int]]
    passed: list[str]
    beside: list[str]

    def __str__(self) -> str:
        way = (("passing ", self.passed), ("joined with those of ", self.beside))
        told = "".join(f", {words}{_listed(names)}" for words, names in way if names)
        return f"; the units are made by {_listed(self.makers)} and read by {_listed(self.readers)}{told}"


def _trace(model: nn.Module, whole: Site, units: list[int], batch: Batch) -> _Cut:
    """Find what units are to be taken out of.

    Raises:
        ValueError: there is no such unit, or no rule for a module that makes or reads it.
    """
    flow = Flow(model, batch, [whole])
    makers, above = _makers(flow, whole, units)
    between: dict[str, list[int]] = dict.fromkeys(above, units)
    readers: dict[str, list[int]] = {}
    reading = {name: path for maker in makers for name, path in flow.readers(maker).items() if name not in above}
    runs = _inputs(flow.model, replace(whole, unit=tuple(units)), reading, batch)
    for name, path in reading.items():
        values = [kept[name] for kept in runs]
        if torch.equal(values[0], values[1]) and torch.equal(values[0], values[2]):
            continue  # it reads other units of the layer
        _cuttable(flow, name)
        found = _where(flow, whole, (name, makers, len(units)), path, values)
        (between if axes(submodule(model, name)) is None else readers)[name] = found
    if not readers:
        raise ValueError(f"no layer reads {whole.name}: its units are the model's answer, or go nowhere")
    passed = dict.fromkeys(step for name in readers for step in reading[name])
    beside = dict.fromkeys(other for name in readers for other in flow.beside(name, makers))
    return _Cut(units, makers, between, readers, list(passed), list(beside))


def _makers(flow: Flow, whole: Site, units: list[int]) -> tuple[list[str], list[str]]:
    """Return the layers that make the units of a site, and the modules on the way that hold a weight per unit."""
    makers, above = flow.makers(whole)
    for name in (*makers, *above):
        _cuttable(flow, name)
    if not makers:
        raise ValueError(f"no layer makes {whole.name}, as far as autograd's graph tells")
    count = flow.count(whole)
    for name in makers:
        made = width(submodule(flow.model, name))
        if made != count:
            raise ValueError(f"{whole.name} has {count} units, and {name!r}, which makes them, {made}; name {name!r}")
    if units[-1] >= count:
        raise ValueError(f"{whole.name} has units 0 to {count - 1}; got {units}")
    if len(units) == count:
        raise ValueError(f"without {units} no unit would be left in {_listed(makers)}")
    return makers, above


def _inputs(model: nn.Module, site: Site, names: Iterable[str], batch: Batch) -> list[dict[str, Tensor]]:
    """Return what modules take in, by path, where the units are 0, above 0, and below 0."""
    runs: list[dict[str, Tensor]] = []
    for sign in (0.0, 1.0, -1.0):

        def put(part: Tensor, sign: float = sign) -> Tensor:
            drawn = torch.rand(part.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            return (sign * (1 + drawn)).to(part)

        kept: dict[str, Tensor] = {}
        seen = watch(model, inputs=keep_inputs(model, names, kept))
        with torch.no_grad(), unchanged(model), edit(model, {site: put}), seen:
            batches.run(model, batch)
        runs.append(kept)
    return runs


def _where(
    flow: Flow, whole: Site, ends: tuple[str, list[str], int], path: list[str], values: Sequence[Tensor]
) -> list[int]:
    """Return the indices of a reader's inputs that are the units: 0 where these are 0, and not where they are not.

    Raises:
        ValueError: what is read is not 0 where the units are, for one of them or all.
    """
    name, makers, units = ends
    axis = Site(name).on(flow.model).axis
    zero, above, below = (tensor.movedim(axis, 0).flatten(1) for tensor in values)  # type: ignore[arg-type]
    alive = ((above != zero) | (below != zero)).any(1)
    found = torch.nonzero(alive & (zero == 0).all(1))[:, 0].tolist()
    if found and len(found) % units == 0:
        return found
    told = [
        f"what {name!r} reads of {whole.name} is not 0 where the units are, but up to {zero[alive].abs().max():.3g}"
    ]
    beside = flow.beside(name, makers)
    if beside:
        told.append(
            f"they are joined there (added, as in a residual stream, or multiplied) with those of {_listed(beside)}"
        )
    if path:
        told.append("they pass " + ", ".join(f"{p!r}, a {type(submodule(flow.model, p)).__name__}" for p in path))
    norms = [p for p in path if of_kind(submodule(flow.model, p), BATCH_NORMS) and p != whole.module]
    if norms and not beside:
        told.append(f"a layer and the batch norm after it are one unit, and its place is {norms[-1]!r}")
    raise ValueError("; ".join(told))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _cuttable(flow: Flow, name: str) -> None:
    """Refuse a layer that units cannot be taken out of."""
    layer = submodule(flow.model, name)
    refuse(flow.model, name, layer)
    if flow.runs[name] != 1:
        raise ValueError(f"{name!r}, which makes or reads the units, must run once; it ran {flow.runs[name]} times")
    if axes(layer) is None and not depthwise(layer) and not of_kind(layer, (*_PER_UNIT, *_PER_FEATURE)):
        raise ValueError(f"no rule takes units out of {name!r}, a {type(layer).__name__}")
    if axes(layer) is not None and getattr(layer, "groups", 1) != 1:
        raise ValueError(f"{name!r} has {layer.groups} groups of channels: one less in one of them is no convolution")


# What is cut ----------------------------------------------------------------------------------------------------------

_PER_UNIT: tuple[type[nn.Module], ...] = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.PReLU),
)
_PER_FEATURE: tuple[type[nn.Module], ...] = (nn.LayerNorm, nn.RMSNorm)
_WIDTHS = {
    "output": ("out_features", "out_channels", "embedding_dim", "nf"),
    "input": ("in_features", "in_channels", "nx"),
    "between": ("num_features", "num_parameters", "out_channels", "in_channels", "groups"),
}


def _apply(model: nn.Module, cut: _Cut) -> None:
    """Take units out of a model in place."""
    for name in cut.makers:
        _cut(submodule(model, name), "output", cut.units)
    for name, units in cut.between.items():
        _cut(submodule(model, name), "between", units)
    for name, units in cut.readers.items():
        _cut(submodule(model, name), "input", units)


def _cut(layer: nn.Module, part: str, units: Sequence[int]) -> None:
    """Take units out of what a layer puts out, takes in, or both, in place."""
    mixing = axes(layer)
    if mixing is not None:
        axis = mixing[0] if part == "output" else mixing[1]
        count, weight_axis = grouped(layer).shape[axis], axis - 1  # type: ignore[index, operator]
        lost = {"weight": weight_axis} | ({"bias": 0} if part == "output" else {})
    else:
        lost = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), 0)
        count = next(getattr(layer, name) for name in (*_WIDTHS["between"], "normalized_shape") if hasattr(layer, name))
        count = count if isinstance(count, int) else count[0]
    kept = torch.tensor([unit for unit in range(count) if unit not in set(units)])
    if mixing is None and count == 1:
        return  # a PReLU with one slope for all
    for name, axis in lost.items():
        value = getattr(layer, name, None)
        if value is None:
            continue
        smaller = value.detach().index_select(axis, kept.to(value.device)).clone()
        if isinstance(value, nn.Parameter):
            setattr(layer, name, nn.Parameter(smaller, requires_grad=value.requires_grad))
        else:
            setattr(layer, name, smaller)
    for name in _WIDTHS[part]:
        if isinstance(getattr(layer, name, None), int):
            setattr(layer, name, len(kept))
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        layer.normalized_shape = (len(kept),)
