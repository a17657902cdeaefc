"""A word on a cell that was run too early: which cell sets the name that it misses.

The hint is printed after the traceback, which stays as it is. It comes from the first cell on in kernels that
`make lab` starts (this module is an extension of IPython), elsewhere from `nbutils.begin` on.
"""

from __future__ import annotations

import json
import os
import symtable
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import layout


def hint(name: str, cells: Sequence[str], failed: str = "") -> str | None:
    """Say which cell to run for a name, or None where no cell sets it.

    Args:
        name: what is not defined.
        cells: sources of the notebook's code cells, in order.
        failed: source of the cell that misses the name.

    >>> print(hint("x", ["import os", "x = 1", "print(x)"], "print(x)"))
    Hint: 'x' is set in code cell 2 (x = 1). Run it and what is above it first: menu Run > Run All Above Selected Cell.
    """
    here = cells.index(failed) if failed in cells else len(cells)
    setting = [number for number, cell in enumerate(cells) if number != here and _sets(cell, name)]
    if not setting:
        return None
    number = max((each for each in setting if each < here), default=setting[0])
    first = next(line for line in cells[number].splitlines() if name in line).strip()
    first = first if len(first) <= 60 else f"{first[:59]}…"
    told = f"Hint: {name!r} is set in code cell {number + 1} ({first})."
    if number > here:
        return f"{told} That is below this cell: has it been moved?"
    return f"{told} Run it and what is above it first: menu Run > Run All Above Selected Cell."


def _sets(cell: str, name: str) -> bool:
    try:
        symbol = symtable.symtable(cell, "cell", "exec").lookup(name)
    except (SyntaxError, ValueError, KeyError):
        return False  # a magic, or the name does not occur at the top
    return symbol.is_assigned() or symbol.is_imported()


def watch() -> None:
    """Print hints in this notebook; outside one, do nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if hasattr(shell, "kernel"):
        load_ipython_extension(shell)


def load_ipython_extension(shell: Any) -> None:
    """Print hints in the notebook of this shell; loading it twice is loading it once."""
    if not getattr(shell, "nbutils_hints", False):
        shell.nbutils_hints = True
        shell.events.register("post_run_cell", _look)


def _look(result: Any) -> None:
    error = result.error_in_exec
    if not isinstance(error, NameError) or isinstance(error, UnboundLocalError) or not error.name:
        return
    failed = result.info.raw_cell
    text = next((text for cells in _notebooks() if (text := hint(error.name, cells, failed))), None)
    if text:
        print(text)


def _notebooks() -> list[list[str]]:
    """Return the code cells of the notebook that this kernel runs: as saved."""
    running = Path(os.environ.get("JPY_SESSION_NAME", ""))
    paths = [running] if running.suffix == ".ipynb" else []
    if not running.is_file() and (stem := os.environ.get(layout.STEM_VARIABLE) or running.stem):
        paths = [path for path in layout.notebooks() if path.stem == stem]
    found = []
    for path in paths:
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no hint is better than a second error
        found.append([cell for cell in code if cell.strip()])
    return found
