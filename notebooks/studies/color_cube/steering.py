"""Edits of activations away from a direction or a subspace: callables `[..., K]` -> `[..., K]`.

Use them with `nbutils.edit`: `with nb.edit(model, {"bottleneck": Suppression(direction)}): ...`.
Source document: Ex 2.9.1 and its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nbutils.seeding import generator
from studies.color_cube.mappers import BoundedFalloff, LinearMapper


@dataclass(frozen=True)
class Suppression:
    """Remove the component of activations along a direction: x − strength·gate(cos(x, v))·⟨x, v⟩·v.

    Activations on the far side of the direction stay as they are, unless `both_ways`.

    Args:
        direction: v `[K]`; scaled to unit length.
        falloff: alignment in (0, 1] -> gate in [0, 1].
        strength: in [0, 1]: 0 changes nothing, 1 applies the gate in full.
        both_ways: also act on activations aligned with −v.

    Raises:
        ValueError: strength out of range; when called, a direction of 0 or of another width.
    """

    direction: Sequence[float] | Tensor
    falloff: Callable[[Tensor], Tensor] = field(default_factory=BoundedFalloff)
    strength: float = 1.0
    both_ways: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must lie in [0, 1]; got {self.strength}")

    def __call__(self, x: Tensor) -> Tensor:
        v = _scale_to_unit(self.direction, x)
        along = x @ v  # (...,)
        alignment = along / x.norm(dim=-1).clamp_min(1e-12)
        alignment = alignment.abs() if self.both_ways else alignment
        gate = torch.where(alignment > 0, self.strength * self.falloff(alignment.clamp(0, 1)), 0.0)
        return x - (gate * along).unsqueeze(-1) * v


@dataclass(frozen=True)
class Repulsion:
    """Rotate activations away from a direction, in the plane of both, at constant length.

    An activation at cosine c > 0 to the direction ends at cosine `mapper(c)`. A parallel one spans no plane with the
    direction: it turns towards an orthogonal direction drawn from `seed`, the same for all of them and on every call.

    Args:
        direction: v `[K]`, K of 2 or more; scaled to unit length.
        mapper: cosine -> cosine.
        seed: of the orthogonal direction.

    Raises:
        ValueError: when called, a direction of 0 or of another width, or activations of width 1.
    """

    direction: Sequence[float] | Tensor
    mapper: Callable[[Tensor], Tensor] = field(default_factory=LinearMapper)
    seed: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        v = _scale_to_unit(self.direction, x)
        if len(v) < 2:
            raise ValueError("repulsion needs activations of width 2 or more, a plane to turn in; got width 1")
        length = x.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        unit = x / length
        cosine = unit @ v
        across = unit - cosine.unsqueeze(-1) * v
        across_length = across.norm(dim=-1, keepdim=True)
        fallback = torch.randn(len(v), generator=generator(self.seed, "orthogonal direction")).to(x)
        fallback = fallback - (fallback @ v) * v
        # Below 1e-6 the rest of the vector is rounding, not a direction.
        across = torch.where(across_length > 1e-6, across / across_length, fallback / fallback.norm())
        target = self.mapper(cosine).clamp(-1, 1).unsqueeze(-1)
        turned = target * v + (1 - target**2).clamp_min(0).sqrt() * across
        return torch.where(cosine.unsqueeze(-1) > 0, turned * length, x)


def _scale_to_unit(direction: Sequence[float] | Tensor, like: Tensor) -> Tensor:
    v = torch.as_tensor(direction, dtype=like.dtype, device=like.device)
    if v.shape != like.shape[-1:] or not v.norm() > 0:
        raise ValueError(f"expected a direction of width {like.shape[-1]}, not all 0; got {v.tolist()}")
    return v / v.norm()
