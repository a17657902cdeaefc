"""The worker processes of this machine that training and sweeps share."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from importlib import import_module

IDLE = 300  # seconds until a worker without work ends; a new one takes seconds to import torch
# One thread each, as the processes use the cores. And loky replaces a worker that has grown by 300 MB since its first
# task, as if it leaked: a data set and a network are more, and the next one has to import torch again. Loky listens
# from version 3.7; before, results are the same and come later.
ENVIRONMENT = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
ENVIRONMENT["LOKY_MAX_MEMORY_LEAK_SIZE"] = "2e9"  # bytes


def pool(workers: int | None = None) -> Executor:
    """Return loky's reusable executor, with the processes it has if they are as many as asked for.

    Each computes with one thread.

    Args:
        workers: processes; the number of cores by default.
    """
    from loky import get_reusable_executor

    return get_reusable_executor(max_workers=workers or os.cpu_count() or 1, timeout=IDLE, env=ENVIRONMENT)


def warm_up(workers: int | None = None, module: str = "nbutils.training.fit") -> None:
    """Start the workers of `pool` and let them import, which takes seconds, while the caller goes on.

    Call it after `nbutils.seeding.pin`, whose settings a process takes over when it starts. One worker needs no
    process of its own: then nothing happens.

    Args:
        workers: processes, as the work that follows will ask for them.
        module: what the work needs.
    """
    workers = workers or os.cpu_count() or 1
    for _ in range(workers if workers > 1 else 0):
        pool(workers).submit(_import, module)


def _import(module: str) -> None:
    import_module(module)  # not returned: a module that arrives is imported where it arrives
