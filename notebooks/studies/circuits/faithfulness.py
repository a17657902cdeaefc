"""Whether a circuit does what the whole model does: measures of answers, and how much of them a circuit keeps.

Measures take logits at the answers `[..., K, vocabulary]` and give one number a prompt, the mean over its K answers.
Faithfulness compares three models on one measure: the circuit (everything else ablated), the whole model (1) and the
one with everything ablated (0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nbutils.data.pairs import PairBatch, PairLoader
from nbutils.hooks import unchanged
from studies.circuits.sequences import Prompts

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

Metric = Callable[[Tensor, PairBatch[Prompts]], Tensor]


def answer_accuracy(logits: Tensor, right: Tensor) -> Tensor:
    """Return the share of answers whose largest logit is at a right token.

    Args:
        logits: `[..., N, K, vocabulary]`.
        right: `[N, K, vocabulary]`, True at right tokens.

    Returns:
        `[..., N]` in [0, 1].
    """
    chosen = logits.argmax(-1, keepdim=True)
    return right.expand_as(logits).gather(-1, chosen).to(logits.dtype).squeeze(-1).mean(-1)


def answer_probability(logits: Tensor, right: Tensor) -> Tensor:
    """Return the probability of all right tokens together. Args, returns: as for `answer_accuracy`."""
    return (logits.softmax(-1) * right).sum(-1).mean(-1)


def logit_difference(logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Return the mean logit of right tokens less that of wrong ones `[..., N]`, unbounded.

    Raises:
        ValueError: an answer without a wrong token.
    """
    if not wrong.any(-1).all():
        raise ValueError("a logit difference needs a wrong token for every answer")
    return ((logits * right).sum(-1) / right.sum(-1) - (logits * wrong).sum(-1) / wrong.sum(-1)).mean(-1)


def kl_divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """Return Σ p log(p / q) of the reference's answers p against others q, in nats `[..., N]`, 0 or more.

    Args:
        reference: the whole model's logits `[N, K, vocabulary]`.
        logits: `[..., N, K, vocabulary]`.
    """
    p, q = reference.log_softmax(-1), logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean(-1)


def answer_accuracy_of(logits: Tensor, batch: PairBatch[Prompts]) -> Tensor:
    """Return the `answer_accuracy` of a batch of prompts `[items]` from logits `[items, length, vocabulary]`."""
    return answer_accuracy(batch.pairs.at_answers(logits), batch.pairs.right)


def answer_probability_of(logits: Tensor, batch: PairBatch[Prompts]) -> Tensor:
    """Return the `answer_probability` of a batch of prompts `[items]` from logits `[items, length, vocabulary]`."""
    return answer_probability(batch.pairs.at_answers(logits), batch.pairs.right)


def logit_difference_of(logits: Tensor, batch: PairBatch[Prompts]) -> Tensor:
    """Return the `logit_difference` of a batch of prompts `[items]` from logits `[items, length, vocabulary]`."""
    return logit_difference(batch.pairs.at_answers(logits), batch.pairs.right, batch.pairs.wrong)


def closeness_to(model: nn.Module, loader: PairLoader[Prompts]) -> Metric:
    """Return a metric: minus the KL divergence from the model as it is now, 0 at best.

    Args:
        model: run once on the clean prompts, in eval mode; left as it was.
        loader: the prompts on which the metric will be asked for, by their batch keys.
    """
    with unchanged(model), torch.no_grad():
        model.eval()
        reference = {batch.key: batch.pairs.at_answers(model(batch.clean)) for batch in loader}

    def closeness(logits: Tensor, batch: PairBatch[Prompts]) -> Tensor:
        return -kl_divergence(reference[batch.key], batch.pairs.at_answers(logits))

    return closeness


METRICS: Mapping[str, Metric] = {
    "accuracy": answer_accuracy_of,
    "answer probability": answer_probability_of,
    "logit difference": logit_difference_of,
}
"""Name -> what `nbutils.graphs.scores` takes as a metric. `accuracy` has no gradient."""


@dataclass(frozen=True)
class Faithfulness:
    """How much of a measure a circuit keeps: 1 all of it, 0 none; below and above are possible.

    Attributes:
        ratio_of_means: (mean circuit − mean ablated) / (mean clean − mean ablated).
        mean_of_ratios: the same quotient of each prompt, averaged. Prompts on which ablating makes little difference
            weigh heavily in it.
        sd: standard deviation of the prompts' quotients.
        low, high: their 10th and 90th percentiles.
        worst: the smallest of them.
        prompts: how many have a quotient.
        undefined: how many have none, because clean and ablated are equal.
    """

    ratio_of_means: float
    mean_of_ratios: float
    sd: float
    low: float
    high: float
    worst: float
    prompts: int
    undefined: int


def faithfulness(circuit: ArrayLike, clean: ArrayLike, ablated: ArrayLike) -> Faithfulness:
    """Compare a circuit with the whole model and with everything ablated, prompt by prompt.

    Args:
        circuit, clean, ablated: one measure of each prompt `[N]`, finite.

    Returns:
        NaN where a quotient has nothing to divide by.

    Raises:
        ValueError: shapes that differ, no prompts, or values that are not finite.
    """
    circuit, clean, ablated = np.asarray(circuit, float), np.asarray(clean, float), np.asarray(ablated, float)
    if not circuit.shape == clean.shape == ablated.shape or clean.ndim != 1 or not len(clean):
        raise ValueError(
            "faithfulness compares one value a prompt of three models; got "
            f"{list(circuit.shape)}, {list(clean.shape)} and {list(ablated.shape)}"
        )
    if not all(np.isfinite(values).all() for values in (circuit, clean, ablated)):
        raise ValueError("faithfulness needs finite values")
    room = clean - ablated
    defined = room != 0
    quotients = (circuit - ablated)[defined] / room[defined]
    whole = room.mean()
    ratio = (circuit - ablated).mean() / whole if whole != 0 else np.nan
    some = len(quotients) > 0
    low, high = np.quantile(quotients, [0.1, 0.9]).tolist() if some else (np.nan, np.nan)
    return Faithfulness(
        float(ratio),
        float(quotients.mean()) if some else np.nan,
        float(quotients.std()) if some else np.nan,
        low,
        high,
        float(quotients.min()) if some else np.nan,
        len(quotients),
        int((~defined).sum()),
    )


def faithfulness_curve(
    kept: ArrayLike, circuits: ArrayLike | Tensor, clean: ArrayLike | Tensor, ablated: ArrayLike | Tensor
) -> pd.DataFrame:
    """Return the faithfulness of circuits of growing size.

    Args:
        kept: edges that each circuit keeps `[circuits]`.
        circuits: the measure `[circuits, N]`.
        clean, ablated: `[N]`, as for `faithfulness`.

    Returns:
        A row a circuit: `edges`, and the fields of `Faithfulness`.
    """
    import pandas as pd

    kept, circuits = np.asarray(kept), np.asarray(circuits)
    if len(kept) != len(circuits):
        raise ValueError(f"a number of edges for each of {len(circuits)} circuits is needed; got {len(kept)}")
    rows = [vars(faithfulness(values, clean, ablated)) for values in circuits]
    return pd.DataFrame(rows).assign(edges=kept)[["edges", *rows[0]]]


def area_under_curve(edges: ArrayLike, values: ArrayLike) -> float:
    """Return the mean height of a curve over the number of edges, by the trapezoid rule.

    Args:
        edges: numbers of edges `[points]`, increasing, two or more.
        values: `[points]`, finite.

    Raises:
        ValueError: otherwise.
    """
    x, y = np.asarray(edges, dtype=float), np.asarray(values, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2 or (np.diff(x) <= 0).any():
        raise ValueError(f"a curve has increasing numbers of edges, two or more, and a value at each; got {x}, {y}")
    if not np.isfinite(y).all():
        raise ValueError(f"a curve needs finite values; got {y}")
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


@dataclass(frozen=True)
class KendallAgreement:
    """Kendall's τ of two rankings, with a bootstrap interval over what is ranked."""

    tau: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.tau:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def kendall_agreement(
    a: ArrayLike | Tensor, b: ArrayLike | Tensor, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> KendallAgreement:
    """Return Kendall's τ-b of two sets of scores: 1 for the same order, 0 for none in common, −1 for the opposite.

    Ranks go by the scores' size, as circuits do. The interval is a percentile bootstrap over edges: what the agreement
    would be on other edges of the same kind. Pairs of an edge with itself are ties in both and do not count.

    Args:
        a, b: scores `[edges]`.
        resamples: bootstrap resamples.
        level: of the interval.
        seed: of the resampling.

    Raises:
        ValueError: shapes that differ, fewer than three edges, values that are not finite, scores that are all equal.
    """
    from scipy.stats import kendalltau

    left, right = np.abs(np.asarray(a, dtype=float)), np.abs(np.asarray(b, dtype=float))
    finite = np.isfinite(left).all() and np.isfinite(right).all()
    if left.shape != right.shape or left.ndim != 1 or len(left) < 3 or not finite:
        raise ValueError(
            f"rankings need the same edges, three or more, with finite scores; got {left.shape} and {right.shape}"
        )
    if not (np.ptp(left) and np.ptp(right)):
        raise ValueError("scores that are all equal rank nothing")
    order, other = (np.sign(scores[:, None] - scores) for scores in (left, right))  # [edges, edges]
    # How often each edge was drawn; τ-b of the resample is then three quadratic forms.
    count = len(left)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
    both, own, others = (
        np.einsum("re,ef,rf->r", drawn, signs, drawn, optimize=True) for signs in (order * other, order**2, other**2)
    )
    some = (own > 0) & (others > 0)  # a resample whose scores are all equal has no τ
    low, high = np.quantile(both[some] / np.sqrt(own * others)[some], [(1 - level) / 2, (1 + level) / 2])
    return KendallAgreement(float(kendalltau(left, right).statistic), float(low), float(high))
