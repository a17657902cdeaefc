"""Drawn tiles: tissue of known cause (`tissue`), in the stain of its slide (`plans`), under a camera.

Source document: "M6" of notebook 03.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from studies.shortcut.plans import HOSPITALS, SLIDES, Plan
from studies.shortcut.tiles import Tiles
from studies.shortcut.tissue import Tissue, draw

# Of JPEG, without chroma subsampling, so that a block of 8 × 8 pixels depends on itself alone. Stronger compression
# smooths fine chromatin more than coarse, and the two means of intensity and density together begin to tell the label.
QUALITY = 95
NOISE = 2.0  # grey levels, standard deviation of the camera


def render(plan: Plan) -> Tiles:
    """Draw the tiles of a plan; all are of split `train`."""
    pixels = torch.cat([_photograph(tissue) for tissue in draw(plan)])
    names = [f"H{hospital}" for hospital in range(len(HOSPITALS))]
    return Tiles(
        pixels=pixels,
        tumour=plan.tumour,
        hospital=plan.hospital,
        slide=plan.hospital * SLIDES + plan.slide,
        split=np.full(len(plan), "train", dtype=object),
        hospitals=tuple(names),
        slides=tuple(f"{name} slide {slide}" for name in names for slide in range(SLIDES)),
        source="synthetic tiles",
    )


def _photograph(tissue: Tissue) -> Tensor:
    """Return uint8 `[n, size, size, 3]`: the tissue painted, with the camera's noise, compressed."""
    images = tissue.plan.stains().paint(tissue.shares)
    grey = (images * 255 + NOISE * tissue.noise).round().clamp(0, 255).to(torch.uint8)
    return _compress(grey.permute(0, 2, 3, 1).contiguous())


def _compress(pixels: Tensor) -> Tensor:
    """Return pixels uint8 `[n, size, size, 3]` after JPEG; all in one picture, as no block sees another."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.flatten(0, 1).numpy()).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return torch.from_numpy(np.array(Image.open(buffer))).view_as(pixels)
