"""The colour autoencoder: RGB to a point on a sphere and back."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class UnitNorm(nn.Module):
    """Scale each vector `[..., K]` to unit Euclidean length; a zero vector stays zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x / ‖x‖`, `[..., K]`."""
        # `norm` is ten times slower on the transposed layout of an ensemble in training.
        return x / x.square().sum(dim=-1, keepdim=True).clamp_min(1e-24).sqrt()


class ColorMLP(nn.Module):
    """Autoencoder of colours with a bottleneck of unit length.

    Layers are 3→H→…→K (encoder), `bottleneck` (unit norm), K→H→…→3 (decoder), GELU between linear layers, PyTorch's
    default initialisation. In eval mode the output is clamped to [0, 1]; in training it is not, so that gradients
    reach colours beyond the gamut. Source document: Ex 2.9.1.

    Args:
        bottleneck: K, dimensions of the latent sphere, 1 or more.
        hidden: H, width of the hidden layers, 1 or more.
        nonlinear: hidden layers per side, 1 or more.

    Raises:
        ValueError: a number below 1.
    """

    rowwise = True  # every layer acts on the last axis alone: see `nbutils.training.ensemble`

    def __init__(self, bottleneck: int = 5, hidden: int = 10, nonlinear: int = 2) -> None:
        super().__init__()
        for name, number in (("bottleneck", bottleneck), ("hidden", hidden), ("nonlinear", nonlinear)):
            if number < 1:
                raise ValueError(f"{name} must be 1 or more; got {number}")
        self.encoder = _build_mlp(3, hidden, bottleneck, nonlinear)
        self.bottleneck = UnitNorm()
        self.decoder = _build_mlp(bottleneck, hidden, 3, nonlinear)

    def forward(self, rgb: Tensor) -> Tensor:
        """Return the reconstruction of colours: `[..., 3]` twice."""
        out = self.decoder(self.bottleneck(self.encoder(rgb)))
        return out if self.training else out.clamp(0, 1)


def _build_mlp(inputs: int, hidden: int, outputs: int, nonlinear: int) -> nn.Sequential:
    widths = [inputs, *[hidden] * nonlinear]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))
