"""The choices of method that a circuit's faithfulness depends on, and the faithfulness under all combinations of them.

After the list of Miller, Chughtai and Saunders 2024, arXiv 2407.08734.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbutils.ablation.sources import src_ablations
from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairLoader
from nbutils.graphs.edge_sets import run_edge_sets
from nbutils.graphs.nodes import Values
from nbutils.graphs.residual import ResidualGraph
from nbutils.graphs.scores import EdgeTask
from studies.circuits.answers import logit_difference
from studies.circuits.faithfulness import faithfulness
from studies.circuits.sequences import Prompts
from studies.circuits.transformer import Transformer

if TYPE_CHECKING:
    import pandas as pd

CHOICES: Mapping[str, tuple[str, ...]] = {
    "granularity": ("edges", "nodes"),
    "component": ("heads and embeddings", "heads"),
    "set": ("sufficient", "necessary"),
    "direction": ("noising", "denoising"),
    "value": tuple(kind.value for kind in AblationType),
    "positions": ("all", "answer and last"),
}
"""Choice -> its levels. Denoising is done by resampling alone, which leaves 128 combinations."""

USUAL: Mapping[str, str] = {
    "granularity": "edges",
    "component": "heads and embeddings",
    "set": "sufficient",
    "direction": "noising",
    "value": AblationType.RESAMPLE.value,
    "positions": "all",
}
"""Choice -> the level that is used most."""

_WAYS = [*(("noising", kind) for kind in AblationType), ("denoising", AblationType.RESAMPLE)]

Circuit = Sequence[tuple[str, str]]


def faithfulness_by_method(
    model: Transformer, graph: ResidualGraph, prompts: Prompts, circuits: Mapping[str, Circuit]
) -> pd.DataFrame:
    """Return the faithfulness of circuits under every combination of `CHOICES`.

    The measure is the logit difference; 0 is everything replaced at all positions, 1 the whole network.

    Args:
        model: the graph's; left as it was.
        graph: as from `transformer_graph`.
        prompts: of the induction task, run as one batch.
        circuits: title -> its edges, source and destination.

    Returns:
        A row per circuit and method: `circuit`, the choices, `faithfulness` (a ratio of means), and `informs`: whether
        some of the component's edges are replaced and some are not. Where none is, or all are, as where all nodes
        belong to a circuit, the number says nothing of which edges are in it.
    """
    import pandas as pd

    cases = list(product(circuits, *(CHOICES[name] for name in ("granularity", "component", "set"))))
    counts = {part: int(_mask(graph, [], "edges", part, inside=False).sum()) for part in CHOICES["component"]}
    rows = []
    for direction, kind in _WAYS:
        noising = direction == "noising"
        masks = [
            _mask(graph, circuits[title], grain, part, inside=noising == (asked == "necessary"))
            for title, grain, part, asked in cases
        ]
        by_place = _measure(model, graph, prompts, masks, kind if noising else None)
        end = by_place["all"][1]  # what replacing everything everywhere comes to
        for positions, (start, _, *moved) in by_place.items():
            for case, mask, value in zip(cases, masks, moved, strict=True):
                informs = 0 < int(mask.sum()) < counts[case[2]]
                share = faithfulness(value, end, start).ratio_of_means  # of the way from start to end
                share = share if noising == (case[-1] == "necessary") else 1 - share
                rows.append((*case, direction, kind.value, positions, share, informs))
    return pd.DataFrame(rows, columns=["circuit", *CHOICES, "faithfulness", "informs"])


def ranges_of_choice(values: pd.Series, choice: str) -> dict[str, float]:
    """Return how far faithfulness moves when one choice is varied and the others are held.

    Args:
        values: the faithfulness of one circuit, indexed by `CHOICES`.
        choice: which of them to vary.

    Returns:
        The range `from the usual method`; the `median` and the `largest` of the ranges from all other methods.
    """
    others = [name for name in CHOICES if name != choice]
    there = values.index.get_level_values(choice)
    table = values.unstack(choice)[[level for level in CHOICES[choice] if level in there]]
    ranges = (table.max(axis=1) - table.min(axis=1))[table.notna().sum(axis=1) > 1]
    usual = table.loc[tuple(USUAL[name] for name in others)].dropna()
    return {"from the usual method": usual.max() - usual.min(), "median": ranges.median(), "largest": ranges.max()}


def _mask(graph: ResidualGraph, circuit: Circuit, granularity: str, component: str, *, inside: bool) -> Tensor:
    """Return the mask `[edges]` of the edges in a circuit, or of all others."""
    nodes, edges = {source for source, _ in circuit}, set(map(tuple, circuit))
    return graph.mask(
        edge
        for edge in graph.edges
        if ((edge.source in nodes) if granularity == "nodes" else (tuple(edge) in edges)) == inside
        and (component != "heads" or edge.source.startswith("a"))
    )


def _measure(
    model: Transformer, graph: ResidualGraph, prompts: Prompts, masks: Sequence[Tensor], kind: AblationType | None
) -> dict[str, list[Tensor]]:
    """Return the logit differences `[items]` with no edge replaced, with all of them, and with those of each mask.

    Args:
        kind: what replaces them in a clean run; None for clean values in a corrupt run.

    Returns:
        Level of `positions` -> one tensor per edge set.
    """
    loader = PairLoader(prompts, len(prompts))
    (batch,) = loader
    values: Values
    if kind is None:
        inputs, values = prompts.corrupt, src_ablations(model, graph.sites, prompts.clean, stack=True)
    else:
        inputs, values = prompts.clean, EdgeTask(model, graph, loader, kind, logit_difference).of(batch)
    asked = torch.isin(torch.arange(prompts.clean.shape[1]), torch.tensor(prompts.positions)).to(prompts.clean.device)
    places = {"all": None, "answer and last": (prompts.clean != prompts.corrupt) | asked}
    count = len(graph.edges)
    sets = torch.stack([torch.zeros(count), torch.ones(count), *masks])
    return {
        positions: [
            logit_difference(one, batch).cpu() for one in run_edge_sets(model, graph, sets, inputs, values, where=where)
        ]
        for positions, where in places.items()
    }
