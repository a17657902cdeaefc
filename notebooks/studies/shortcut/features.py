"""Pooled features of images: computed once, then read from disk for as long as weights and images stay the same."""

from __future__ import annotations

import copy
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol, get_args

import torch
from torch import Tensor

from nbutils import atomic, progress
from nbutils.data import arrays
from nbutils.identity import Identifier
from studies.shortcut.networks import CHANNELS, Precision, TileNetwork

_FORMAT = "nbutils features 1"


class Images(Protocol):
    """Images `[N, 3, H, W]` as a tensor, or as something that decodes them slice by slice."""

    def __len__(self) -> int: ...

    def __getitem__(self, items: slice, /) -> Tensor: ...


def extract(
    model: TileNetwork,
    images: Images,
    *,
    precision: Precision = "float32",
    channels_last: bool = True,
    batch_size: int = 128,
    label: str = "features",
) -> Tensor:
    """Return the pooled channels of images, float32 `[N, 512]`, with the network in eval mode.

    Args:
        model: not changed; a copy of it runs.
        images: as `TileNetwork.pooled` takes them.
        precision: of the convolutions; the pool is summed in float32.
        channels_last: how weights and images are laid out; it decides the time and the last bits.
        batch_size: images at a time.
        label: of the progress bar.

    Raises:
        ValueError: no such precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}; got {precision!r}")
    model = copy.deepcopy(model).eval()
    model.channels_last = channels_last
    model = model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    device = next(model.parameters()).device
    features = torch.empty(len(images), CHANNELS)
    half = torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
    with torch.inference_mode(), half, progress.bar(len(images), label) as bar:
        for start in range(0, len(images), batch_size):
            items = slice(start, start + batch_size)
            features[items] = model.pooled(images[items].to(device)).cpu()
            bar.update(min(batch_size, len(images) - start))
    return features


def cached(
    model: TileNetwork,
    images: Images,
    folder: str | Path,
    *,
    data: str | None = None,
    precision: Precision = "float32",
    batch_size: int = 128,
    label: str = "features",
) -> Tensor:
    """Return `extract(...)`, from a file in `folder` if it was computed before.

    The file's name is a hash of the weights, the images and the precision, so features of other weights are never
    read. A damaged file is computed again, and a line on stderr says so.

    Args:
        folder: where the files are; made if missing.
        data: what identifies the images, e.g. a digest of their files. Needed where `images` is no tensor; a tensor
            is hashed.
        others: as for `extract`.

    Raises:
        ValueError: images that are no tensor, without `data`.
    """
    if data is None and not isinstance(images, Tensor):
        raise ValueError("images that are no tensor need data=, a digest of their content")
    parts = [_FORMAT, type(model), dict(model.state_dict()), images if data is None else data, precision]
    path = Path(folder) / f"{Identifier().of(parts, 'features')}.safetensors"
    if path.exists():
        try:
            return _read(path, len(images))
        except ValueError as error:
            print(f"features: {path} is damaged ({error}); computing them again", file=sys.stderr)
    features = extract(model, images, precision=precision, batch_size=batch_size, label=label)
    _write(path, features)
    return features


def _write(path: Path, features: Tensor) -> None:
    from safetensors.torch import save

    tensors = {"features": features}
    atomic.write(path, save(tensors, metadata={"format": _FORMAT, "content": arrays.digest(tensors)}))


def _read(path: Path, items: int) -> Tensor:
    """Return the features in a file.

    Raises:
        ValueError: the file is truncated, or holds something else than was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            features = file.get_tensor("features")
    except (SafetensorError, OSError) as error:
        raise ValueError(str(error)) from None
    if features.shape != (items, CHANNELS) or header.get("content") != arrays.digest({"features": features}):
        raise ValueError("its content is not what was written")
    return features
