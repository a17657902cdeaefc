"""Handwritten digits in three splits: genuine MNIST, or the small digits that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nbutils.data import sources
from nbutils.data.labelled import LabelledImages

SIZE = 28  # pixels per side
CLASSES = 10
MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels in [0, 1]; the embedded digits use the same numbers
_IMAGES_MAGIC, _LABELS_MAGIC = 2051, 2049
# MD5 of the published files, uncompressed; http://yann.lecun.com/exdb/mnist.
_PUBLISHED = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
UNKNOWN = "unknown, in MNIST's layout"
_HELD_OUT = 250  # embedded digits in each of the two held-out splits


class Digits(LabelledImages):
    """Handwritten digits `[N, 1, 28, 28]`, normalised; from `"mnist"`, `"embedded digits"` or `UNKNOWN`.

    Raises:
        ValueError: images of another shape, or another number of labels.
    """

    def __post_init__(self) -> None:
        if self.images.shape[1:] != (1, SIZE, SIZE) or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"digits are images [N, 1, {SIZE}, {SIZE}] and labels [N]; "
                f"got {tuple(self.images.shape)} and {tuple(self.labels.shape)}"
            )


@dataclass(frozen=True)
class DigitSplits:
    """Digits to train on, to choose units on, and to report on. No image is in two of them.

    Attributes:
        train: for the training of networks.
        selection: for the choice of units, thresholds and settings.
        report: for published numbers; nothing is chosen on it.
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

    Real digits are called `"mnist"` only where all four files have the published checksums. Others in the same layout,
    Fashion-MNIST for one, are read too, and are called `UNKNOWN`.

    Args:
        data: `"embedded"`, scikit-learn's digits; `"real"`, MNIST in torchvision's layout; `"auto"`, real where any of
            its files is there, else embedded.
        root: the folder that holds `MNIST/raw`; `$NBUTILS_DATA` by default.
        download: whether torchvision downloads MNIST to that folder where it is missing.

    Raises:
        FileNotFoundError: real digits are asked for and a file is missing; the message names it and how to get it.
        ValueError: a file is truncated or of the wrong size or kind (named, with expected and found size); `data` is
            none of the three; a download without a folder to put it in.
    """
    if data not in get_args(Data):
        raise ValueError(f"data must be one of {', '.join(map(repr, get_args(Data)))}; got {data!r}")
    if data == "embedded":
        return _load_embedded()
    source = sources.find("mnist", root)
    if not source.found and download:
        _download(source)
        source = sources.find("mnist", root)
    # Some of the files are there: real digits are meant, and to go on without them would hide a damaged download.
    started = any(folder.exists() and any(folder.iterdir()) for folder in source.looked_in)
    if data == "auto" and not started:
        return _load_embedded()
    return _load_real(source)


def _load_embedded() -> DigitSplits:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    small = torch.as_tensor(bunch.images / 16, dtype=torch.float32)[:, None]  # (N, 1, 8, 8) in [0, 1]
    # As in MNIST, the digit fills the middle 20×20 pixels, which leaves the watermark's corner free.
    large = F.interpolate(small, size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 1)
    images = _normalise(F.pad(large, (4, 4, 4, 4)))
    labels = torch.as_tensor(bunch.target, dtype=torch.int64)
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=2 * _HELD_OUT, stratify=bunch.target, random_state=0
    )
    selection, report = train_test_split(held_out, test_size=_HELD_OUT, stratify=bunch.target[held_out], random_state=0)
    whole = Digits(images, labels, "embedded digits")
    parts = [whole[torch.as_tensor(index)] for index in (train, selection, report)]
    return DigitSplits(train=parts[0], selection=parts[1], report=parts[2], source=whole.source)


def _load_real(source: sources.Source) -> DigitSplits:
    if not source.looked_in:
        raise FileNotFoundError(f"real digits need a folder to look in; {_explain_how_to_get()}")
    (folder,) = source.looked_in
    for name in source.missing:
        packed = folder / f"{name}.gz"
        hint = f" ({packed.name} is there: unpack it)" if packed.exists() else ""
        raise FileNotFoundError(f"{folder / name} is missing{hint}; {_explain_how_to_get()}")
    contents = {name: (folder / name).read_bytes() for name in _PUBLISHED}
    genuine = {name: md5(content, usedforsecurity=False).hexdigest() for name, content in contents.items()}
    name = "mnist" if genuine == _PUBLISHED else UNKNOWN
    official = Digits(*_read_pair(folder, "train", contents), name)
    first = len(official) - len(official) // 6
    report = Digits(*_read_pair(folder, "t10k", contents), name)
    return DigitSplits(official[:first], official[first:], report, name)


def _read_pair(folder: Path, part: str, contents: dict[str, bytes]) -> tuple[Tensor, Tensor]:
    name = f"{part}-images-idx3-ubyte"
    pixels = _read_idx(folder / name, contents[name], _IMAGES_MAGIC, (SIZE, SIZE))
    path = folder / f"{part}-labels-idx1-ubyte"
    labels = _read_idx(path, contents[path.name], _LABELS_MAGIC, ())
    if len(labels) != len(pixels):
        expected, found = 8 + len(pixels), 8 + len(labels)
        raise ValueError(
            f"{path}: expected {expected:,} bytes, one label per image; found {found:,}; {_explain_how_to_get()}"
        )
    if labels.size and labels.max() >= CLASSES:
        raise ValueError(f"{path}: expected labels 0 to {CLASSES - 1}; found {labels.max()}; {_explain_how_to_get()}")
    images = _normalise(torch.as_tensor(pixels)[:, None].float().div_(255))  # (N, 1, 28, 28)
    return images, torch.as_tensor(labels, dtype=torch.int64)


def _read_idx(path: Path, content: bytes, magic: int, item: tuple[int, ...]) -> np.ndarray:
    """Return the uint8 items `[N, *item]` of an IDX file's content; its header and its size must agree."""
    head = 4 * (2 + len(item))
    header = np.frombuffer(content[:head], ">i4").tolist() if len(content) >= head else []
    if not header or header[0] != magic or tuple(header[2:]) != item or header[1] < 1:
        shape = "×".join(map(str, ("N", *item)))
        raise ValueError(
            f"{path}: expected an IDX file of {shape} bytes (header of {head} bytes, magic number {magic}); "
            f"found {len(content):,} bytes that begin {content[:4].hex(' ') or 'nowhere'}; {_explain_how_to_get()}"
        )
    expected = head + header[1] * int(np.prod(item, dtype=int))
    if len(content) != expected:
        raise ValueError(f"{path}: expected {expected:,} bytes, found {len(content):,}; {_explain_how_to_get()}")
    return np.frombuffer(content, np.uint8, offset=head).reshape(-1, *item).copy()


def _download(source: sources.Source) -> None:
    from torchvision.datasets import MNIST

    if not source.looked_in:
        raise ValueError(f"a download needs a folder: give root=, or set ${sources.DATA_VARIABLE}")
    (raw,) = source.looked_in
    MNIST(raw.parent.parent, train=True, download=True)


def _explain_how_to_get() -> str:
    return (
        f"set ${sources.DATA_VARIABLE} to a folder that holds MNIST/raw, uncompressed, or delete what is there and "
        "call load('real', root=FOLDER, download=True), which has torchvision download it"
    )


def _normalise(pixels: Tensor) -> Tensor:
    return (pixels - MEAN) / STD
