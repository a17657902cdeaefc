"""What all scores of edges ask of: a model as a graph, pairs, what replaces its sources, and how well it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from nbutils.ablation.sources import batch_src_ablations, src_ablations
from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairBatch, PairLoader
from nbutils.graphs.edge_sets import EdgeSets
from nbutils.graphs.nodes import Values
from nbutils.graphs.residual import ResidualGraph

Metric = Callable[[Tensor, PairBatch], Tensor]


@dataclass(frozen=True, eq=False)
class EdgeTask:
    """What scores of edges are about: a model as a graph, pairs, what replaces its sources, and how well it answers.

    Attributes:
        model: the graph's; it runs in eval mode and is left as it was.
        graph: as from `ResidualGraph.trace`.
        pairs: the loader of clean and corrupt inputs.
        ablation: what replaces what the sources write: a type, which takes it from the inputs that are its own
            (`AblationType.inputs`); or values by batch key, `[sources, items, ...]`, as from `batch_src_ablations`.
        metric: (logits, batch) -> one number per item `[items]`, higher meaning a better answer.
        item: which tensor is the model's answer, where it puts out several: a place or a key. None: `logits`, or the
            only one.

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
    >>> task.values[0].shape  # sources, items, width
    torch.Size([2, 3, 4])
    """

    model: nn.Module
    graph: ResidualGraph
    pairs: PairLoader
    ablation: AblationType | Mapping[int, Values]
    metric: Metric
    item: int | str | None = None

    @cached_property
    @torch.inference_mode(False)  # scores by gradients take them, too
    def values(self) -> Mapping[int, Values]:
        """What stands at the sources' sites: batch key -> `[sources, items, ...]`, or an entry for each site where they
        have several shapes (`src_ablations`); taken once, when first asked for."""
        if not isinstance(self.ablation, AblationType):
            return self.ablation
        sites = self.graph.sites
        if self.ablation.needs == "dataset":
            return batch_src_ablations(self.model, sites, self.pairs, self.ablation)
        return {
            batch.key: src_ablations(self.model, sites, self.ablation.inputs(batch)[0], self.ablation)
            for batch in self.pairs
        }

    def measure(self, logits: Tensor, batch: PairBatch) -> Tensor:
        """Return the metric of a batch's items `[items]`.

        Raises:
            ValueError: the metric gives anything but one number per item.
        """
        value = self.metric(logits, batch)
        if not isinstance(value, Tensor) or value.shape != (len(batch),):
            told = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"a metric gives one number per item, shape ({len(batch)},); it gave {told}")
        return value

    def written(self, batch: PairBatch) -> Tensor:
        """Return what the sources add to the stream when they are ablated `[sources, items, ...]`.

        Raises:
            KeyError: there is none for the batch.
        """
        return self.graph.written(self.model, self.of(batch))

    def of(self, batch: PairBatch) -> Values:
        """Return what stands at the sources' sites on a batch, as from `src_ablations`.

        Raises:
            KeyError: there is none for it.
        """
        if batch.key not in self.values:
            raise KeyError(
                f"no ablations for batch {batch.key}; there are {sorted(self.values)}: were they made by this loader?"
            )
        return self.values[batch.key]


def evaluate(task: EdgeTask, masks: Tensor, *, fold: int | None = None, memory: int | None = None) -> Tensor:
    """Return the metric of each prompt under each edge set `[sets, N]`, on the clean inputs.

    Args:
        masks: `[sets, edges]`, 1 for an ablated edge.
        fold: edge sets in one forward pass; None: as many as are fast. Results do not depend on it but for rounding.
        memory: upper bound in bytes, without the model, the inputs and the ablations; None: as
            `nbutils.devices.room` says, 500 MB on the processor; or what one set at a time needs.

    Raises:
        KeyError: no ablations for a batch.
        ValueError: a memory below what one edge set needs.
    """
    return evaluator(task, len(masks), fold, memory)(masks)


def evaluator(
    task: EdgeTask, expected: int, fold: int | None, memory: int | None, keep: bool = False
) -> Callable[[Tensor], Tensor]:
    """Return what `evaluate` does, for several calls that start from the same clean runs.

    Args:
        expected: how many sets there will be in all.
        keep: hold the clean runs from call to call, as far as memory allows.
    """
    expected *= len(task.pairs)
    sets = EdgeSets(task.model, task.graph, fold=fold, memory=memory, expected=expected, item=task.item)

    def measured(masks: Tensor) -> Tensor:
        parts = []
        for batch in task.pairs:
            found: dict[int, Tensor] = {}

            def see(some: list[int], outputs: Tensor, batch: PairBatch = batch, found=found) -> None:
                found.update((i, task.measure(one, batch)) for i, one in zip(some, outputs, strict=True))

            sets.run(masks, batch.clean, task.of(batch), see, key=batch.key if keep else None)
            parts.append(torch.stack([found[i] for i in range(len(masks))]))
        return torch.cat(parts, dim=1)

    return measured
