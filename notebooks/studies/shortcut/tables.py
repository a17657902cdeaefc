"""CSV tables of tiles whose every fault is named by file and row."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from studies.shortcut.tile_files import TileFiles


@dataclass(frozen=True)
class Table:
    """Some columns of a CSV file, as text.

    Attributes:
        path: the file.
        rows: `[N]`, the line on which each row starts; 1 is the header.
        columns: name -> N cells.
    """

    path: Path
    rows: list[int]
    columns: dict[str, list[str]]

    def match(self, column: str, pattern: str, expected: str) -> list[str]:
        """Return a column's cells.

        Args:
            column: its name.
            pattern: regular expression that every cell must match as a whole.
            expected: the same in words.

        Raises:
            ValueError: a cell that does not match; its row is named.
        """
        whole = re.compile(pattern)
        for row, value in zip(self.rows, self.columns[column], strict=True):
            if not whole.fullmatch(value):
                raise ValueError(f"{self.path}, row {row}: expected {column} to be {expected}; found {value!r}")
        return self.columns[column]

    def files(self, names: Sequence[str], size: int) -> TileFiles:
        """Return the tiles that the rows name.

        Args:
            names: `[N]`, relative to the table's folder.
            size: pixels per side of every tile.

        Raises:
            FileNotFoundError: a tile that is not there; its row is named.
        """
        folder = self.path.parent
        present: dict[str, set[str]] = {}  # one listing per folder: far fewer calls than one per file
        for row, name in zip(self.rows, names, strict=True):
            parent, _, own = name.rpartition("/")
            if parent not in present:
                present[parent] = set(os.listdir(folder / parent)) if (folder / parent).is_dir() else set()
            if own not in present[parent]:
                raise FileNotFoundError(f"{folder / name} (row {row} of {self.path.name}) is missing")
        return TileFiles(folder, np.array(names, dtype=object), np.array(self.rows), self.path, size)


def read(path: Path, columns: Sequence[str]) -> Table:
    """Read some columns of a CSV file with a header; blank lines are skipped.

    Args:
        path: a UTF-8 file.
        columns: names that the header must have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no UTF-8 text, no CSV, no rows, a missing column, or a row of another length than the header.
    """
    entries = _entries(path)
    first, header = next(entries, (1, []))
    if missing := [column for column in columns if column not in header]:
        found = ", ".join(header) or "an empty file"
        raise ValueError(f"{path}, row {first}: no column {', '.join(missing)}; found {found}")
    places = [header.index(column) for column in columns]
    rows, kept = [], []
    for row, cells in entries:
        if len(cells) != len(header):
            raise ValueError(f"{path}, row {row}: expected {len(header)} cells as in the header; found {len(cells)}")
        rows.append(row)
        kept.append([cells[place] for place in places])
    if not rows:
        raise ValueError(f"{path}: expected a row for each tile; found none below the header")
    return Table(path, rows, {name: list(cells) for name, cells in zip(columns, zip(*kept, strict=True), strict=True)})


def _entries(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row starts, and its cells."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets write a byte order mark
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text; found byte 0x{error.object[error.start]:02x}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        row = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{path}, row {row}: expected comma-separated cells; found {error}") from None
        if cells:
            yield row, cells
