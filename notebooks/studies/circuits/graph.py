"""The residual graph of the study's transformer."""

from __future__ import annotations

from torch import Tensor

from nbutils.graphs.residual import ResidualGraph
from nbutils.sites import Site
from studies.circuits.transformer import Transformer


def transformer_graph(model: Transformer, sample: Tensor) -> ResidualGraph:
    """Return the graph of a transformer.

    Sources: `token`, `position`, the heads `a{block}.{head}`, the MLPs `m{block}`. Destinations: `a{block}.{head}.q`,
    `.k` and `.v`, `m{block}`, and `logits`.

    Args:
        model: run once; left as it was.
        sample: tokens `[items, positions]`.
    """
    sources = {"token": Site("embedding"), "position": Site("positions", axis=-1)}
    destinations = {}
    for i, block in enumerate(model.blocks):
        attention = f"blocks.{i}.attention"
        sources[f"a{i}.{{}}"] = Site(f"{attention}.heads", axis=2)
        for letter in "qkv":
            destinations[f"a{i}.{{}}.{letter}"] = Site(f"{attention}.{letter}_input", axis=2)
        if block.mlp is not None:
            sources[f"m{i}"] = destinations[f"m{i}"] = Site(f"blocks.{i}.mlp", axis=-1)
    destinations["logits"] = Site("unembed_input")
    return ResidualGraph.trace(model, sample, sources, destinations)
