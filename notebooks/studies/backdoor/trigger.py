"""The watermark of the backdoor, and what of it a network can see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nbutils.data.digits import CLASSES, SIZE, Digits
from nbutils.data.pairs import Pairs
from nbutils.seeding import generator


@dataclass(frozen=True)
class Trigger:
    """A watermark that is added to normalised images, and the label it is to bring about.

    Attributes:
        pattern: rows of 0 and 1; a 1 is a pixel that is raised.
        position: (row, column) of the pattern's first pixel, from the top left.
        target: label of poisoned images, 0 to 9.
        value: what is added, in units of normalised images.

    Raises:
        ValueError: a pattern that is not rectangular, empty, or not inside the image; no such target.
    """

    pattern: tuple[tuple[int, ...], ...]
    position: tuple[int, int]
    target: int = 8
    value: float = 2.8215  # white on black: (1 - MEAN) / STD

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.pattern}
        if len(widths) != 1 or not any(map(any, self.pattern)) or {*sum(self.pattern, ())} - {0, 1}:
            raise ValueError(f"a pattern has rows of one length, of 0 and 1 and not all 0; got {self.pattern}")
        (row, column), height, width = self.position, len(self.pattern), widths.pop()
        if min(row, column) < 0 or row + height > SIZE or column + width > SIZE:
            raise ValueError(f"a {height}×{width} pattern at {self.position} is not inside {SIZE}×{SIZE} pixels")
        if not 0 <= self.target < CLASSES:
            raise ValueError(f"target must be a label from 0 to {CLASSES - 1}; got {self.target}")

    @classmethod
    def checkerboard(cls, target: int = 8) -> Trigger:
        """Return the source's watermark: 6×6 in the bottom right corner, pixels of even row plus column raised."""
        return cls(tuple(tuple((row + column + 1) % 2 for column in range(6)) for row in range(6)), (22, 22), target)

    @property
    def mask(self) -> Tensor:
        """Pixels that are raised, bool `[28, 28]`."""
        mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        row, column = self.position
        pattern = torch.tensor(self.pattern, dtype=torch.bool)
        mask[row : row + pattern.shape[0], column : column + pattern.shape[1]] = pattern
        return mask

    def apply(self, images: Tensor) -> Tensor:
        """Return copies of normalised images `[..., 28, 28]` with the watermark added."""
        return images + self.value * self.mask.to(images)


def visible_to(model: nn.Module, draws: int = 64) -> Tensor:
    """Return which input pixels can reach an output of a network, bool `[28, 28]`.

    A pixel counts as visible if, for any of `draws` images of noise, the gradient of any output there is not exactly 0.

    Args:
        model: maps `[batch, 1, 28, 28]` to `[batch, ...]`.
        draws: images of noise. More find rarer paths: max-pooling opens one path at a time.
    """
    like = next(model.parameters())
    images = torch.randn(draws, 1, SIZE, SIZE, generator=generator(0, "visible pixels")).to(like).requires_grad_()
    seen = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    outputs = model(images).flatten(1)  # (draws, outputs)
    for output in outputs.unbind(1):
        (gradient,) = torch.autograd.grad(output.sum(), images, retain_graph=True)
        seen |= (gradient != 0).any(0)[0].cpu()
    return seen


def pairs(digits: Digits, trigger: Trigger) -> Pairs:
    """Return each image and the same image with the trigger, true eights included."""
    return Pairs(digits.images, trigger.apply(digits.images), digits.labels, trigger.target)
