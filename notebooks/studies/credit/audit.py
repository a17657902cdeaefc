"""Does a layer's credit signal predict the loss? Measures that stay valid where the gradient is small.

A credit a `[N, d]` stands for +∂ℓ/∂h of a hidden state h `[N, d]`: the exact gradient g scores +1, its negative −1.
The perturbation correlation (source: `experiments/perturbation_correlation_audit.py`) is the Pearson correlation of
⟨a, v⟩ with the change of the loss along v, over samples and random unit directions v. To first order it equals the
norm-weighted cosine Σ⟨a, g⟩ / √(Σ‖a‖² Σ‖g‖²), so the two agreeing is no independent evidence.

Measure in float64. In float32 the change of the loss drowns in rounding where ‖g‖ is small (`float32_rho`).
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nbutils.seeding import generator
from nbutils.stats.uncertainty import Interval

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from studies.credit.network import ResidualMLP

LossFrom = Callable[[Tensor], Tensor]
Method = Literal["jvp", "antithetic", "finite"]

_TOGETHER = 4  # directions of one batched pass; more of them leave the cache


@dataclass(frozen=True)
class Signals:
    """What a network computes for some samples, in float64.

    Attributes:
        hidden: h_0 … h_L, `[L + 1, N, d]`.
        gradients: ∂ℓ/∂h of each sample's own loss, `[L + 1, N, d]`.
        errors: e = softmax(logits) − one-hot, `[N, classes]`.
        labels: `[N]`.
    """

    hidden: Tensor
    gradients: Tensor
    errors: Tensor
    labels: Tensor

    def direct(self, feedback: Tensor) -> Tensor:
        """Return direct feedback's credits a_l = e B_lᵀ, `[L, N, d]`, for matrices `[L, d, classes]`."""
        return self.errors @ feedback.to(self.errors).mT


def signals(model: ResidualMLP, inputs: Tensor, labels: Tensor) -> Signals:
    """Run a network forward and backward once, in float64, and return what an audit needs.

    Of a model from `studies.credit.feedback.with_feedback`, `gradients` are feedback alignment's credits.

    Args:
        model: its hidden states and head; its own dtype does not matter, and it is not changed.
        inputs: `[N, inputs]`.
        labels: `[N]`.
    """
    model = _as(model, torch.float64)
    with torch.enable_grad():
        logits, hidden = model(inputs.double(), return_hidden=True)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        gradients = torch.autograd.grad(loss, hidden)
    errors = logits.detach().softmax(1) - F.one_hot(labels, logits.shape[1])
    return Signals(torch.stack(hidden).detach(), torch.stack(gradients), errors, labels)


@dataclass(frozen=True)
class PerturbationCorrelation:
    """Predicted and true changes of the loss, for each direction and sample, and how they correlate.

    Attributes:
        predicted: ⟨a, v⟩, `[M, N]`, float64.
        actual: change of the loss a unit of length along v, `[M, N]`, float64.
        unmoved: share of the perturbed states that equal the unperturbed to the last bit; 0 where no step is taken.
    """

    predicted: Tensor
    actual: Tensor
    unmoved: float = 0.0

    @classmethod
    def from_gradients(cls, a: Tensor, g: Tensor, v: Tensor) -> PerturbationCorrelation:
        """Return the correlation that follows from known gradients: the loss changes by ⟨g, v⟩.

        A sample's loss is one number, so one backward pass gives its derivative along all directions, and matrix
        products do the rest: the numbers of `"jvp"`, to the last digits, an order of magnitude faster. They check
        nothing where g is itself what is being checked.

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
        """Share of samples and directions in which both changes have one sign."""
        return float((self.predicted.sign() == self.actual.sign()).double().mean())

    def interval(self, *, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
        """Return `rho` with its bias-corrected and accelerated bootstrap interval over samples.

        A sample is drawn with all its directions. It says nothing about other feedback matrices: all samples share one
        draw of them (`fresh_feedback_null`). Efron 1987, J. Am. Stat. Assoc. 82(397):171-185; by scipy.
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
    """Return isotropic unit vectors for each sample, `[count, N, d]`, of the dtype and device of `like` `[N, d]`.

    They do not depend on either but for rounding.
    """
    drawn = torch.randn(count, *like.shape, generator=generator(seed, "directions")).double()
    return drawn.div_(drawn.norm(dim=-1, keepdim=True)).to(like)


def _along(v: Tensor, x: Tensor) -> Tensor:
    """Return ⟨v, x⟩ `[M, N]`, float64, for `[M, N, d]` and `[N, d]`."""
    return torch.bmm(v.transpose(0, 1), x.to(v)[..., None])[..., 0].T.double()  # batched over samples: no copy of v


def perturbation_correlation(
    h: Tensor,
    a: Tensor,
    loss_from_h: LossFrom,
    *,
    directions: int | Tensor = 32,
    seed: int = 0,
    method: Method = "jvp",
    epsilon: float | None = None,
) -> PerturbationCorrelation:
    """Compare the changes of the loss that a credit predicts with the true ones, along random unit directions.

    Args:
        h: hidden states `[N, d]`.
        a: credits `[N, d]`.
        loss_from_h: states `[..., N, d]` to the loss of each sample `[..., N]`, in the dtype of `h`. A sample's loss
            must depend on its own state alone.
        directions: M, for each sample its own; or the directions themselves, `[M, N, d]`, of unit length.
        seed: of the directions.
        method: `"jvp"`, exact directional derivatives by forward-mode differentiation, which shares nothing with a
            gradient computed backwards; `"antithetic"`, (ℓ(h + εv) − ℓ(h − εv)) / 2ε; `"finite"`,
            (ℓ(h + εv) − ℓ(h)) / ε as in the source.
        epsilon: of `"antithetic"`, in units of each sample's ‖h‖, 1e-6 by default; of `"finite"`, absolute, 1e-3 by
            default.

    Raises:
        ValueError: shapes or dtypes do not fit, no such method, a dtype other than float64 for any but `"finite"`, an
            `epsilon` that is not positive or not used, or fewer than 1 direction.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(map(repr, get_args(Method)))}; got {method!r}")
    if h.ndim != 2 or a.shape != h.shape or a.dtype != h.dtype:
        raise ValueError(
            f"h and a must be [N, d] and of one dtype; got {tuple(h.shape)} {h.dtype}, {tuple(a.shape)} {a.dtype}"
        )
    if method != "finite" and h.dtype != torch.float64:
        raise ValueError(f"method {method!r} is for float64, where it is exact; got {h.dtype}")
    if isinstance(directions, int) and directions < 1:
        raise ValueError(f"directions must be 1 or more; got {directions}")
    if isinstance(directions, Tensor) and (directions.ndim != 3 or directions.shape[1:] != h.shape):
        raise ValueError(f"directions must be [M, {len(h)}, {h.shape[1]}]; got {list(directions.shape)}")
    if epsilon is not None and (method == "jvp" or not epsilon > 0):
        raise ValueError(f"epsilon is a positive step of 'antithetic' or 'finite'; got {epsilon} for {method!r}")
    h, a = h.detach(), a.detach()
    v = directions.to(h) if isinstance(directions, Tensor) else unit_directions(h, directions, seed)
    predicted = _along(v, a)
    if method == "jvp":
        along = torch.vmap(lambda t: torch.func.jvp(loss_from_h, (h,), (t,))[1], chunk_size=_TOGETHER)
        # No graph of the tangents: it would hold all of them.
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # torch's own, of its own rules
            return PerturbationCorrelation(predicted, along(v))
    with torch.no_grad():
        size = (1e-3 if epsilon is None else epsilon) if method == "finite" else None
        steps = h.new_tensor(size) if size else (epsilon or 1e-6) * h.norm(dim=1, keepdim=True)
        base = loss_from_h(h) if method == "finite" else None
        actual, unmoved = [], 0
        for few in v.split(_TOGETHER):
            moved = h + steps * few
            unmoved += int((moved == h).all(-1).sum())
            if base is not None:
                actual.append((loss_from_h(moved) - base).double() / steps.double())
            else:
                actual.append((loss_from_h(moved) - loss_from_h(h - steps * few)) / (2 * steps[:, 0]))
    return PerturbationCorrelation(predicted, torch.cat(actual), unmoved / (len(v) * len(h)))


def cosine(a: Tensor, g: Tensor) -> Tensor:
    """Return the cosine of each pair of vectors, `[..., d]` twice -> `[...]`, float64; NaN where one is exactly 0.

    No clamp on the norms: `torch.nn.functional.cosine_similarity` has one at 1e-8 and invents 0 for smaller vectors.
    """
    a, g = a.double(), g.double()
    a, g = (x / x.abs().amax(-1, keepdim=True) for x in (a, g))  # squares of 1e-170 would vanish
    return (a * g).sum(-1) / (a.norm(dim=-1) * g.norm(dim=-1))


def weighted_cosine(a: Tensor, g: Tensor) -> float:
    """Return Σ⟨a, g⟩ / √(Σ‖a‖² Σ‖g‖²) over samples `[N, d]`: what `rho` is to first order."""
    return float(cosine(a.flatten(), g.flatten()))


def expected_sign_agreement(cosines: ArrayLike) -> float:
    """Return the share of isotropic directions in which ⟨a, v⟩ and ⟨g, v⟩ have one sign: 1 − arccos(c) / π.

    Args:
        cosines: c of each sample; the mean over samples is returned.
    """
    return float(np.mean(1 - np.arccos(np.clip(np.asarray(cosines, dtype=float), -1, 1)) / np.pi))


def loss_decrease_ratio(h: Tensor, a: Tensor, g: Tensor, loss_from_h: LossFrom, *, step: float = 1e-4) -> float:
    """Return how much a step along −a lowers the mean loss, as a share of what an equal step along −g does.

    Args:
        h: states `[N, d]`, float64.
        a: credits `[N, d]`.
        g: gradients `[N, d]`.
        loss_from_h: as for `perturbation_correlation`.
        step: length of each sample's step in units of its ‖h‖.
    """
    with torch.no_grad():
        length = step * h.norm(dim=1, keepdim=True)
        base = loss_from_h(h)
        ours, best = (
            (base - loss_from_h(h - length * F.normalize(x, dim=1, eps=1e-300))).mean().item() for x in (a, g)
        )
    return ours / best if best else math.nan


def weight_alignment(model: ResidualMLP, feedback: Tensor) -> NDArray[np.float64]:
    """Return the cosine of each feedback matrix with what the head sends back, `[L]`.

    The shortest way from the loss to any h_l goes along the residual stream, through out_ln and out_head alone; up to
    each sample's scale it carries e by P·diag(γ)·Wᵀ, with P what takes the mean off. Parts that are alike for all
    classes are taken off both sides: e sums to 0, so they carry nothing.

    Args:
        model: W and γ are those of its head.
        feedback: `[L, d, classes]`.
    """
    head = (model.out_ln.weight[:, None] * model.out_head.weight.mT).detach().double()  # (d, classes)
    head = head - head.mean(0)
    head, matrices = (x - x.mean(-1, keepdim=True) for x in (head, feedback.to(head)))
    return cosine(matrices.flatten(1), head.flatten().expand(len(matrices), -1)).cpu().numpy()


def fresh_feedback_null(errors: Tensor, gradients: Tensor, *, draws: int = 200, seed: int = 0) -> NDArray[np.float64]:
    """Return ρ of fresh random feedback on the same network and samples, `[draws]`: what chance alone gives.

    Every sample shares one B, so this spreads several times wider than the Monte-Carlo error of ρ. To first order (see
    the module) no direction is needed, and the sums over samples are made once for all draws.

    Args:
        errors: e, `[N, classes]`.
        gradients: ∂ℓ/∂h_l, `[N, d]`.
        draws: matrices `[d, classes]`, standard normal; their scale does not matter.
        seed: of the draws.
    """
    errors = errors.double()
    gradients = gradients.double() / gradients.abs().max()
    generate = generator(seed, "fresh feedback")
    shape = draws, gradients.shape[1], errors.shape[1]
    matrices = torch.randn(shape, generator=generate, dtype=torch.float64).to(errors)
    products = (matrices * (gradients.mT @ errors)).sum((1, 2))  # Σ ⟨e Bᵀ, g⟩
    squares = ((matrices @ (errors.mT @ errors)) * matrices).sum((1, 2))  # Σ ‖e Bᵀ‖²
    return (products / (squares * gradients.square().sum()).sqrt()).cpu().numpy()


def float32_rho(gradient_rms: ArrayLike, width: int, rounding: float, epsilon: float = 1e-3) -> NDArray[np.float64]:
    """Return the ρ that the exact gradient itself can score where losses are rounded.

    Along a random unit direction the loss changes by ε‖g‖/√d (SD), and rounding adds an SD of its own, independent of
    it: ρ = 1 / √(1 + d·(rounding / (ε‖g‖))²).

    Args:
        gradient_rms: √mean‖g‖² over samples, any shape.
        width: d.
        rounding: SD of the rounding error of a difference of two losses, some 1e-7 in float32 (`rounding_error`).
        epsilon: length of the step.
    """
    signal = epsilon * np.asarray(gradient_rms, dtype=float) / math.sqrt(width)
    return signal / np.hypot(signal, rounding)


def rounding_error(h: Tensor, exact: LossFrom, rounded: LossFrom) -> float:
    """Return the SD of the rounding error of a difference of two float32 losses, of one sample at two states.

    √2 times the SD over samples of one loss's error: the two errors count as independent, which holds while the step
    changes the bits of the state.

    Args:
        h: states `[N, d]`.
        exact: states to losses `[N]` in float64.
        rounded: the same in float32.
    """
    single = h.float()
    with torch.no_grad():
        return math.sqrt(2) * float((rounded(single).double() - exact(single.double())).std())


def audit(
    model: ResidualMLP,
    states: Signals,
    credits: Tensor,
    *,
    directions: int = 32,
    seed: int = 0,
    method: Literal["jvp", "gradient"] = "jvp",
    draws: int = 200,
    epsilon: float = 1e-3,
) -> pd.DataFrame:
    """Measure a network's credits by everything above, one row a layer l = 0 … L − 1.

    Args:
        model: the network.
        states: of that network (`signals`).
        credits: a_l, `[L, N, d]`.
        directions: M.
        seed: of directions, null and resampling.
        method: how the exact changes of the loss are had: `"jvp"` (`perturbation_correlation`), by which the ceiling
            checks the gradient; or `"gradient"` (`from_gradients`), far faster, with a ceiling of 1 by construction.
        draws: of the null.
        epsilon: of the float32 measure.

    Returns:
        Columns layer; rho with low and high (bootstrap over samples); ceiling (the exact gradient, by the same
        changes); null_mean, null_sd, null_low and null_high (2.5 and 97.5 %); cosine (mean over samples),
        weighted_cosine; sign_agreement, sign_expected; loss_decrease; float32_rho and float32_ceiling (the source's
        measure, NaN where no loss changed), unmoved, rounding; gradient_norm and hidden_norm (medians), gradient_rms.

    Raises:
        ValueError: credits of another shape.
    """
    import pandas as pd

    expected = (len(states.hidden) - 1, *states.hidden.shape[1:])
    if credits.shape != expected:
        raise ValueError(f"credits must be [L, N, d] = {list(expected)}; got {list(credits.shape)}")
    exact, single = _as(model, torch.float64), _as(model, torch.float32)
    v = unit_directions(states.hidden[0], directions, seed)
    v32 = v.float()
    rows = []
    for layer, (h, g, a) in enumerate(zip(states.hidden, states.gradients, credits, strict=False)):
        loss_from, loss32 = (m.loss_from(layer, states.labels) for m in (exact, single))
        best = PerturbationCorrelation.from_gradients(g, g, v)
        if method == "jvp":
            found = perturbation_correlation(h, a.double(), loss_from, directions=v)
        else:
            found = PerturbationCorrelation.from_gradients(a, g, v)
        ceiling = PerturbationCorrelation(best.predicted, found.actual)
        rough = perturbation_correlation(h.float(), a.float(), loss32, directions=v32, method="finite", epsilon=epsilon)
        null = fresh_feedback_null(states.errors, g, draws=draws, seed=seed)
        interval, cosines = found.interval(seed=seed), cosine(a, g)
        rows.append(
            {
                "layer": layer,
                "rho": found.rho,
                "low": interval.low,
                "high": interval.high,
                "ceiling": ceiling.rho,
                "null_mean": null.mean(),
                "null_sd": null.std(ddof=1),
                "null_low": np.quantile(null, 0.025),
                "null_high": np.quantile(null, 0.975),
                "cosine": float(cosines.nanmean()),
                "weighted_cosine": weighted_cosine(a, g),
                "sign_agreement": found.sign_agreement,
                "sign_expected": expected_sign_agreement(cosines[cosines.isfinite()].cpu()),
                "loss_decrease": loss_decrease_ratio(h, a.double(), g, loss_from),
                "float32_rho": rough.rho,
                "float32_ceiling": PerturbationCorrelation(best.predicted, rough.actual).rho,
                "unmoved": rough.unmoved,
                "rounding": rounding_error(h, loss_from, loss32),
                "gradient_norm": float(g.norm(dim=1).median()),
                "gradient_rms": float(g.square().sum(1).mean().sqrt()),
                "hidden_norm": float(h.norm(dim=1).median()),
            }
        )
    return pd.DataFrame(rows)


def _as(model: ResidualMLP, dtype: torch.dtype) -> ResidualMLP:
    return copy.deepcopy(model).to(dtype).eval()
