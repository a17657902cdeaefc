"""Run the `bench_*.py` beside this file and print one table of ratios: `python tests/benchmarks [NAME ...]`.

A benchmark module has `measure() -> list[dict]`; a row compares two things measured in the same run:
`{"name", "ours", "reference", "ratio", "unit", "note"}`.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
from pathlib import Path

COLUMNS = ("name", "ours", "reference", "ratio", "unit", "note")


def main(names: list[str]) -> int:
    """Measure the named benchmarks, or all; return 1 if one of them raised, after running the others."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    chosen = [f"bench_{name.removeprefix('bench_')}" for name in names] or found
    unknown = sorted(set(chosen) - set(found))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(found)}", file=sys.stderr)
        return 2
    rows, failed = [], []
    for name in chosen:
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            rows += importlib.import_module(name).measure()
        except Exception as error:  # one broken benchmark must not cost the others their minutes
            failed.append(f"{name}: {type(error).__name__}: {error}")
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(markdown(rows))
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def markdown(rows: list[dict[str, object]]) -> str:
    """Return the rows as a Markdown table, numbers with three significant digits."""
    cells = [COLUMNS, *(tuple(_cell(row[column]) for column in COLUMNS) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
