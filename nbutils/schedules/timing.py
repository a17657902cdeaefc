"""Interpolation from one value to the next: minimum jerk, linear, or a step.

Minimum jerk is the smoothest point-to-point movement in the sense of the integrated squared third
derivative (Flash & Hogan 1985, J. Neurosci. 5(7):1688-1703): a quintic whose velocity and acceleration vanish
at the end, and at the start too when it leaves from rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


def minimum_jerk(fraction: np.ndarray) -> np.ndarray:
    """Return the share of a rest-to-rest movement done after a fraction τ of its time: 10τ³ − 15τ⁴ + 6τ⁵.

    Args:
        fraction: τ in [0, 1], any shape.
    """
    return fraction**3 * (10 + fraction * (6 * fraction - 15))


def linear(fraction: np.ndarray) -> np.ndarray:
    """Return `fraction` itself: constant speed, velocity jumps at both ends."""
    return fraction


def step_end(fraction: np.ndarray) -> np.ndarray:
    """Return 0 before the end and 1 at it: the old value holds until the next key."""
    return np.where(fraction < 1, 0.0, 1.0)


TIMINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "minjerk": minimum_jerk,
    "linear": linear,
    "step": step_end,
    "step-end": step_end,
}


@dataclass(frozen=True)
class MinimumJerk:
    """A minimum-jerk movement from any initial state to rest at `target` after `duration`.

    Source: Flash & Hogan 1985, J. Neurosci. 5(7):1688-1703, for a general instead of a resting initial state.

    Attributes:
        start: value at time 0.
        target: value from time `duration` on.
        duration: time the movement takes, in the unit of `velocity` and `acceleration`; positive.
        velocity: first derivative at time 0, per unit of time.
        acceleration: second derivative at time 0.

    Raises:
        ValueError: a number is not finite, or the duration is not positive.
    """

    start: float
    target: float
    duration: float
    velocity: float = 0.0
    acceleration: float = 0.0
    _coefficients: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("start", "target", "duration", "velocity", "acceleration"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"expected a finite {name}, got {getattr(self, name)}")
        if self.duration <= 0:
            raise ValueError(f"expected a positive duration, got {self.duration}")
        distance = self.target - self.start
        speed = self.velocity * self.duration
        bend = self.acceleration * self.duration**2
        # Ascending powers of τ = t / duration; the last three put it at rest on the target at τ = 1.
        coefficients = np.array(
            [
                self.start,
                speed,
                bend / 2,
                10 * distance - 6 * speed - 1.5 * bend,
                -15 * distance + 8 * speed + 1.5 * bend,
                6 * distance - 3 * speed - 0.5 * bend,
            ]
        )
        object.__setattr__(self, "_coefficients", coefficients)

    def at(self, time: float | np.ndarray) -> float | np.ndarray:
        """Return the value at `time`, exactly `start` up to time 0 and exactly `target` from `duration` on.

        Args:
            time: time since the movement began, any shape.
        """
        fraction = np.asarray(time, dtype=float) / self.duration
        value = np.polynomial.polynomial.polyval(np.clip(fraction, 0, 1), self._coefficients)
        value = np.where(fraction >= 1, self.target, np.where(fraction <= 0, self.start, value))
        return value if value.ndim else float(value)

    def state(self, time: float) -> tuple[float, float, float]:
        """Return value, velocity and acceleration at `time`; at rest on the target from `duration` on."""
        if time >= self.duration:
            return self.target, 0.0, 0.0
        if time <= 0:
            return self.start, self.velocity, self.acceleration
        derivative = np.polynomial.polynomial.polyder
        value, velocity, acceleration = (
            float(np.polynomial.polynomial.polyval(time / self.duration, coefficients))
            for coefficients in (
                self._coefficients,
                derivative(self._coefficients),
                derivative(self._coefficients, 2),
            )
        )
        return value, velocity / self.duration, acceleration / self.duration**2


class SmoothParameter:
    """A value that can be sent elsewhere at any moment without a jump in value, velocity or acceleration.

    Args:
        value: where the parameter rests at time 0.
    """

    def __init__(self, value: float) -> None:
        self._movement = MinimumJerk(value, value, 1.0)
        self._elapsed = 0.0

    @property
    def value(self) -> float:
        """The value now."""
        return self.state[0]

    @property
    def state(self) -> tuple[float, float, float]:
        """Value, velocity and acceleration now."""
        return self._movement.state(self._elapsed)

    def retarget(self, value: float, duration: float) -> None:
        """Move from the present state to rest at `value` within `duration`.

        Raises:
            ValueError: `value` is not finite or `duration` not positive; the movement under way goes on.
        """
        here, velocity, acceleration = self.state
        self._movement = MinimumJerk(here, value, duration, velocity, acceleration)
        self._elapsed = 0.0

    def advance(self, time: float = 1.0) -> float:
        """Let `time` pass and return the value then.

        Raises:
            ValueError: `time` is negative or not finite.
        """
        if not (math.isfinite(time) and time >= 0):
            raise ValueError(f"expected a finite time of at least 0, got {time}")
        self._elapsed += time
        return self.value
