"""Training batches of flattened images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nbutils.data import epochs
from nbutils.data.labelled import LabelledImages


@dataclass(frozen=True)
class ImageBatches:
    """Training batches: epochs without replacement, each seed in its own order.

    Attributes:
        images: the images to draw from; an epoch has `len(images) // batch_size` steps and leaves out the rest.
        batch_size: images per step.
        block: steps drawn at a time.

    Raises:
        ValueError: a batch size outside 1 to the number of images.
    """

    images: LabelledImages
    batch_size: int = 128
    block: int = 64

    def __post_init__(self) -> None:
        epochs.length(len(self.images), self.batch_size, "images")

    @property
    def per_epoch(self) -> int:
        """Steps per epoch."""
        return epochs.length(len(self.images), self.batch_size)

    def draw(self, seed: int, block: int) -> dict[str, Tensor]:
        """Draw one block of steps for one member: `index` `[block, batch]`."""
        steps = range(block * self.block, (block + 1) * self.block)
        return {"index": epochs.order(seed, ("natural images",), len(self.images), self.batch_size, steps)}

    def batch(self, drawn: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the tensors of one step, for the draws `[members, batch]` of all members.

        Returns:
            `input` `[members, batch, features]`, `target` (labels) `[members, batch]`.
        """
        index = drawn["index"]
        # Of whole rows: a third of the time of indexing by a matrix.
        rows = self.images.features.index_select(0, index.cpu().flatten()).view(*index.shape, -1)
        return {"input": rows.to(index.device, dtype), "target": self.images.labels[index.cpu()].to(index.device)}
