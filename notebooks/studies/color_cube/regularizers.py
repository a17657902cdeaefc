"""Regularizers of a latent sphere: losses per sample, latents `[..., K]` -> `[...]`, weighted by a dopesheet.

`Separate`, `AngularAnchor`, `AntiAnchor` and `AxisAlignedSubspace` are those of Ex 2.9.1; the rest serve other
experiments of its series.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

_ALIKE = 1e-5 + 1e-8  # distance from cosine 1 of a colour to itself: torch.isclose's defaults
_CHUNK = 16  # members per pass of Separate: its [members, 64, 64] buffers then fit the second-level cache


@dataclass(frozen=True)
class Anchor:
    """Squared Euclidean distance to a point `[K]`."""

    point: Sequence[float]

    def __call__(self, latents: Tensor) -> Tensor:
        return (latents - latents.new_tensor(self.point)).square().sum(-1)


@dataclass(frozen=True)
class AngularAnchor:
    """One minus the cosine to a direction `[K]`: 0 when aligned, 2 when opposite.

    Raises:
        ValueError: when called, a direction of 0 or of another width.
    """

    direction: Sequence[float]

    def __call__(self, latents: Tensor) -> Tensor:
        return 1 - _cosine(latents, self.direction)


@dataclass(frozen=True)
class AntiAnchor:
    """Repulsion from a direction `[K]`.

    Args:
        direction: the pole to empty.
        full_sphere: `False`: max(cos, 0), on the near hemisphere only, as in the source; `True`: (1 + cos)/2, 0 at the
            opposite pole only.

    Raises:
        ValueError: when called, a direction of 0 or of another width.
    """

    direction: Sequence[float]
    full_sphere: bool = False

    def __call__(self, latents: Tensor) -> Tensor:
        cosine = _cosine(latents, self.direction)
        return (1 + cosine) / 2 if self.full_sphere else cosine.clamp_min(0)


@dataclass(frozen=True)
class AxisAlignedSubspace:
    """Squared length outside the subspace of some dimensions, or inside it.

    Args:
        dims: indices on the last axis, distinct, at least one.
        invert: penalise the length inside.

    Raises:
        ValueError: no dims, one twice or below 0; when called, one outside the latents.
    """

    dims: Sequence[int]
    invert: bool = False

    def __post_init__(self) -> None:
        if not self.dims or len(set(self.dims)) != len(self.dims) or min(self.dims) < 0:
            raise ValueError(f"dims must be distinct indices from 0, at least one; got {tuple(self.dims)}")

    def __call__(self, latents: Tensor) -> Tensor:
        width = latents.shape[-1]
        if max(self.dims) >= width:
            raise ValueError(f"expected dims below {width}, the width of the latents; got {tuple(self.dims)}")
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

    Latents are `[..., batch, K]`. Pairs with a cosine of 1 within 1e-5 (a sample and itself, or a colour drawn twice)
    count as cosine 0.

    Args:
        power: sharpness, 1 or more; at 100 only neighbours within about 20° repel each other.
        shift: map cosines from [-1, 1] to [0, 1] first; without it `power` must be a whole number.

    Raises:
        ValueError: power below 1, or not whole without shift.
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
    """Row sums of f(cos)^power `[members, batch, batch]`, without the array.

    Autograd would hold five such arrays per step and run `pow` twice over them. The gradient needs only the product of
    f^(power-1) with the latents. The forward pass forms it chunk by chunk for the upstream gradient of a mean (one
    value per member), the backward pass for any other.
    """

    @staticmethod
    def forward(ctx: Any, unit: Tensor, power: float, shift: bool) -> Tensor:  # (members, batch, K) -> (members, batch)
        sums = unit.new_empty(unit.shape[:2])
        pulled = torch.empty_like(unit)
        for chunk, slope, chunk_sums in _iterate_chunks(unit, power, shift):
            sums[chunk] = chunk_sums
            torch.bmm(slope, unit[chunk], out=pulled[chunk])
        ctx.save_for_backward(unit, pulled)
        ctx.power, ctx.shift = power, shift
        return sums

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor, None, None]:
        (upstream,) = upstreams  # (members, batch)
        unit, pulled = ctx.saved_tensors
        g = upstream.unsqueeze(-1)  # (members, batch, 1)
        if (upstream == upstream[:, :1]).all():
            return 2 * g * pulled, None, None
        weighted = torch.empty_like(unit)
        for chunk, slope, _ in _iterate_chunks(unit, ctx.power, ctx.shift):
            torch.bmm(slope, (g * unit)[chunk], out=weighted[chunk])
        return g * pulled + weighted, None, None


def _iterate_chunks(unit: Tensor, power: float, shift: bool) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield (slice of members, d f^power / d cos `[m, batch, batch]`, row sums of f^power `[m, batch]`)."""
    members, batch, _ = unit.shape
    scale, offset = (0.5, 0.5) if shift else (1.0, 0.0)  # f = scale * cos + offset
    base, scratch, result = _get_workspace(get_ident(), min(_CHUNK, members), batch, unit.dtype, unit.device)
    for start in range(0, members, _CHUNK):
        chunk = slice(start, min(start + _CHUNK, members))
        count = chunk.stop - chunk.start
        f, s, p = base[:count], scratch[:count], result[:count]
        # -f rather than f, so that one pass of `threshold_` masks the cosines above the limit.
        f.fill_(-offset)
        torch.baddbmm(f, unit[chunk], unit[chunk].transpose(1, 2), alpha=-scale, out=f)
        torch.threshold_(f, -(scale * (1 - _ALIKE) + offset), -offset)
        f.neg_()
        alike = f == offset if power < 50 else None  # at higher powers they add less than 1e-15: not worth a pass
        if shift and alike is None:
            f.clamp_min_(1e-3)  # adds 1e-150 at most, and avoids the slow arithmetic of denormals
        _raise_to_power(f, power - 1, s, p)
        sums = torch.mul(p, f, out=s).sum(-1)
        if alike is not None:
            p.masked_fill_(alike, 0)  # constants have no gradient
        yield chunk, p.mul_(power * scale), sums


@lru_cache(maxsize=4)
def _get_workspace(
    _thread: int, members: int, batch: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return three buffers `[members, batch, batch]` for this thread; its next call overwrites them.

    Kept because the system clears fresh pages: an allocation per step took longer than the computation.
    """
    first, second, third = (torch.empty(members, batch, batch, dtype=dtype, device=device) for _ in range(3))
    return first, second, third


def _raise_to_power(base: Tensor, power: float, scratch: Tensor, out: Tensor) -> None:
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
        raise ValueError(f"expected a direction of width {latents.shape[-1]}, not all 0; got {tuple(direction)}")
    unit = latents.new_tensor([x / length for x in direction])
    return (latents @ unit) / latents.norm(dim=-1).clamp_min(1e-12)
