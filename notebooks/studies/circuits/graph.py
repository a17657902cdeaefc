"""The residual graph of the study's transformer."""

from __future__ import annotations

from torch import Tensor

from nbutils.graphs.residual import ResidualGraph, residual_graph
from studies.circuits.transformer import Transformer


def transformer_graph(model: Transformer, sample: Tensor) -> ResidualGraph:
    """Return the graph of a transformer, as `nbutils.residual_graph` finds it by the modules' names.

    Sources: `token`, `position`, the heads `a{block}.{head}`, the MLPs `m{block}`. Destinations: `a{block}.{head}.q`,
    `.k` and `.v`, `m{block}`, and `logits`.

    Args:
        model: run a few times; left as it was.
        sample: tokens `[items, positions]`.
    """
    return residual_graph(model, sample)
