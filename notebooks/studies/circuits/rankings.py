"""Whether two sets of scores rank edges alike: Kendall's τ-b, and how sure one can be of it.

Scores rank by their size, as circuits do. τ is 1 for the same order, 0 for none in common, −1 for the opposite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor


@dataclass(frozen=True)
class KendallAgreement:
    """Kendall's τ of two rankings, with a bootstrap interval over what is ranked."""

    tau: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.tau:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def kendall_tau(a: ArrayLike | Tensor, b: ArrayLike | Tensor) -> float:
    """Return Kendall's τ-b of two sets of scores.

    Args:
        a, b: scores `[edges]`.

    Raises:
        ValueError: shapes that differ, fewer than three edges, values that are not finite, scores that are all equal.
    """
    from scipy.stats import kendalltau

    return float(kendalltau(*_check_sizes(a, b)).statistic)


def kendall_tau_of_both(a: ArrayLike | Tensor, b: ArrayLike | Tensor) -> tuple[float, int]:
    """Return Kendall's τ-b among the edges whose scores are non-zero in both, and how many these are.

    Edges that score 0 under one kind are ties there: τ-b does not count pairs of them as disagreement, but nothing
    could have made them agree. What is left compares the order of edges that both kinds see. NaN below three.

    Args:
        a, b: scores `[edges]`, rounded so that what does nothing is 0.
    """
    left, right = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    both = (left != 0) & (right != 0)
    count = int(both.sum())
    return (kendall_tau(left[both], right[both]) if count >= 3 else float("nan")), count


def kendall_agreement(
    a: ArrayLike | Tensor, b: ArrayLike | Tensor, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> KendallAgreement:
    """Return Kendall's τ-b of two sets of scores with its interval.

    The interval is a percentile bootstrap over edges: what the agreement would be on other edges of the same kind.
    Pairs of an edge with itself are ties in both and do not count.

    Args:
        a, b: scores `[edges]`.
        resamples: bootstrap resamples.
        level: of the interval, in (0, 1).
        seed: of the resampling.

    Raises:
        ValueError: as for `kendall_tau`.
    """
    left, right = _check_sizes(a, b)
    order, other = (np.sign(scores[:, None] - scores) for scores in (left, right))  # [edges, edges]
    # How often each edge was drawn; τ-b of the resample is then three quadratic forms.
    count = len(left)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
    both, own, others = (
        np.einsum("re,ef,rf->r", drawn, signs, drawn, optimize=True) for signs in (order * other, order**2, other**2)
    )
    some = (own > 0) & (others > 0)  # a resample whose scores are all equal has no τ
    low, high = np.quantile(both[some] / np.sqrt(own * others)[some], [(1 - level) / 2, (1 + level) / 2])
    return KendallAgreement(kendall_tau(a, b), float(low), float(high))


def agreement_between_seeds(
    scores: ArrayLike | Tensor, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Return how well the scores of networks trained from different seeds agree.

    The interval is a percentile bootstrap over seeds; pairs of a seed with itself are left out of each resample.

    Args:
        scores: `[seeds, edges]`, two seeds or more.
        resamples: bootstrap resamples.
        level: of the interval, in (0, 1).
        seed: of the resampling.

    Returns:
        `mean τ` over pairs of seeds, `low` and `high` of its interval, and `least`, the smallest τ of a pair.

    Raises:
        ValueError: as for `kendall_tau`.
    """
    values = np.asarray(scores, dtype=float)
    count = len(values)
    table = np.eye(count)
    first, second = np.triu_indices(count, 1)
    for i, j in zip(first, second, strict=True):
        table[i, j] = table[j, i] = kendall_tau(values[i], values[j])
    means = []
    for drawn in np.random.default_rng(seed).integers(count, size=(resamples, count)):
        differ = drawn[first] != drawn[second]
        if differ.any():
            means.append(table[drawn[first], drawn[second]][differ].mean())
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    pairs = table[first, second]
    return {"mean τ": float(pairs.mean()), "low": float(low), "high": float(high), "least": float(pairs.min())}


def _check_sizes(a: ArrayLike | Tensor, b: ArrayLike | Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the sizes of two sets of scores, if they can be ranked against each other."""
    left, right = np.abs(np.asarray(a, dtype=float)), np.abs(np.asarray(b, dtype=float))
    finite = np.isfinite(left).all() and np.isfinite(right).all()
    if left.shape != right.shape or left.ndim != 1 or len(left) < 3 or not finite:
        raise ValueError(
            f"rankings need the same edges, three or more, with finite scores; got {left.shape} and {right.shape}"
        )
    if not (np.ptp(left) and np.ptp(right)):
        raise ValueError("scores that are all equal rank nothing")
    return left, right
