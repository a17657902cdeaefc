"""PyTorch's optimizers, without the import of its compiler."""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def plain(kind: type[Kind]) -> type[Kind]:
    """Return an optimizer class that computes the same and never imports `torch._dynamo`.

    PyTorch wraps these methods to keep its compiler away from them, and imports the compiler to say so: four seconds
    for every process that trains.
    """
    wrapped = "add_param_group", "zero_grad", "state_dict", "load_state_dict"
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in wrapped}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))  # what the wrapper of `step` does besides
    return type(kind.__name__, (kind,), {"__doc__": kind.__doc__, "__module__": __name__, **methods})


Adam = plain(torch.optim.Adam)
SGD = plain(torch.optim.SGD)
