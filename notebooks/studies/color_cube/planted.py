"""An autoencoder of colours built by hand, with a known direction of red."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from studies.color_cube.network import UnitNorm


class PlantedColors(nn.Module):
    """A colour autoencoder with redness on latent dimension 0 and nothing else there.

    Colour i of the codebook has the latent (ρ_i, √(1−ρ_i²)·w_i): ρ_i is its planted part, on dimension 0, and w_i a
    direction of its own in the other dimensions. The decoder finds the colour by w alone, and moves each of its
    channels by `gain`·(ρ_i − z₀) towards the other end of the range. So with z₀ intact the reconstruction is exact, and
    with z₀ set to zero the squared error of colour i is exactly (gain·ρ_i)² in every channel: the correlation with any
    function of ρ, and the collateral at ρ = 0, are known without a measurement.

    The submodules have the names of the trained network's (`encoder`, `bottleneck`, `decoder`), with linear layers on
    both sides of the bottleneck, so the same surgery and the same edits apply.

    Args:
        colors: codebook `[N, 3]`, RGB in [0, 1]: the only possible inputs.
        planted: ρ `[N]` in [0, 1); at 1 only dimension 0 would be left to find the colour by.
        bottleneck: latent dimensions, 3 or more.
        gain: in (0, 0.5], so that moved channels stay in [0, 1].

    Raises:
        ValueError: planted or gain out of range; in a forward pass, a colour that is not in the codebook.
    """

    def __init__(self, colors: Tensor, planted: Tensor, bottleneck: int = 5, gain: float = 0.5) -> None:
        super().__init__()
        if planted.min() < 0 or planted.max() >= 1:
            raise ValueError(f"planted must lie in [0, 1); got {planted.min():.3g} to {planted.max():.3g}")
        if not 0 < gain <= 0.5:
            raise ValueError(f"gain must lie in (0, 0.5]; got {gain}")
        self.encoder = _Lookup(colors, planted, bottleneck)
        self.bottleneck = UnitNorm()
        self.decoder = _MovedLookup(colors, planted, self.encoder.directions, gain)

    def forward(self, rgb: Tensor) -> Tensor:
        """Return the reconstruction of codebook colours: `[N, 3]` twice."""
        return self.decoder(self.bottleneck(self.encoder(rgb)))


class _Lookup(nn.Module):
    colors: Tensor
    directions: Tensor
    latents: Tensor

    def __init__(self, colors: Tensor, planted: Tensor, bottleneck: int) -> None:
        super().__init__()
        directions = _draw_directions(len(colors), bottleneck - 1).to(colors)  # (N, K-1)
        rest = (1 - planted**2).sqrt()
        self.register_buffer("colors", colors)
        self.register_buffer("directions", directions)
        self.register_buffer("latents", torch.cat([planted[:, None], rest[:, None] * directions], dim=1))
        self.out = _build_identity(bottleneck, colors)

    def forward(self, rgb: Tensor) -> Tensor:
        distance, index = torch.cdist(rgb, self.colors).min(dim=1)
        if distance.max() > 1e-6:
            raise ValueError(f"expected colours of the codebook; got one at distance {distance.max():.3g} from all")
        return self.out(self.latents[index])


class _MovedLookup(nn.Module):
    colors: Tensor
    planted: Tensor
    directions: Tensor

    def __init__(self, colors: Tensor, planted: Tensor, directions: Tensor, gain: float) -> None:
        super().__init__()
        self.into = _build_identity(1 + directions.shape[1], colors)
        self.register_buffer("colors", colors)
        self.register_buffer("planted", planted)
        self.register_buffer("directions", directions)
        self.gain = gain

    def forward(self, latents: Tensor) -> Tensor:
        latents = self.into(latents)
        index = (latents[:, 1:] @ self.directions.T).argmax(dim=1)  # the nearest direction, whatever its length
        color = self.colors[index]
        towards = torch.where(color < 0.5, 1.0, -1.0).to(color)
        return color + self.gain * (self.planted[index] - latents[:, 0])[:, None] * towards


def _build_identity(width: int, like: Tensor) -> nn.Linear:
    layer = nn.Linear(width, width).to(like)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(width))
        layer.bias.zero_()
    return layer


def _draw_directions(count: int, dims: int) -> Tensor:
    """Return `count` distinct unit vectors `[count, dims]`, the same every time."""
    points = torch.randn(count, dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return points / points.norm(dim=1, keepdim=True)
