"""The ablation of a unit's weights, on a copy that is compared with the ablation of its activation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn

from nbutils import batches
from nbutils.ablation.edits import edits
from nbutils.ablation.flow import Flow, tensors
from nbutils.ablation.layers import copied, silence, unscripted, weighted, width
from nbutils.batches import Batch
from nbutils.hooks import edit, unchanged, watch
from nbutils.sites import Site, submodule

Model = TypeVar("Model", bound=nn.Module)

CLOSE = 1e-5  # of the largest answer: how far the copy's may be from those under the edit; more for 16 bits


def zero_weights(model: Model, sites: Iterable[str | Site], batch: Batch | None = None) -> Model:
    """Return a copy in which the weights *and* the bias of units are zero.

    What the module puts out there is then exactly 0, the same as `ZERO` at the site; with the bias left in place it
    would not be. A site at a layer's *input* loses the weights that read it. A batch norm after a convolution makes
    something else than 0 of a zero: the two are one unit, and its site is the batch norm. A site at a module without
    weights (a ReLU, a norm without parameters) means the layer that makes its units, which a run on the batch finds.

    Args:
        model: any module.
        sites: units of linear layers, convolutions, embeddings, attentions or norms; a site without a unit means all.
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
    unscripted(model)
    chosen = list(dict.fromkeys(Site.of(place) for place in sites))
    places = [_maker(model, site, batch) for site in chosen]
    for place in places:
        layer = weighted(model, place, any_axis=batch is not None)
        if batch is None and place.part == "output" and layer._forward_hooks:
            raise ValueError(
                f"hooks are left on {place.module!r}: it may put out more than its weights make; remove them, or give "
                "a batch to check the copy on"
            )
    copy = copied(model)
    for place in places:
        layer = weighted(copy, place, any_axis=True)
        units = place.indices if place.unit is not None else range(width(layer, place.part))
        silence(layer, place.part, units)
    if batch is not None:
        told = [f"{site.name} by {place.module!r}" for site, place in zip(chosen, places, strict=True) if site != place]
        check_copy(model, copy, chosen, batch, hint=f"; made are {', '.join(told)}" if told else "")
    return copy


def _maker(model: nn.Module, site: Site, batch: Batch | None) -> Site:
    """Return the site itself, or the one of the layer that makes its units where its module has no weights."""
    module = submodule(model, site.module)
    if next(module.parameters(), None) is not None or batch is None:
        return site
    flow = Flow(model, batch, [site])
    mixing, between = flow.makers(site)
    for name in (*reversed(between), *(mixing if len(mixing) == 1 else ())):
        if not isinstance(submodule(model, name), nn.PReLU):
            count = width(weighted(model, Site(name)))
            if count != flow.count(site):
                raise ValueError(
                    f"{site.name} has {flow.count(site)} units, and {name!r}, which makes them, {count}; name {name!r}"
                )
            return Site(name, site.unit)
    makers = ", ".join(map(repr, mixing)) or "no layer"
    raise ValueError(f"the units of {site.name} are made by {makers} and not by one layer; edit the activation instead")


@torch.no_grad()
def check_copy(model: nn.Module, copy: nn.Module, sites: Iterable[Site], batch: Batch, *, hint: str = "") -> None:
    """Compare what a copy answers with what the model answers where an edit sets the sites to zero.

    Args:
        model: left as it was.
        copy: left as it was.
        sites: places in the model.
        batch: of any kind.
        hint: ends the message.

    Raises:
        ValueError: a site's module does not run, the copy does not, or it answers otherwise.
    """
    sites = list(sites)
    told = ", ".join(map(str, sites))
    ran: dict[str, None] = {}
    with unchanged(model), unchanged(copy):
        model.eval()
        copy.eval()
        with watch(model, {site.module: _noting(ran, site.module) for site in sites}):
            batches.run(model, batch)
            for site in sites:
                if site.module not in ran:
                    raise ValueError(f"{site.module!r} does not run on the batch: no edit says what {site} must equal")
            with edit(model, edits(sites)):
                expected = tensors(batches.run(model, batch))
        try:
            with watch(copy):  # so that it runs the same way: without fused or compiled paths
                found = tensors(batches.run(copy, batch))
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            raise ValueError(f"without {told} the model does not run: {error}{hint}") from error
    if not expected or [t.shape for t in expected] != [t.shape for t in found]:
        shapes = [[tuple(tensor.shape) for tensor in answer] for answer in (expected, found)]
        raise ValueError(f"without {told} the model answers {shapes[1]} in place of {shapes[0]}{hint}")
    for right, answer in zip(expected, found, strict=True):
        apart, limit = _apart(right, answer)
        if not apart <= limit:
            raise ValueError(
                f"the copy answers otherwise than the model under the edit of {told}: by up to {apart:.3g}, where "
                f"{limit:.3g} is rounding{hint or '; are these weights used elsewhere, too?'}"
            )


def _noting(ran: dict[str, None], name: str) -> Callable[[object], object]:
    return lambda _output: ran.setdefault(name)


def _apart(right: torch.Tensor, answer: torch.Tensor) -> tuple[float, float]:
    """Return how far an answer is from the right one, and how far rounding may take it."""
    if not right.numel():
        return 0.0, 0.0
    inexact = right.is_floating_point() or right.is_complex()
    close = max(CLOSE, 8 * torch.finfo(right.dtype).eps) if inexact else 0.0
    same = (right == answer) | (right.isnan() & answer.isnan())
    gap = (right - answer if inexact else right.double() - answer.double()).abs()
    gap, size = gap.masked_fill(same, 0.0), right.abs()
    return gap.max().item(), close * size[size.isfinite()].max().item() if size.isfinite().any() else 0.0
