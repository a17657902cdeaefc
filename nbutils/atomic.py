"""Write a file whole or not at all, and several files together."""

from __future__ import annotations

import glob
import os
import re
import threading
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

_MACHINE = f"{uuid.getnode():x}"


def write(path: Path, content: str | bytes) -> Path:
    """Replace a file in one step, so that no reader and no killed run ever sees half of it.

    Args:
        path: the file; missing folders above it are made.
        content: text (written as UTF-8, newlines as given) or bytes.

    Returns:
        The path written.

    Raises:
        OSError: it cannot be written, and is as it was; the error names it.
    """
    swap({path: content})
    return path


def swap(contents: Mapping[Path, str | bytes], gone: Iterable[Path] = ()) -> list[Path]:
    """Replace several files: all are written beside their places first, then moved there in the order given.

    A full disk shows while nothing has been moved. What fails later is taken back. A process that is killed between
    two moves leaves each file old or new, and none missing; so what lists the others comes last.

    Args:
        contents: by path, as for `write`.
        gone: files that are removed at the end.

    Returns:
        The paths written.

    Raises:
        OSError: a file cannot be written, and all are as they were; the error names it.
    """
    mark = f"{_MACHINE}-{os.getpid()}-{threading.get_ident()}"  # two threads do not share one
    beside = {path: path.with_name(f".{path.name}.{mark}.partial") for path in contents}
    before: dict[Path, Path | None] = {}
    for path in contents:
        _clear(path)
    try:
        for path, content in contents.items():
            _write(beside[path], path, content.encode() if isinstance(content, str) else content)
        for path, partial in beside.items():
            if len(contents) > 1:
                before[path] = _kept(path, mark)
            os.replace(partial, path)
    except BaseException:
        for path, old in before.items():
            if old is not None:
                os.replace(old, path)
            elif not beside[path].exists():  # it was new and had been moved
                path.unlink(missing_ok=True)
        raise
    finally:
        for path in [*beside.values(), *(old for old in before.values() if old)]:
            path.unlink(missing_ok=True)
    for path in gone:
        path.unlink(missing_ok=True)
    return list(contents)


def _clear(path: Path) -> None:
    """Remove what a killed process left beside a file."""
    for stray in path.parent.glob(f".{glob.escape(path.name)}.*"):
        # Of this machine alone: on a folder that several share, another's process may be at work.
        found = re.search(rf"\.{_MACHINE}-(\d+)-\d+\.(?:partial|old)$", stray.name)
        if found and int(found[1]) != os.getpid():
            import psutil

            if not psutil.pid_exists(int(found[1])):
                stray.unlink(missing_ok=True)


def _write(partial: Path, path: Path, content: bytes) -> None:
    # In the same folder, because a rename is atomic only within one file system.
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_bytes(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # a full disk is reported without a name


def _kept(path: Path, mark: str) -> Path | None:
    """Return a second name for a file's present content, None where there is no file."""
    old = path.with_name(f".{path.name}.{mark}.old")
    old.unlink(missing_ok=True)
    try:
        os.link(path, old)
    except FileNotFoundError:
        return None
    except OSError:  # a file system without links
        old.write_bytes(path.read_bytes())
    return old
