"""Batches of any kind, and how a model runs on one: a tensor, a tuple of arguments, or a mapping of keywords."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Batch = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


def run(model: nn.Module, batch: Batch) -> Any:
    """Return the output of a model on a batch: a tensor is its argument, a tuple its arguments, a mapping its keywords.

    Raises:
        TypeError: a batch of another kind, or one that the model's `forward` does not take.
    """
    if isinstance(batch, Tensor):
        return model(batch)
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, tuple | list):
        return model(*batch)
    raise TypeError(f"a batch is a tensor, a tuple or a mapping of them; got a {type(batch).__name__}")


def count(batch: Batch, *, least: int = 1) -> int:
    """Return the number of items of a batch: the length of axis 0, which all its tensors share.

    Raises:
        TypeError: a batch of another kind.
        ValueError: no tensor, tensors of several lengths (named), or no item.
    """
    lengths = {name: len(value) for name, value in _tensors(batch).items()}
    if len(set(lengths.values())) != 1:
        told = ", ".join(f"{name}: {length}" for name, length in lengths.items()) or "no tensor with an axis"
        raise ValueError(f"the tensors of a batch share axis 0, the items; got {told}")
    (items,) = set(lengths.values())
    if items < least:
        raise ValueError(f"a batch needs {least} item or more; got {items}")
    return items


def shapes(batch: Batch) -> dict[str, tuple[int, ...]] | tuple[int, ...]:
    """Return the shapes of a batch's tensors, by argument; of a tensor its own."""
    return tuple(batch.shape) if isinstance(batch, Tensor) else {k: tuple(v.shape) for k, v in _tensors(batch).items()}


def select(batch: Batch, items: slice | Tensor) -> Batch:
    """Return some items of a batch, a batch of the same kind; what is not a tensor with an axis stays."""

    def part(value: Any) -> Any:
        return value[items] if isinstance(value, Tensor) and value.ndim else value

    if isinstance(batch, Tensor):
        return batch[items]
    if isinstance(batch, Mapping):
        return {name: part(value) for name, value in batch.items()}
    return tuple(part(value) for value in batch)


def repeat(batch: Batch, times: int) -> Batch:
    """Return a batch repeated several times, its items in a row."""
    return select(batch, torch.arange(count(batch)).repeat(times))


def each(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches; a `DataLoader` is an iterable of them.

    Raises:
        TypeError: one batch in place of several.
    """
    if isinstance(batches, Tensor | Mapping) or not isinstance(batches, Iterable):
        raise TypeError(
            f"batches are a list of them, or a DataLoader; got {_told(batches)}: for one batch write [batch]"
        )
    for batch in batches:
        # A loader over a TensorDataset of one tensor yields lists of it.
        yield batch[0] if isinstance(batch, list | tuple) and len(batch) == 1 else batch


def _tensors(batch: Batch) -> dict[str, Tensor]:
    if isinstance(batch, Tensor):
        return {"the tensor": batch} if batch.ndim else {}
    if isinstance(batch, Mapping):
        named = {repr(name): value for name, value in batch.items()}
    elif isinstance(batch, tuple | list):
        named = {f"argument {i}": value for i, value in enumerate(batch)}
    else:
        raise TypeError(f"a batch is a tensor, a tuple or a mapping of them; got a {type(batch).__name__}")
    return {name: value for name, value in named.items() if isinstance(value, Tensor) and value.ndim}


def _told(value: object) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
