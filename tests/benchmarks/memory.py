"""The peak memory of a piece of work, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def peak_gigabytes(work: str) -> float:
    """Return the peak resident memory of a fresh one-threaded process that runs `work`, in GB (Linux).

    Args:
        work: Python statements; the modules of this folder can be imported.
    """
    program = (
        "import sys, torch; torch.set_num_threads(1); sys.path.insert(0, sys.argv[1])\n"
        f"{work}\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(result.stdout.split()[-1]) / 1e6  # kilobytes; `getrusage` would start from the parent's peak
