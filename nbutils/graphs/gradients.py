"""Gradients at what each destination reads: of a stream that all of them share, each one's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from nbutils.graphs.nodes import Graph, Span, spans
from nbutils.graphs.readers import backward
from nbutils.hooks import edit, unchanged, watch
from nbutils.sites import Site, submodule


def differentiable(value: Tensor) -> Tensor:
    """Return a sum of metrics.

    Raises:
        ValueError: it has no gradient.
    """
    if not value.requires_grad:
        raise ValueError(
            "a score by gradients needs a metric that is a differentiable function of the logits; it gave "
            f"{value.dtype} without a gradient: is it an argmax, a comparison, or detached? exact_scores takes it"
        )
    return value


def read_gradients(
    model: nn.Module, graph: Graph, measure: Callable[[], Tensor]
) -> tuple[list[tuple[Span, Tensor]], dict[Site, Tensor]]:
    """Return the gradients of a number with respect to what the destinations of each module read.

    Args:
        model: the graph's; it runs in eval mode and is left as it was.
        graph: as from `residual_graph`.
        measure: runs the model once and returns the number.

    Returns:
        For the destinations of each module, in the graph's order, the gradient `[destinations, items, ...]`; and what
        was at the sources' sites `[items, ...]`, a view.
    """
    zeros: dict[Site, Tensor] = {}  # added at a place, with the gradient that is there
    streams: dict[str, Tensor] = {}
    written: dict[str, Tensor] = {}  # by module; of a linear one, whose input's units are sources, its input

    def add(site: Site, tensor: Tensor) -> Tensor:
        zeros[site] = torch.zeros_like(tensor).requires_grad_()
        return tensor + zeros[site]

    def note(kept: dict[str, Tensor], name: str, *arguments: object, **keywords: object) -> None:
        key = Site(name, part="input").argument(submodule(model, name), arguments, keywords)
        tensor = arguments[key] if isinstance(key, int) else keywords[key]
        assert isinstance(tensor, Tensor)
        kept[name] = tensor.detach().clone()

    def keep(site: Site, output: object) -> None:
        written[site.module] = site.take(output).detach().clone()

    found = spans(graph.destinations, graph.through)
    places = [Site(span.module, part="output" if span.through else "input") for span in found]
    seen = {span.through: partial(note, streams, span.through) for span in found if span.through is not None}
    wholes = {site.module: site.whole for site in graph.sites}
    outputs = {name: partial(keep, site) for name, site in wholes.items() if site.part == "output"}
    inputs = {name: partial(note, written, name) for name, site in wholes.items() if site.part == "input"}
    with unchanged(model), edit(model, {site: partial(add, site) for site in places}), torch.enable_grad():
        model.eval()
        with watch(model, inputs=seen), watch(model, outputs, inputs=inputs):
            value = measure()
        grads = torch.autograd.grad(differentiable(value), [zeros[site] for site in places])
    gradients = [
        (span, span.apart(grad) if span.through is None else backward(model, span, streams[span.through], grad))
        for span, grad in zip(found, grads, strict=True)
    ]
    return gradients, {site: site.on(model).select(written[site.module]) for site in graph.sites}
