"""Have models run their modules one by one, so that hooks are met: torch's own switches, shared by all blocks."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack

import torch


class _Eager:
    """Keeps compiled code and fused attention, which meet no hooks, off while any block of whatever thread asks for it.

    Which modules a model holds does not matter: a wrapper made by `torch.compile` lies outside the model that it runs.
    """

    def __init__(self) -> None:
        self._lock, self._blocks, self._fused, self._stance = threading.Lock(), 0, True, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            # Whoever has compiled anything has loaded this; to load it for nothing takes seconds.
            if "torch._dynamo" in sys.modules and not self._forced:
                self._stance.enter_context(torch.compiler.set_stance("force_eager"))
                self._forced = True
            if not self._blocks:
                self._fused = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            self._blocks += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                torch.backends.mha.set_fastpath_enabled(self._fused)
                self._stance.close()
                self._forced = False

    _forced = False


eager = _Eager()
