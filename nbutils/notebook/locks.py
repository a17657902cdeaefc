"""One run at a time writes to a folder."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".run.lock"
_held = threading.local()  # folders that this thread has locked: it may enter again


@contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Hold a folder; made if missing.

    The system frees the lock of a process that died, however it did.

    Args:
        folder: to be written to.
        command: what holds it, for the message to others.

    Raises:
        ValueError: another run holds it; the message names that one.
    """
    folder = folder.resolve()
    held: set[Path] = _held.__dict__.setdefault("folders", set())
    if fcntl is None or folder in held:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    handle = _taken(path, folder)
    try:
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps({"process": os.getpid(), "command": command}).encode(), 0)
    except OSError:  # a full disk: the lock holds all the same, without a name
        pass
    held.add(folder)
    try:
        yield
    finally:
        held.discard(folder)
        path.unlink(missing_ok=True)  # before it is freed, so that nobody else's goes
        os.close(handle)


def _taken(path: Path, folder: Path) -> int:
    """Return the open lock file."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BlockingIOError:
            holder = _holder(path)
            os.close(handle)
            raise ValueError(f"{folder} is being written by {holder}; wait for it, or give another --out") from None
        except OSError:
            os.close(handle)
            raise
        os.close(handle)  # its holder has just removed it


def _holder(path: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return f"another run (process {content['process']}: {content['command']})"
    return "another run"
