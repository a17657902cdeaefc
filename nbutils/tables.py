"""CSV tables whose every fault is named by file, row and column: the one reader of them.

A table is UTF-8 text with a header. Blanks around cells do not count, and rows of blank cells only are skipped; every
other row has as many cells as the header. Rows are numbered by the lines of the file, from 1.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path


class TableError(ValueError):
    """A defect of a table.

    Attributes:
        file: the table.
        row: line of the file, counted from 1.
        column: header of the column, or None where the fault is not in one.
        expected: what belongs there.
        got: what is there.
    """

    def __init__(self, file: str, row: int, column: str | None, expected: str, got: str) -> None:
        super().__init__(file, row, column, expected, got)
        self.file, self.row, self.column, self.expected, self.got = file, row, column, expected, got

    def __str__(self) -> str:
        where = f"{self.file}, row {self.row}" + ("" if self.column is None else f", column {self.column}")
        return f"{where}: expected {self.expected}, got {self.got}"


@dataclass(frozen=True)
class Table:
    """Some columns of a CSV file, as text.

    Attributes:
        path: the file.
        rows: `[N]`, the line on which each row starts; 1 is the first of the file.
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
            TableError: a cell that does not match.
        """
        whole = re.compile(pattern)
        for row, value in zip(self.rows, self.columns[column], strict=True):
            if not whole.fullmatch(value):
                raise TableError(str(self.path), row, column, expected, shown(value))
        return self.columns[column]

    def once(self, values: Sequence[str], column: str, what: str) -> None:
        """Refuse a value that two rows have.

        Args:
            values: `[N]`, such as a column's cells.
            column: named in the message, with `what` each value is.

        Raises:
            TableError: names both rows.
        """
        first: dict[str, int] = {}
        for row, value in zip(self.rows, values, strict=True):
            if value in first:
                raise TableError(str(self.path), row, column, f"each {what} once", f"{value!r} of row {first[value]}")
            first[value] = row


def read(path: str | PathLike[str], columns: Sequence[str]) -> Table:
    """Read some columns of a CSV file.

    Args:
        path: the file.
        columns: names that the header must have; it may have others.

    Raises:
        FileNotFoundError: there is no such file.
        TableError: no UTF-8 text, no CSV, no rows, a column that is missing or there twice (whatever the case of its
            letters), or a row of another length than the header.
    """
    path = Path(path)
    lines = entries(read_text(path), str(path))
    first, header = next(lines, (1, []))
    names = [name.casefold() for name in header]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise TableError(str(path), first, header[place], "each column once", ",".join(header)[:200])
    if missing := [column for column in columns if column not in header]:
        expected = f"a column {', '.join(missing)}"
        raise TableError(str(path), first, None, expected, ", ".join(header)[:200] or "an empty file")
    rows, kept = [], []
    for row, cells in lines:
        by_name = by_column(header, row, cells, str(path))
        rows.append(row)
        kept.append([by_name[name] for name in columns])
    if not rows:
        raise TableError(str(path), first, None, "at least one row below the header", "none")
    return Table(path, rows, {name: list(cells) for name, cells in zip(columns, zip(*kept, strict=True), strict=True)})


def read_text(path: str | PathLike[str], error: type[TableError] = TableError) -> str:
    """Return a file's text.

    Raises:
        FileNotFoundError: there is no such file.
        TableError: bytes that are not UTF-8; `error` of it.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
    try:
        return content.decode("utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as wrong:
        row = content.count(b"\n", 0, wrong.start) + 1
        got = f"byte 0x{content[wrong.start]:02x} ({wrong.reason})"
        raise error(str(path), row, None, "UTF-8 text", got) from None


def entries(text: str, source: str, error: type[TableError] = TableError) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which the entry starts, cells without blanks around them) of every entry that is not blank.

    Raises:
        TableError: no CSV; `error` of it.
    """
    if "\0" in text:
        raise error(source, text.count("\n", 0, text.index("\0")) + 1, None, "text", "a NUL character")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        row = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as wrong:
            raise error(source, row, None, "comma-separated cells", str(wrong)) from None
        if any(cells):
            yield row, cells


def by_column(
    header: Sequence[str], row: int, cells: Sequence[str], source: str, error: type[TableError] = TableError
) -> dict[str, str]:
    """Return the cells of a row by column.

    Raises:
        TableError: more cells or fewer than the header has; `error` of it.
    """
    if len(cells) != len(header):
        missing = header[len(cells)] if len(cells) < len(header) else None
        raise error(source, row, missing, f"{len(header)} cells as in the header", f"{len(cells)} cells")
    return dict(zip(header, cells, strict=True))


def shown(cell: str) -> str:
    """Return a cell as a message shows it."""
    return "a blank cell" if not cell else repr(cell) if len(cell) <= 60 else f"{cell[:60]!r}…"
