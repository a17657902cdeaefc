"""Batches of any kind, and how a model runs on one: a tensor, a tuple of arguments, or a mapping of keywords."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Batch = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


def run(model: nn.Module, batch: Batch) -> Any:
    """Return the output of a model on a batch: a tensor is its argument, a tuple its arguments, a mapping its keywords.

    Raises:
        TypeError: a batch of another kind, or one that the model's `forward` does not take.
    """
    args: tuple[Any, ...]
    keywords: dict[str, Any]
    if isinstance(batch, Tensor):
        args, keywords = (batch,), {}
    elif isinstance(batch, Mapping):
        args, keywords = (), dict(batch)
    elif isinstance(batch, tuple | list):
        args, keywords = tuple(batch), {}
    else:
        raise TypeError(f"a batch is a tensor, a tuple or a mapping of them; got a {type(batch).__name__}")
    try:
        return model(*args, **keywords)
    except Exception as error:
        refusal = _misfit(model, args, keywords) if isinstance(error, TypeError) else None
        if refusal is not None:
            raise TypeError(refusal) from error
        if len(args) > 1:  # a list of items is easily taken for a batch of one argument
            error.add_note(f"{type(model).__name__} was given the {len(args)} parts of a batch as its arguments")
        raise


def _misfit(model: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> str | None:
    """Return in what a model does not take a call; None where it does, or does not say."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*args, **keywords)
    except TypeError as error:
        names = list(signature.parameters)
        told = f"{type(model).__name__}'s forward takes ({', '.join(names)}), and not this batch: {error}"
        unknown = [name for name in keywords if name not in names]
        near = [match for name in unknown for match in difflib.get_close_matches(name, names, n=2)]
        if near:
            return f"{told}; nearest: {', '.join(near)}"
        if len(args) > 1:
            return f"{told}; it has {len(args)} parts, given by position: without labels write [x for x, _ in loader]"
        return told
    return None


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
        if isinstance(value, Tensor):
            return value[items] if value.ndim else value
        if _nested(value):
            return (
                {k: part(v) for k, v in value.items()} if isinstance(value, Mapping) else type(value)(map(part, value))
            )
        return value

    if isinstance(batch, Tensor):
        return batch[items]
    if isinstance(batch, Mapping):
        return {name: part(value) for name, value in batch.items()}
    return tuple(part(value) for value in batch)


def listed(batch: Batch, items: int) -> str | None:
    """Return which part of a batch is a list of numbers or words, one per item by its length; `select` keeps it whole.

    Lengths of sequences, say. None: there is none.
    """
    named = batch.items() if isinstance(batch, Mapping) else [] if isinstance(batch, Tensor) else enumerate(batch)
    for name, value in named:
        whole = isinstance(value, list | np.ndarray) and not _nested(value)
        if whole and len(value) == items:
            return repr(name) if isinstance(name, str) else f"argument {name}"
    return None


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
        if isinstance(batch, list | tuple) and len(batch) == 1 and isinstance(batch[0], Tensor):
            yield batch[0]  # a loader over a TensorDataset of one tensor yields lists of it
        else:
            yield batch


def _tensors(batch: Batch) -> dict[str, Tensor]:
    if isinstance(batch, Tensor):
        return {"the tensor": batch} if batch.ndim else {}
    if isinstance(batch, Mapping):
        named = {repr(name): value for name, value in batch.items()}
    elif isinstance(batch, tuple | list):
        named = {f"argument {i}": value for i, value in enumerate(batch)}
    else:
        raise TypeError(f"a batch is a tensor, a tuple or a mapping of them; got a {type(batch).__name__}")
    found: dict[str, Tensor] = {}
    for name, value in named.items():
        if isinstance(value, Tensor) and value.ndim:
            found[name] = value
        elif _nested(value):
            found |= {f"{name}[{inner.removeprefix('argument ')}]": held for inner, held in _tensors(value).items()}
    return found


def _nested(value: object) -> bool:
    """Return whether a part of a batch is a collection of tensors: their axis 0 is the items, too."""
    if type(value) in (list, tuple):
        return any(isinstance(held, Tensor) or _nested(held) for held in value)  # type: ignore[attr-defined]
    return isinstance(value, Mapping) and any(isinstance(held, Tensor) or _nested(held) for held in value.values())


def _told(value: object) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
