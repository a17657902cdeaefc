"""Functions of alignment: the strength of an edit, or the aim of it.

An alignment is a cosine in [-1, 1]. A *falloff* turns alignments into gates in [0, 1], a *mapper* into new alignments;
both keep the shape. Source document: Ex 2.9.1 and its neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class BoundedFalloff:
    """Gate from 0 up to alignment `start` to `slope` at alignment 1: slope·((x − start)/(1 − start))^power.

    Args:
        start: alignment at the onset, in [0, 1): the cosine of the cone's half angle.
        slope: gate at full alignment, in [0, 1].
        power: shape, 0 or more. At 0 the gate is `slope` everywhere inside the cone, as in the source's reported
            suppression.

    Raises:
        ValueError: an argument out of range.
    """

    start: float = 0.0
    slope: float = 1.0
    power: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1 or not 0 <= self.slope <= 1 or self.power < 0:
            raise ValueError(f"expected 0 <= start < 1, 0 <= slope <= 1, power >= 0; got {self}")

    def __call__(self, alignment: Tensor) -> Tensor:
        inside = ((alignment - self.start) / (1 - self.start)).clamp(0, 1)
        return torch.where(alignment > self.start, self.slope * inside**self.power, 0.0)


@dataclass(frozen=True)
class LinearMapper:
    """Squeeze alignments in [start, 1] linearly onto [start, end]; leave the rest.

    Args:
        start: alignment at the onset, in [0, 1).
        end: new alignment in place of 1, in [start, 1].

    Raises:
        ValueError: an argument out of range.
    """

    start: float = 0.0
    end: float = 0.5

    def __post_init__(self) -> None:
        _check_range(self)

    def __call__(self, alignment: Tensor) -> Tensor:
        mapped = self.start + (alignment - self.start) * (self.end - self.start) / (1 - self.start)
        return torch.where(alignment > self.start, mapped, alignment)


@dataclass(frozen=True)
class BezierMapper:
    """Squeeze alignments in [start, 1] onto [start, end] along a cubic Bézier; leave the rest.

    The curve leaves (start, start) with slope 1, without a kink at the onset, and arrives flat at (1, end). Its inner
    control points lie on the two tangents, at `tension` of the way to their crossing.

    Args:
        start: alignment at the onset, in [0, 1).
        end: new alignment in place of 1, in [start, 1].
        tension: in (0, 1]; 1/√2 is near a circular arc.

    Raises:
        ValueError: an argument out of range.
    """

    start: float = 0.0
    end: float = 0.5
    tension: float = 1 / math.sqrt(2)

    def __post_init__(self) -> None:
        _check_range(self)
        if not 0 < self.tension <= 1:
            raise ValueError(f"tension must lie in (0, 1]; got {self.tension}")

    @cached_property
    def _curve(self) -> tuple[Tensor, Tensor]:
        """Points (x, y) of the curve, `[4097]` each: linear interpolation is exact to 1e-7."""
        t = torch.linspace(0, 1, 4097, dtype=torch.float64)[:, None]
        first = torch.tensor([self.start, self.start], dtype=torch.float64)
        last = torch.tensor([1.0, self.end], dtype=torch.float64)
        crossing = torch.tensor([self.end, self.end], dtype=torch.float64)  # of y = x and y = end
        second, third = first + self.tension * (crossing - first), last + self.tension * (crossing - last)
        points = (1 - t) ** 3 * first + 3 * (1 - t) ** 2 * t * second + 3 * (1 - t) * t**2 * third + t**3 * last
        x, y = points.unbind(1)
        return x.contiguous(), y.contiguous()

    def __call__(self, alignment: Tensor) -> Tensor:
        x, y = (points.to(alignment) for points in self._curve)
        upper = torch.searchsorted(x, alignment.detach().contiguous()).clamp(1, len(x) - 1)
        share = (alignment - x[upper - 1]) / (x[upper] - x[upper - 1])
        mapped = y[upper - 1] + share.clamp(0, 1) * (y[upper] - y[upper - 1])
        return torch.where(alignment > self.start, mapped, alignment)


def _check_range(mapper: LinearMapper | BezierMapper) -> None:
    if not 0 <= mapper.start < 1 or not mapper.start <= mapper.end <= 1:
        raise ValueError(f"expected 0 <= start < 1 and start <= end <= 1; got {mapper}")
