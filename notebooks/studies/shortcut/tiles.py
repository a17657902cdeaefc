"""Tiles of stained tissue with their label, hospital and slide: one table for every source of them.

`readers` makes it of files, `drawn_tiles` of drawings; `splits` chooses among its rows.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from studies.shortcut.tile_files import TileFiles


@dataclass(frozen=True, repr=False)
class Tiles:
    """A table of tiles.

    Attributes:
        pixels: uint8 `[N, size, size, 3]`, or the files that hold them.
        tumour: `[N]`, int64: 1 where there is tumour (in real tiles: in the central 32×32 pixels), else 0.
        hospital: `[N]`, int64, index into `hospitals`.
        slide: `[N]`, int64, index into `slides`; no slide is in two hospitals.
        split: `[N]`, object array of names: `train`, `id_val`, `val`, `test`, ...
        hospitals: names.
        slides: names.
        source: name of the data.
        kind: the real meaning of `hospital`: `"hospital"` or `"inferred scanner"`.
        position: `[N, 2]`, int64, x and y of the tile on its slide in pixels, where known.

    Raises:
        ValueError: columns of unequal length, codes without a name, labels other than 0 and 1.
    """

    pixels: Tensor | TileFiles
    tumour: Tensor
    hospital: Tensor
    slide: Tensor
    split: np.ndarray
    hospitals: tuple[str, ...]
    slides: tuple[str, ...]
    source: str
    kind: Literal["hospital", "inferred scanner"] = "hospital"
    position: Tensor | None = None

    def __post_init__(self) -> None:
        columns: list[Sized] = [self.tumour, self.hospital, self.slide, self.split]
        if self.position is not None:
            columns.append(self.position)
        if lengths := {len(column) for column in columns} - {len(self.pixels)}:
            raise ValueError(f"all columns need one row for each of {len(self.pixels)} tiles; got {sorted(lengths)}")
        if isinstance(self.pixels, Tensor) and (self.pixels.dtype != torch.uint8 or self.pixels.shape[-1:] != (3,)):
            raise ValueError(f"pixels are uint8 [N, H, W, 3]; got {self.pixels.dtype} {tuple(self.pixels.shape)}")
        for name, codes, count in (
            ("tumour", self.tumour, 2),
            ("hospital", self.hospital, len(self.hospitals)),
            ("slide", self.slide, len(self.slides)),
        ):
            if len(codes) and not 0 <= codes.min() <= codes.max() < count:
                raise ValueError(f"{name} must be 0 to {count - 1}; got {codes.min()} to {codes.max()}")

    def __len__(self) -> int:
        return len(self.tumour)

    def __getitem__(self, items: slice | Tensor | np.ndarray) -> Tiles:
        """Return some of the tiles: a slice, indices, or a mask `[N]`. Files are not read."""
        index = self._index(items)
        pixels = self.pixels[index] if isinstance(self.pixels, Tensor) else self.pixels[index.numpy()]
        return replace(
            self,
            pixels=pixels,
            tumour=self.tumour[index],
            hospital=self.hospital[index],
            slide=self.slide[index],
            split=self.split[index.numpy()],
            position=None if self.position is None else self.position[index],
        )

    def where(self, split: str) -> Tiles:
        """Return the tiles of a split.

        Raises:
            KeyError: no such split; the message lists those there are.
        """
        chosen = self.split == split
        if not chosen.any():
            raise KeyError(f"no tiles in split {split!r}; there are {', '.join(sorted(set(self.split)))}")
        return self[chosen]

    @property
    def size(self) -> int:
        """Pixels per side."""
        return self.pixels.size if isinstance(self.pixels, TileFiles) else self.pixels.shape[1]

    def images(self, items: slice | Tensor | np.ndarray = slice(None), dtype: torch.dtype = torch.float32) -> Tensor:
        """Return tiles as `[n, 3, size, size]`, channels last in memory; files are decoded now.

        Args:
            items: a slice, indices, or a mask `[N]`.
            dtype: a floating type, for values in [0, 1]; or uint8, for grey levels.

        Raises:
            ValueError: a file that is no whole picture of the right size; its row is named.
        """
        pixels = self[items]._in_memory().permute(0, 3, 1, 2)
        return pixels if dtype == torch.uint8 else pixels.to(dtype).div_(255)

    def decoded(self) -> Tiles:
        """Return the same tiles with all pixels in memory: `3 · size²` bytes each."""
        return replace(self, pixels=self._in_memory())

    def _in_memory(self) -> Tensor:
        return self.pixels.decode() if isinstance(self.pixels, TileFiles) else self.pixels

    def _index(self, items: slice | Tensor | np.ndarray) -> Tensor:
        if isinstance(items, slice):
            return torch.arange(len(self))[items]
        items = torch.as_tensor(np.asarray(items))
        return items.nonzero()[:, 0] if items.dtype == torch.bool else items

    def __repr__(self) -> str:
        return f"Tiles({len(self)} of {self.size}×{self.size} from {self.source})"
