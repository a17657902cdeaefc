"""Progress bars, silent in batch runs, tests and redirected output; those of workers are told to who waits for them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbutils.bars import Bar

SILENT_VARIABLE = "NBUTILS_SILENT"  # "1" silences every bar; batch runs set it for their kernels

_note: Path | None = None  # the file that this process, a worker, tells its bars to


def bar(work: Iterable | int, label: str, *, show: bool = True, asks: Callable[[Bar], None] | None = None) -> Any:
    """Return a progress bar to iterate over, or to advance by hand with `.update()`.

    Its clock goes on between two steps.

    Args:
        work: the items to go through, or how many steps there will be.
        label: the activity, e.g. `"training"`.
        show: False for what is soon done, or runs in a widget's callback, where a bar has no cell of its own.
        asks: called with the bar about once a second, to take in what workers have told (`Notes`).

    Returns:
        A bar of `tqdm`, disabled where `silent()`; in a worker whose caller shows a bar, what tells that one.
    """
    what: dict[str, Any] = {"total": work} if isinstance(work, int) else {"iterable": work}
    if _note and show:
        from nbutils.bars import Note

        return Note(_note, **what, desc=label)
    if not show or silent():
        from tqdm import tqdm

        return tqdm(**what, desc=label, disable=True)
    from nbutils.bars import Bar

    return Bar(**what, desc=label, asks=asks)


def silent() -> bool:
    """Return whether bars are off: on request, under pytest and nbval, and without a terminal."""
    if os.environ.get(SILENT_VARIABLE) == "1" or "PYTEST_VERSION" in os.environ:
        return True
    return not _in_kernel() and not (sys.stdout.isatty() and sys.stderr.isatty())


def _in_kernel() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")


class Notes:
    """What the bars of workers say, one small file per task; none where nobody watches."""

    def __init__(self) -> None:
        self._folder = None if silent() else TemporaryDirectory(prefix="nbutils-notes-")
        self._files: dict[Hashable, Path] = {}
        self._words: dict[Hashable, tuple[str, int, int]] = {}

    def of(self, task: Hashable) -> Path | None:
        """Return the file of a task, for `told`."""
        if not self._folder:
            return None
        return self._files.setdefault(task, Path(self._folder.name) / str(len(self._files)))

    def read(self) -> dict[Any, tuple[str, int, int]]:
        """Return activity, steps done and number of steps (0: unknown) of each task that has said something.

        While a file is being written, its last words hold.
        """
        from nbutils.bars import noted

        found = {task: noted(file) for task, file in [*self._files.items()]}
        self._words.update({task: words for task, words in found.items() if words})
        return dict(self._words)


@contextmanager
def told(file: Path | None) -> Iterator[None]:
    """Have the bars of this process, a worker, tell a file of `Notes`; None: nobody."""
    global _note
    _note = file
    try:
        yield
    finally:
        _note = None


def is_told() -> bool:
    """Return whether the bars of this process are told to another one."""
    return _note is not None


def watch_cells() -> None:
    """Have cells of this notebook that show no bar show a clock from their sixth second on."""
    if silent() or not _in_kernel():
        return
    from nbutils.bars import CellClock, kernel_shell

    shell = kernel_shell()
    if not getattr(shell, "nbutils_clock", None):
        shell.nbutils_clock = CellClock()
        shell.events.register("pre_run_cell", shell.nbutils_clock.start)
        shell.events.register("post_run_cell", shell.nbutils_clock.stop)
