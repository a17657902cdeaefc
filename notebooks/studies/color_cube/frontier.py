"""How selective a removal is: damage at a concept against damage at colours that have nothing of it.

Pearson's correlation of damage and similarity does not change when the same damage is added to every colour, so it
cannot say that *only* the concept was removed. Collateral can. Both grow with the strength of a removal; methods are
compared where they do the same damage at the concept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nbutils.stats.erasure import Whitening
from nbutils.training.ensemble import Ensemble
from studies.color_cube.measures import squared_error

Decode = Callable[[Tensor], Tensor]  # latents [members, N, K] -> colours [members, N, 3]

UNLIKE = 1e-9  # a similarity below it counts as none: hues come out of a division
FAR = 0.1  # similarity below which damage counts as damage elsewhere
_CHUNK = 8  # members decoded at a time: their hidden layers then fit the cache


@dataclass(frozen=True)
class Removal:
    """What is taken out of the latents of many networks: x − strength·⟨x − mean, u⟩·v, u the reader and v the removed.

    Attributes:
        reads: u `[members, K]`.
        removes: v `[members, K]`, with ⟨u, v⟩ = 1, so that strength 1 leaves nothing to read.
        mean: `[members, K]`.
        start: only components above it are taken out, e.g. 0, or 0.5 for unit latents within 60° of a direction; None:
            all, of either sign.
    """

    reads: Tensor
    removes: Tensor
    mean: Tensor
    start: float | None = None

    def __call__(self, latents: Tensor, strength: float = 1.0) -> Tensor:
        """Return latents `[members, N, K]` without the component, at a strength in [0, 1]."""
        along = ((latents - self.mean[:, None]) * self.reads[:, None]).sum(-1, keepdim=True)
        if self.start is not None:
            along = torch.where(along > self.start, along, 0.0)
        return latents - strength * along * self.removes[:, None]


def suppression(directions: Tensor, start: float = 0.0) -> Removal:
    """Return the hard suppression of one direction for each network, `[members, K]`, from a cosine `start` on."""
    return Removal(directions, directions, torch.zeros_like(directions), start)


def leace(latents: Tensor, weight: Tensor) -> Removal:
    """Return LEACE of a scalar concept (`nbutils.stats.erasure`): one direction read and one removed, per network.

    Args:
        latents: `[members, samples, K]`.
        weight: the concept, `[samples]`, not constant.

    Raises:
        ValueError: shapes do not correspond, or the concept does not vary.
    """
    if weight.shape != latents.shape[1:2] or not weight.std() > 0:
        raise ValueError(f"expected one varying weight per sample of {latents.shape[1]}; got {tuple(weight.shape)}")
    concept = weight.detach().cpu().numpy()[:, None]
    axes = [Whitening.of(member).axes(concept) for member in latents.detach().cpu().numpy()]
    removes, reads = (torch.from_numpy(np.stack(both)).squeeze(-1).to(latents) for both in zip(*axes, strict=True))
    return Removal(reads, removes, latents.mean(1))


def latents_of(ensemble: Ensemble, rgb: ArrayLike) -> Tensor:
    """Return the latents `[members, N, K]` of colours `[N, 3]`."""
    x = torch.as_tensor(np.asarray(rgb), dtype=ensemble.dtype, device=ensemble.device)
    with torch.no_grad():
        return ensemble(x[None], ("bottleneck",))[1]["bottleneck"]


def decoder_of(ensemble: Ensemble) -> Decode:
    """Return the decoders of all members as one function, outputs clamped to [0, 1]."""
    decoder, prefix = ensemble[0].get_submodule("decoder"), "decoder."
    weights = {name.removeprefix(prefix): w for name, w in ensemble.parameters.items() if name.startswith(prefix)}
    decode_all = torch.vmap(lambda w, z: torch.func.functional_call(decoder, w, (z,)))

    @torch.no_grad()
    def decode(latents: Tensor) -> Tensor:
        shares = [slice(i, i + _CHUNK) for i in range(0, len(latents), _CHUNK)]
        out = [decode_all({name: w[share] for name, w in weights.items()}, latents[share]) for share in shares]
        return torch.cat(out).clamp(0, 1)

    return decode


def errors(
    decode: Decode, latents: Tensor, rgb: ArrayLike, removal: Removal | None = None, strength: float = 1.0
) -> NDArray[np.float64]:
    """Return the squared error of each colour, after a removal if there is one: `[members, N]`.

    Args:
        decode: the networks' decoders.
        latents: of the colours, `[members, N, K]`.
        rgb: the colours, `[N, 3]`.
        removal: one per network.
        strength: of the removal, in [0, 1].
    """
    edited = latents if removal is None else removal(latents, strength)
    return squared_error(decode(edited), torch.as_tensor(np.asarray(rgb)).to(latents)).numpy(force=True)


def sweep_strength(
    decode: Decode, latents: Tensor, rgb: ArrayLike, removal: Removal, strengths: Sequence[float]
) -> NDArray[np.float64]:
    """Return what a removal adds to the error of each colour at each strength: `[members, strengths, N]`."""
    before = errors(decode, latents, rgb)
    return np.stack([errors(decode, latents, rgb, removal, strength) - before for strength in strengths], axis=1)


def collateral(added: ArrayLike, similarity: ArrayLike) -> NDArray[np.float64]:
    """Return the mean damage at colours of no similarity to the concept: `[..., N]`, similarity `[N]` -> `[...]`.

    Raises:
        ValueError: shapes do not correspond, or every colour has some similarity.
    """
    e, s = np.asarray(added, dtype=float), np.asarray(similarity, dtype=float)
    if s.ndim != 1 or e.shape[-1:] != s.shape or not (s < UNLIKE).any():
        raise ValueError(f"expected damage [..., colours], and colours of no similarity; got {e.shape}, {s.shape}")
    return e[..., s < UNLIKE].mean(-1)


def share_elsewhere(added: ArrayLike, similarity: ArrayLike) -> NDArray[np.float64]:
    """Return which share of all damage falls on colours of a similarity below `FAR`: `[..., N]`, `[N]` -> `[...]`.

    Damage below 0, a colour that got better, counts as none. NaN where there is no damage at all.
    """
    e, s = np.asarray(added, dtype=float).clip(min=0), np.asarray(similarity, dtype=float)
    with np.errstate(invalid="ignore"):
        return e[..., s < FAR].sum(-1) / e.sum(-1)


def at_equal_damage(at_concept: ArrayLike, elsewhere: ArrayLike, level: float) -> NDArray[np.float64]:
    """Return the collateral of each network where its damage at the concept first reaches a level.

    Between two strengths both are taken as linear.

    Args:
        at_concept: `[members, strengths]`, from no removal to the whole one.
        elsewhere: likewise, the collateral.
        level: of damage at the concept, above 0.

    Returns:
        `[members]`; NaN where the level is never reached.
    """
    x, y = np.asarray(at_concept, dtype=float), np.asarray(elsewhere, dtype=float)
    found = np.full(len(x), np.nan)
    for member, (row, other) in enumerate(zip(x, y, strict=True)):
        reached = np.flatnonzero(row >= level)
        if len(reached) and (k := int(reached[0])) > 0:
            share = (level - row[k - 1]) / (row[k] - row[k - 1])
            found[member] = other[k - 1] + share * (other[k] - other[k - 1])
    return found
