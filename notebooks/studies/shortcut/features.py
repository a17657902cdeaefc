"""Pooled features of images: one pass of a network, as it is in eval mode."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor

from nbutils import progress
from studies.shortcut.networks import CHANNELS, TileNetwork

Precision = Literal["float32", "bfloat16"]


def extract(
    model: TileNetwork,
    images: Tensor,
    *,
    precision: Precision = "float32",
    channels_last: bool = True,
    batch_size: int = 128,
) -> Tensor:
    """Return the pooled channels of images, float32 `[N, 512]`, with the network in eval mode.

    Args:
        model: not changed; a copy of it runs.
        images: `[N, 3, H, W]`, as `TileNetwork.pooled` takes them.
        precision: of the convolutions; the pool is summed in float32.
        channels_last: memory layout of weights and images; it decides the time and the last bits.
        batch_size: images at a time.

    Raises:
        ValueError: no such precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}; got {precision!r}")
    model = copy.deepcopy(model).eval()
    model.channels_last = channels_last
    model = model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    device = next(model.parameters()).device
    features = torch.empty(len(images), CHANNELS)
    half = torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
    with torch.inference_mode(), half, progress.bar(len(images), "features") as bar:
        for start in range(0, len(images), batch_size):
            items = slice(start, start + batch_size)
            features[items] = model.pooled(images[items].to(device)).cpu()
            bar.update(min(batch_size, len(images) - start))
    return features
