"""Intervals over seeds: the seed is the unit, because it is what a repetition changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def bootstrap_mean(values: ArrayLike, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0) -> Interval:
    """Return the mean of `values` `[seeds]` with its bias-corrected and accelerated bootstrap interval.

    Pass differences for a paired comparison. Efron 1987, J. Am. Stat. Assoc. 82(397):171-185; by scipy.

    Args:
        values: one a seed, two or more, finite.
        resamples: bootstrap resamples.
        level: confidence level in (0, 1).
        seed: of the resampling.

    Raises:
        ValueError: fewer than two values, or one that is not finite.
    """
    from scipy.stats import bootstrap

    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"a bootstrap over seeds needs two or more finite values; got {values!r}")
    if np.ptp(values) == 0:  # no spread to resample; scipy would return NaN
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(seed),
        batch=1000,  # bounds the memory: [1000, seeds] rather than [resamples, seeds]
    ).confidence_interval
    return Interval(float(values.mean()), float(found.low), float(found.high))


def standard_error(values: ArrayLike) -> float:
    """Return the standard error of the mean of `values` `[seeds]`."""
    values = np.asarray(values, dtype=float)
    return float(values.std(ddof=1) / np.sqrt(len(values)))
