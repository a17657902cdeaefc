"""The manifest of a folder of figures, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def manifest_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the manifest of a folder's figures by name; empty where there is none.

    An entry is `{"light": {"file", "sha256", "bytes"}, "dark": the same, "cell": execution count or None,
    "alt": text, "source": where the data came from or None}`, and where it has them "caption": text, "data": as the
    pictures, the numbers behind it as CSV, "live": what a page needs to let it move.

    Raises:
        ValueError: the file is not a manifest, or names a file outside its folder; the message names the first defect.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a manifest: expected an object, got {type(content).__name__}")
    for name, entry in content.items():
        if defect := _defect(entry):
            raise ValueError(f"{path} is not a manifest: figure {name!r}: {defect}")
    return content


def files_of(entry: Mapping[str, Any]) -> list[str]:
    """Return the keys of an entry that name files: both pictures, and data and live figure where it has them."""
    return ["light", "dark", *(key for key in ("data", "live") if key in entry)]


def _defect(entry: object) -> str | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("alt"), str):
        return f"expected an object with 'alt' as text, got {entry!r}"
    if not isinstance(entry.get("source"), str | None):
        return f"'source' must be text or null, got {entry['source']!r}"
    if not isinstance(entry.get("caption", ""), str):
        return f"'caption' must be text, got {entry['caption']!r}"
    for look in files_of(entry):
        picture = entry.get(look)
        if not isinstance(picture, dict) or not all(isinstance(picture.get(key), str) for key in ("file", "sha256")):
            return f"{look!r} must be an object with 'file' and 'sha256' as text, got {picture!r}"
        file = picture["file"]
        # Written by another system, a name could lead out of the folder in that system's way.
        if not file or file.startswith(".") or not file.isprintable() or set(file) & set("/\\:"):
            return f"{look!r} must name a file of its own folder, got {file!r}"
    return None
