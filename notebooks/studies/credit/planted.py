"""Credits whose correlation with the loss is known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nbutils.seeding import generator


def plant_credit(g: Tensor, c: float, seed: int = 0) -> Tensor:
    """Return credits of cosine c with the gradient in every sample, and of its length: their ρ is c.

    a = c g + √(1 − c²) ‖g‖ u, with a random unit vector u orthogonal to g.

    Args:
        g: gradients `[N, d]`, float64, none of them 0.
        c: −1 to 1.
        seed: of u.

    Raises:
        ValueError: c outside −1 to 1.
    """
    if not -1 <= c <= 1:
        raise ValueError(f"a cosine lies between -1 and 1; got {c}")
    noise = torch.randn(g.shape, generator=generator(seed, "planted"), dtype=torch.float64).to(g)
    along = normalize(g, dim=1)
    beside = normalize(noise - (noise * along).sum(1, keepdim=True) * along, dim=1)
    return g.norm(dim=1, keepdim=True) * (c * along + (1 - c**2) ** 0.5 * beside)
