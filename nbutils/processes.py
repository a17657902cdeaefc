"""The execution of tasks: here, on the cores of this machine, or by an executor."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

from nbutils import progress

Key = TypeVar("Key", bound=Hashable)
Where = Executor | Literal["loky"] | None

GRACE = 5  # seconds that a worker has to finish a task when the process that started it is gone
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

    return get_reusable_executor(
        max_workers=workers or os.cpu_count() or 1,
        timeout=IDLE,
        env=ENVIRONMENT,
        initializer=_end_with,
        initargs=(os.getpid(),),
    )


_at_work = threading.Lock()  # held by a worker while it computes


def _end_with(parent: int) -> None:
    """Have a worker end soon after the process that started it: killed, that one cannot tell it to.

    What the worker is computing then may come to its end, and to its file, if that takes no more than `GRACE`. On
    Windows a process does not notice, and ends after `IDLE`.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        _at_work.acquire(timeout=GRACE)  # not given back: nothing else begins
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(note: Path | None, function: Callable[..., Any], *arguments: Any) -> Any:
    with _at_work, progress.told(note):
        return function(*arguments)


def warm_up(workers: int | None = None, module: str = "nbutils.training.fit") -> None:
    """Start the workers of `pool` and let them import, which takes seconds, while the caller goes on.

    Call it after `nbutils.seeding.pin`, whose settings a process takes over when it starts. One worker needs no
    process of its own: then nothing happens.

    Args:
        workers: processes, as many as the following work will ask for.
        module: the import of that work.
    """
    workers = workers or os.cpu_count() or 1
    for _ in range(workers if workers > 1 else 0):
        pool(workers).submit(_import, module)


def _import(module: str) -> None:
    import_module(module)  # not returned: a module that arrives is imported where it arrives


def check(executor: object) -> None:
    """Raise a ValueError unless `executor` is one of `compute`'s."""
    if not (executor is None or executor == "loky" or hasattr(executor, "submit")):
        raise ValueError(f"executor must be None, 'loky' or a PEP 3148 executor; got {executor!r}")


def compute(
    function: Callable[..., Any],
    tasks: Mapping[Key, tuple[Any, ...]],
    keep: Callable[[Key, Any], None],
    executor: Where = None,
    workers: int | None = None,
    notes: progress.Notes | None = None,
) -> None:
    """Call a function once per task, and hand every outcome to `keep` as it comes, also after an interrupt.

    When a worker of `"loky"` dies, the tasks under way are tried again one by one; the one that kills it fails.

    Args:
        function: called with the arguments of a task.
        tasks: key -> arguments.
        keep: called here with a key and the function's result or exception.
        executor: any PEP 3148 executor; `"loky"`: processes on this machine; None: here.
        workers: processes of `"loky"`; the number of cores by default.
        notes: where processes of `"loky"` say how far the bars of a task are.
    """
    if executor is None:
        for key, arguments in tasks.items():
            keep(key, _called(function, arguments))
        return
    workers = workers or os.cpu_count() or 1
    # No more than loky has workers: what was not under way cannot have killed one.
    most = workers if executor == "loky" else len(tasks)
    running: dict[Future, Key] = {}
    done: SimpleQueue[Future] = SimpleQueue()
    left = deque(tasks)

    def start(key: Key) -> None:
        if executor == "loky":
            future = _submitted(pool(workers), _work, (notes and notes.of(key), function, *tasks[key]))
        else:
            future = _submitted(executor, function, tasks[key])
        running[future] = key
        future.add_done_callback(done.put)

    def settle(lost: dict[Key, Exception]) -> None:
        future = done.get()
        key, outcome = running.pop(future), _called(future.result, ())
        if executor == "loky" and isinstance(outcome, BrokenExecutor):
            lost[key] = outcome
        else:
            keep(key, outcome)

    try:
        while left or running:
            while left and len(running) < most:
                start(left.popleft())
            lost: dict[Key, Exception] = {}
            settle(lost)
            for _ in range(len(running) if lost else 0):
                settle(lost)
            for key in [*lost] if len(lost) > 1 else []:
                start(key)
                del lost[key]
                settle(lost)
            for key, error in lost.items():
                keep(key, error)
    finally:
        for future, key in running.items():
            if not future.cancel() and future.done() and future.exception() is None:
                keep(key, future.result())


def _submitted(executor: Executor, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Future:
    try:
        return executor.submit(function, *arguments)
    except BrokenExecutor as error:  # a worker died while tasks were still being handed out
        future: Future = Future()
        future.set_exception(error)
        return future


def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        return error
