"""Large arrays on disk, named by their content, so that tasks carry a name and not the array.

Write features or tiles once with `put`, give each task the key it returns, and read them in the worker with `get`:
once per process, and checked against the key. The folder must be one that every worker sees.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from nbutils import atomic

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_KEY = re.compile(r"[0-9a-f]{32}")


class ArrayError(ValueError):
    """A file of arrays cannot be used: the message names it and says why."""


def put(folder: str | Path, arrays: Mapping[str, Tensor | np.ndarray]) -> str:
    """Write arrays to a folder, unless they are there.

    Args:
        folder: made if missing.
        arrays: by name, of any shapes, strides and byte orders.

    Returns:
        Their key: 32 hexadecimal digits of the SHA-256 of names, types, shapes and content.
    """
    from safetensors.torch import save

    tensors = {name: _tensor(arrays[name]) for name in sorted(arrays)}
    key = digest(tensors)
    path = _path(folder, key)
    try:
        _read(path, key)
    except (FileNotFoundError, ArrayError):
        atomic.write(path, save(tensors))
    return key


def get(folder: str | Path, key: str) -> dict[str, Tensor]:
    """Return the arrays of a key, read once per process: do not change them in place.

    Raises:
        FileNotFoundError: the folder has no such arrays.
        ArrayError: the file is damaged.
        ValueError: `key` is none.
    """
    return dict(_kept(_path(folder, key).resolve(), key))


def _tensor(array: Tensor | np.ndarray) -> Tensor:
    """Return a copy, because the format refuses tensors that share memory; torch has the machine's byte order only."""
    import numpy as np
    import torch

    if isinstance(array, torch.Tensor):
        return array.detach().cpu().contiguous().clone()
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _path(folder: str | Path, key: str) -> Path:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError(f"a key of arrays has 32 hexadecimal digits; got {key!r}")
    return Path(folder) / f"{key}.safetensors"


@lru_cache(maxsize=8)
def _kept(path: Path, key: str) -> dict[str, Tensor]:
    return _read(path, key)


def _read(path: Path, key: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there are no arrays {key} in {path.parent}") from None
    except (SafetensorError, OSError) as error:
        raise ArrayError(f"{path} is not a whole safetensors file ({error}); delete it and write it again") from None
    if digest(tensors) != key:
        raise ArrayError(f"{path} does not hold what its name says; delete it and write it again")
    return tensors


def digest(arrays: Mapping[str, Tensor | np.ndarray]) -> str:
    """Return 32 hexadecimal digits of the SHA-256 of names, types, shapes and content, whatever the order.

    The project's one digest of arrays. Those of NumPy may be of any type but object.
    """
    import torch

    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name!r} {array.dtype} {tuple(array.shape)}\n".encode())
        if isinstance(array, torch.Tensor):
            found.update(array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            found.update(array.tobytes())
    return found.hexdigest()[:32]
