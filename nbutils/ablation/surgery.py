"""Units taken out of a model, on a copy that is compared with the ablation of their activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from nbutils import batches
from nbutils.ablation.flow import Flow, keep_inputs
from nbutils.ablation.layers import axes, copied, depthwise, grouped, of_kind, refuse, width
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
    copy, hint = copied(model), ""
    for whole, units in groups.items():
        cut = _trace(copy, whole, sorted(units), batch)
        _apply(copy, cut)
        hint = f"; the units of {whole.name} are made by {cut.maker!r} and read by {', '.join(map(repr, cut.readers))}"
    check_copy(model, copy, chosen, batch, hint=hint)
    return copy


@dataclass(frozen=True)
class _Cut:
    """What units of a layer are taken out of.

    Attributes:
        maker: path of the layer that puts them out.
        units: their indices there.
        between: paths of modules that hold a weight per unit, with the units' indices.
        readers: paths of the layers that read them, with the indices of their inputs.
    """

    maker: str
    units: list[int]
    between: dict[str, list[int]]
    readers: dict[str, list[int]]


def _trace(model: nn.Module, whole: Site, units: list[int], batch: Batch) -> _Cut:
    whole = whole.on(model)
    flow = Flow(model, batch, [whole])
    makers, above = flow.makers(whole)
    if len(makers) != 1 or axes(submodule(model, makers[0])) is None:
        made = ", ".join(f"{name!r}, a {type(submodule(model, name)).__name__}" for name in makers) or "none"
        raise ValueError(f"the units of {whole.name} must be made by one Linear, Conv or Embedding layer; got {made}")
    (maker,) = makers
    _cuttable(model, maker)
    made, count = submodule(model, maker), width(submodule(model, maker))
    shape = flow.shapes[whole]
    here = shape[whole.units_axis(torch.empty(shape, device="meta"))]
    if here != count:
        raise ValueError(f"{whole.name} has {here} units, and {maker!r}, which makes them, {count}; name {maker!r}")
    if units[-1] >= count:
        raise ValueError(f"{whole.name} has units 0 to {count - 1}; got {units}")
    if len(units) == count:
        raise ValueError(f"without {units} no unit would be left in {maker!r}, a {type(made).__name__}")
    reading = {name: path for name, path in flow.readers(maker).items() if name not in above}
    runs = _inputs(flow.model, replace(whole, unit=tuple(units)), reading, batch)
    between, readers = dict.fromkeys(above, units), {}
    for name, path in reading.items():
        layer = submodule(model, name)
        values = [kept[name] for kept in runs]
        if torch.equal(values[0], values[1]) and torch.equal(values[0], values[2]):
            continue  # it reads other units of the layer
        if flow.runs[name] != 1:
            raise ValueError(f"{name!r}, which reads {whole.name}, must run once; it ran {flow.runs[name]} times")
        found = _where(flow, whole, (maker, name), path, values)
        (readers if axes(layer) is not None else between)[name] = found
    if not readers:
        raise ValueError(f"no layer reads {whole.name}: its units are the model's answer, or go nowhere")
    for name in (*between, *readers):
        _cuttable(model, name)
    return _Cut(maker, units, between, readers)


def _inputs(model: nn.Module, site: Site, names: Iterable[str], batch: Batch) -> list[dict[str, Tensor]]:
    """Return what modules take in, by path, where the units are 0, above 0, and below 0."""
    runs: list[dict[str, Tensor]] = []
    for sign in (0.0, 1.0, -1.0):

        def put(part: Tensor, sign: float = sign) -> Tensor:
            drawn = torch.rand(part.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            return (sign * (1 + drawn)).to(part)

        kept: dict[str, Tensor] = {}
        with torch.no_grad(), unchanged(model), edit(model, {site: put}):
            with watch(model, inputs=keep_inputs(model, names, kept)):
                batches.run(model, batch)
        runs.append(kept)
    return runs


def _where(flow: Flow, whole: Site, ends: tuple[str, str], path: list[str], values: Sequence[Tensor]) -> list[int]:
    """Return the indices of a reader's inputs that are the units: 0 where these are 0, and not where they are not.

    Raises:
        ValueError: there are none, since what is read is not 0 where the units are.
    """
    maker, name = ends
    layer = submodule(flow.model, name)
    axis = Site(name).on(flow.model).axis
    if axis is None:
        raise ValueError(f"{name!r}, a {type(layer).__name__}, reads the units of {whole.name}: it has no rule")
    zero, above, below = (tensor.movedim(axis, 0).flatten(1) for tensor in values)
    alive = ((above != zero) | (below != zero)).any(1)
    silent = (zero == 0).all(1)
    found = torch.nonzero(alive & silent)[:, 0].tolist()
    if found:
        return found
    beside = flow.beside(name, maker)
    if beside:
        raise ValueError(
            f"what {name!r} reads of {whole.name} is not 0 where the units are: they are joined (added, as in a "
            f"residual stream, or multiplied) with those of {', '.join(map(repr, beside))}"
        )
    told = ", ".join(f"{p!r}, a {type(submodule(flow.model, p)).__name__}" for p in path) or "operations without modules"
    raise ValueError(
        f"what {name!r} reads of {whole.name} is not 0 where the units are, but up to {zero[alive].abs().max():.3g}. "
        f"Between them: {told}. Name the last of these that has weights, if it is a batch norm"
    )


def _cuttable(model: nn.Module, name: str) -> None:
    """Refuse a layer that units cannot be taken out of."""
    layer = submodule(model, name)
    refuse(model, name, layer)
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
    _cut(submodule(model, cut.maker), "output", cut.units)
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
