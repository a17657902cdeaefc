"""What ablating the sources of a network changes, one at a time, under every ablation type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nbutils.ablation.edits import edits
from nbutils.ablation.sources import src_ablations
from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairBatch, PairLoader, Pairs
from nbutils.graphs.residual import ResidualGraph
from nbutils.graphs.scores import EdgeTask, exact_scores
from nbutils.hooks import edit
from nbutils.sites import Site

if TYPE_CHECKING:
    import pandas as pd

Measure = Callable[[Tensor, Pairs], Tensor]  # (outputs on the clean inputs, pairs) -> one number per item `[items]`


def true_class_probability(logits: Tensor, pairs: Pairs) -> Tensor:
    """Return the probability of each item's class `[items]`, of logits `[items, classes]`."""
    return logits.softmax(-1).gather(1, pairs.labels[:, None])[:, 0]


def squared_error(output: Tensor, pairs: Pairs) -> Tensor:
    """Return the mean squared error of each item `[items]`, of reconstructions of the clean inputs `[items, ...]`.

    Raises:
        TypeError: the inputs are no tensor.
    """
    if not isinstance(pairs.clean, Tensor):
        raise TypeError(f"a reconstruction is compared with a tensor of inputs; got a {type(pairs.clean).__name__}")
    return (pairs.clean - output).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Effects:
    """What ablations change.

    Attributes:
        intact: the mean of the measure without ablation.
        changes: what ablating it adds to that mean, a row per source and a column per ablation type, by its value.
    """

    intact: float
    changes: pd.DataFrame


@torch.no_grad()
def unit_effects(
    model: nn.Module, sites: Sequence[Site], pairs: Pairs, measure: Measure, *, batch_size: int = 25
) -> Effects:
    """Return what ablating each of some units does on the clean inputs.

    Args:
        model: in eval mode.
        sites: the units; they may differ in shape.
        pairs: run as one batch; what needs a dataset is taken over batches.
        measure: of the answers.
        batch_size: items per batch of the dataset.
    """
    import pandas as pd

    loader = PairLoader(pairs, batch_size)

    def mean() -> float:
        return measure(model(pairs.clean), pairs).double().mean().item()

    intact = mean()
    changes: dict[str, list[float]] = {}
    for kind in AblationType:
        sample = loader if kind.needs == "dataset" else kind.inputs(PairBatch(0, pairs))[0]
        values = src_ablations(model, sites, sample, kind, stack=False)
        changes[kind.value] = []
        for site in sites:
            with edit(model, edits([site], {site: values[site]})):
                changes[kind.value].append(mean() - intact)
    return Effects(intact, pd.DataFrame(changes, index=[f"{site.module}:{site.unit}" for site in sites]))


@torch.no_grad()
def edge_effects(
    model: nn.Module, graph: ResidualGraph, pairs: Pairs, measure: Measure, *, batch_size: int = 25
) -> Effects:
    """Return what ablating each edge of a residual graph does on the clean inputs. Arguments as for `unit_effects`."""
    import pandas as pd

    loader = PairLoader(pairs, batch_size)
    changes = {}
    for kind in AblationType:
        task = EdgeTask(model, graph, loader, kind, lambda output, batch: measure(output, batch.pairs))
        changes[kind.value] = exact_scores(task).cpu().numpy()
    intact = measure(model(pairs.clean), pairs).double().mean().item()
    return Effects(intact, pd.DataFrame(changes, index=[str(edge) for edge in graph.edges]))
