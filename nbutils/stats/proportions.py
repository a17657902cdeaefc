"""Proportions: with their interval, and compared between two models on the same items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nbutils.stats.uncertainty import Interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Proportion:
    """How many of how many. `float(proportion)` is the share, in [0, 1].

    Raises:
        ValueError: no items, or more or fewer successes than possible.
    """

    successes: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.total or self.total < 1:
            raise ValueError(f"expected 0 <= successes <= total and total >= 1; got {self.successes} of {self.total}")

    @classmethod
    def of(cls, hits: ArrayLike) -> Proportion:
        """Count the true items of `hits` `[items]`, booleans."""
        hits = _booleans(hits)
        return cls(int(hits.sum()), hits.size)

    @property
    def value(self) -> float:
        return self.successes / self.total

    def __float__(self) -> float:
        return self.value

    def interval(self, level: float = 0.95) -> Interval:
        """Return the share and its Wilson score interval, without continuity correction.

        The interval holds the shares p with (p̂ − p)² <= z²·p(1 − p)/n. Wilson 1927, J. Am. Stat. Assoc.
        22(158):209-212; by scipy.
        """
        from scipy.stats import binomtest

        found = binomtest(self.successes, self.total).proportion_ci(level, method="wilson")
        return Interval(self.value, float(found.low), float(found.high))


@dataclass(frozen=True)
class Paired:
    """Two models on the same items.

    Attributes:
        only_first: hits of the first model alone.
        only_second: hits of the second model alone.
        total: all items.
        p_value: of the hypothesis that a hit of only one model is as likely the first's as the second's.
    """

    only_first: int
    only_second: int
    total: int
    p_value: float

    @property
    def difference(self) -> float:
        """Share of the first minus share of the second, in [−1, 1]."""
        return (self.only_first - self.only_second) / self.total


def mcnemar(first: ArrayLike, second: ArrayLike) -> Paired:
    """Compare the hits of two models on the same items by McNemar's exact test.

    Only discordant items count: with b hits of the first alone and c of the second alone, b is binomial (b + c, 1/2)
    under the hypothesis; the test is two-sided, and p = 1 where there is no discordant item. McNemar 1947,
    Psychometrika 12:153-157; by scipy.

    Args:
        first: `[items]`, booleans: hits of the first model.
        second: `[items]`, likewise, in the same order.

    Raises:
        ValueError: shapes differ, no items, or values other than booleans.
    """
    from scipy.stats import binomtest

    first, second = _booleans(first), _booleans(second)
    if first.shape != second.shape or not first.size:
        raise ValueError(f"the same items, one or more, are needed for both; got {first.shape} and {second.shape}")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return Paired(only_first, only_second, first.size, p_value)


def _booleans(hits: ArrayLike) -> np.ndarray:
    hits = np.asarray(hits)
    if hits.dtype != bool or hits.ndim != 1:
        raise ValueError(f"hits must be booleans [items]; got {hits.dtype} {list(hits.shape)}")
    return hits
