"""Tensors among what a module puts out or takes in: tuples, lists, dicts, `ModelOutput`s and dataclasses of them.

One level deep: what lies in a tuple of a tuple has no key here.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

Key = int | str | None


def element(value: object, item: Key, place: str) -> tuple[Tensor, Key]:
    """Return the tensor of a value, and its key there; None where it is all of it.

    Args:
        value: a tensor, or a collection of them.
        item: which of a collection: an index, a key or a field. None: the only tensor, or the first of a sequence.
        place: the value in words, for messages.

    Raises:
        TypeError: there is no tensor, there are several and it is not said which, or it is one of a kind that has no
            axes of items and units: nested, sparse or quantized.
    """
    if isinstance(value, Tensor):
        if item is not None:
            raise TypeError(f"{place}: it is one tensor {tuple(value.shape)}, not a collection; give no item")
        return dense(value, place), None
    tensors = {key: held for key, held in _held(value, place).items() if isinstance(held, Tensor)}
    if item is None and tensors and (len(tensors) == 1 or isinstance(value, Sequence)):
        item = next(iter(tensors))
    elif isinstance(item, int) and isinstance(value, Sequence) and -len(value) <= item < 0:
        item += len(value)
    if item not in tensors:
        raise TypeError(
            f"{place} must be a tensor; it is a {type(value).__name__} with tensors at "
            f"{', '.join(map(repr, tensors)) or 'no place'}: give item=, one of them"
        )
    return dense(tensors[item], place), item


def with_element(value: Any, key: Key, tensor: Tensor) -> Any:
    """Return a value with another tensor at a key that `element` gave; the original stays as it is."""
    if key is None:
        return tensor
    if isinstance(value, Mapping):
        changed = copy.copy(value)
        changed[key] = tensor  # type: ignore[index]  # dicts and ModelOutputs can be written to
        return changed
    if isinstance(value, Sequence):
        elements = [held if i != key else tensor for i, held in enumerate(value)]
        return type(value)(*elements) if hasattr(value, "_fields") else type(value)(elements)  # type: ignore[call-arg]
    changed = copy.copy(value)
    object.__setattr__(changed, str(key), tensor)  # a frozen dataclass, too
    return changed


def argument(module: nn.Module, args: tuple[Any, ...], keywords: Mapping[str, Any], item: Key, place: str) -> int | str:
    """Return where among a call's arguments a tensor is: a position, or a keyword.

    Args:
        item: which argument, by its place in `forward` or its name, however it is passed. None: the first tensor
            among the positions, or the only one among the keywords.
        place: as for `element`.

    Raises:
        TypeError: there is no tensor, or several keywords hold one and it is not said which.
    """
    names = list(inspect.signature(module.forward).parameters) if item is not None else []
    key = item
    if isinstance(key, str) and key not in keywords and key in names:
        key = names.index(key)
    elif isinstance(key, int) and key >= len(args) and key < len(names) and names[key] in keywords:
        key = names[key]
    if key is None:
        named = [name for name, value in keywords.items() if isinstance(value, Tensor)]
        first = [i for i, value in enumerate(args) if isinstance(value, Tensor)][:1]
        tensors: list[int | str] = [*first] or [*named]
        if len(tensors) > 1:
            raise TypeError(f"which is {place}? Give item=, one of {', '.join(map(repr, named))}")
        if not tensors:
            raise TypeError(f"{place} must be a tensor; its call was given {_told(args, keywords)}")
        key = tensors[0]
    given: Mapping[Any, Any] = {**dict(enumerate(args)), **keywords}
    found = given.get(key)
    if not isinstance(found, Tensor):
        raise TypeError(
            f"{place} must be a tensor, not a {type(found).__name__}; its call was given {_told(args, keywords)}"
        )
    dense(found, place)
    return key


def dense(tensor: Tensor, place: str) -> Tensor:
    """Return a tensor that has items and units on axes.

    Raises:
        TypeError: a nested, sparse or quantized one, or one inside `torch.vmap`.
    """
    if torch._C._functorch.is_batchedtensor(tensor):
        raise TypeError(f"{place} is one item at a time, inside torch.vmap; name a module outside of it")
    if tensor.is_nested:
        raise TypeError(
            f"{place} is a nested tensor, whose items have shapes of their own; give the model a padded one"
        )
    if tensor.layout != torch.strided:
        raise TypeError(f"{place} is a sparse tensor ({tensor.layout}); give the model a dense one")
    if tensor.is_quantized:
        raise TypeError(f"{place} is a quantized tensor ({tensor.dtype}); use the model before it was quantized")
    return tensor


def _told(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> str:
    given = [f"{i}: {type(value).__name__}" for i, value in enumerate(args)]
    return (
        ", ".join(given + [f"{name!r}: {type(value).__name__}" for name, value in keywords.items()]) or "no arguments"
    )


def _held(value: object, place: str) -> dict[Any, Any]:
    if isinstance(value, PackedSequence):
        raise TypeError(
            f"{place} is a PackedSequence, which mixes items and positions on axis 0; name a module behind "
            "pad_packed_sequence, or run the model on padded items"
        )
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(
        f"{place} must be a tensor, or a tuple, list, dict or dataclass of them; got {type(value).__name__}"
    )
