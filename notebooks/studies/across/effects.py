"""What ablating the sources of a network changes, one at a time, under every ablation type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairBatch, PairLoader, Pairs
from nbutils.graphs.residual import ResidualGraph
from nbutils.graphs.scores import EdgeTask, exact_scores
from nbutils.sites import Site
from nbutils.sweeps.units import measure as measured
from nbutils.sweeps.units import sweep

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


def unit_effects(
    model: nn.Module, sites: Sequence[Site], pairs: Pairs, measure: Measure, *, batch_size: int = 25
) -> Effects:
    """Return what ablating each of some units does on the clean inputs.

    Args:
        model: runs in eval mode; left as it was.
        sites: the units, as for `nb.sweep`; they may differ in shape.
        pairs: run as one batch; what needs a dataset is taken over batches.
        measure: of the answers.
        batch_size: items per batch of the dataset.
    """
    import pandas as pd

    once, loader = PairLoader(pairs, len(pairs)), PairLoader(pairs, batch_size)
    metric = _metric(measure)
    intact = measured(model, once, metric).value.item()
    changes, index = {}, []
    for kind in AblationType:
        dataset = loader if kind.needs == "dataset" else None
        found = sweep(model, {site: site for site in sites}, once, metric, kind, reference=dataset)
        changes[kind.value] = found.value.to_numpy() - intact
        index = [f"{site.module}:{unit}" for site, unit in zip(found.site, found.unit, strict=True)]
    return Effects(intact, pd.DataFrame(changes, index=index))


def edge_effects(
    model: nn.Module, graph: ResidualGraph, pairs: Pairs, measure: Measure, *, batch_size: int = 25
) -> Effects:
    """Return what ablating each edge of a residual graph does on the clean inputs. Arguments as for `unit_effects`."""
    import pandas as pd

    loader, metric = PairLoader(pairs, batch_size), _metric(measure)
    changes = {
        kind.value: exact_scores(EdgeTask(model, graph, loader, kind, metric)).cpu().numpy() for kind in AblationType
    }
    intact = measured(model, loader, metric).value.item()
    return Effects(intact, pd.DataFrame(changes, index=[str(edge) for edge in graph.edges]))


def _metric(measure: Measure) -> Callable[[Tensor, PairBatch], Tensor]:
    return lambda output, batch: measure(output, batch.pairs)
