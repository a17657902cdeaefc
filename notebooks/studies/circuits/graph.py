"""The residual graph of the study's transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from nbutils.sites import Site

if TYPE_CHECKING:
    from studies.circuits.transformer import Transformer
from nbutils.graphs.residual import ResidualGraph


def transformer_graph(model: Transformer, sample: Tensor) -> ResidualGraph:
    """Return the graph of a `Transformer`.

    Sources: `token`, `position`, the heads `a{block}.{head}`, the MLPs `m{block}`. Destinations: `a{block}.{head}.q`,
    `.k` and `.v`, `m{block}`, and `logits`.
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
