"""Regularizers of a latent sphere: losses on latents, scheduled by a dopesheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import get_ident

import torch
import torch.nn.functional as F
from torch import Tensor

_ALIKE = 1e-5 + 1e-8  # cosines this near 1 count as the same colour drawn twice (torch.isclose's defaults)
_CHUNK = 16  # members a pass of Separate: its [members, 64, 64] buffers then stay in the second-level cache


@dataclass(frozen=True)
class Anchor:
    """Squared Euclidean distance to a point `[K]`."""

    point: Sequence[float]

    def __call__(self, latents: Tensor) -> Tensor:
        return (latents - latents.new_tensor(self.point)).square().sum(-1)


@dataclass(frozen=True)
class AngularAnchor:
    """One minus the cosine to a direction `[K]`: 0 when aligned, 2 when opposite."""

    direction: Sequence[float]

    def __call__(self, latents: Tensor) -> Tensor:
        return 1 - _cosine(latents, self.direction)


@dataclass(frozen=True)
class AntiAnchor:
    """Repulsion from a direction `[K]`.

    Args:
        direction: where nothing should be.
        full_sphere: `False`: max(cos, 0), which acts on the near hemisphere only (the source's); `True`:
            (1 + cos)/2, which falls to 0 only at the opposite pole.
    """

    direction: Sequence[float]
    full_sphere: bool = False

    def __call__(self, latents: Tensor) -> Tensor:
        cosine = _cosine(latents, self.direction)
        return (1 + cosine) / 2 if self.full_sphere else cosine.clamp_min(0)


@dataclass(frozen=True)
class AxisAlignedSubspace:
    """Squared length outside the subspace spanned by `dims`; inside it with `invert`."""

    dims: Sequence[int]
    invert: bool = False

    def __post_init__(self) -> None:
        if not self.dims or len(set(self.dims)) != len(self.dims) or min(self.dims) < 0:
            raise ValueError(f"dims must be distinct indices from 0, at least one; got {tuple(self.dims)}")

    def __call__(self, latents: Tensor) -> Tensor:
        width = latents.shape[-1]
        if max(self.dims) >= width:
            raise ValueError(f"dims {tuple(self.dims)} do not fit latents of width {width}")
        penalized = [k for k in range(width) if (k in self.dims) == self.invert]
        return latents[..., penalized].square().sum(-1)


@dataclass(frozen=True)
class Planarity:
    """Squared length outside the first two dimensions."""

    def __call__(self, latents: Tensor) -> Tensor:
        return latents[..., 2:].square().sum(-1)


@dataclass(frozen=True)
class Unitarity:
    """Squared deviation of the length from 1."""

    def __call__(self, latents: Tensor) -> Tensor:
        return (latents.norm(dim=-1) - 1).square()


@dataclass(frozen=True)
class Separate:
    """Repulsion between the samples of a batch, by angle: Σ_j ((cos_ij + 1)/2)^power.

    Pairs with a cosine of 1 within 1e-5 (a sample and itself, or the same colour drawn twice) count as cosine 0.

    Args:
        power: sharpness; at 100 only neighbours within about 20° repel each other.
        shift: map cosines from [-1, 1] to [0, 1] first; without it `power` must be a whole number.
    """

    power: float = 100.0
    shift: bool = True

    def __post_init__(self) -> None:
        if self.power < 1:
            raise ValueError(f"power must be 1 or more; got {self.power}")
        if not self.shift and self.power != int(self.power):
            raise ValueError(f"without shift, cosines can be negative and power must be whole; got {self.power}")

    def __call__(self, latents: Tensor) -> Tensor:
        unit = latents / (latents.norm(dim=-1, keepdim=True) + 1e-8)
        flat = unit.reshape(-1, *unit.shape[-2:])  # (members, batch, K)
        return _PairwisePower.apply(flat, self.power, self.shift).reshape(unit.shape[:-1])


class _PairwisePower(torch.autograd.Function):
    """Row sums of f(cos)^power over `[members, batch, batch]` that are never kept.

    Autograd would hold five such arrays a step and run `pow` twice over them. The gradient needs only the product of
    f^(power-1) with the latents: it is formed chunk by chunk on the way forward, for the upstream gradient that
    averaging produces (one value a member), and again on the way back for any other.
    """

    @staticmethod
    def forward(ctx, unit: Tensor, power: float, shift: bool) -> Tensor:  # (members, batch, K) -> (members, batch)
        sums = unit.new_empty(unit.shape[:2])
        pulled = torch.empty_like(unit)
        for chunk, slope, chunk_sums in _chunks(unit, power, shift):
            sums[chunk] = chunk_sums
            torch.bmm(slope, unit[chunk], out=pulled[chunk])
        ctx.save_for_backward(unit, pulled)
        ctx.power, ctx.shift = power, shift
        return sums

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None, None]:
        unit, pulled = ctx.saved_tensors
        g = upstream.unsqueeze(-1)  # (members, batch, 1)
        if (upstream == upstream[:, :1]).all():
            return 2 * g * pulled, None, None
        weighted = torch.empty_like(unit)
        for chunk, slope, _ in _chunks(unit, ctx.power, ctx.shift):
            torch.bmm(slope, (g * unit)[chunk], out=weighted[chunk])
        return g * pulled + weighted, None, None


def _chunks(unit: Tensor, power: float, shift: bool):
    """Yield (slice of members, d f^power / d cos `[m, batch, batch]`, row sums of f^power `[m, batch]`)."""
    members, batch, _ = unit.shape
    scale, offset = (0.5, 0.5) if shift else (1.0, 0.0)  # f = scale * cos + offset
    base, scratch, result = _workspace(get_ident(), min(_CHUNK, members), batch, unit.dtype, unit.device)
    for start in range(0, members, _CHUNK):
        chunk = slice(start, min(start + _CHUNK, members))
        count = chunk.stop - chunk.start
        f, s, p = base[:count], scratch[:count], result[:count]
        # -f rather than f, so that one `threshold_` pass masks what lies above a limit.
        f.fill_(-offset)
        torch.baddbmm(f, unit[chunk], unit[chunk].transpose(1, 2), alpha=-scale, out=f)
        F.threshold_(f, -(scale * (1 - _ALIKE) + offset), -offset)
        f.neg_()
        alike = f == offset if power < 50 else None  # above, what they add is below 1e-15: not worth a pass
        if shift and alike is None:
            f.clamp_min_(1e-3)  # adds 1e-150 at most, and spares the slow arithmetic of denormals
        _power(f, power - 1, s, p)
        sums = torch.mul(p, f, out=s).sum(-1)
        if alike is not None:
            p.masked_fill_(alike, 0)  # set to a constant, so nothing flows back
        yield chunk, p.mul_(power * scale), sums


@lru_cache(maxsize=4)
def _workspace(_thread: int, *shape_and_kind) -> tuple[Tensor, Tensor, Tensor]:
    """Return three buffers `[members, batch, batch]` that the next call in this thread overwrites.

    Kept because the system clears fresh pages: allocating them anew each step took longer than computing in them.
    """
    members, batch, dtype, device = shape_and_kind
    return tuple(torch.empty(members, batch, batch, dtype=dtype, device=device) for _ in range(3))


def _power(base: Tensor, power: float, scratch: Tensor, out: Tensor) -> None:
    """Write base ** power to `out`; whole powers by repeated squaring, some ten times faster than `pow`."""
    if power != int(power):
        torch.pow(base, power, out=out)
        return
    bits = [bit for bit in range(int(power).bit_length()) if int(power) >> bit & 1]
    if not bits:
        out.fill_(1)
        return
    scratch.copy_(base)
    squared = 0
    for position, bit in enumerate(bits):
        for _ in range(bit - squared):
            scratch.mul_(scratch)
        squared = bit
        if position == 0:
            out.copy_(scratch)
        else:
            out.mul_(scratch)


def _cosine(latents: Tensor, direction: Sequence[float]) -> Tensor:
    length = math.sqrt(sum(x * x for x in direction))
    if len(direction) != latents.shape[-1] or length == 0:
        raise ValueError(
            f"a direction for latents of width {latents.shape[-1]} has as many entries, not all 0; "
            f"got {tuple(direction)}"
        )
    unit = latents.new_tensor([x / length for x in direction])
    return (latents @ unit) / latents.norm(dim=-1).clamp_min(1e-12)
