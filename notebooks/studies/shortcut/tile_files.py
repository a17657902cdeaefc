"""Tiles as files: pictures of one size, decoded on demand, each known by the row of the table that names it."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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
            ValueError: a truncated file, no picture, or one of another size; the first one and its row are named.
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

    def _decode(self, item: int) -> np.ndarray:
        from PIL import Image

        where = f"{self.folder / self.names[item]} (row {self.rows[item]} of {self.table.name})"
        try:
            content = (self.folder / self.names[item]).read_bytes()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{where}: the file is gone") from error
        try:
            with Image.open(io.BytesIO(content)) as picture:
                colours = np.array(picture.convert("RGB"))  # the publisher's files have a fourth channel, opaque
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises of damaged files
            raise ValueError(f"{where}: {len(content):,} bytes that are not a whole picture") from error
        if colours.shape[:2] != (self.size, self.size):
            found = "×".join(map(str, colours.shape[:2]))
            raise ValueError(f"{where}: expected {self.size}×{self.size} pixels, found {found}")
        return colours
