"""Tiles as files: pictures of one size, decoded on demand, each known by the row of the table that names it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nbutils.data import pictures
from nbutils.tables import Table, TableError

PARALLEL = 64  # files: fewer are decoded one after the other
_PER_TASK = 32  # files


@dataclass(frozen=True, repr=False)
class TileFiles:
    """Pictures on disk, all of one size.

    Attributes:
        folder: that `names` are relative to.
        names: `[N]`, object array of text.
        rows: `[N]`, the row of `table` that names each; 1 is its header.
        table: the CSV file.
        size: pixels per side.
    """

    folder: Path
    names: np.ndarray
    rows: np.ndarray
    table: Path
    size: int

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, items: np.ndarray) -> TileFiles:
        """Return some of the files, by indices; nothing is read."""
        return replace(self, names=self.names[items], rows=self.rows[items])

    def decode(self) -> Tensor:
        """Return all pixels, uint8 `[N, size, size, 3]`.

        Raises:
            PictureError: a truncated file, no picture of 8-bit RGB, or one of another size; the first one and its row
                are named.
            FileNotFoundError: a file that was there when the table was read.
        """
        pixels = torch.empty(len(self), self.size, self.size, 3, dtype=torch.uint8)

        def some(items: range) -> None:
            for item in items:
                pixels[item] = torch.from_numpy(self._decode(item))

        workers = min(8, os.cpu_count() or 1)
        if len(self) < PARALLEL or workers == 1:
            some(range(len(self)))
            return pixels
        starts = range(0, len(self), _PER_TASK)
        with ThreadPoolExecutor(workers) as pool:  # the decoders let other threads run
            for _ in pool.map(some, [range(k, min(k + _PER_TASK, len(self))) for k in starts]):
                pass
        return pixels

    def no_copies(self, split: Sequence[str]) -> None:
        """Refuse a file of one split whose bytes are also those of a file in another split.

        Args:
            split: `[N]`, names.

        Raises:
            TableError: names both rows.
        """
        first: dict[bytes, int] = {}
        for item in range(len(self)):
            path = self.folder / self.names[item]
            if not path.is_file():
                continue  # decoding says so
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "blake2b").digest()
            other = first.setdefault(content, item)
            if split[other] != split[item]:
                got = f"the content of {self.names[other]} in {split[other]} (row {self.rows[other]})"
                expected = f"a tile of {split[item]} alone"
                raise TableError(str(self.table), int(self.rows[item]), "file", expected, got)

    def _decode(self, item: int) -> np.ndarray:
        path = self.folder / self.names[item]
        where = f"{path} (row {self.rows[item]} of {self.table.name})"
        try:
            return pictures.read(path, self.size, self.size, where=where)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{where}: the file is gone") from error


def named(table: Table, names: Sequence[str], size: int) -> TileFiles:
    """Return the tiles that the rows of a table name.

    Args:
        table: lies in the folder of the tiles.
        names: `[N]`, one for each row, relative to that folder.
        size: pixels per side of every tile.

    Raises:
        FileNotFoundError: a tile that is not there; its row is named.
    """
    folder = table.path.parent
    present: dict[str, set[str]] = {}  # one listing per folder: far fewer calls than one per file
    for row, name in zip(table.rows, names, strict=True):
        parent, _, own = name.rpartition("/")
        if parent not in present:
            present[parent] = set(os.listdir(folder / parent)) if (folder / parent).is_dir() else set()
        if own not in present[parent]:
            raise FileNotFoundError(f"{folder / name} (row {row} of {table.path.name}) is missing")
    return TileFiles(folder, np.array(names, dtype=object), np.array(table.rows), table.path, size)
