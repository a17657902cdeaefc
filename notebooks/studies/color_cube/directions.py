"""Directions in a latent space: found after the fact, or drawn at random as a control."""

from __future__ import annotations

import torch
from torch import Tensor

from nbutils.seeding import generator


def difference_of_means(latents: Tensor, weight: Tensor) -> Tensor:
    """Return the unit direction from the other samples' mean to the labelled samples' mean.

    The simplest estimate of a concept's direction in a network that was not trained to have one; the control for
    every claim that training *put* it somewhere.

    Args:
        latents: `[samples, K]`.
        weight: `[samples]` in [0, 1]: how far each sample carries the label.

    Raises:
        ValueError: shapes differ, or all samples are on one side.
    """
    if weight.shape != latents.shape[:1]:
        raise ValueError(f"one weight a sample: latents {tuple(latents.shape)}, weight {tuple(weight.shape)}")
    inside, outside = weight, 1 - weight
    if inside.sum() <= 0 or outside.sum() <= 0:
        raise ValueError("a difference of means needs samples with and without the label")
    difference = inside @ latents / inside.sum() - outside @ latents / outside.sum()
    return difference / difference.norm()


def random_directions(count: int, width: int, *, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return unit vectors `[count, width]`, uniform on the sphere."""
    points = torch.randn(count, width, generator=generator(seed, "random directions"), dtype=torch.float64)
    return (points / points.norm(dim=1, keepdim=True)).to(dtype)
