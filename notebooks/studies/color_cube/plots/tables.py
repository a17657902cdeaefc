"""Tables of named colours with swatches, for the notebook (HTML) and for the paper (LaTeX)."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_hex

from nbutils.plotting.expect import expect_rgb

if TYPE_CHECKING:
    import pandas as pd

LATEX_PREAMBLE = r"""\usepackage{booktabs}
\usepackage{siunitx}
\usepackage{xcolor}
\newcommand{\swatch}[1]{{\setlength{\fboxsep}{0pt}\fcolorbox[HTML]{808080}{#1}{\rule{0pt}{1.6ex}\rule{1.8em}{0pt}}}}
"""

_LATEX_SPECIALS = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "Δ": r"$\Delta$",
        **{letter: "\\" + letter for letter in "&%$#_{}"},
    }
)


@dataclass(frozen=True)
class ColorTable:
    """A table of colours: HTML in a notebook, aligned text elsewhere.

    Attributes:
        html: the table, with swatches.
        text: the same as plain text, colours as `#rrggbb`.
    """

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def color_table_html(frame: pd.DataFrame, *, decimals: int = 3) -> ColorTable:
    """Return a table of colours with swatches beside their codes; numbers that round to zero recede.

    Args:
        frame: one row per colour, with columns `name`, `rgb` (three numbers in [0, 1]) and numeric ones.
        decimals: decimals of the numbers.

    Raises:
        KeyError: a column `name` or `rgb` is missing.
        ValueError: another column is not numeric, or a colour lies outside [0, 1].
    """
    names, codes, numbers = _parts(frame, decimals)
    headings = ["name", "colour", *numbers]
    rows = list(zip(names, codes, *numbers.values(), strict=True))
    head = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in headings)
    body = []
    for name, code, *cells in rows:
        # The code beside it says the same, so screen readers skip the swatch.
        swatch = (
            '<span aria-hidden="true" style="display:inline-block;width:2.2em;height:1em;'
            f'vertical-align:middle;border:1px solid #808080;background-color:{code}"></span>'
        )
        faint = ' style="text-align:right;opacity:0.6"'
        plain = ' style="text-align:right"'
        body.append(
            f'<tr><th scope="row" style="text-align:left">{html.escape(name)}</th>'
            f"<td>{swatch} <code>{code}</code></td>"
            + "".join(f"<td{plain if cell.strip('-0.') else faint}>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (headings, *rows)
    ]
    return ColorTable(table, "\n".join(lines))


def color_table_latex(frame: pd.DataFrame, caption: str, label: str, *, decimals: int = 3) -> str:
    r"""Return a table of colours for a paper: `booktabs` rules, `siunitx` columns and swatches.

    The document's preamble needs `LATEX_PREAMBLE`, which loads the packages and defines `\swatch`.

    Args:
        frame: one row per colour, with columns `name`, `rgb` (three numbers in [0, 1]) and numeric ones.
        caption: caption, as LaTeX.
        label: label of the table, for references.
        decimals: decimals of the numbers.

    Raises:
        KeyError: a column `name` or `rgb` is missing.
        ValueError: another column is not numeric, or a colour lies outside [0, 1].
    """
    names, codes, numbers = _parts(frame, decimals)
    columns = []
    for cells in numbers.values():
        whole = max((len(cell.lstrip("-").split(".")[0]) for cell in cells), default=1)
        sign = "-" if any(cell.startswith("-") for cell in cells) else ""
        columns.append(f"S[table-format={sign}{whole}.{decimals}]")
    headings = [f"{{{_latex(heading)}}}" for heading in numbers]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l c {' '.join(columns)}}}",
        r"\toprule",
        " & ".join([r"\multicolumn{2}{c}{Color}", *headings]) + r" \\",
        r"\midrule",
    ]
    for name, code, *cells in zip(names, codes, *numbers.values(), strict=True):
        cells = ["{--}" if cell == "–" else cell for cell in cells]
        lines.append(" & ".join([_latex(name), rf"\swatch{{{code[1:].upper()}}}", *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _parts(frame: pd.DataFrame, decimals: int) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """Return names, `#rrggbb` codes, and the formatted cells of each numeric column."""
    for column in ("name", "rgb"):
        if column not in frame:
            raise KeyError(f"expected a column {column!r}, got {list(frame.columns)}")
    codes = [to_hex(colour) for colour in expect_rgb("rgb", np.array(frame["rgb"].tolist()), (len(frame), 3))]
    numbers = {}
    for column in frame.columns.drop(["name", "rgb"]):
        try:
            values = frame[column].astype(float)
        except (TypeError, ValueError):
            raise ValueError(f"expected numbers in column {column!r}, got {frame[column].tolist()[:3]}…") from None
        numbers[str(column)] = [_number(value, decimals) for value in values]
    return frame["name"].astype(str).tolist(), codes, numbers


def _number(value: float, decimals: int) -> str:
    if math.isnan(value):
        return "–"
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # adding 0 turns -0.0 into 0.0


def _latex(text: str) -> str:
    return text.translate(_LATEX_SPECIALS)
