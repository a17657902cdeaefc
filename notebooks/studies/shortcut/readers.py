"""Readers of real tiles: the official layout of Camelyon17-WILDS, and a folder with `labels.csv`.

A reader checks every row, and the presence of every file; pixels are decoded on demand. Source document: "M6" of
notebook 03.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from nbutils import tables
from nbutils.data import sources
from studies.shortcut import tile_files
from studies.shortcut.tiles import Tiles

# Centres of the file to the numbers of the paper and the source document: in training 0, 3, 4, then 1, then 2.
WILDS_HOSPITALS = {0: 0, 3: 1, 4: 2, 1: 3, 2: 4}
SIZE = 96  # pixels per side; neighbours on a slide lie 32 apart
_WILDS_SPLITS = {"0": "train", "1": "id_val"}  # of the file; the two centres held out are named by the centre
_WILDS_HELD_OUT = {"1": "val", "2": "test"}
# Tiles of the published version 1.0, by split; its two held-out centres are counted whole.
_WILDS_TILES = {"train": 302_436, "id_val": 33_560, "val": 34_904, "test": 85_054}
_FOLDER_SPLITS = ("train", "valid", "test")

Data = Literal["embedded", "real", "auto"]
Real = Literal["camelyon17", "pcam-inferred-scanner"]


def load(data: Data, *, name: Real | None = None, root: str | Path | None = None) -> Tiles | None:
    """Load real tiles, or none where drawn ones are meant (see `drawn_tiles`).

    Args:
        data: `"embedded"`, none; `"real"`; `"auto"`, real where there is a folder, else none.
        name: of real tiles; None: Camelyon17-WILDS where it is there, else the folder with inferred scanners.
        root: the folder above theirs; None: `$NBUTILS_DATA`.

    Raises:
        FileNotFoundError: real tiles asked for and not there, or a missing file of theirs.
        ValueError: a fault in a table, named by file and row; unknown `data` or `name`.
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
            if folder.is_dir():  # a folder that is there is meant: its reader says what is missing in it
                return read_wilds(folder) if known == "camelyon17" else read_folder(folder)
    if data == "auto":
        return None
    looked = ", ".join(str(folder) for folders in places.values() for folder in folders)
    raise FileNotFoundError(
        f"no real tiles in {looked or 'any folder'}; set ${sources.DATA_VARIABLE} to a folder that "
        "holds camelyon17_v1.0 (of WILDS) or pcam-inferred-scanner"
    )


def read_wilds(folder: str | Path) -> Tiles:
    """Read the table of Camelyon17-WILDS; check the presence of every tile, decode none.

    Hospitals are H0 to H4 in the order of the paper: centres 0, 3, 4 (training), 1 (`val`), 2 (`test`). The file's own
    split says `train` or `id_val` for training centres. Tiles overlap, also across those two: see
    `splits.without_overlap`. The source is called `camelyon17-wilds` where the splits have the published numbers of
    tiles, else unknown.

    Args:
        folder: `camelyon17_v1.0`, with `metadata.csv` and `patches/`.

    Raises:
        FileNotFoundError: the table, or a tile; the tile's row is named.
        TableError: a missing or repeated column, a bad value, or a tile that is there twice; with row and column.
    """
    path = Path(folder) / "metadata.csv"
    rows = tables.read(path, ("patient", "node", "x_coord", "y_coord", "tumor", "center", "split"))
    patient = rows.match("patient", r"[0-9]{1,3}", "a number of up to three digits")
    node = rows.match("node", r"[0-9]", "a digit")
    x, y = (rows.match(axis, r"[0-9]{1,9}", "a whole number of pixels") for axis in ("x_coord", "y_coord"))
    tumour = rows.match("tumor", r"[01]", "0 or 1")
    centre = rows.match("center", r"[0-4]", "0 to 4")
    split = rows.match("split", r"[01]", "0 (train) or 1 (id_val)")
    slides = [f"patient_{p.zfill(3)}_node_{n}" for p, n in zip(patient, node, strict=True)]
    names, codes = np.unique(np.array(slides, dtype=object), return_inverse=True)
    names_of = [f"patches/{s}/patch_{s}_x_{a}_y_{b}.png" for s, a, b in zip(slides, x, y, strict=True)]
    first = dict(zip(slides[::-1], centre[::-1], strict=True))  # the centre in each slide's first row
    for row, slide, own in zip(rows.rows, slides, centre, strict=True):
        if own != first[slide]:
            raise tables.TableError(str(path), row, "center", f"{slide} in one, {first[slide]}", repr(own))
    rows.once(names_of, "x_coord", "tile of a slide")
    splits = [_WILDS_HELD_OUT.get(c) or _WILDS_SPLITS[s] for c, s in zip(centre, split, strict=True)]
    published = Counter(splits) == _WILDS_TILES
    return Tiles(
        pixels=tile_files.named(rows, names_of, SIZE),
        tumour=_integers(tumour),
        hospital=torch.tensor([WILDS_HOSPITALS[int(value)] for value in centre]),
        slide=torch.as_tensor(codes, dtype=torch.int64),
        split=np.array(splits, dtype=object),
        hospitals=tuple(f"H{number}" for number in range(len(WILDS_HOSPITALS))),
        slides=tuple(names),
        source="camelyon17-wilds" if published else "unknown, in the layout of Camelyon17-WILDS",
        position=torch.stack([_integers(x), _integers(y)], 1),
    )


def read_folder(folder: str | Path) -> Tiles:
    """Read a folder of PatchCamelyon tiles with `labels.csv`; check the presence of every tile, decode none.

    Slides are not known: each tile counts as one of its own, so nothing measured on these tiles accounts for slides.
    `scanner` was inferred from colour; names and `kind` say so.

    Args:
        folder: with `labels.csv` of columns `file` (relative to the folder), `tumor`, `scanner`, `split`, `pcam_index`.

    Raises:
        FileNotFoundError: the table, or a tile; the tile's row is named.
        TableError: a missing or repeated column, a bad value, a path that leaves the folder, a scanner's name in two
            spellings, or a tile that is there twice: by name, by number, or in two splits by the content of its files;
            with row and column.
    """
    rows = tables.read(Path(folder) / "labels.csv", ("file", "tumor", "scanner", "split", "pcam_index"))
    inside = r"(?!/|\\|[A-Za-z]:)(?!(.*[/\\])?\.\.([/\\]|$)).+"
    files = rows.match("file", inside, "a path inside the folder")
    tumour = rows.match("tumor", r"[01]", "0 or 1")
    scanner = rows.match("scanner", r".*\S.*", "a scanner's name")
    spelt: dict[str, str] = {}
    for row, name in zip(rows.rows, scanner, strict=True):
        if (other := spelt.setdefault(_plain(name), name)) != name:
            raise tables.TableError(str(rows.path), row, "scanner", f"one spelling, {other!a}", f"{name!a}")
    split = rows.match("split", "|".join(_FOLDER_SPLITS), f"one of {', '.join(_FOLDER_SPLITS)}")
    number = rows.match("pcam_index", r"[0-9]{1,9}", "a number of up to nine digits")
    rows.once([posixpath.normpath(name.replace("\\", "/")) for name in files], "file", "file")
    rows.once([f"{part} {int(index)}" for part, index in zip(split, number, strict=True)], "pcam_index", "tile")
    pixels = tile_files.named(rows, files, SIZE)
    pixels.no_copies(split)
    names, codes = np.unique(np.array(scanner, dtype=object), return_inverse=True)
    return Tiles(
        pixels=pixels,
        tumour=_integers(tumour),
        hospital=torch.as_tensor(codes, dtype=torch.int64),
        slide=torch.arange(len(files)),
        split=np.array(split, dtype=object),
        hospitals=tuple(f"{name}-like" for name in names),
        slides=tuple(f"{part} {index}" for part, index in zip(split, number, strict=True)),
        source="pcam, inferred scanner",
        kind="inferred scanner",
    )


def _plain(name: str) -> str:
    """Return what two spellings of a name have in common: no case, accents in one form, no invisible signs."""
    return "".join(filter(str.isprintable, unicodedata.normalize("NFKC", name).casefold()))


def _integers(values: list[str]) -> Tensor:
    return torch.tensor([int(value) for value in values], dtype=torch.int64)
