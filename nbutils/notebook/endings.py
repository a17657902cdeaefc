"""Ends from outside: signals end what was started, and what was made so far is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

GRACE = 5  # seconds that processes get to end by themselves
CLOSED_PIPE = 128 + 13  # exit code of a process that SIGPIPE ended


class Ended(KeyboardInterrupt):
    """A signal asked the process to end; it passes like Ctrl-C.

    Attributes:
        code: the exit code by the shells' convention, 128 plus the signal's number.
        name: of the signal.
    """

    def __init__(self, number: int) -> None:
        self.name, self.code = signal.Signals(number).name, 128 + number
        super().__init__(self.name)


@contextmanager
def by_signal() -> Iterator[None]:
    """Raise `Ended` where SIGTERM or SIGHUP arrives; one that is ignored stays so, as under `nohup`.

    A second one is ignored, so that the first can keep what there is.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    mine = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def end(number: int, frame: object) -> None:
        for other in mine:
            signal.signal(other, signal.SIG_IGN)
        raise Ended(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for number in mine:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def supervised(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> int:
    """Run a command and return its exit code; an interrupt ends it with all its descendants."""
    process = subprocess.Popen(command, cwd=folder, env=dict(environment))
    try:
        return process.wait()
    except KeyboardInterrupt as interrupt:
        family = descendants(process.pid)
        with suppress(ProcessLookupError):
            if isinstance(interrupt, Ended):  # Ctrl-C in a terminal reaches it without our help
                process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        kill([*family, *descendants(process.pid)])
        process.kill()
        process.wait()
        raise


def descendants(pid: int) -> list[psutil.Process]:
    """Return the processes that a process has started, and those that they have."""
    with suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes that are still there; a number that another process has by now is left alone."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def forget_output() -> None:
    """Send what is still to be printed nowhere, where the reader of a pipe has gone."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(null, stream.fileno())
    os.close(null)
