"""Real data sets: the folders they are looked for in, and the files found.

All live under one folder, `$NBUTILS_DATA`, each in the layout its own publisher uses. Without them every
notebook runs on embedded data.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nbutils import layout

DATA_VARIABLE = "NBUTILS_DATA"


@dataclass(frozen=True)
class Source:
    """A data set and whether it was found.

    Attributes:
        name: e.g. `"mnist"`.
        kind: data set and layout, in words.
        found: whether every required file or folder is there.
        looked_in: the folders searched; empty where `$NBUTILS_DATA` is not set.
        path: the data set's folder, or None.
        missing: the files or folders that were expected and are not there.
    """

    name: str
    kind: str
    found: bool
    looked_in: tuple[Path, ...]
    path: Path | None
    missing: tuple[str, ...] = ()


_CLASSES = ("train", "test")
_KNOWN: dict[str, tuple[str, str, tuple[str, ...]]] = {  # name: kind, folder, required entries
    "mnist": (
        "MNIST, torchvision's layout",
        "MNIST/raw",
        (
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        ),
    ),
    "cifar10": (
        "CIFAR-10, official Python batches",
        "cifar-10-batches-py",
        (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
    ),
    "cifar10-jpeg": ("CIFAR-10 re-compressed as JPEG, one folder per class", "cifar10-jpeg", _CLASSES),
    "cifar10-lossless": ("part of CIFAR-10, exact, one folder per class", "cifar10-lossless", _CLASSES),
    "camelyon17": ("Camelyon17 tiles, layout of WILDS", "camelyon17_v1.0", ("metadata.csv", "patches")),
    "pcam-inferred-scanner": (
        "PatchCamelyon tiles, scanner inferred from colour",
        "pcam-inferred-scanner",
        ("images", "labels.csv"),
    ),
}


def find(name: str, root: str | Path | None = None) -> Source:
    """Look for a data set.

    Args:
        name: of a known data set.
        root: the folder it may lie under; `$NBUTILS_DATA` by default.

    Raises:
        KeyError: no such data set is known; the message lists those that are.
    """
    if name not in _KNOWN:
        raise KeyError(f"no data set {name!r}; known are {', '.join(_KNOWN)}")
    kind, folder, required = _KNOWN[name]
    base = root or os.environ.get(DATA_VARIABLE)
    if not base:
        return Source(name, kind, False, (), None, required)
    path = layout.expanded(base) / folder
    missing = tuple(entry for entry in required if not (path / entry).exists())
    return Source(name, kind, not missing, (path,), None if missing else path, missing)


def told() -> str:
    """Say which folder data sets are looked for in."""
    base = os.environ.get(DATA_VARIABLE)
    return f"${DATA_VARIABLE} is {layout.expanded(base).absolute() if base else 'not set'}"


def all_sources() -> list[Source]:
    """Look for every known data set."""
    return [find(name) for name in _KNOWN]
