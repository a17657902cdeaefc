"""Checkpoints that are whole or absent, and that know which run they belong to.

A checkpoint is one safetensors file: tensors, and a JSON description of the run in its header. It is written beside
its place and renamed into it, so a process killed while writing leaves the previous checkpoint. A digest in the header
tells of every changed bit. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nbutils import atomic
from nbutils.data import arrays, kinds

FORMAT = "nbutils checkpoint 3"


class CheckpointError(ValueError):
    """A checkpoint cannot be used: the message names the file and says why."""


def write(path: Path, tensors: Mapping[str, Tensor], run: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: its place; missing folders are made.
        tensors: by name; made contiguous.
        run: what identifies the run (JSON), part by part; `read` compares it in this order.
        progress: where the run stands (JSON).
    """
    header = {"format": FORMAT, "run": json.dumps(run), "progress": json.dumps(progress)}
    header["content"] = _digest(header, tensors)
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata=header)
    atomic.write(path, content)


def read(path: Path, run: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint of this run.

    Args:
        path: the file.
        run: what the file's description must equal.

    Returns:
        Tensors by name, and the progress.

    Raises:
        CheckpointError: damaged, not a checkpoint, or of another run (the first difference is named).
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        what = (kinds.describe(path) if path.is_file() else None) or error
        raise CheckpointError(f"{path} is not a whole safetensors file ({what}); delete it to start again") from None
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint: expected format {FORMAT!r}, got {header.get('format')!r}")
    try:
        found, progress = json.loads(header["run"]), json.loads(header["progress"])
        whole = header["content"] == _digest(header, tensors) and isinstance(found, dict) and isinstance(progress, dict)
    except (KeyError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise CheckpointError(f"{path} is damaged: its content is not what was written; delete it to start again")
    expected = json.loads(json.dumps(run))  # tuples become lists, as in the file
    for key in [*expected, *sorted(found.keys() - expected.keys())]:
        if expected.get(key) != found.get(key):
            raise CheckpointError(
                f"{path} belongs to another run: {key} should be {_brief(expected.get(key))}, "
                f"the file has {_brief(found.get(key))}; give another path, or delete it to start again"
            )
    return tensors, progress


def _digest(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    text = "\n".join([header["run"], header["progress"], arrays.digest(tensors)])
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:50]}…{text[-20:]}"
