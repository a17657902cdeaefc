"""Self-repair: what a part's ablation does directly, and what is left of it when later parts have answered.

McGrath et al. 2023, arXiv 2307.15771: the direct effect is that on what the output reads of the part, all later parts
being as they were; the total effect lets them see the ablation. What they make up is the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairBatch, Pairs
from nbutils.graphs.task import EdgeTask, evaluate
from nbutils.sites import Site
from nbutils.sweeps.predictors import attribute
from nbutils.sweeps.units import measure, sweep
from studies.across.cases import Case
from studies.across.predictors import edge_task
from studies.circuits.transformer import Transformer

if TYPE_CHECKING:
    import pandas as pd


def margin(logits: Tensor, pairs: Pairs) -> Tensor:
    """Return the logit of each item's class less the mean of the others, `[items]`: linear in the logits."""
    own = logits.gather(-1, pairs.labels.expand(logits.shape[:-1])[..., None])[..., 0]
    return own - (logits.sum(-1) - own) / (logits.shape[-1] - 1)


def source_effects(task: EdgeTask) -> pd.DataFrame:
    """Return of each source of a residual graph the direct and the total effect on the task's metric.

    Direct: only the output reads the stand-in. Total: every destination does.

    Returns:
        A row per source: `direct`, `total`, and `repaired`, direct less total in the direction of the direct effect:
        above 0 what later parts make up, below 0 what they lose besides.
    """
    import pandas as pd

    edges = task.graph.edges
    rows = {}
    for source in task.graph.sources:
        total = torch.tensor([edge.source == source for edge in edges], dtype=torch.float32)
        direct = torch.tensor([edge == (source, "logits") for edge in edges], dtype=torch.float32)
        rows[source] = torch.stack([direct, total])
    masks = torch.cat([torch.zeros(1, len(edges)), *rows.values()])
    means = evaluate(task, masks).double().mean(1)
    changes = (means[1:] - means[0]).unflatten(0, (-1, 2)).cpu().numpy()
    return _told(pd.DataFrame(changes, index=list(rows), columns=["direct", "total"]))


def unit_repair(case: Case, kind: AblationType) -> pd.DataFrame:
    """Return the same of each unit: direct is the change to first order, every later gate being as it was.

    Where all later parts are linear but for their gates (ReLU, max-pooling), that is the effect with gates frozen.

    Args:
        case: answers with logits; the effect is on their `margin`.
        kind: what replaces a unit.
    """
    import pandas as pd

    units = dict(enumerate(case.sites))

    def metric(output: Tensor, batch: PairBatch) -> Tensor:
        return margin(output, batch.pairs)

    direct = attribute(case.model, units, case.loader, metric, kind).value.to_numpy()
    intact = measure(case.model, case.loader, metric).value.item()
    total = sweep(case.model, units, case.loader, metric, kind).value.to_numpy() - intact
    return _told(pd.DataFrame({"direct": direct, "total": total}))


def _told(frame: pd.DataFrame) -> pd.DataFrame:
    sign = frame["direct"].where(frame["direct"] == 0, frame["direct"] / frame["direct"].abs())
    return frame.assign(repaired=(frame["direct"] - frame["total"]) * sign)


def repair_share(effects: pd.DataFrame) -> float:
    """Return the share of the summed direct effects that later parts make up, of effects that harm."""
    harmful = effects[effects["direct"] < 0]
    return float(harmful["repaired"].sum() / harmful["direct"].abs().sum()) if len(harmful) else float("nan")


def case_repair(case: Case, kind: AblationType) -> pd.DataFrame:
    """Return direct and total effects of a case that answers with logits: of its sources, or its units."""
    task = edge_task(case, kind)
    if task is None:
        return unit_repair(case, kind)
    at: Callable[[Tensor], Tensor] = (lambda y: y[:, -1]) if case.name == "induction" else (lambda y: y)
    return source_effects(replace(task, metric=lambda logits, batch: margin(at(logits), batch.pairs)))


def last_parts(case: Case, count: int = 2) -> list[Site]:
    """Return parts of which nothing but the output reads: the last heads, or the strongest hidden units.

    Args:
        case: the transformer, or the digits.
        count: of hidden units.
    """
    if case.name == "induction":
        return [Site(case.layers[-1].site.module, head, 2) for head in range(2)]
    units = dict(enumerate(case.layers[-1].unit(number) for number in range(len(case.layers[-1]))))
    swept = sweep(case.model, units, case.loader, lambda y, batch: margin(y, batch.pairs))
    return [units[place] for place in swept.value.to_numpy().argsort(kind="stable")[:count]]


def together(case: Case, parts: Sequence[Site]) -> pd.DataFrame:
    """Return what zeros at some parts do one at a time, summed, and all at once: in the loss, and in the margin.

    Where nothing but the output reads them, margins add up. What the loss shows beyond the sum is not a part that makes
    up for another, but the scale.

    Returns:
        `alone` (the sum) and `together`.
    """
    import pandas as pd

    metrics = {"loss": case.metric, "margin": lambda y, batch: margin(y, batch.pairs)}

    def value(ablated: Sequence[Site]) -> pd.Series:
        return measure(case.model, case.loader, metrics, ablated).set_index("metric")["value"]

    intact = value(())
    alone = sum((value([part]) - intact for part in parts), start=0 * intact)
    return pd.DataFrame({"alone": alone, "together": value(parts) - intact})


def plant_backup(repair: float = 0.6, length: int = 5, vocabulary: int = 4, sharpness: float = 40.0) -> Transformer:
    """Build by hand a transformer that says its own tokens, with a backup head that speaks when the first is silent.

    Stream: [token | position | output], one-hot each; token 0 is a mark that stands at position 0 and means nothing.
    Layer 0's head attends from each position to itself and copies the token to the output part. Layer 1's head does
    the same, `repair` times as strongly; but its query also reads how much there is in the output part, and that much,
    twice over, draws its attention to the mark, whose value is nothing. So:

    - **Zero** at the first head. Direct effect on the token's logit −1; total −1 + `repair`.
    - **Twin** with another token at each place, or the **mean** over inputs: something is written, so the backup stays
      silent. Direct effect −1, or −(1 − 1/k) for k tokens alike, and total the same: no repair.
    - The backup's own ablation by zeros does nothing.

    All up to e^−`sharpness`.

    Args:
        repair: what the backup makes up, 0 for none.
        length: positions, the mark's among them.
        vocabulary: tokens, the mark among them.
        sharpness: score of the place that is attended to.

    Returns:
        The network in eval mode, in double precision.
    """
    width, head = 2 * vocabulary + length, max(vocabulary, length)
    model = Transformer(vocabulary, length, layers=2, heads=1, width=width, head_width=head, causal=False).eval()
    token, position = torch.arange(1, vocabulary), torch.arange(length)
    written = vocabulary + length + token
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embedding.weight[torch.arange(vocabulary), torch.arange(vocabulary)] = 1
        model.positions.weight[position, vocabulary + position] = 1
        model.unembed.weight[token, written] = 1
        for block, strength in enumerate((1.0, repair)):
            attention = model.get_submodule(f"blocks.{block}.attention")
            query, key, value, out = (attention.get_parameter(name)[0] for name in ("query", "key", "value", "out"))
            query[vocabulary + position, position] = sharpness * head**0.5  # scores are divided by it
            key[vocabulary + position, position] = 1
            value[token, token] = 1
            out[token, written] = strength
            if block:
                query[written, 0] = 2 * sharpness * head**0.5
    return model.double()


def own_tokens(count: int = 60, length: int = 5, vocabulary: int = 4) -> Pairs:
    """Return prompts with the mark in front, every token equally often at each place; twins have other tokens.

    The label is the last token.

    Args:
        count: prompts, a multiple of the tokens, `vocabulary` − 1.
        length: positions, the mark's among them.
        vocabulary: tokens, the mark among them.
    """
    kinds = vocabulary - 1
    place = torch.arange(length - 1)
    tokens = (torch.arange(count)[:, None] + place) % kinds
    mark = torch.zeros(count, 1, dtype=torch.int64)
    clean, corrupt = (torch.cat([mark, 1 + own], 1) for own in (tokens, (tokens + 1) % kinds))
    return Pairs(clean, corrupt, clean[:, -1])
