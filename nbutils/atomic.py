"""Write a file whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def write(path: Path, content: str | bytes) -> Path:
    """Replace a file in one step, so that no reader and no killed run ever sees half of it.

    Args:
        path: the file; missing folders above it are made.
        content: text (written as UTF-8, newlines as given) or bytes.

    Returns:
        The path written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system.
    # Of this thread's own, because two may write one file at a time: the last one's is there then.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
