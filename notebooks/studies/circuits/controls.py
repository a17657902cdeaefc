"""Circuits to compare a circuit with: as many edges, chosen by scores, at random, or all of its own but one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nbutils.graphs.residual import Edge, ResidualGraph
from nbutils.seeding import generator


def strongest_edges(graph: ResidualGraph, scores: Tensor, count: int) -> list[Edge]:
    """Return the edges of the `count` largest scores `[edges]`, whatever their sign, in the graph's order."""
    return [graph.edges[i] for i in sorted(scores.abs().argsort(descending=True, stable=True)[:count].tolist())]


def random_edges(graph: ResidualGraph, count: int, seed: int, draw: int = 0) -> list[Edge]:
    """Return `count` edges drawn without replacement, every set alike likely."""
    order = torch.randperm(len(graph.edges), generator=generator(seed, "random circuit", draw))
    return [graph.edges[i] for i in sorted(order[:count].tolist())]


def with_one_missing(circuit: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Return a circuit without one of its edges, for each of them: incomplete wherever that edge is used."""
    return [[*circuit[:i], *circuit[i + 1 :]] for i in range(len(circuit))]
