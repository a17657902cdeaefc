"""The worker processes of this machine that training and sweeps share."""

from __future__ import annotations

import os
from concurrent.futures import Executor

IDLE = 300  # seconds until a worker without work ends; a new one takes seconds to import torch


def pool(workers: int | None = None) -> Executor:
    """Return loky's reusable executor, with the processes it has if they are as many as asked for.

    Args:
        workers: processes; the number of cores by default.
    """
    from loky import get_reusable_executor

    return get_reusable_executor(max_workers=workers or os.cpu_count() or 1, timeout=IDLE)
