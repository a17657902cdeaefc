"""How much each edge of a residual graph matters, by several methods; and the circuits that scores stand for.

What they all ask of is an `EdgeTask`. A score estimates what ablating the edge does to the mean of the task's metric:
negative where the edge helps. Magnitudes and random scores have no sign. What ranks edges is the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbutils import batches
from nbutils.ablation.running import answer
from nbutils.ablation.sources import src_ablations
from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairBatch
from nbutils.graphs.edge_sets import fold_of, same, warn_mixed
from nbutils.graphs.gradients import differentiable, read_gradients
from nbutils.graphs.patch import patch_edges
from nbutils.graphs.prefix import Order
from nbutils.graphs.residual import ResidualGraph
from nbutils.graphs.task import EdgeTask, evaluate, evaluator
from nbutils.hooks import unchanged
from nbutils.seeding import generator

if TYPE_CHECKING:
    import pandas as pd


def exact_scores(task: EdgeTask, *, fold: int | None = None, memory: int | None = None) -> Tensor:
    """Return what ablating each edge alone does to the mean of the metric `[edges]`: one run per edge.

    Args, raises: as for `evaluate`.

    >>> import nbutils as nb, torch
    >>> class Net(torch.nn.Module):  # h ← h + f(h)
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embed, self.block, self.head = (torch.nn.Linear(*shape) for shape in ((2, 4), (4, 4), (4, 3)))
    ...     def forward(self, x):
    ...         h = self.embed(x)
    ...         return self.head(h + self.block(h))
    >>> model, x = Net(), torch.randn(6, 2)
    >>> graph = nb.residual_graph(model, x, embedding="embed", branch="block", blocks=1, head="head")
    >>> pairs = nb.PairLoader(nb.Pairs(x, x.flip(0), torch.zeros(6)), 3)
    >>> task = nb.EdgeTask(model, graph, pairs, nb.AblationType.RESAMPLE, lambda logits, batch: logits[:, 0])
    >>> nb.exact_scores(task).shape
    torch.Size([3])
    """
    edges = len(task.graph.edges)
    masks = torch.cat([torch.zeros(1, edges), torch.eye(edges)])
    means = evaluate(task, masks, fold=fold, memory=memory).double().mean(1).cpu()  # where the other scores are
    return means[1:] - means[0]


@torch.inference_mode(False)
def mask_gradients(task: EdgeTask, at: Sequence[float] = (0.0,), *, fold: int | None = None) -> Tensor:
    """Return the gradient of the mean metric with respect to the mask `[points, edges]`, with all edges at a point.

    Args:
        at: points in [0, 1]: 0 is the clean model, 1 everything ablated.
        fold: points in one pass, 1 or more; None: as many as are fast. Results do not depend on it but for rounding.

    Raises:
        ValueError: a fold below 1, a point outside [0, 1].
    """
    if fold is not None and fold < 1:
        raise ValueError(f"fold must be 1 or more; got {fold}")
    edges, points = len(task.graph.edges), torch.tensor(at, dtype=torch.float64)
    total = torch.zeros(len(points), edges, dtype=torch.float64)
    with unchanged(task.model):
        task.model.eval()
        for i, batch in enumerate(task.pairs):
            if i == 0:
                fold = _folded(task, batch, points, _fold(task, batch) if fold is None else fold)
            parts = [_gradients(task, batch, some[:, None].repeat(1, edges)) for some in points.split(fold)]
            total += torch.cat(parts)
    return total / len(task.pairs.pairs)


@torch.no_grad()
def _fold(task: EdgeTask, batch: PairBatch) -> int:
    with unchanged(task.model):
        task.model.eval()
        return fold_of(Order.of(task.model, batch.clean), len(batch))


@torch.no_grad()
def _folded(task: EdgeTask, batch: PairBatch, points: Tensor, fold: int) -> int:
    """Return how many points run in one pass: one where two of them answer otherwise together than alone."""
    if min(fold, len(points)) > 1:
        two = points[[0, -1]][:, None].repeat(1, len(task.graph.edges))
        alone = torch.cat([_answers(task, batch, mask[None]) for mask in two])
        if not same(_answers(task, batch, two), alone):
            warn_mixed(task.model)
            return 1
    return fold


def _answers(task: EdgeTask, batch: PairBatch, masks: Tensor) -> Tensor:
    """Return the model's answers on a batch under masks `[sets, edges]`: `[sets, items, ...]`."""
    with patch_edges(task.model, task.graph, masks, task.of(batch)):
        return answer(task.model, batches.repeat(batch.clean, len(masks)), task.item).unflatten(0, (len(masks), -1))


@torch.enable_grad()
def _gradients(task: EdgeTask, batch: PairBatch, masks: Tensor) -> Tensor:
    """Return the gradient of the metric's sum over a batch with respect to masks `[sets, edges]`."""
    masks = masks.requires_grad_()
    logits = _answers(task, batch, masks)
    value = torch.stack([task.measure(one, batch).sum() for one in logits]).sum()
    return torch.autograd.grad(differentiable(value), masks)[0]


@torch.inference_mode(False)
def attribution_scores(task: EdgeTask) -> Tensor:
    """Return edge attribution `[edges]`: the mean of (ablated − clean) · gradient at what the destination reads.

    To first order what ablating the edge does: it equals the gradient of the mask at 0. One forward and one backward
    pass per batch, whatever the number of edges. Syed et al. 2023, arXiv 2310.10348.

    >>> import nbutils as nb, torch
    >>> class Net(torch.nn.Module):  # h ← h + f(h)
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embed, self.block, self.head = (torch.nn.Linear(*shape) for shape in ((2, 4), (4, 4), (4, 3)))
    ...     def forward(self, x):
    ...         h = self.embed(x)
    ...         return self.head(h + self.block(h))
    >>> model, x = Net(), torch.randn(6, 2)
    >>> graph = nb.residual_graph(model, x, embedding="embed", branch="block", blocks=1, head="head")
    >>> pairs = nb.PairLoader(nb.Pairs(x, x.flip(0), torch.zeros(6)), 3)
    >>> task = nb.EdgeTask(model, graph, pairs, nb.AblationType.RESAMPLE, lambda logits, batch: logits[:, 0])
    >>> nb.attribution_scores(task).shape
    torch.Size([3])
    """
    total = torch.zeros(len(task.graph.destinations), len(task.graph.sources), dtype=torch.float64)
    for batch in task.pairs:

        def measured(batch: PairBatch = batch) -> Tensor:
            return task.measure(answer(task.model, batch.clean, task.item), batch).sum()

        gradients, clean = read_gradients(task.model, task.graph, measured)
        difference = (task.written(batch) - task.graph.written(task.model, clean)).flatten(1)  # (sources, items · ...)
        for span, gradient in gradients:
            total[span.rows] += (gradient.flatten(1) @ difference.to(gradient).T).detach().cpu()
    return total.flatten()[task.graph.places] / len(task.pairs.pairs)


def integrated_gradients(task: EdgeTask, *, steps: int = 8) -> Tensor:
    """Return the gradient of the mask, averaged on the way from 0 to 1 with all edges together `[edges]`.

    Its sum over edges is, but for the error of the midpoint rule, the difference that ablating everything makes.
    Sundararajan et al. 2017, arXiv 1703.01365; over edges Hanna et al. 2024, arXiv 2403.17806.

    Args:
        steps: points of the midpoint rule, 1 or more.

    >>> import nbutils as nb, torch
    >>> class Net(torch.nn.Module):  # h ← h + f(h)
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embed, self.block, self.head = (torch.nn.Linear(*shape) for shape in ((2, 4), (4, 4), (4, 3)))
    ...     def forward(self, x):
    ...         h = self.embed(x)
    ...         return self.head(h + self.block(h))
    >>> model, x = Net(), torch.randn(6, 2)
    >>> graph = nb.residual_graph(model, x, embedding="embed", branch="block", blocks=1, head="head")
    >>> pairs = nb.PairLoader(nb.Pairs(x, x.flip(0), torch.zeros(6)), 3)
    >>> task = nb.EdgeTask(model, graph, pairs, nb.AblationType.RESAMPLE, lambda logits, batch: logits[:, 0])
    >>> nb.integrated_gradients(task, steps=2).shape
    torch.Size([3])
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more; got {steps}")
    return mask_gradients(task, [(i + 0.5) / steps for i in range(steps)]).mean(0)


def magnitude_scores(task: EdgeTask) -> Tensor:
    """Return the mean norm of what the edge's source writes on clean inputs `[edges]`: a baseline without the task."""
    total = torch.zeros(len(task.graph.sources), dtype=torch.float64)
    for batch in task.pairs:
        clean = src_ablations(task.model, task.graph.sites, batch.clean, AblationType.RESAMPLE)
        written = task.graph.written(task.model, clean)
        total += written.double().flatten(2).norm(dim=2).sum(1).cpu()
    by_source = dict(zip(task.graph.sources, (total / len(task.pairs.pairs)).tolist(), strict=True))
    return torch.tensor([by_source[edge.source] for edge in task.graph.edges], dtype=torch.float64)


def random_scores(graph: ResidualGraph, seed: int = 0) -> Tensor:
    """Return random scores in [0, 1) `[edges]`: the baseline that every method must beat."""
    return torch.rand(len(graph.edges), generator=generator(seed, "random edge scores"), dtype=torch.float64)


def greedy_pruning(
    task: EdgeTask, threshold: float, *, fold: int | None = None, memory: int | None = None
) -> tuple[Tensor, pd.DataFrame]:
    """Ablate edges one after the other, from the output back, and keep those whose loss costs too much.

    An edge goes for good where the mean of the metric falls by less than `threshold`, against its value with all edges
    before it that went. The order and the rule are ACDC's (Conmy et al. 2023, arXiv 2304.14997).

    The fast path tries `fold` edge sets at a time, made as if every edge went: the next edge gone, the next two, and so
    on. What holds up to the first edge that stays is used, and the rest done again. With `fold=1` every set is run by
    itself; the result is the same.

    Args:
        threshold: least fall of the metric for which an edge is kept, above 0.
        fold: edge sets that are tried at a time, in one pass; None: as many as are fast.
        memory: as for `evaluate`.

    Returns:
        Mask `[edges]` with 1 at the edges that went; and the path, one row per edge in the order of trial: `source`,
        `destination`, `fall` (of the metric), `kept`.

    Raises:
        ValueError: a threshold that is not above 0.
    """
    import pandas as pd

    if not threshold > 0:
        raise ValueError(f"threshold must be above 0; got {threshold}")
    mask = torch.zeros(len(task.graph.edges))
    fold = _fold(task, next(iter(task.pairs))) if fold is None else fold
    measured = evaluator(task, len(task.graph.edges), fold, memory, keep=True)

    def mean(masks: Tensor) -> list[float]:
        return measured(masks).double().mean(1).tolist()

    value = mean(mask[None])[0]
    queue = _from_the_output(task.graph)
    path: list[tuple[str, str, float, bool]] = []
    while queue:
        trial = queue[:fold]
        gone = mask + torch.eye(len(task.graph.edges))[trial].cumsum(0)
        for edge, after in zip(trial, mean(gone), strict=True):
            kept = value - after >= threshold
            path.append((*task.graph.edges[edge], value - after, kept))
            queue.remove(edge)
            if kept:
                break  # the sets that follow would lack this edge
            mask[edge] = 1.0
            value = after
    return mask, pd.DataFrame(path, columns=["source", "destination", "fall", "kept"])


def greedy_scores(task: EdgeTask, thresholds: Sequence[float], *, fold: int | None = None) -> Tensor:
    """Return the largest threshold at which `greedy_pruning` keeps each edge, 0 for none `[edges]`."""
    scores = torch.zeros(len(task.graph.edges), dtype=torch.float64)
    for threshold in sorted(thresholds):
        gone, _ = greedy_pruning(task, threshold, fold=fold)
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
    rank = scores.cpu().abs().sort(descending=True, stable=True).indices.argsort()
    return (rank[None] >= torch.tensor(list(kept))[:, None]).float()


def _from_the_output(graph: ResidualGraph) -> list[int]:
    """Return the edges in ACDC's order: from the last destination to the first, in each from the latest source."""
    names = list(graph.sources), list(graph.destinations)
    return sorted(
        range(len(graph.edges)),
        key=lambda i: (names[1].index(graph.edges[i].destination), names[0].index(graph.edges[i].source)),
        reverse=True,
    )
