"""Tiles of stained tissue with their label, hospital and slide: one table for every source of them.

Readers for the official layout of Camelyon17-WILDS and for a folder with `labels.csv`; drawn tiles come from
`studies.shortcut.drawn_tiles`. A reader checks every row and that every file is there; pixels are decoded when asked
for. Source document: "M6" of notebook 03.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from nbutils.data import arrays, sources
from nbutils.seeding import generator

if TYPE_CHECKING:
    import pandas as pd

# Centres of the file to the numbers of the paper and the source document: in training 0, 3, 4, then 1, then 2.
WILDS_HOSPITALS = {0: 0, 3: 1, 4: 2, 1: 3, 2: 4}
WILDS_SIZE = 96  # pixels a side; neighbours lie 32 apart
_WILDS_SPLITS = {"0": "train", "1": "id_val"}  # of the file; the two centres held out are named by the centre
_WILDS_HELD_OUT = {"1": "val", "2": "test"}
_FOLDER_SPLITS = ("train", "valid", "test")

_PARALLEL = 64  # files: fewer are decoded one after the other


@dataclass(frozen=True, repr=False)
class TileFiles:
    """Pictures on disk, all of one size.

    Attributes:
        folder: that `names` are relative to.
        names: `[N]`, object array of text.
        rows: `[N]`, the line of `table` that names each, 1 being its header.
        table: the CSV file.
        size: pixels a side.
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
            ValueError: a file that is truncated, no picture, or of another size; it and its row are named.
            FileNotFoundError: a file that was there when the table was read.
        """
        from PIL import Image

        pixels = torch.empty(len(self), self.size, self.size, 3, dtype=torch.uint8)

        def one(item: int) -> None:
            content = self._content(item)
            try:
                with Image.open(io.BytesIO(content)) as picture:
                    colours = np.array(picture.convert("RGB"))  # the publisher's files have a fourth channel, opaque
            except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises of damaged files
                raise ValueError(f"{self._where(item)}: {len(content):,} bytes that are not a whole picture") from error
            if colours.shape[:2] != (self.size, self.size):
                found = "×".join(map(str, colours.shape[:2]))
                raise ValueError(f"{self._where(item)}: expected {self.size}×{self.size} pixels, found {found}")
            pixels[item] = torch.from_numpy(colours)

        _each(one, len(self))
        return pixels

    def digests(self) -> list[bytes]:
        """Return a hash of each file's content."""
        found = [b""] * len(self)

        def one(item: int) -> None:
            found[item] = hashlib.sha256(self._content(item)).digest()

        _each(one, len(self))
        return found

    def _content(self, item: int) -> bytes:
        try:
            return (self.folder / self.names[item]).read_bytes()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self._where(item)}: the file is gone") from error

    def _where(self, item: int) -> str:
        return f"{self.folder / self.names[item]} (row {self.rows[item]} of {self.table.name})"


def _each(work: Callable[[int], None], count: int) -> None:
    """Do something for every item, in threads where there are many; the first error in order is raised."""
    workers = min(8, os.cpu_count() or 1)
    if count < _PARALLEL or workers == 1:
        for item in range(count):
            work(item)
        return

    def some(items: range) -> None:
        for item in items:
            work(item)

    with ThreadPoolExecutor(workers) as pool:  # the decoders let other threads run
        for _ in pool.map(some, [range(k, min(k + 32, count)) for k in range(0, count, 32)]):
            pass


@dataclass(frozen=True, repr=False)
class Tiles:
    """A table of tiles.

    Attributes:
        pixels: uint8 `[N, size, size, 3]`, or the files that hold them.
        tumour: `[N]`, int64: 1 where there is tumour (in real tiles: in the central 32×32 pixels), else 0.
        hospital: `[N]`, int64, index into `hospitals`.
        slide: `[N]`, int64, index into `slides`. No slide is in two hospitals.
        split: `[N]`, object array of names: `train`, `id_val`, `val`, `test`, ...
        hospitals: names.
        slides: names.
        source: where they come from.
        kind: what `hospital` really is: `"hospital"` or `"inferred scanner"`.
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
            KeyError: there is no such split; the message lists those there are.
        """
        chosen = self.split == split
        if not chosen.any():
            raise KeyError(f"no tiles in split {split!r}; there are {', '.join(sorted(set(self.split)))}")
        return self[chosen]

    @property
    def size(self) -> int:
        """Pixels a side."""
        return self.pixels.size if isinstance(self.pixels, TileFiles) else self.pixels.shape[1]

    def images(self, items: slice | Tensor | np.ndarray = slice(None), dtype: torch.dtype = torch.float32) -> Tensor:
        """Return tiles as `[n, 3, size, size]`, channels last in memory; files are decoded now.

        Args:
            items: which: a slice, indices, or a mask `[N]`.
            dtype: a floating type, for values in [0, 1]; or uint8, for grey levels.

        Raises:
            ValueError: a file that is no whole picture of the right size; it and its row are named.
        """
        pixels = self[items]._in_memory().permute(0, 3, 1, 2)
        return pixels if dtype == torch.uint8 else pixels.to(dtype).div_(255)

    def decoded(self) -> Tiles:
        """Return the same tiles with all pixels in memory: `3 · size²` bytes each."""
        return replace(self, pixels=self._in_memory())

    def _in_memory(self) -> Tensor:
        return self.pixels.decode() if isinstance(self.pixels, TileFiles) else self.pixels

    @cached_property
    def digest(self) -> str:
        """A fingerprint of content and labels, by which features and checkpoints know their data.

        Of files it is the content as it lies on disk, which is read whole; `decoded` tiles have another digest.
        """
        names = np.array(repr((self.hospitals, self.slides, self.split.tolist())))
        pixels = np.array(self.pixels.digests()) if isinstance(self.pixels, TileFiles) else self.pixels
        codes = {"tumour": self.tumour, "hospital": self.hospital, "slide": self.slide}
        return arrays.digest({"names": names, "pixels": pixels, **codes})[:16]

    def table(self) -> pd.DataFrame:
        """Return the columns `tumour`, `hospital` (or `inferred scanner`), `slide` and `split`, names for codes."""
        import pandas as pd

        return pd.DataFrame(
            {
                "tumour": self.tumour.numpy(),
                self.kind: np.array(self.hospitals, dtype=object)[self.hospital.numpy()],
                "slide": np.array(self.slides, dtype=object)[self.slide.numpy()],
                "split": self.split,
            }
        )

    def _index(self, items: slice | Tensor | np.ndarray) -> Tensor:
        if isinstance(items, slice):
            return torch.arange(len(self))[items]
        items = torch.as_tensor(np.asarray(items))
        return items.nonzero()[:, 0] if items.dtype == torch.bool else items

    def __repr__(self) -> str:
        return f"Tiles({len(self)} of {self.size}×{self.size} from {self.source})"


def slide_parts(tiles: Tiles, shares: Sequence[float], seed: int = 0) -> list[Tiles]:
    """Divide tiles into parts that share no slide, each with about its share of every hospital's slides.

    Args:
        tiles: of any splits.
        shares: of the parts, above 0; only their ratios count.
        seed: of the division.

    Raises:
        ValueError: a hospital has fewer slides than there are parts.
    """
    part = torch.empty(len(tiles.slides), dtype=torch.int64)
    bounds = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    for hospital in tiles.hospital.unique().tolist():
        slides = tiles.slide[tiles.hospital == hospital].unique()
        if len(slides) < len(shares):
            raise ValueError(
                f"{len(shares)} parts need as many slides of every {tiles.kind}; "
                f"{tiles.hospitals[hospital]} has {len(slides)}"
            )
        order = slides[torch.randperm(len(slides), generator=generator(seed, "slide parts", hospital))]
        # One slide for every part, the rest by share.
        ends = (bounds / bounds[-1] * (len(slides) - len(shares))).round().long() + torch.arange(1, len(shares) + 1)
        part[order] = torch.bucketize(torch.arange(len(slides)), ends, right=True)
    return [tiles[part[tiles.slide] == k] for k in range(len(shares))]


def without_overlap(tiles: Tiles) -> Tiles:
    """Return tiles of which no two share a pixel: of those that do, the first in the table is kept.

    Raises:
        ValueError: the positions are not known.
    """
    if tiles.position is None:
        raise ValueError(f"{tiles.source}: the tiles' positions on their slides are not known")
    size = tiles.size
    cells: dict[tuple[int, int, int], list[tuple[int, int]]] = {}  # kept tiles by squares of a tile's size
    kept = []
    for item, (slide, (x, y)) in enumerate(zip(tiles.slide.tolist(), tiles.position.tolist(), strict=True)):
        column, row = x // size, y // size
        near = (
            other
            for i in (column - 1, column, column + 1)
            for j in (row - 1, row, row + 1)
            for other in cells.get((slide, i, j), ())
        )
        if all(abs(x - other_x) >= size or abs(y - other_y) >= size for other_x, other_y in near):
            kept.append(item)
            cells.setdefault((slide, column, row), []).append((x, y))
    return tiles[torch.tensor(kept, dtype=torch.int64)]


def aligned(tiles: Tiles, hospital: str) -> Tensor:
    """Return which tiles fit "tumour is from this hospital, the rest from another", bool `[N]`.

    Raises:
        KeyError: there is no such hospital; the message lists those there are.
    """
    if hospital not in tiles.hospitals:
        raise KeyError(f"no {tiles.kind} {hospital!r}; there are {', '.join(tiles.hospitals)}")
    return (tiles.hospital == tiles.hospitals.index(hospital)) == (tiles.tumour == 1)


def confounded(tiles: Tiles, hospital: str, rest: float = 0.05, seed: int = 0) -> Tiles:
    """Return all aligned tiles and a share of the others, drawn at random: the label is confounded with the hospital.

    Args:
        tiles: to choose from.
        hospital: that tumour is to come from.
        rest: share of the conflicting tiles that is kept, from 0 to 1, of each hospital alike.
        seed: of the choice.
    """
    if not 0 <= rest <= 1:
        raise ValueError(f"rest must lie in [0, 1]; got {rest}")
    keep = aligned(tiles, hospital)
    for code in range(len(tiles.hospitals)):
        others = (~aligned(tiles, hospital) & (tiles.hospital == code)).nonzero()[:, 0]
        order = torch.randperm(len(others), generator=generator(seed, "confounded", code))
        keep[others[order[: round(rest * len(others))]]] = True
    return tiles[keep]


Data = Literal["embedded", "real", "auto"]
Real = Literal["camelyon17", "pcam-inferred-scanner"]


def load(data: Data, *, name: Real | None = None, root: str | Path | None = None) -> Tiles | None:
    """Load tiles that a reader has, or none where drawn ones are meant (see `studies.shortcut.drawn_tiles`).

    Args:
        data: `"embedded"`, none; `"real"`; `"auto"`, real where a folder is there, else none.
        name: which real tiles; by default Camelyon17-WILDS where it is there, else the folder with inferred scanners.
        root: the folder that holds their folder; `$NBUTILS_DATA` by default.

    Raises:
        FileNotFoundError: real tiles are asked for and are not there, or a file of theirs is missing.
        ValueError: a table with a fault, named by file and row; `data` or `name` is none of those listed.
    """
    if data not in get_args(Data):
        raise ValueError(f"data must be one of {', '.join(map(repr, get_args(Data)))}; got {data!r}")
    if name is not None and name not in get_args(Real):
        raise ValueError(f"name must be one of {', '.join(map(repr, get_args(Real)))}; got {name!r}")
    if data == "embedded":
        return None
    places = {known: sources.find(known, root).looked_in for known in (get_args(Real) if name is None else (name,))}
    for known, folders in places.items():
        for folder in folders:
            if folder.is_dir():  # a folder that is there is meant: where something in it is missing, its reader says so
                return read_wilds(folder) if known == "camelyon17" else read_folder(folder)
    if data == "auto":
        return None
    looked = ", ".join(str(folder) for folders in places.values() for folder in folders)
    raise FileNotFoundError(
        f"no real tiles in {looked or 'any folder'}; set ${sources.DATA_VARIABLE} to a folder that "
        "holds camelyon17_v1.0 (of WILDS) or pcam-inferred-scanner"
    )


def read_wilds(folder: str | Path) -> Tiles:
    """Read the table of Camelyon17-WILDS; check that every tile of it is there, decode none.

    Hospitals are H0 to H4 in the order of the paper: centres 0, 3, 4 (training), 1 (`val`), 2 (`test`). The file's own
    split says `train` or `id_val` for training centres. Tiles overlap, also across those two: see `without_overlap`.

    Args:
        folder: `camelyon17_v1.0`, with `metadata.csv` and `patches/`.

    Raises:
        FileNotFoundError: the table, or a tile; the tile's row is named.
        ValueError: a missing column or a bad value, with its row (1 is the header).
    """
    path = Path(folder) / "metadata.csv"
    rows = _rows(path, ("patient", "node", "x_coord", "y_coord", "tumor", "center", "split"))
    patient = rows.match("patient", r"\d{1,3}", "a number of up to three digits")
    node = rows.match("node", r"\d", "a digit")
    x, y = (rows.match(axis, r"\d+", "a whole number of pixels") for axis in ("x_coord", "y_coord"))
    tumour = rows.match("tumor", r"[01]", "0 or 1")
    centre = rows.match("center", r"[0-4]", "0 to 4")
    split = rows.match("split", r"[01]", "0 (train) or 1 (id_val)")
    slides = [f"patient_{p.zfill(3)}_node_{n}" for p, n in zip(patient, node, strict=True)]
    names, codes = np.unique(np.array(slides, dtype=object), return_inverse=True)
    names_of = [f"patches/{s}/patch_{s}_x_{a}_y_{b}.png" for s, a, b in zip(slides, x, y, strict=True)]
    first = dict(zip(slides[::-1], centre[::-1], strict=True))  # the centre in each slide's first row
    for item, (slide, own) in enumerate(zip(slides, centre, strict=True)):
        if own != first[slide]:
            raise ValueError(f"{path}, row {item + 2}: expected {slide} in one center, {first[slide]}; found {own}")
    return Tiles(
        pixels=_files(path, names_of, WILDS_SIZE),
        tumour=_integers(tumour),
        hospital=torch.tensor([WILDS_HOSPITALS[int(value)] for value in centre]),
        slide=torch.as_tensor(codes, dtype=torch.int64),
        split=np.array(
            [_WILDS_HELD_OUT.get(c) or _WILDS_SPLITS[s] for c, s in zip(centre, split, strict=True)], dtype=object
        ),
        hospitals=tuple(f"H{number}" for number in range(len(WILDS_HOSPITALS))),
        slides=tuple(names),
        source="camelyon17-wilds",
        position=torch.stack([_integers(x), _integers(y)], 1),
    )


def read_folder(folder: str | Path) -> Tiles:
    """Read a folder of PatchCamelyon tiles with `labels.csv`; check that every tile is there, decode none.

    Which slide a tile comes from is not known: each counts as a slide of its own, so nothing measured on these tiles
    accounts for slides. `scanner` was inferred from colour; names and `kind` say so.

    Args:
        folder: with `labels.csv` of columns `file` (relative to the folder), `tumor`, `scanner`, `split`, `pcam_index`.

    Raises:
        FileNotFoundError: the table, or a tile; the tile's row is named.
        ValueError: a missing column, a bad value or a path that leaves the folder, with its row (1 is the header).
    """
    path = Path(folder) / "labels.csv"
    rows = _rows(path, ("file", "tumor", "scanner", "split", "pcam_index"))
    inside = r"(?!/|\\|[A-Za-z]:)(?!(.*[/\\])?\.\.([/\\]|$)).+"
    files = rows.match("file", inside, "a path inside the folder")
    tumour = rows.match("tumor", r"[01]", "0 or 1")
    scanner = rows.match("scanner", r".*\S.*", "a scanner's name")
    split = rows.match("split", "|".join(_FOLDER_SPLITS), f"one of {', '.join(_FOLDER_SPLITS)}")
    number = rows.match("pcam_index", r"\d+", "a number")
    names, codes = np.unique(np.array(scanner, dtype=object), return_inverse=True)
    return Tiles(
        pixels=_files(path, files, WILDS_SIZE),
        tumour=_integers(tumour),
        hospital=torch.as_tensor(codes, dtype=torch.int64),
        slide=torch.arange(len(files)),
        split=np.array(split, dtype=object),
        hospitals=tuple(f"{name}-like" for name in names),
        slides=tuple(f"{part} {index}" for part, index in zip(split, number, strict=True)),
        source="pcam, inferred scanner",
        kind="inferred scanner",
    )


@dataclass(frozen=True)
class _Rows:
    path: Path
    frame: pd.DataFrame

    def match(self, column: str, pattern: str, expected: str) -> list[str]:
        """Return a column's values; every one must match the pattern."""
        values = self.frame[column].tolist()
        whole = re.compile(pattern)
        for item, value in enumerate(values):
            if not whole.fullmatch(value):
                raise ValueError(f"{self.path}, row {item + 2}: expected {column} to be {expected}; found {value!r}")
        return values


def _rows(path: Path, columns: Sequence[str]) -> _Rows:
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing") from error
    except ValueError as error:  # no text, or rows of unequal length, which the message names
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    if missing := [column for column in columns if column not in frame]:
        raise ValueError(f"{path}, row 1: no column {', '.join(missing)}; found {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise ValueError(f"{path}: expected a row for each tile; found none below the header")
    return _Rows(path, frame)


def _files(table: Path, names: list[str], size: int) -> TileFiles:
    """Return the files a table names; each must be there."""
    present: dict[str, set[str]] = {}  # one listing a folder: far fewer calls than one a file
    for item, name in enumerate(names):
        parent, _, own = name.rpartition("/")
        if parent not in present:
            folder = table.parent / parent
            present[parent] = set(os.listdir(folder)) if folder.is_dir() else set()
        if own not in present[parent]:
            raise FileNotFoundError(f"{table.parent / name} (row {item + 2} of {table.name}) is missing")
    return TileFiles(table.parent, np.array(names, dtype=object), np.arange(2, len(names) + 2), table, size)


def _integers(values: list[str]) -> Tensor:
    return torch.tensor([int(value) for value in values], dtype=torch.int64)
