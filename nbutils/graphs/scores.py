"""How much each edge of a residual graph matters, by several methods; and the circuits that scores stand for.

All take the pairs in a loader, the ablations of each batch (as from `batch_src_ablations`), and a metric: (logits,
batch) -> one number an item, higher meaning a better answer. A score estimates what ablating the edge does to the mean
of the metric: negative where the edge helps. Magnitudes and random scores have no sign. What ranks edges is the size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nbutils.ablation.values import AblationType, src_ablations
from nbutils.data.pairs import PairBatch, PairLoader
from nbutils.graphs.residual import FOLD, ResidualGraph, patch_edges, run_edge_sets
from nbutils.hooks import edit
from nbutils.seeding import generator

if TYPE_CHECKING:
    import pandas as pd

Metric = Callable[[Tensor, PairBatch], Tensor]
Ablations = Mapping[int, Tensor]  # batch key -> `[sources, items, ...]`


def evaluate(
    model: nn.Module,
    graph: ResidualGraph,
    masks: Tensor,
    loader: PairLoader,
    ablations: Ablations,
    metric: Metric,
    *,
    fold: int = FOLD,
) -> Tensor:
    """Return the metric of each prompt under each edge set `[sets, N]`, on the clean inputs.

    Args:
        masks: `[sets, edges]`, 1 for an ablated edge.
        fold: edge sets in one forward pass.

    Raises:
        KeyError: no ablations for a batch.
    """
    parts = []
    for batch in loader:
        logits = run_edge_sets(model, graph, masks, batch.clean, _of(ablations, batch), fold=fold)
        parts.append(torch.stack([metric(one, batch) for one in logits]))
    return torch.cat(parts, dim=1)


def exact_scores(
    model: nn.Module,
    graph: ResidualGraph,
    loader: PairLoader,
    ablations: Ablations,
    metric: Metric,
    *,
    fold: int = FOLD,
) -> Tensor:
    """Return what ablating each edge alone does to the mean of the metric `[edges]`: one run an edge."""
    edges = len(graph.edges)
    masks = torch.cat([torch.zeros(1, edges), torch.eye(edges)])
    means = evaluate(model, graph, masks, loader, ablations, metric, fold=fold).double().mean(1)
    return means[1:] - means[0]


def mask_gradients(
    model: nn.Module,
    graph: ResidualGraph,
    loader: PairLoader,
    ablations: Ablations,
    metric: Metric,
    at: Sequence[float] = (0.0,),
) -> Tensor:
    """Return the gradient of the mean metric with respect to the mask `[points, edges]`, with all edges at a point.

    Args:
        at: points in [0, 1]: 0 is the clean model, 1 everything ablated. They are folded into one pass.
    """
    total = torch.zeros(len(at), len(graph.edges), dtype=torch.float64)
    with edit(model, {}), torch.enable_grad():
        model.eval()
        for batch in loader:
            masks = torch.tensor(at, dtype=torch.float64)[:, None].repeat(1, len(graph.edges)).requires_grad_()
            inputs = batch.clean.repeat(len(at), *[1] * (batch.clean.ndim - 1))
            with patch_edges(model, graph, masks, _of(ablations, batch)):
                logits = model(inputs).unflatten(0, (len(at), -1))
            value = torch.stack([metric(one, batch).sum() for one in logits]).sum()
            total += torch.autograd.grad(value, masks)[0]
    return total / _items(loader)


def attribution_scores(
    model: nn.Module, graph: ResidualGraph, loader: PairLoader, ablations: Ablations, metric: Metric
) -> Tensor:
    """Return edge attribution `[edges]`: the mean of (ablated − clean) · gradient at what the destination reads.

    To first order what ablating the edge does: it equals the gradient of the mask at 0. One forward and one backward
    pass a batch, whatever the number of edges. Syed et al. 2023, arXiv 2310.10348.
    """
    scores = torch.zeros(len(graph.edges), dtype=torch.float64)
    reads: dict[str, Tensor] = {}  # module -> zeros added to what it reads, whose gradient is that of the input

    def read(module: str):
        def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            reads[module] = torch.zeros_like(inputs[0]).requires_grad_()
            return (inputs[0] + reads[module], *inputs[1:])

        return add

    for batch in loader:
        clean = src_ablations(model, graph.sites, batch.clean, AblationType.RESAMPLE, stack=True)
        difference = dict(zip(graph.sources, _of(ablations, batch) - clean, strict=True))
        with edit(model, {}), torch.enable_grad():
            model.eval()
            for module in dict.fromkeys(site.module for site in graph.destinations.values()):
                model.get_submodule(module).register_forward_pre_hook(read(module))
            value = metric(model(batch.clean), batch).sum()
            gradients = dict(zip(reads, torch.autograd.grad(value, list(reads.values())), strict=True))
        parts = {name: site.select(gradients[site.module]) for name, site in graph.destinations.items()}
        products = [(difference[e.source] * parts[e.destination]).sum() for e in graph.edges]
        scores += torch.stack(products).cpu()
    return scores / _items(loader)


def integrated_gradients(
    model: nn.Module,
    graph: ResidualGraph,
    loader: PairLoader,
    ablations: Ablations,
    metric: Metric,
    *,
    steps: int = 8,
) -> Tensor:
    """Return the gradient of the mask, averaged on the way from 0 to 1 with all edges together `[edges]`.

    Its sum over edges is, but for the error of the midpoint rule, the difference that ablating everything makes.
    Sundararajan et al. 2017, arXiv 1703.01365; over edges Hanna et al. 2024, arXiv 2403.17806.

    Args:
        steps: points of the midpoint rule, 1 or more.
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more; got {steps}")
    return mask_gradients(model, graph, loader, ablations, metric, [(i + 0.5) / steps for i in range(steps)]).mean(0)


def magnitude_scores(model: nn.Module, graph: ResidualGraph, loader: PairLoader) -> Tensor:
    """Return the mean norm of what the edge's source writes on clean inputs `[edges]`: a baseline without the task."""
    total = torch.zeros(len(graph.sources), dtype=torch.float64)
    for batch in loader:
        written = src_ablations(model, graph.sites, batch.clean, AblationType.RESAMPLE, stack=True)
        total += written.double().flatten(2).norm(dim=2).sum(1).cpu()
    by_source = dict(zip(graph.sources, (total / _items(loader)).tolist(), strict=True))
    return torch.tensor([by_source[edge.source] for edge in graph.edges], dtype=torch.float64)


def random_scores(graph: ResidualGraph, seed: int = 0) -> Tensor:
    """Return random scores in [0, 1) `[edges]`: the baseline that every method must beat."""
    return torch.rand(len(graph.edges), generator=generator(seed, "random edge scores"), dtype=torch.float64)


def greedy_pruning(
    model: nn.Module,
    graph: ResidualGraph,
    loader: PairLoader,
    ablations: Ablations,
    metric: Metric,
    threshold: float,
    *,
    fold: int = 8,
) -> tuple[Tensor, pd.DataFrame]:
    """Ablate edges one after the other, from the output back, and keep those whose loss costs too much.

    An edge goes for good where the mean of the metric falls by less than `threshold`, against its value with all edges
    before it that went. The order and the rule are ACDC's (Conmy et al. 2023, arXiv 2304.14997).

    The fast path runs `fold` edge sets in one pass, made as if every edge went: the next edge gone, the next two, and
    so on. What holds up to the first edge that stays is used, and the rest done again. With `fold=1` every set is run
    by itself; the result is the same.

    Args:
        threshold: least fall of the metric for which an edge is kept, above 0.
        fold: edge sets in one forward pass.

    Returns:
        Mask `[edges]` with 1 at the edges that went; and the path, one row an edge in the order of trial: `source`,
        `destination`, `fall` (of the metric), `kept`.

    Raises:
        ValueError: a threshold that is not above 0.
    """
    import pandas as pd

    if not threshold > 0:
        raise ValueError(f"threshold must be above 0; got {threshold}")
    mask = torch.zeros(len(graph.edges))

    def mean(masks: Tensor) -> list[float]:
        return evaluate(model, graph, masks, loader, ablations, metric, fold=fold).double().mean(1).tolist()

    value = mean(mask[None])[0]
    queue = _from_the_output(graph)
    path: list[tuple[str, str, float, bool]] = []
    while queue:
        trial = queue[:fold]
        gone = mask + torch.eye(len(graph.edges))[trial].cumsum(0)
        for edge, after in zip(trial, mean(gone), strict=True):
            kept = value - after >= threshold
            path.append((*graph.edges[edge], value - after, kept))
            queue.remove(edge)
            if kept:
                break  # the sets that follow would lack this edge
            mask[edge] = 1.0
            value = after
    return mask, pd.DataFrame(path, columns=["source", "destination", "fall", "kept"])


def greedy_scores(
    model: nn.Module,
    graph: ResidualGraph,
    loader: PairLoader,
    ablations: Ablations,
    metric: Metric,
    thresholds: Sequence[float],
    *,
    fold: int = 8,
) -> Tensor:
    """Return the largest threshold at which `greedy_pruning` keeps each edge, 0 for none `[edges]`."""
    scores = torch.zeros(len(graph.edges), dtype=torch.float64)
    for threshold in sorted(thresholds):
        gone, _ = greedy_pruning(model, graph, loader, ablations, metric, threshold, fold=fold)
        scores[gone == 0] = threshold
    return scores


def circuit_masks(scores: Tensor, kept: Sequence[int]) -> Tensor:
    """Return masks `[len(kept), edges]` that keep the edges of the largest scores, whatever their sign.

    Args:
        scores: `[edges]`. Of equals the first is kept.
        kept: how many edges each circuit has.

    Raises:
        ValueError: a number outside 0 to the number of edges.
    """
    if any(not 0 <= count <= len(scores) for count in kept):
        raise ValueError(f"a circuit keeps 0 to {len(scores)} edges; got {list(kept)}")
    rank = scores.abs().sort(descending=True, stable=True).indices.argsort()
    return (rank[None] >= torch.tensor(list(kept))[:, None]).float()


def _from_the_output(graph: ResidualGraph) -> list[int]:
    """Return the edges in ACDC's order: from the last destination to the first, in each from the latest source."""
    names = list(graph.sources), list(graph.destinations)
    return sorted(
        range(len(graph.edges)),
        key=lambda i: (names[1].index(graph.edges[i].destination), names[0].index(graph.edges[i].source)),
        reverse=True,
    )


def _of(ablations: Ablations, batch: PairBatch) -> Tensor:
    if batch.key not in ablations:
        raise KeyError(
            f"no ablations for batch {batch.key}; there are {sorted(ablations)}: were they made by this loader?"
        )
    return ablations[batch.key]


def _items(loader: PairLoader) -> int:
    return len(loader.pairs)
