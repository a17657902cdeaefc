"""The perturbation correlation ρ: does a credit predict the loss, also where the gradient is small?

A credit a `[N, d]` stands for +∂ℓ/∂h of a hidden state h `[N, d]`: the exact gradient g scores +1, its negative −1.
ρ (source: `experiments/perturbation_correlation_audit.py`) is the Pearson correlation of ⟨a, v⟩ with the change of the
loss along v, over samples and random unit directions v. To first order it equals the norm-weighted cosine
Σ⟨a, g⟩ / √(Σ‖a‖² Σ‖g‖²), so their agreement is no independent evidence.

A derivative needs no step. A difference does, and behind a LayerNorm the loss sees only how long it is beside the
state: in units of ‖h‖ it is large enough at every length of h, where one of fixed length drowns in rounding
(`studies.credit.rounding`, `studies.credit.steps`).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from nbutils.seeding import generator
from nbutils.stats.uncertainty import Interval
from studies.credit.loss import LossFrom

if TYPE_CHECKING:
    from numpy.typing import NDArray

Method = Literal["jvp", "antithetic", "finite", "relative"]

_TOGETHER = 4  # directions per batched pass; more of them leave the cache


@dataclass(frozen=True)
class PerturbationCorrelation:
    """Predicted and true changes of the loss, for each direction and sample, and how they correlate.

    Attributes:
        predicted: ⟨a, v⟩, `[M, N]`, float64.
        actual: change of the loss per unit of length along v, `[M, N]`, float64.
        unmoved: share of the perturbed states that equal the unperturbed to the last bit; 0 where no step is taken.
    """

    predicted: Tensor
    actual: Tensor
    unmoved: float = 0.0

    @classmethod
    def from_gradients(cls, a: Tensor, g: Tensor, v: Tensor) -> PerturbationCorrelation:
        """Return the correlation that follows from known gradients: the loss changes by ⟨g, v⟩.

        One backward pass gives a sample's derivative along all directions, and matrix products do the rest: the numbers
        of `"jvp"` to the last digits, an order of magnitude faster. They are no check of g itself.

        Args:
            a: credits `[N, d]`.
            g: gradients `[N, d]`.
            v: directions `[M, N, d]`.
        """
        return cls(_along(v, a), _along(v, g))

    @cached_property
    def rho(self) -> float:
        """Pearson correlation over samples and directions; NaN where either side does not vary."""
        return float(_pearson(self._moments.sum(1)))

    @cached_property
    def per_direction(self) -> NDArray[np.float64]:
        """The correlation over samples for each direction, `[M]`."""
        p, a = self.predicted, self.actual
        p, a = p - p.mean(1, keepdim=True), a - a.mean(1, keepdim=True)
        return ((p * a).sum(1) / (p.norm(dim=1) * a.norm(dim=1))).cpu().numpy()

    @property
    def sign_agreement(self) -> float:
        """Share of samples and directions in which both changes have the same sign."""
        return float((self.predicted.sign() == self.actual.sign()).double().mean())

    def interval(self, *, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
        """Return `rho` with its bias-corrected and accelerated bootstrap interval over samples.

        A sample is drawn with all its directions. The interval does not cover other feedback matrices, because all
        samples share one draw of them (`studies.credit.chance`). By scipy; Efron 1987, J. Am. Stat.
        Assoc. 82(397):171-185.
        """
        from scipy.stats import bootstrap

        if not math.isfinite(self.rho) or 1 - abs(self.rho) < 1e-12:  # nothing to resample
            return Interval(self.rho, self.rho, self.rho)
        found = bootstrap(
            tuple(self._moments),
            lambda *moments, axis=-1: _pearson(np.stack([moment.sum(axis) for moment in moments])),
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            confidence_level=level,
            method="BCa",
            rng=np.random.default_rng(seed),
            batch=200,
        ).confidence_interval
        return Interval(self.rho, float(found.low), float(found.high))

    @cached_property
    def _moments(self) -> NDArray[np.float64]:
        """Sums over directions `[6, N]` from which the correlation over any samples follows."""
        # To their own scale first: squares of changes of 1e-170 would vanish.
        p, a = (side / side.abs().max().clamp_min(1e-300) for side in (self.predicted, self.actual))
        parts = torch.ones_like(p), p, a, p * p, a * a, p * a
        return torch.stack([part.sum(0) for part in parts]).cpu().numpy()


def _pearson(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlations `[...]` that follow from count, Σp, Σa, Σp², Σa², Σpa, `[6, ...]`."""
    n, p, a, pp, aa, pa = moments
    with np.errstate(invalid="ignore", divide="ignore"):
        return (n * pa - p * a) / np.sqrt((n * pp - p * p) * (n * aa - a * a))


def unit_directions(like: Tensor, count: int, seed: int = 0) -> Tensor:
    """Return isotropic unit vectors for each sample, `[count, N, d]`.

    Args:
        like: `[N, d]`; its dtype and device are theirs, which change nothing but rounding.
        count: vectors per sample.
        seed: of the draws.
    """
    drawn = torch.randn(count, *like.shape, generator=generator(seed, "directions")).double()
    return drawn.div_(drawn.norm(dim=-1, keepdim=True)).to(like)


def _along(v: Tensor, x: Tensor) -> Tensor:
    """Return ⟨v, x⟩ `[M, N]`, float64, for `[M, N, d]` and `[N, d]`."""
    return torch.bmm(v.transpose(0, 1), x.to(v)[..., None])[..., 0].T.double()  # batched over samples: no copy of v


def perturbation_correlation(
    h: Tensor,
    a: Tensor,
    loss_from: LossFrom,
    *,
    directions: int | Tensor = 32,
    seed: int = 0,
    method: Method = "jvp",
    epsilon: float | None = None,
    M: int | None = None,
) -> PerturbationCorrelation:
    """Compare the changes of the loss that a credit predicts with the true ones, along random unit directions.

    Args:
        h: hidden states `[N, d]`.
        a: credits `[N, d]`.
        loss_from: as `studies.credit.loss.loss_from` returns it, in the dtype of `h`. A sample's loss must depend on
            its own state alone.
        directions: M, drawn for each sample; or the directions themselves, `[M, N, d]`, of unit length.
        seed: of the directions.
        method: `"jvp"`, exact directional derivatives by forward-mode differentiation, independent of any gradient
            computed backwards; `"antithetic"`, (ℓ(h + εv) − ℓ(h − εv)) / 2ε; `"finite"`, (ℓ(h + εv) − ℓ(h)) / ε as in
            the source; `"relative"`, the same by a step in units of each sample's ‖h‖.
        epsilon: of `"finite"`, absolute, 1e-3 by default; of `"relative"` and `"antithetic"`, in units of each sample's
            ‖h‖, 1e-3 and 1e-6 by default.
        M: the source's name of `directions`; where it is given, it counts.

    Raises:
        ValueError: shapes or dtypes do not fit, an unknown method, a dtype other than float64 for derivatives and
            antithetic differences, an `epsilon` that is not positive or not used, or fewer than 1 direction.
    """
    directions = directions if M is None else M
    _check_states(h, a, directions)
    _check_method(h, method, epsilon)
    h, a = h.detach(), a.detach()
    v = directions.to(h) if isinstance(directions, Tensor) else unit_directions(h, directions, seed)
    predicted = _along(v, a)
    if method == "jvp":
        return PerturbationCorrelation(predicted, _derivatives(h, v, loss_from))
    if method in ("finite", "relative"):
        step = h.new_tensor(1e-3 if epsilon is None else epsilon)
        unit = h.norm(dim=1, keepdim=True) if method == "relative" else h.new_ones(1)
        actual, unmoved = _differences(h, v, loss_from, step * unit)
    else:
        actual, unmoved = _central_differences(h, v, loss_from, (epsilon or 1e-6) * h.norm(dim=1, keepdim=True))
    return PerturbationCorrelation(predicted, actual, unmoved)


def _check_states(h: Tensor, a: Tensor, directions: int | Tensor) -> None:
    if h.ndim != 2 or a.shape != h.shape or a.dtype != h.dtype:
        raise ValueError(
            f"h and a must be [N, d] and of one dtype; got {tuple(h.shape)} {h.dtype}, {tuple(a.shape)} {a.dtype}"
        )
    if isinstance(directions, int) and directions < 1:
        raise ValueError(f"directions must be 1 or more; got {directions}")
    if isinstance(directions, Tensor) and (directions.ndim != 3 or directions.shape[1:] != h.shape):
        raise ValueError(f"directions must be [M, {len(h)}, {h.shape[1]}]; got {list(directions.shape)}")


def _check_method(h: Tensor, method: Method, epsilon: float | None) -> None:
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(map(repr, get_args(Method)))}; got {method!r}")
    if method in ("jvp", "antithetic") and h.dtype != torch.float64:
        raise ValueError(f"method {method!r} is for float64, where it is exact; got {h.dtype}")
    if epsilon is not None and (method == "jvp" or not epsilon > 0):
        raise ValueError(f"epsilon is a positive step of differences; got {epsilon} for {method!r}")


def _derivatives(h: Tensor, v: Tensor, loss_from: LossFrom) -> Tensor:
    along = torch.vmap(lambda t: torch.func.jvp(loss_from, (h,), (t,))[1], chunk_size=_TOGETHER)
    with warnings.catch_warnings(), torch.no_grad():  # no graph of the tangents: it would hold all of them
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # torch's own, of its own rules
        return along(v)


@torch.no_grad()
def _differences(h: Tensor, v: Tensor, loss_from: LossFrom, step: Tensor) -> tuple[Tensor, float]:
    """Return changes of the loss per unit of length, and the share of states that a step leaves as they were.

    The step is one for all samples, `[1]`, or each sample's own, `[N, 1]`.
    """
    base, actual, unmoved = loss_from(h), [], 0
    for few in v.split(_TOGETHER):
        moved = h + step * few
        unmoved += int((moved == h).all(-1).sum())
        actual.append((loss_from(moved) - base).double() / step.double().flatten())
    return torch.cat(actual), unmoved / (len(v) * len(h))


@torch.no_grad()
def _central_differences(h: Tensor, v: Tensor, loss_from: LossFrom, steps: Tensor) -> tuple[Tensor, float]:
    """Return the same by a step each way, whose length is each sample's own, `[N, 1]`."""
    actual, unmoved = [], 0
    for few in v.split(_TOGETHER):
        moved = h + steps * few
        unmoved += int((moved == h).all(-1).sum())
        actual.append((loss_from(moved) - loss_from(h - steps * few)) / (2 * steps[:, 0]))
    return torch.cat(actual), unmoved / (len(v) * len(h))
