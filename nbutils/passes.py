"""Count what runs within a pass of a model: which run of a module is meant, where it runs more than once."""

from __future__ import annotations

import threading

import torch
from torch import nn

from nbutils.sites import Site


class Passes:
    """Numbers the runs of sites within a pass of the model: those of each thread by themselves.

    `begin` and `end` are hooks of the model, and the block for which they are there is entered once all hooks are: what
    other threads run while hooks come or go is not meant. Parts of it that are called by hand, outside a pass of the whole, are no
    part of one and not counted.
    """

    def __init__(self) -> None:
        self._here = threading.local()
        self._open = False

    def __enter__(self) -> None:
        self._open = True

    def __exit__(self, *_error: object) -> None:
        self._open = False

    @property
    def running(self) -> bool:
        """Whether this thread is in a pass of the model."""
        return getattr(self._here, "depth", 0) > 0

    def begin(self, _module: nn.Module, _inputs: object) -> None:
        """Begin a pass, or one within it: a model may call itself."""
        if not self._open:
            return
        if not self.running:
            self._here.depth, self._here.runs = 0, {}
        self._here.depth += 1

    def end(self, _module: nn.Module, _inputs: object, _output: object) -> None:
        """End it."""
        self._here.depth = max(0, getattr(self._here, "depth", 0) - 1)

    def meant(self, site: Site, key: object) -> bool:
        """Count a run of a site, and return whether it is one that the site means.

        Args:
            key: what to count it under.

        Raises:
            ValueError: a second run in a pass where no `call` says which is meant; or a `call` of a run that has no
                number, because it is not in a pass.
        """
        if not self._open:
            return False
        if not self.running or backward():
            if site.call in (None, "every"):
                return True
            where = "a backward pass, which repeats a checkpointed segment" if backward() else "none"
            raise ValueError(
                f"{site.name}: runs are numbered within a pass of the whole model, and this one is in {where}"
            )
        number = self._here.runs[key] = self._here.runs.get(key, -1) + 1
        if site.call is None and number:
            raise ValueError(
                f"{site.module!r} must run once in a forward pass, so that it is clear which run is meant; it ran "
                f"again: give Site({site.module!r}, call=…), the number of the run from 0"
            )
        return site.call in (None, "every") or number == site.call


def backward() -> bool:
    """Return whether this thread is in a backward pass: what runs there is a checkpointed segment, once more."""
    return torch._C._current_graph_task_id() != -1
