"""Slopes on log-log axes, with intervals: of a regression over networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Slope:
    """The line of log10 y on log10 x by least squares.

    Attributes:
        slope: its slope.
        low, high: ends of the 95 % interval by Student's t of n − 2 degrees of freedom; NaN for two points.
        intercept: log10 y at x = 1.
        points: n.
    """

    slope: float
    low: float
    high: float
    intercept: float
    points: int

    def __str__(self) -> str:
        return f"{self.slope:.3f} [{self.low:.3f}, {self.high:.3f}]"


def log_slope(x: ArrayLike, y: ArrayLike) -> Slope:
    """Fit a line to log10 y against log10 x.

    The interval takes points for independent with errors of one size: networks that share a seed are so but for their
    initial weights.

    Args:
        x, y: `[points]`. Without two different x, or where a value has no logarithm, all is NaN.
    """
    from scipy.stats import linregress, t

    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not (x > 0).all() or not (y > 0).all() or len(np.unique(x)) < 2:
        return Slope(math.nan, math.nan, math.nan, math.nan, len(x))
    found, n = linregress(np.log10(x), np.log10(y)), len(x)
    half = t.ppf(0.975, n - 2) * found.stderr if n > 2 else math.nan
    slope = float(found.slope)
    return Slope(slope, float(slope - half), float(slope + half), float(found.intercept), n)


def slopes_over_training(history: pd.DataFrame, strengths: dict[str, float]) -> pd.DataFrame:
    """Return the slope of the states' length on the penalty at each logged step: does it settle?

    Args:
        history: of `nbutils.fit`, with the term `hidden norm`, Σ_l mean(h_l²).
        strengths: λ by variant; two or more.

    Returns:
        One row per step, with columns step, slope, low, high: of the root of the term on λ.
    """
    import pandas as pd

    part = history[(history["term"] == "hidden norm") & history["variant"].isin(list(strengths))]
    rows = []
    for step, at in part.groupby("step"):
        found = log_slope(at["variant"].map(strengths), at["value"] ** 0.5)
        rows.append({"step": step, "slope": found.slope, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)
