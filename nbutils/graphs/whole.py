"""Whether a graph is the whole model: nothing but its destinations reads what its sources write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nbutils import batches
from nbutils.ablation.edits import edits
from nbutils.ablation.sources import src_ablations
from nbutils.batches import Batch
from nbutils.graphs.nodes import Graph, Values
from nbutils.graphs.patch import patch_edges
from nbutils.graphs.readers import apart, tolerance
from nbutils.hooks import edit, unchanged
from nbutils.sites import Site


def check(model: nn.Module, graph: Graph, batch: Batch) -> None:
    """Patch everything with what sources write on other inputs: the model must answer as to these.

    Where sources with which streams begin are replaced for all that read them, it must answer as where they are
    replaced themselves: else something that is no destination reads them, and what comes after hides it.

    Raises:
        ValueError: it does not: something reads the stream that is no destination of the graph.
    """
    other = _others(batch)
    with unchanged(model), torch.no_grad():
        model.eval()
        values = src_ablations(model, graph.sites, other)
        expected = _tensors(batches.run(model, other))
        with patch_edges(model, graph, graph.edges, values):
            found = _tensors(batches.run(model, batch))
        starts, begun = _begun(graph, model, values)
        with edit(model, edits(starts, {site: begun[site] for site in starts})):
            expected_begun = _tensors(batches.run(model, batch))
        with patch_edges(model, graph, [edge for edge in graph.edges if graph.sources[edge.source] in starts], begun):
            found_begun = _tensors(batches.run(model, batch))
    _compare(
        graph,
        found,
        expected,
        "with everything that the destinations read resampled, the model must answer as to the "
        "inputs that these values come from",
    )
    told = ", ".join(site.name for site in starts)
    _compare(
        graph,
        found_begun,
        expected_begun,
        f"with {told} replaced where the destinations read it, the model must answer "
        "as with it replaced where it is put out",
    )


def _begun(graph: Graph, model: nn.Module, values: Values) -> tuple[list[Site], dict[Site, Tensor]]:
    """Return the sources with which streams begin, which whoever reads these must read, and values like no run's."""
    first = dict.fromkeys(graph.sources[sources[0]].module for sources in graph.reads.values())
    by_site = dict(zip(graph.sites, values, strict=True)) if isinstance(values, Tensor) else dict(values)
    starts = []
    for i, module in enumerate(first):
        here = [site for site in graph.sites if site.module == module]
        starts += here
        if i % 2 == 0:  # not what the streams before would make of them
            by_site |= {site: by_site[site].flip(-1) for site in here}
    return starts, by_site


def _compare(graph: Graph, found: dict[str, Tensor], expected: dict[str, Tensor], rule: str) -> None:
    for name, wanted in expected.items():
        if not wanted.is_floating_point():
            continue
        if not (far := apart(found[name], wanted)) <= 10 * tolerance(wanted.dtype):
            raise ValueError(
                f"{rule}; its answer{name} differs by {far:.3g} of the largest value: something else reads the stream "
                f"than {', '.join(list(graph.destinations)[:4])} … {list(graph.destinations)[-1]}"
            )


def _others(batch: Batch) -> Batch:
    """Return a batch with other inputs for each item, of the same shapes, and the same masks and positions."""
    if isinstance(batch, Tensor):
        rolled = batch.roll(1, 0)
        return batch.flip(-1) if torch.equal(rolled, batch) and batch.ndim > 1 else rolled
    if isinstance(batch, Mapping):
        known = [key for key in ("input_ids", "pixel_values", "inputs_embeds") if key in batch]
        tensors = [key for key, value in batch.items() if isinstance(value, Tensor) and value.ndim]
        key = (known or tensors)[0]
        held, mask = batch[key], batch.get("attention_mask")
        if isinstance(mask, Tensor) and mask.shape == held.shape[:2] and not mask.all():
            other, real = held.clone(), mask.bool()  # padding stays where it is: models look for its end
            other[real] = held[real].flip(0)
            if not torch.equal(other, held):
                return {**batch, key: other}
        return {**batch, key: _others(batch[key])}
    first = next(i for i, value in enumerate(batch) if isinstance(value, Tensor) and value.ndim)
    return (*batch[:first], _others(batch[first]), *batch[first + 1 :])


def _tensors(output: Any) -> dict[str, Tensor]:
    """Return the tensors of an answer, by how they are reached."""
    if isinstance(output, Tensor):
        return {"": output}
    pairs = output.items() if isinstance(output, Mapping) else enumerate(output)
    return {f"[{key!r}]": value for key, value in pairs if isinstance(value, Tensor)}
