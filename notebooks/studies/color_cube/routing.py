"""Gradient routing: labelled samples train one latent dimension, the others the rest.

Cloud et al. 2024, "Gradient routing: masking gradients to localize computation in neural networks", arXiv 2410.04332.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from studies.color_cube.data import BatchesByMember
from studies.color_cube.network import ColorMLP


class RoutedMLP(ColorMLP):
    """`ColorMLP` whose encoder learns from labelled colours by dimension 0 alone, and from others by the rest.

    In training, colours come with a fourth channel: the label, 0 or 1. It masks the gradient at the encoder's output,
    and nothing else: the values that flow forward are those of `ColorMLP`, which is what the network is without it.
    """

    def forward(self, rgb: Tensor) -> Tensor:
        """Return the reconstruction of colours `[..., 3]` or `[..., 4]`: `[..., 3]`."""
        if rgb.shape[-1] == 3:
            return super().forward(rgb)
        code = self.encoder(rgb[..., :3])
        first = torch.zeros_like(code[..., :1, :])
        first[..., 0] = 1
        label = rgb[..., 3:]
        learns = label * first + (1 - label) * (1 - first)  # (..., K)
        out = self.decoder(self.bottleneck(learns * code + (1 - learns) * code.detach()))
        return out if self.training else out.clamp(0, 1)


@dataclass(frozen=True)
class RoutedBatches(BatchesByMember):
    """`BatchesByMember` whose input carries the member's label as a fourth channel."""

    def batch(self, drawn: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return what `BatchesByMember.batch` does, with `input` `[members, batch, 4]`."""
        batch = super().batch(drawn, dtype)
        return batch | {"input": torch.cat([batch["input"], batch["label"][..., None]], dim=-1)}


@dataclass(frozen=True)
class OnSphere:
    """A loss of unit vectors, for codes `[..., K]` of any length: the encoder's output, before the norm."""

    loss: Callable[[Tensor], Tensor]

    def __call__(self, codes: Tensor) -> Tensor:
        return self.loss(codes / codes.square().sum(-1, keepdim=True).clamp_min(1e-24).sqrt())
