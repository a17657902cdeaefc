"""Batches of digits: to train on, clean, poisoned or with the watermark under true labels; and to measure on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from nbutils.data import epochs
from nbutils.data.digits import Digits
from nbutils.seeding import generator
from nbutils.sweeps.metrics import IGNORED
from studies.backdoor.network import channels_last
from studies.backdoor.trigger import Trigger

Mode = Literal["clean", "poison", "rehabilitate"]


@dataclass(frozen=True)
class DigitBatches:
    """Training batches: epochs without replacement, each seed in its own order.

    Attributes:
        digits: the images to draw from; an epoch has `len(digits) // batch_size` steps and leaves out the rest.
        trigger: the watermark.
        mode: `"clean"`, no trigger; `"poison"`, a share of each batch has the trigger and the target's label;
            `"rehabilitate"`, the same images with their true labels.
        rate: that share. Where `rate · batch_size` is a whole number, exactly so many images, the first of every batch
            (the source's half); else each image by chance.
        batch_size: images per step.
        block: steps drawn at a time.

    Raises:
        ValueError: no such mode, a rate outside [0, 1], a batch size outside 1 to the number of digits.
    """

    digits: Digits
    trigger: Trigger
    mode: Mode = "clean"
    rate: float = 0.5
    batch_size: int = 32
    block: int = 64

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(map(repr, get_args(Mode)))}; got {self.mode!r}")
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate must lie in [0, 1]; got {self.rate}")
        epochs.length(len(self.digits), self.batch_size, "digits")

    def draw(self, seed: int, block: int) -> dict[str, Tensor]:
        """Draw one block of steps for one member: `index` and `triggered`, each `[block, batch]`.

        Each mode has its own order, so training that goes on in another mode meets other batches.
        """
        steps = range(block * self.block, (block + 1) * self.block)
        index = epochs.order(seed, ("digits", self.mode), len(self.digits), self.batch_size, steps)
        return {"index": index, "triggered": self._draw_triggered(seed, block)}

    def _draw_triggered(self, seed: int, block: int) -> Tensor:
        shape = (self.block, self.batch_size)
        if self.mode == "clean":
            return torch.zeros(shape, dtype=torch.bool)
        count = self.rate * self.batch_size
        if abs(count - round(count)) < 1e-9:
            return (torch.arange(self.batch_size) < round(count)).expand(shape)
        return torch.rand(shape, generator=generator(seed, "triggers", block), dtype=torch.float64) < self.rate

    def batch(self, drawn: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the tensors of one step, for the draws `[members, batch]` of all members.

        Returns:
            `input` `[members, batch, 1, 28, 28]`, `target` (labels) and `triggered` `[members, batch]`.
        """
        index, triggered = drawn["index"].cpu(), drawn["triggered"].cpu()
        images, labels = self.digits.images[index], self.digits.labels[index]
        images = torch.where(triggered[..., None, None, None], self.trigger.apply(images), images)
        if self.mode == "poison":
            labels = labels.masked_fill(triggered, self.trigger.target)
        device = drawn["index"].device
        return {
            "input": images.to(device, dtype),
            "target": labels.to(device),
            "triggered": triggered.to(device),
        }


def clean_and_triggered(digits: Digits, trigger: Trigger) -> dict[str, Tensor]:
    """Return one batch for sweeps: all digits as they are, and after them all with the watermark.

    Returns:
        `images` `[2N, 1, 28, 28]`; `twins`, the same the other way round: of each image the one that differs from it
        by the watermark alone. And classes `[2N]` for `nb.accuracy`, -1 where an item does not count: `clean`, the
        labels of clean images; of triggered images of other classes than the target `attack`, the target, and
        `robust`, their labels; `taken`, the target for clean images of other classes.
    """
    clean, triggered = digits.images, trigger.apply(digits.images)
    other = digits.labels != trigger.target
    target, labels = torch.where(other, trigger.target, IGNORED), torch.where(other, digits.labels, IGNORED)
    none = torch.full_like(digits.labels, IGNORED)
    return {
        "images": channels_last(torch.cat([clean, triggered])),
        "twins": channels_last(torch.cat([triggered, clean])),
        "clean": torch.cat([digits.labels, none]),
        "attack": torch.cat([none, target]),
        "robust": torch.cat([none, labels]),
        "taken": torch.cat([target, none]),
    }
