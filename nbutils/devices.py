"""Devices: what torch sees on this machine, the one that is asked for, and moving things there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")
MEMORY, MOST_MEMORY = 500_000_000, 8_000_000_000  # bytes


def available() -> tuple[str, ...]:
    """Return the names of the devices that torch sees, `"cpu"` first."""
    import torch

    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ("cpu", *cuda, *(["mps:0"] if torch.backends.mps.is_available() else []))


def choose(asked: str | torch.device) -> torch.device:
    """Return the device that is asked for, with its number: `"cuda"` is the first one.

    Nothing is chosen in its place.

    Raises:
        ValueError: no name of a device, or of one that torch does not see.

    >>> choose("cpu")
    device(type='cpu')
    """
    import torch

    try:
        device = torch.device(asked)
    except (RuntimeError, TypeError):
        there = ", ".join(available())
        raise ValueError(f"DEVICE is 'cpu', 'cuda', 'cuda:1', …, or 'mps'; got {asked!r}; there is {there}") from None
    named = device if device.type == "cpu" else torch.device(device.type, device.index or 0)
    if str(named) not in available():
        raise ValueError(f"DEVICE={str(asked)!r}: torch sees no such device; there is {', '.join(available())}")
    return named


def told(device: torch.device) -> str:
    """Return a device's name, and the product's where it has one: `"cuda:0 (NVIDIA …)"`."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def of(model: torch.nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer; the processor where it has none.

    >>> import torch
    >>> of(torch.nn.Linear(2, 3))
    device(type='cpu')
    """
    import torch

    first = next((tensor for tensors in (model.parameters(), model.buffers()) for tensor in tensors), None)
    return torch.device("cpu") if first is None else first.device


def room(device: torch.device) -> int:
    """Return how many bytes to work on at a time: 500 MB; on CUDA a quarter of what is free, if more, up to 8 GB.

    There a large product takes hardly longer than a small one.
    """
    import torch

    if device.type != "cuda":
        return MEMORY
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # what torch holds for later
    return max(MEMORY, min(MOST_MEMORY, free // 4))


def moved(value: Value, device: torch.device) -> Value:
    """Return a value with all its tensors and networks on a device.

    Tensors that are there already are returned as they are; networks are moved in place, as by `nn.Module.to`.

    Args:
        value: a tensor, a network, or a mapping, list, tuple or dataclass of such; anything else stays.
        device: where to.

    >>> import torch
    >>> moved({"x": torch.ones(2), "name": "ones"}, torch.device("cpu"))["x"].device
    device(type='cpu')
    """
    return _moved(value, device)


def _moved(value: Any, device: torch.device) -> Any:
    import torch

    if isinstance(value, torch.Tensor | torch.nn.Module):
        return value.to(device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        parts = {name: _moved(part, device) for name, part in kept.items()}
        same = all(parts[name] is part for name, part in kept.items())
        return value if same else dataclasses.replace(value, **parts)
    if isinstance(value, Mapping):
        return {name: _moved(part, device) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_moved(part, device) for part in value)
    return value
