"""Destinations that read the stream through a module: units of M's output, where M takes in R of the stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nbutils.graphs.linear import columns, weights
from nbutils.graphs.nodes import Span
from nbutils.sites import submodule

# Of the largest value; wider for half precision. Norms of float64 models may compute in float32.
_CLOSE = {torch.float64: 1e-6, torch.float32: 1e-4}


def apart(a: Tensor, b: Tensor) -> float:
    """Return how far two tensors are apart, in units of the largest finite value; infinite where one alone is not."""
    finite = a.isfinite() & b.isfinite()
    if not finite.all():
        if not torch.equal(a[~finite].nan_to_num(0.5), b[~finite].nan_to_num(0.5)):
            return torch.inf
        a, b = a[finite], b[finite]
    if not a.numel():
        return 0.0
    scale = max(a.abs().max().item(), b.abs().max().item())
    difference = (a - b).abs().max().item()
    return difference / scale if scale else 0.0 if difference == 0 else torch.inf


def tolerance(dtype: torch.dtype) -> float:
    """Return how far two ways to compute the same may be apart, in units of the largest value."""
    return _CLOSE.get(dtype, 3e-2)


def taken(model: nn.Module, span: Span, streams: Tensor) -> Tensor:
    """Return what M takes in for streams `[n, items, ..., width]`: R of them, or they themselves where R is M."""
    if span.through == span.module:
        return streams
    return submodule(model, str(span.through)).forward(streams.flatten(0, 1)).unflatten(0, streams.shape[:2])


def computed(model: nn.Module, span: Span, streams: Tensor) -> list[Tensor]:
    """Return what each destination computes of the stream patched for it.

    Args:
        model: the graph's.
        span: destinations that read through a module.
        streams: `[sets, destinations, items, ..., width]`.

    Returns:
        For each destination `[sets, items, ..., units]`. Of a linear M its slice of the weight alone is used.
    """
    sets, nodes = streams.shape[:2]
    into = taken(model, span, streams.flatten(0, 1)).unflatten(0, (sets, nodes))
    module = submodule(model, span.module)
    if (found := weights(module)) is None:
        whole = [module.forward(into[:, i].flatten(0, 1)).unflatten(0, (sets, -1)) for i in range(nodes)]
        return [
            one.index_select(-1, columns(site, one.shape[-1], one.device))
            for one, site in zip(whole, span.sites, strict=True)
        ]
    weight, bias = found
    results = []
    for i, site in enumerate(span.sites):
        index = columns(site, weight.shape[1], weight.device)
        result = into[:, i] @ weight.index_select(1, index)
        results.append(result if bias is None else result + bias.index_select(0, index))
    return results


def backward(model: nn.Module, span: Span, stream: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient at what each destination reads `[destinations, items, ..., width]`.

    Args:
        model: the graph's.
        span: destinations that read through a module.
        stream: what they all read `[items, ..., width]`.
        gradient: with respect to M's output.
    """
    stream = stream.detach()
    module = submodule(model, span.module)
    indices = [columns(site, gradient.shape[-1], gradient.device) for site in span.sites]
    with torch.enable_grad():
        streams = stream.expand(len(span), *stream.shape).clone().requires_grad_()
        if (found := weights(module)) is None:
            outputs = computed(model, span, streams[None])
            parts = [gradient.index_select(-1, index)[None] for index in indices]
            return torch.autograd.grad(outputs, streams, parts)[0]
        weight = found[0].detach()
        back = torch.stack([gradient.index_select(-1, index) @ weight.index_select(1, index).T for index in indices])
        if span.through == span.module:
            return back
        return torch.autograd.grad(taken(model, span, streams), streams, back)[0]
