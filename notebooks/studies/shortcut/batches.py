"""Training batches of tissue tiles: shuffled, turned and mirrored, recoloured by a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nbutils.data import epochs
from nbutils.seeding import generator
from studies.shortcut import stains


@dataclass(frozen=True)
class TileBatches:
    """Epochs without replacement, in an order of the seed's own; every tile turned and mirrored at random.

    Attributes:
        images: `[N, 3, H, W]`, square, bytes.
        labels: `[N]`, classes.
        jitter: strength of the stain jitter (`studies.shortcut.stains.jitter`) at each step, e.g. a column of the
            schedule; empty for none.
        batch_size: tiles per step. An epoch has `N // batch_size` steps, the rest sits out that epoch.
        block: steps drawn at a time.

    Raises:
        ValueError: images and labels that do not correspond, or a batch size outside 1 to N.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    jitter: Sequence[float] = field(default=(), repr=False)
    batch_size: int = 64
    block: int = 64

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise ValueError(f"tiles are bytes [N, 3, size, size]; got {self.images.dtype} {list(shape)}")
        if self.labels.shape != shape[:1]:
            raise ValueError(f"{shape[0]} tiles need as many labels; got {list(self.labels.shape)}")
        epochs.length(len(self.labels), self.batch_size, "tiles")
        object.__setattr__(self, "jitter", tuple(float(strength) for strength in self.jitter))

    def draw(self, seed: int, block: int) -> dict[str, Tensor]:
        """Draw one block of steps for one member.

        Returns:
            `index` and `symmetry` (0 to 7) `[block, batch]`; `seed` and `step` `[block]`, the names of the jitter.
        """
        steps = range(block * self.block, (block + 1) * self.block)
        index = epochs.order(seed, ("tiles",), len(self.labels), self.batch_size, steps)
        return {
            "index": index,
            "symmetry": torch.randint(8, index.shape, generator=generator(seed, "symmetries", block)),
            "seed": torch.full((self.block,), seed),
            "step": torch.tensor(steps),
        }

    def batch(self, drawn: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Turn one step's draws into `input` `[members, batch, 3, H, W]` and `target` `[members, batch]`.

        Raises:
            ValueError: the jitter has no strength for this step.
        """
        index = drawn["index"]
        images = turned(self.images[index], drawn["symmetry"]).to(dtype) / 255
        if self.jitter:
            for member, (seed, step) in enumerate(zip(drawn["seed"].tolist(), drawn["step"].tolist(), strict=True)):
                if step >= len(self.jitter):
                    raise ValueError(f"step {step} has no jitter; there are {len(self.jitter)} strengths, one per step")
                draws = generator(seed, "stain jitter", step)
                images[member] = stains.jitter(images[member], draws, self.jitter[step])
        return {"input": images, "target": self.labels[index]}


def turned(images: Tensor, symmetry: Tensor) -> Tensor:
    """Return images `[..., 3, size, size]` under one of the square's eight symmetries each.

    Args:
        images: square.
        symmetry: `[...]`; bit 0 mirrors left and right, bit 1 up and down, bit 2 along the diagonal.
    """
    for bit, mirrored in ((0, lambda x: x.flip(-1)), (1, lambda x: x.flip(-2)), (2, lambda x: x.transpose(-1, -2))):
        chosen = (symmetry >> bit & 1).bool()[..., None, None, None]
        images = torch.where(chosen, mirrored(images), images)
    return images
