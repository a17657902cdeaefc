"""Progress bars, silent in batch runs, tests and redirected output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm.auto import tqdm

SILENT_VARIABLE = "NBUTILS_SILENT"  # "1" silences every bar; batch runs set it for their kernels


def bar(work: Iterable | int, label: str, *, show: bool = True) -> tqdm:
    """Return a progress bar to iterate over, or to advance by hand with `.update()`.

    Args:
        work: the items to go through, or how many steps there will be.
        label: the activity, e.g. `"training"`.
        show: False for what is soon done, or runs in a widget's callback, where a bar has no cell of its own.

    Returns:
        A bar of `tqdm.auto`, disabled where `silent()`.
    """
    from tqdm.auto import tqdm

    what = {"total": work} if isinstance(work, int) else {"iterable": work}
    return tqdm(**what, desc=label, disable=not show or silent(), leave=False)


def silent() -> bool:
    """Return whether bars are off: on request, under pytest and nbval, and without a terminal."""
    if os.environ.get(SILENT_VARIABLE) == "1" or "PYTEST_VERSION" in os.environ:
        return True
    return not _in_kernel() and not (sys.stdout.isatty() and sys.stderr.isatty())


def _in_kernel() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")
