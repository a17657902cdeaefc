"""How long `import nbutils` takes, beside `import torch`: fresh interpreters, taken in turn."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

ROUNDS = 7
STATEMENTS = {"bare": "pass", "ours": "import nbutils", "torch": "import torch"}


def measure() -> list[dict[str, object]]:
    """Compare the two imports, each less the start of a bare interpreter, by their medians."""
    seconds: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(ROUNDS):  # in turn, so that a slow minute of the machine slows all three
        for name, statement in STATEMENTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            seconds[name].append(time.perf_counter() - start)
    bare, ours, torch = (1e3 * median(seconds[name]) for name in STATEMENTS)
    light = max(ours - bare, 1.0)  # timing noise exceeds so light an import; less than 1 ms is not claimed
    return [
        {
            "name": "import nbutils / import torch",
            "ours": light,
            "reference": torch - bare,
            "ratio": (torch - bare) / light,
            "unit": "ms",
            "note": f"aim: under 100 ms; bare interpreter {bare:.0f} ms; median of {ROUNDS}",
        }
    ]
