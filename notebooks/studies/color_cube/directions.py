"""Directions in a latent space: found after training, or drawn at random as a control."""

from __future__ import annotations

import torch
from torch import Tensor

from nbutils.seeding import generator


def difference_of_means(latents: Tensor, weight: Tensor) -> Tensor:
    """Return the unit direction `[K]` from the mean of the unlabelled samples to the mean of the labelled ones.

    The simplest estimate of a concept's direction in a network trained without one: the control for the claim that
    training *put* the concept somewhere.

    Args:
        latents: `[samples, K]`.
        weight: `[samples]` in [0, 1]: the degree of the label per sample.

    Raises:
        ValueError: shapes differ, or all samples are on one side.
    """
    if weight.shape != latents.shape[:1]:
        raise ValueError(f"expected one weight per sample; got {tuple(weight.shape)} for {tuple(latents.shape)}")
    inside, outside = weight, 1 - weight
    if inside.sum() <= 0 or outside.sum() <= 0:
        raise ValueError("a difference of means needs samples with and without the label")
    difference = inside @ latents / inside.sum() - outside @ latents / outside.sum()
    return difference / difference.norm()


def random_directions(count: int, width: int, *, seed: int) -> Tensor:
    """Return unit vectors `[count, width]`, uniform on the sphere, in double precision."""
    points = torch.randn(count, width, generator=generator(seed, "random directions"), dtype=torch.float64)
    return points / points.norm(dim=1, keepdim=True)


def rare_label_direction(latents: Tensor, index: Tensor, label: Tensor) -> Tensor:
    """Return `difference_of_means` `[K]` of what one training run saw: the only labels that anchoring has.

    Args:
        latents: of the data set's colours, `[colours, K]`.
        index: of the colours drawn, `[samples]`.
        label: of each, `[samples]`, of 0 and 1.

    Raises:
        ValueError: no sample is labelled, or all are.
    """
    return difference_of_means(latents[index], label.to(latents.dtype))
