"""Interpolation from one value to the next: minimum jerk, linear, or a step.

Minimum jerk is the smoothest point-to-point movement in the sense of the integrated squared third
derivative (Flash & Hogan 1985, J. Neurosci. 5(7):1688-1703): a quintic whose velocity and acceleration vanish
at both ends.
"""

from __future__ import annotations

from collections.abc import Callable

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
