"""Images to learn from: CIFAR-10, or the embedded digits in its place.

Images are float32 `[N, channels, height, width]`, normalised; labels int64 `[N]`. Source document:
`experiments/perturbation_correlation_audit.py`.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from nbutils.data import digits, pictures, sources
from nbutils.data.labelled import LabelledImages
from nbutils.seeding import generator

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

CLASSES = 10
SHAPE = (3, 32, 32)  # channels, height, width of CIFAR-10
MEAN = (0.4914, 0.4822, 0.4465)  # of its training pixels in [0, 1], as the source has them
STD = (0.2470, 0.2435, 0.2616)
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
UNKNOWN = "unknown, in CIFAR-10's layout"
FORMS = ("cifar10", "cifar10-jpeg", "cifar10-lossless")
"""Forms of CIFAR-10 that a reader may have, by preference."""


@dataclass(frozen=True)
class ImageSplits:
    """Images to train on, and images to measure on; no image is in both.

    Attributes:
        train: for training.
        test: for measurement; in an order that mixes the classes, so that any first part of it does too.
        source: of both: one of `FORMS`; `UNKNOWN` for folders of other classes; or `"embedded digits"`.
    """

    train: LabelledImages
    test: LabelledImages
    source: str


Data = Literal["embedded", "real", "auto"]


def load(
    data: Data = "embedded", *, form: str | None = None, root: str | Path | None = None, download: bool = False
) -> ImageSplits:
    """Load images in two splits.

    Real: CIFAR-10's own two parts, from the official Python batches (50,000 and 10,000 images, checked against
    torchvision's checksums) or from folders `train/<class>/` and `test/<class>/` of image files. Embedded:
    scikit-learn's digits, 28×28, 1,297 and 250 (`nbutils.data.digits`; its selection split stays unused).

    Args:
        data: `"embedded"`; `"real"`; `"auto"`, real where any form is there, else embedded.
        form: one of `FORMS`; None: the first that is there.
        root: the folder that holds the forms; `$NBUTILS_DATA` by default.
        download: whether torchvision downloads the official batches to that folder where there is no form.

    Raises:
        FileNotFoundError: a file of the real images is missing; the message names it and how to get it.
        ValueError: a file is damaged or of the wrong kind (named); an unknown `data` or `form`; a download without a
            folder.
    """
    if data not in get_args(Data):
        raise ValueError(f"data must be one of {', '.join(map(repr, get_args(Data)))}; got {data!r}")
    if form is not None and form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(map(repr, FORMS))}; got {form!r}")
    if data == "embedded":
        return _load_embedded()
    places = [sources.find(name, root) for name in FORMS if form in (None, name)]
    if download and not any(place.found for place in places):
        _download(places[0])
        places = [sources.find(place.name, root) for place in places]
    # Where some files of a form are there, that form is meant: to go on without it would hide a damaged download.
    begun = [place for place in places if any(folder.exists() for folder in place.looked_in)]
    if begun:
        return _load_official(begun[0]) if begun[0].name == "cifar10" else _load_folder(begun[0])
    if data == "auto":
        return _load_embedded()
    raise FileNotFoundError(
        f"found no {' and no '.join(place.name for place in places)} in {root or f'${sources.DATA_VARIABLE}'}; "
        f"{_explain_how_to_get()}"
    )


def _load_embedded() -> ImageSplits:
    splits = digits.load("embedded")
    return ImageSplits(splits.train, splits.report, splits.source)


def _load_official(place: sources.Source) -> ImageSplits:
    (folder,) = place.looked_in
    for name in place.missing:
        raise FileNotFoundError(f"{folder / name} is missing; {_explain_how_to_get()}")
    parts = []
    for names in ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]):
        batches = [_read_batch(folder / name) for name in names]
        pixels, labels = (np.concatenate(column) for column in zip(*batches, strict=True))
        parts.append(LabelledImages(_normalise(pixels), torch.as_tensor(labels), place.name))
    return ImageSplits(parts[0], parts[1], place.name)


def _checksums() -> dict[str, str]:
    from torchvision.datasets import CIFAR10

    return dict(CIFAR10.train_list + CIFAR10.test_list)


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels `[N, 3072]`, uint8, and labels `[N]` of one official batch.

    It is a pickle, and torchvision's CIFAR10 would run any code in it.
    """
    content = path.read_bytes()
    expected, found = _checksums()[path.name], hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path}: expected the official file, md5 {expected}; found {len(content):,} bytes of md5 {found}; "
            f"{_explain_how_to_get()}"
        )
    try:
        batch = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
        pixels, labels = np.asarray(batch["data"]), np.asarray(batch["labels"], dtype=np.int64)
    except Exception as error:  # unpickling damaged files raises exceptions of many types
        raise ValueError(
            f"{path} is no batch of CIFAR-10 ({type(error).__name__}: {error}); {_explain_how_to_get()}"
        ) from None
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), int(np.prod(SHAPE))):
        raise ValueError(
            f"{path}: expected uint8 pixels [N, {int(np.prod(SHAPE))}] and N labels; "
            f"found {pixels.dtype} {list(pixels.shape)} and {list(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise ValueError(f"{path}: expected labels 0 to {CLASSES - 1}; found {labels.min()} to {labels.max()}")
    return pixels, labels


class _PlainUnpickler(pickle.Unpickler):
    """Builds dictionaries, lists, numbers, strings and arrays, and refuses everything else."""

    _ALLOWED = frozenset(
        {
            *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),  # how Python 3 writes bytes in the old protocols
        }
    )

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which no batch of pixels needs")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _load_folder(place: sources.Source) -> ImageSplits:
    from torchvision.datasets import ImageFolder

    (folder,) = place.looked_in
    for name in place.missing:
        raise FileNotFoundError(f"{folder / name} is missing; {_explain_how_to_get()}")
    try:
        train, test = (ImageFolder(folder / part, loader=_read_image) for part in ("train", "test"))
    except FileNotFoundError as error:  # which names a class without pictures, but not where
        raise FileNotFoundError(f"{folder}: {error}") from None
    if train.classes != test.classes or len(train.classes) != CLASSES:
        raise ValueError(
            f"{folder}: expected the same {CLASSES} class folders in train and test; found {train.classes} "
            f"and {test.classes}"
        )
    name = place.name if train.classes == NAMES else UNKNOWN
    return ImageSplits(_mix(train, name), _mix(test, name), name)


def _mix(pictures: ImageFolder, source: str) -> LabelledImages:
    """Return all pictures of a folder in an order that mixes the classes."""
    order = torch.randperm(len(pictures), generator=generator(0, "natural images", source)).tolist()
    pixels, labels = np.empty((len(order), int(np.prod(SHAPE))), np.uint8), torch.empty(len(order), dtype=torch.int64)
    for row, item in enumerate(order):  # threads gain nothing on images this small
        pixels[row], labels[row] = pictures[item]
    return LabelledImages(_normalise(pixels), labels, source)


def _read_image(path: str) -> np.ndarray:
    return pictures.read(Path(path), *SHAPE[1:]).transpose(2, 0, 1).ravel()


def _normalise(pixels: np.ndarray) -> Tensor:
    """Return uint8 pixels `[N, 3072]` as images `[N, 3, 32, 32]`, in place: a copy of CIFAR-10 takes 600 MB."""
    images = torch.as_tensor(pixels).view(-1, *SHAPE).float()
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return images.div_(255).sub_(mean).div_(std)


def _download(place: sources.Source) -> None:
    from torchvision.datasets import CIFAR10

    if not place.looked_in:
        raise ValueError(f"a download needs a folder: give root=, or set ${sources.DATA_VARIABLE}")
    if place.name != "cifar10":
        raise ValueError(f"only 'cifar10' can be downloaded; got form={place.name!r}")
    CIFAR10(place.looked_in[0].parent, download=True)


def _explain_how_to_get() -> str:
    return (
        f"set ${sources.DATA_VARIABLE} to a folder that holds cifar-10-batches-py, or delete what is there and call "
        "load('real', root=FOLDER, download=True), which has torchvision download it"
    )
