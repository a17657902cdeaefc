"""Random fields: white noise filtered to patches and to streaks, each of mean 0 and standard deviation 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def smooth(white: Tensor, sigma: float | Tensor) -> Tensor:
    """Return white noise `[N, size, size]` after a Gaussian filter.

    Args:
        white: normal numbers.
        sigma: standard deviation of the filter in pixels, one or `[N]`.
    """
    sigma = torch.as_tensor(sigma, dtype=white.dtype).view(-1, 1, 1)
    fy, fx = _frequencies(white.shape[-1])
    return _filter(white, torch.exp(-2 * math.pi**2 * sigma**2 * (fx**2 + fy**2)))


def streaks(white: Tensor, angle: Tensor) -> Tensor:
    """Return white noise `[N, size, size]`, smoothed much along a direction and little across it.

    Args:
        white: normal numbers.
        angle: `[N]`, radians.
    """
    fy, fx = _frequencies(white.shape[-1])
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, across = fx * cos + fy * sin, fy * cos - fx * sin
    return _filter(white, torch.exp(-2 * math.pi**2 * ((4.5 * along) ** 2 + (0.75 * across) ** 2)))


def _frequencies(size: int) -> tuple[Tensor, Tensor]:
    return torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]


def _filter(white: Tensor, transfer: Tensor) -> Tensor:
    transfer = transfer.clone()
    transfer[..., 0, 0] = 0  # mean 0: the tile's own level is drawn elsewhere
    field = torch.fft.irfft2(torch.fft.rfft2(white) * transfer, s=white.shape[-2:])
    # Power of the transfer function; the half that rfft leaves out counts twice.
    double = torch.full((transfer.shape[-1],), 2.0)
    double[0] = double[-1] = 1.0
    power = (transfer**2 * double).sum((-2, -1), keepdim=True) / white[0].numel()
    return field / power.sqrt()
