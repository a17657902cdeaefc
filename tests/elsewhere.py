"""A second device for machines that have none: the processor keeps its tensors, and they refuse to meet the others.

Stands in for CUDA where there is none, so that a tensor made on the wrong device fails on every machine. What a GPU
does besides (rounding, streams, memory) it cannot show.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from nbutils import devices

DEVICE = torch.device("lazy", 0)  # a name that every build of torch knows, and that nothing else here uses
COPIES = {"aten::copy_", "aten::_to_copy"}
JOINS = {"aten::cat", "aten::stack"}
INDEXES = {"aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class Elsewhere(torch.Tensor):
    """A tensor that says it is on `DEVICE`; `here` holds its numbers."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Elsewhere:
        options = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, here.size(), **options, device=DEVICE)
        tensor.here = here
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        # These make small tensors on the device without asking the dispatcher.
        if func is torch.Tensor.new_tensor:
            return Elsewhere(_tensor(args[1], dtype=args[0].dtype))
        if func is torch.Tensor.__getitem__:
            args = args[0], _lists(args[1])
        if func is torch.Tensor.__setitem__:
            value = args[2]
            value = value if isinstance(value, torch.Tensor) else Elsewhere(_tensor(value, dtype=args[0].dtype))
            args = args[0], _lists(args[1]), value
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def __array__(self, *_, **__):
        return self.numpy()

    def numpy(self, *, force=False):
        if force:
            return self.here.detach().numpy()
        raise TypeError(f"a tensor on {DEVICE} is no array: use Tensor.cpu() first")

    def tolist(self):
        return self.here.detach().tolist()


Elsewhere.__name__ = "Tensor"  # a device's tensors are of the processor's class, and identities tell classes apart
_tensor, _as_tensor = torch.tensor, torch.as_tensor


class _Everywhere(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


@contextmanager
def device() -> Iterator[torch.device]:
    """Give `DEVICE`, which exists inside the block."""
    optimizer = sys.modules["torch.optim.optimizer"]
    supported = [*optimizer._get_fused_kernels_supported_devices(), DEVICE.type]
    fused = mock.patch.object(optimizer, "_get_fused_kernels_supported_devices", return_value=supported)
    made = mock.patch.multiple(torch, tensor=_made(_tensor), as_tensor=_made(_as_tensor))
    there = mock.patch.object(devices, "available", return_value=("cpu", str(DEVICE)))
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with fused, made, there, _Everywhere():
            yield DEVICE
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def _made(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def made(data, *, device=None, **options):
        if device is None or torch.device(device).type != DEVICE.type:
            return make(data, device=device, **options)
        return data.to(device, **options) if isinstance(data, torch.Tensor) else Elsewhere(make(data, **options))

    return made


def _lists(index: object) -> object:
    if isinstance(index, tuple):
        return tuple(map(_lists, index))
    return _tensor(index) if isinstance(index, list) else index


def _run(func, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    name = func._schema.name
    alike = name in JOINS  # elsewhere a tensor of the processor without axes is a number
    strangers = any((t.dim() or alike) and not isinstance(t, Elsewhere) for t in tensors)
    if there and strangers and name not in COPIES | INDEXES:  # those two take tensors of the processor, on CUDA too
        raise RuntimeError(f"{name}: expected all tensors on one device; some are on {DEVICE}, some on cpu")
    goes = bool(there)
    if name in INDEXES or name == "aten::copy_":
        goes = isinstance(args[0], Elsewhere)
    if kwargs.get("device") is not None:
        goes = torch.device(kwargs["device"]).type == DEVICE.type
        kwargs = {**kwargs, "device": "cpu"}
    args, kwargs = tree_map(lambda x: x.here if isinstance(x, Elsewhere) else x, (args, kwargs))
    known = {id(tensor.here): tensor for tensor in there}  # what is changed in place stays the same tensor

    def wrapped(x: object) -> object:
        if not isinstance(x, torch.Tensor) or not (goes or id(x) in known):
            return x
        return known.get(id(x)) if id(x) in known else Elsewhere(x)

    return tree_map(wrapped, func(*args, **kwargs))
