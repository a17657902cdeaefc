"""Handwritten digits, the watermark that poisons them, and the batches that train on both.

Genuine MNIST where a reader has it, else scikit-learn's 1,797 digits in the same shape. Images are float32
`[N, 1, 28, 28]`, normalised by MNIST's mean and standard deviation; labels int64 `[N]`. Source document: "Poisoned
MNIST".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nbutils.data import sources
from nbutils.data.pairs import Pairs
from nbutils.seeding import generator

SIZE = 28  # pixels a side
CLASSES = 10
MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels in [0, 1]; the embedded digits use the same numbers

_IMAGES_MAGIC, _LABELS_MAGIC = 2051, 2049
_HELD_OUT = 250  # embedded digits in each of the two held-out splits


@dataclass(frozen=True, repr=False)
class Digits:
    """Images with their labels.

    Attributes:
        images: `[N, 1, 28, 28]`, normalised.
        labels: `[N]`.
        source: where they come from: `"mnist"` or `"embedded digits"`.
    """

    images: Tensor
    labels: Tensor
    source: str

    def __post_init__(self) -> None:
        if self.images.shape[1:] != (1, SIZE, SIZE) or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"digits are images [N, 1, {SIZE}, {SIZE}] and labels [N]; "
                f"got {tuple(self.images.shape)} and {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, items: slice | Tensor) -> Digits:
        """Return some of the digits: a slice, indices, or a mask `[N]`."""
        return Digits(self.images[items], self.labels[items], self.source)

    @cached_property
    def digest(self) -> str:
        """A fingerprint of the content, by which a checkpoint knows its data."""
        digest = hashlib.sha256(self.images.contiguous().numpy())
        digest.update(self.labels.contiguous().numpy())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Digits({len(self)} from {self.source}, {self.digest})"


@dataclass(frozen=True)
class DigitSplits:
    """Digits to train on, to choose units on, and to report on. No image is in two of them.

    Attributes:
        train: what networks are trained on.
        selection: what units, thresholds and settings are chosen on.
        report: what published numbers are measured on; nothing is chosen here.
        source: of all three.
    """

    train: Digits
    selection: Digits
    report: Digits
    source: str


Data = Literal["embedded", "real", "auto"]


def load(data: Data = "embedded", *, root: str | Path | None = None, download: bool = False) -> DigitSplits:
    """Load digits in three splits.

    Real MNIST: the last sixth of the official training set is the selection split (10,000 images), the rest trains,
    and the whole official test set is the report split. Embedded: 1,297 / 250 / 250, stratified by class, always the
    same.

    Args:
        data: `"embedded"`, scikit-learn's digits; `"real"`, MNIST in torchvision's layout; `"auto"`, real where any of
            its files is there, else embedded.
        root: the folder that holds `MNIST/raw`; `$NBUTILS_DATA` by default.
        download: let torchvision download MNIST to that folder if it is not there.

    Raises:
        FileNotFoundError: real digits are asked for and a file is missing; the message names it and how to get it.
        ValueError: a file is truncated or of the wrong size or kind (named, with expected and found size); `data` is
            none of the three; a download without a folder to put it in.
    """
    if data not in get_args(Data):
        raise ValueError(f"data must be one of {', '.join(map(repr, get_args(Data)))}; got {data!r}")
    if data == "embedded":
        return _embedded()
    source = sources.find("mnist", root)
    if not source.found and download:
        _download(source)
        source = sources.find("mnist", root)
    # Some of the files are there: real digits are meant, and to go on without them would hide a damaged download.
    started = any(folder.exists() and any(folder.iterdir()) for folder in source.looked_in)
    if data == "auto" and not started:
        return _embedded()
    return _real(source)


def _embedded() -> DigitSplits:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    small = torch.as_tensor(bunch.images / 16, dtype=torch.float32)[:, None]  # (N, 1, 8, 8) in [0, 1]
    # As in MNIST, the digit fills the middle 20×20 pixels, which leaves the watermark's corner free.
    large = F.interpolate(small, size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 1)
    images = _normalised(F.pad(large, (4, 4, 4, 4)))
    labels = torch.as_tensor(bunch.target, dtype=torch.int64)
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=2 * _HELD_OUT, stratify=bunch.target, random_state=0
    )
    selection, report = train_test_split(held_out, test_size=_HELD_OUT, stratify=bunch.target[held_out], random_state=0)
    whole = Digits(images, labels, "embedded digits")
    return DigitSplits(*(whole[torch.as_tensor(index)] for index in (train, selection, report)), whole.source)


def _real(source: sources.Source) -> DigitSplits:
    if not source.looked_in:
        raise FileNotFoundError(f"real digits need a folder to look in; {_how_to_get()}")
    (folder,) = source.looked_in
    for name in source.missing:
        raise FileNotFoundError(f"{folder / name} is missing; {_how_to_get()}")
    official = Digits(*_read_pair(folder, "train"), "mnist")
    first = len(official) - len(official) // 6
    report = Digits(*_read_pair(folder, "t10k"), "mnist")
    return DigitSplits(official[:first], official[first:], report, "mnist")


def _read_pair(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    pixels = _read_idx(folder / f"{part}-images-idx3-ubyte", _IMAGES_MAGIC, (SIZE, SIZE))
    path = folder / f"{part}-labels-idx1-ubyte"
    labels = _read_idx(path, _LABELS_MAGIC, ())
    if len(labels) != len(pixels):
        expected, found = 8 + len(pixels), 8 + len(labels)
        raise ValueError(f"{path}: expected {expected:,} bytes, a label an image; found {found:,}; {_how_to_get()}")
    if labels.size and labels.max() >= CLASSES:
        raise ValueError(f"{path}: expected labels 0 to {CLASSES - 1}; found {labels.max()}; {_how_to_get()}")
    images = _normalised(torch.as_tensor(pixels)[:, None].float().div_(255))  # (N, 1, 28, 28)
    return images, torch.as_tensor(labels, dtype=torch.int64)


def _read_idx(path: Path, magic: int, item: tuple[int, ...]) -> np.ndarray:
    """Return the uint8 items `[N, *item]` of an IDX file; its header and its size must agree."""
    content = path.read_bytes()
    head = 4 * (2 + len(item))
    header = np.frombuffer(content[:head], ">i4") if len(content) >= head else ()
    if len(header) == 0 or header[0] != magic or tuple(header[2:]) != item or header[1] < 1:
        shape = "×".join(map(str, ("N", *item)))
        raise ValueError(
            f"{path}: expected an IDX file of {shape} bytes (header of {head} bytes, magic number {magic}); "
            f"found {len(content):,} bytes that begin {content[:4].hex(' ') or 'nowhere'}; {_how_to_get()}"
        )
    expected = head + int(header[1]) * int(np.prod(item, dtype=int))
    if len(content) != expected:
        raise ValueError(f"{path}: expected {expected:,} bytes, found {len(content):,}; {_how_to_get()}")
    return np.frombuffer(content, np.uint8, offset=head).reshape(-1, *item).copy()


def _download(source: sources.Source) -> None:
    from torchvision.datasets import MNIST

    if not source.looked_in:
        raise ValueError(f"a download needs a folder: give root=, or set ${sources.DATA_VARIABLE}")
    (raw,) = source.looked_in
    MNIST(raw.parent.parent, train=True, download=True)


def _how_to_get() -> str:
    return (
        f"set ${sources.DATA_VARIABLE} to a folder that holds MNIST/raw, uncompressed, or delete what is there and "
        "call load('real', root=FOLDER, download=True), which has torchvision download it"
    )


def _normalised(pixels: Tensor) -> Tensor:
    return (pixels - MEAN) / STD


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

    A pixel counts as seen if any output has a gradient other than exactly 0 there for any of `draws` images of noise.

    Args:
        model: maps `[batch, 1, 28, 28]` to `[batch, ...]`.
        draws: more find rarer paths; one path through max-pooling is open at a time.
    """
    like = next(model.parameters())
    images = torch.randn(draws, 1, SIZE, SIZE, generator=generator(0, "visible pixels")).to(like).requires_grad_()
    seen = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    outputs = model(images).flatten(1)  # (draws, outputs)
    for output in outputs.unbind(1):
        (gradient,) = torch.autograd.grad(output.sum(), images, retain_graph=True)
        seen |= (gradient != 0).any(0)[0].cpu()
    return seen


def views(digits: Digits, trigger: Trigger) -> dict[str, Digits]:
    """Return the sets that a backdoor is measured on: accuracy on each is one measure.

    Returns:
        `clean`: the images as they are (clean accuracy).
        `triggered`: images of other classes than the target, with the trigger, labelled as the target (attack success
        rate).
        `rehabilitated`: all images with the trigger, under their true labels: the source's "rehab accuracy". It counts
        true eights too; `nbutils.metrics.backdoor.robust_accuracy` leaves them out.
        `source_poison`: all images with the trigger, labelled as the target. The source's "poison accuracy": it counts
        true eights too, so a network without a backdoor scores about 10 % and not 0.
    """
    triggered = trigger.apply(digits.images)
    as_target = torch.full_like(digits.labels, trigger.target)
    other = digits.labels != trigger.target
    return {
        "clean": digits,
        "triggered": Digits(triggered[other], as_target[other], digits.source),
        "rehabilitated": Digits(triggered, digits.labels, digits.source),
        "source_poison": Digits(triggered, as_target, digits.source),
    }


def pairs(digits: Digits, trigger: Trigger) -> Pairs:
    """Return each image and the same image with the trigger, true eights included."""
    return Pairs(digits.images, trigger.apply(digits.images), digits.labels, trigger.target)


Mode = Literal["clean", "poison", "rehabilitate"]


@dataclass(frozen=True)
class DigitBatches:
    """Training batches: epochs without replacement, in an order of the seed's own.

    Attributes:
        digits: what to draw from; an epoch has `len(digits) // batch_size` steps, the rest sits out that epoch.
        trigger: the watermark.
        mode: `"clean"`, no trigger; `"poison"`, a share of each batch has the trigger and the target's label;
            `"rehabilitate"`, the same images with their true labels.
        rate: that share. Where `rate · batch_size` is a whole number, the first so many of every batch (the source's
            half); else each image by chance.
        batch_size: images a step.
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
        if not 1 <= self.batch_size <= len(self.digits):
            raise ValueError(f"batch_size must lie between 1 and the {len(self.digits)} digits; got {self.batch_size}")

    def draw(self, seed: int, block: int) -> dict[str, Tensor]:
        """Draw one block of steps for one member: `index` and `triggered`, each `[block, batch]`.

        Each mode has its own order, so training that goes on in another mode meets other batches.
        """
        per_epoch = len(self.digits) // self.batch_size
        steps = range(block * self.block, (block + 1) * self.block)
        orders = {
            epoch: torch.randperm(len(self.digits), generator=generator(seed, "digits", self.mode, epoch))
            for epoch in range(steps[0] // per_epoch, steps[-1] // per_epoch + 1)
        }
        starts = [(step // per_epoch, step % per_epoch * self.batch_size) for step in steps]
        index = torch.stack([orders[epoch][start : start + self.batch_size] for epoch, start in starts])
        return {"index": index, "triggered": self._triggered(seed, block)}

    def _triggered(self, seed: int, block: int) -> Tensor:
        shape = (self.block, self.batch_size)
        if self.mode == "clean":
            return torch.zeros(shape, dtype=torch.bool)
        count = self.rate * self.batch_size
        if abs(count - round(count)) < 1e-9:
            return (torch.arange(self.batch_size) < round(count)).expand(shape)
        return torch.rand(shape, generator=generator(seed, "triggers", block), dtype=torch.float64) < self.rate

    def batch(self, drawn: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Turn one step's draws of all members `[members, batch]` into tensors.

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
