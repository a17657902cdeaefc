"""Dopesheets: parameter schedules as small CSV tables of keyframes, the way animators write them.

The columns are `STEP`, optionally `PHASE` and `ACTION`, and one column per parameter, named
`name[:space[:timing]]`:

- `STEP` is an absolute step (`750`); `+10` steps after the absolute row above, or `-10` before the absolute
  row below; `+0.33` is that fraction of the interval between the two, counted from the row above, and `-0.33`
  counted back from the row below. Half steps round up. Rows must come out strictly increasing.
- `PHASE` names what begins at the row; `ACTION` lists names, separated by spaces, of what happens at it.
- `space` is `linear` (default) or `log`: where interpolation happens. `timing` is one of
  `nbutils.schedules.timing.TIMINGS`, by default `minjerk`.
- A blank cell keys nothing. A parameter that is never keyed is an error, most often a
  misspelt name. Rows with blank cells only are skipped.
"""

from __future__ import annotations

import math
import re
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING

from nbutils import tables
from nbutils.schedules.timing import TIMINGS
from nbutils.tables import TableError, shown

if TYPE_CHECKING:
    import pandas as pd

SPACES = ("linear", "log")
MAX_STEP = 10_000_000
MAX_VALUES = 50_000_000  # steps x parameters; a resolved timeline of this size takes 400 MB

_ABSOLUTE = re.compile(r"[0-9]+")
_OFFSET = re.compile(r"[+-][0-9]+")
_FRACTION = re.compile(r"[+-][0-9]*\.[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class DopesheetError(TableError):
    """A defect of a dopesheet, with its file, row and column (see `nbutils.tables.TableError`)."""


@dataclass(frozen=True)
class Parameter:
    """A column of the sheet: name, space in which values are interpolated, the timing to its keys."""

    name: str
    space: str = "linear"
    timing: str = "minjerk"


@dataclass(frozen=True)
class Keyframe:
    """A row of the sheet with its step resolved.

    Attributes:
        step: absolute step, from 0.
        phase: the phase that begins here, or "".
        actions: names of what happens here.
        values: the parameters keyed here, and only those.
    """

    step: int
    phase: str
    actions: tuple[str, ...]
    values: Mapping[str, float]


@dataclass(frozen=True)
class Dopesheet:
    """A checked schedule: keyframes at strictly increasing steps, every parameter keyed at least once.

    >>> import nbutils as nb
    >>> from pathlib import Path
    >>> _ = Path("sheet.csv").write_text("STEP,lr\\n0,0.1\\n10,0.01\\n")
    >>> sheet = nb.Dopesheet.from_csv("sheet.csv")
    >>> [keyframe.step for keyframe in sheet.keyframes]
    [0, 10]
    """

    parameters: tuple[Parameter, ...]
    keyframes: tuple[Keyframe, ...]
    source: str

    @classmethod
    def from_csv(cls, path: str | PathLike[str]) -> Dopesheet:
        """Read a sheet from a UTF-8 CSV file.

        Raises:
            FileNotFoundError: there is no such file.
            DopesheetError: a defect, as the module describes the format; the message names row and column.
        """
        text = tables.read_text(path, DopesheetError)
        return cls.from_text(text, source=str(path))

    @classmethod
    def from_text(cls, text: str, *, source: str = "dopesheet") -> Dopesheet:
        """Read a sheet from CSV text; `source` names it in errors.

        Raises:
            DopesheetError: a defect, as the module describes the format; the message names row and column.
        """
        return _Reader(source).read(text)

    def frame(self) -> pd.DataFrame:
        """Return the resolved sheet as a table: one row per keyframe, indexed by step, NaN for blank cells."""
        import pandas as pd

        index = pd.Index([keyframe.step for keyframe in self.keyframes], name="STEP")
        columns = {
            "PHASE": [keyframe.phase for keyframe in self.keyframes],
            "ACTION": [" ".join(keyframe.actions) for keyframe in self.keyframes],
        } | {
            parameter.name: [keyframe.values.get(parameter.name, math.nan) for keyframe in self.keyframes]
            for parameter in self.parameters
        }
        return pd.DataFrame(columns, index=index)


class _Reader:
    """Turns the text of one sheet into a `Dopesheet`; every complaint carries the sheet's name."""

    def __init__(self, source: str) -> None:
        self.source = source

    def error(self, row: int, column: str | None, expected: str, got: str) -> DopesheetError:
        return DopesheetError(self.source, row, column, expected, got)

    def read(self, text: str) -> Dopesheet:
        entries = list(tables.entries(text, self.source, DopesheetError))
        if not entries:
            raise self.error(1, None, "a header row with a STEP column", "an empty file")
        header_row, header = entries[0]
        columns = self.columns(header_row, header)
        rows = [(row, tables.by_column(header, row, cells, self.source, DopesheetError)) for row, cells in entries[1:]]
        if not rows:
            raise self.error(header_row, "STEP", "at least one row below the header", "none")
        steps = self.steps([(row, cells["STEP"]) for row, cells in rows])
        keyframes = []
        for (row, cells), step in zip(rows, steps, strict=True):
            values = {
                parameter.name: self.value(row, column, cells[column], parameter)
                for column, parameter in columns.items()
                if cells[column]
            }
            phase, actions = cells.get("PHASE", ""), tuple(cells.get("ACTION", "").split())
            keyframes.append(Keyframe(step, phase, actions, MappingProxyType(values)))
        for column, parameter in columns.items():
            if not any(parameter.name in keyframe.values for keyframe in keyframes):
                raise self.error(header_row, column, "a value in at least one row", "blank cells only")
        if len(columns) * (steps[-1] + 1) > MAX_VALUES:
            expected = f"at most {MAX_VALUES:,} steps times parameters"
            raise self.error(rows[-1][0], "STEP", expected, f"{steps[-1] + 1} steps of {len(columns)} parameters")
        return Dopesheet(tuple(columns.values()), tuple(keyframes), self.source)

    def columns(self, row: int, header: list[str]) -> dict[str, Parameter]:
        """Return the parameter columns by header cell, in order."""
        if "STEP" not in header:
            raise self.error(row, "STEP", "a STEP column", shown(",".join(header)))
        columns: dict[str, Parameter] = {}
        seen: dict[str, str] = {}
        for number, column in enumerate(header, start=1):
            name, *suffixes = (part.strip() for part in column.split(":"))
            if not name:
                raise self.error(row, column or f"number {number}", "a name", shown(column))
            if name in seen:
                raise self.error(row, column, f"each name once ({name} is already there)", shown(column))
            seen[name] = column
            reserved = name in ("STEP", "PHASE", "ACTION")
            if len(suffixes) > (0 if reserved else 2):
                expected = name if reserved else "name, name:space or name:space:timing"
                raise self.error(row, column, expected, shown(column))
            for suffix, choices in zip(suffixes, (SPACES, TIMINGS), strict=False):
                if suffix not in choices:
                    raise self.error(row, column, " or ".join(choices) + " after the colon", shown(suffix))
            if not reserved:
                columns[column] = Parameter(name, *suffixes)
        return columns

    def value(self, row: int, column: str, cell: str, parameter: Parameter) -> float:
        value = float(cell) if _NUMBER.fullmatch(cell) else math.nan
        if not math.isfinite(value):
            raise self.error(row, column, "a finite number or a blank cell", shown(cell))
        if parameter.space == "log" and value <= 0:
            raise self.error(row, column, "a number above 0 for log space", shown(cell))
        return value

    def steps(self, rows: list[tuple[int, str]]) -> list[int]:
        """Resolve the STEP cells of all rows, given as (line, cell), to strictly increasing integers."""
        absolute = {
            index: self.integer(row, cell) for index, (row, cell) in enumerate(rows) if _ABSOLUTE.fullmatch(cell)
        }
        steps: list[int] = []
        anchors = sorted(absolute)
        for before, after in pairwise(anchors):
            self.increasing(*rows[after], absolute[before], absolute[after])
        for index, (row, cell) in enumerate(rows):
            if index in absolute:
                step = absolute[index]
            else:
                place = bisect(anchors, index)
                above = absolute[anchors[place - 1]] if place else None
                below = absolute[anchors[place]] if place < len(anchors) else None
                step = self.relative(row, cell, above, below)
            if steps:
                self.increasing(row, cell, steps[-1], step)
            steps.append(step)
        return steps

    def relative(self, row: int, cell: str, above: int | None, below: int | None) -> int:
        """Resolve one relative STEP cell between the absolute steps above and below it."""
        offset, fraction = _OFFSET.fullmatch(cell), _FRACTION.fullmatch(cell)
        if not (offset or fraction):
            raise self.error(row, "STEP", "an absolute step, +N, -N, or a fraction such as +0.5 or -0.5", shown(cell))
        forward = cell[0] == "+"
        start = above if forward else below
        if above is None and (forward or fraction):
            raise self.error(row, "STEP", "an absolute step in a row above, for this one to count from", shown(cell))
        if start is None or (fraction and below is None):
            raise self.error(row, "STEP", "an absolute step in a row below, for this one to count from", shown(cell))
        gap = 0 if above is None or below is None else below - above  # a fraction alone asks for it, and has both
        if offset:
            distance = Decimal(self.integer(row, cell[1:]))
        else:
            share = Decimal(cell[1:])  # decimal, so that +0.29 of 100 is 29 as on paper
            if not 0 < share < 1:
                raise self.error(row, "STEP", "a fraction between 0 and 1, both excluded", shown(cell))
            distance = share * gap
        step = (start + distance if forward else start - distance).to_integral_value(ROUND_HALF_UP)
        if not 0 <= step <= MAX_STEP:
            raise self.error(row, "STEP", f"a step from 0 to {MAX_STEP:,}", f"{shown(cell)} (step {step})")
        return int(step)

    def integer(self, row: int, digits: str) -> int:
        digits = digits.lstrip("0") or "0"
        if len(digits) > len(str(MAX_STEP)) or int(digits) > MAX_STEP:
            raise self.error(row, "STEP", f"a step from 0 to {MAX_STEP:,}", shown(digits))
        return int(digits)

    def increasing(self, row: int, cell: str, previous: int, step: int) -> None:
        if step <= previous:
            raise self.error(row, "STEP", f"a step after {previous}", f"{shown(cell)} (step {step})")
