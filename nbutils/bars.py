"""Bars of progress with a clock that goes on while nothing else does, in a terminal and in a notebook.

In a notebook a bar is text in an output of its own, which is emptied when the bar ends; `nbutils.notebook.lab` leaves
such outputs out when it saves. Widgets would stay behind in the stored outputs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, ClassVar
from weakref import WeakSet

from tqdm import tqdm

PERIOD = 1.0  # seconds between two ticks of a clock
PATIENCE = 5.0  # seconds after which a cell without a bar shows how long it has been running
MARK = {"nbutils": "bar"}  # metadata of an output that holds a bar


class Bar(tqdm):
    """A bar of tqdm that is drawn again every second.

    Args:
        asks: called with the bar before each tick, to take in what others have done.
        options: tqdm's.
    """

    monitor_interval = 0  # tqdm's own thread draws again where steps are rare; ticks do

    def __init__(self, *, asks: Callable[[Bar], None] | None = None, **options: Any) -> None:
        self._asks, self._over, self._slot = asks, Event(), _Slot.take()
        quiet = {"gui": True, "file": StringIO(), "ascii": False} if self._slot else {}  # tqdm itself writes nothing
        super().__init__(leave=False, **quiet, **options)
        _open.add(self)
        self.refresh()
        Thread(target=self._tick, daemon=True).start()

    def _tick(self) -> None:
        while not self._over.wait(PERIOD):
            if self._asks:
                self._asks(self)
            self.refresh()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw; tqdm calls it."""
        if not self._slot:
            super().display(msg, pos)
        elif not self._over.is_set():
            self._slot.show(str(self) if msg is None else msg)

    def close(self) -> None:
        """End the bar and leave nothing behind."""
        if not self._over.is_set():
            self._over.set()
            super().close()
            if self._slot:
                self._slot.give_back()


_open: WeakSet[Bar] = WeakSet()


class Note:
    """A bar of a worker: the process that shows it reads a file.

    Args:
        file: the file.
        iterable, total: the items to go through, or how many steps there will be.
        desc: the activity.
    """

    def __init__(self, file: Path, *, iterable: Iterable | None = None, total: int | None = None, desc: str) -> None:
        self.iterable, self.n, self.desc, self._file, self._next = iterable, 0, desc, file, 0.0
        self.total = len(iterable) if total is None and hasattr(iterable, "__len__") else total  # type: ignore[arg-type]
        self.update(0)

    def update(self, n: int = 1) -> None:
        """Advance by some steps, and say so where the last word is half a second old."""
        self.n += n
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PERIOD / 2
            with suppress(OSError):  # the folder is another machine's, or gone
                self._file.write_text(f"{self.desc}\t{self.n}\t{self.total or 0}\n", encoding="utf-8")

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Do nothing: tqdm's bars have it."""

    def close(self) -> None:
        """Do nothing: the file holds the last word."""

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable or ():
            yield item
            self.update()

    def __enter__(self) -> Note:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def noted(file: Path) -> tuple[str, int, int] | None:
    """Return activity, steps done and their number (0: unknown) from a worker's file, or None where it says nothing."""
    with suppress(OSError, ValueError):
        text = file.read_text(encoding="utf-8")
        if text.endswith("\n"):  # else it is being written
            desc, n, total = text[:-1].split("\t")
            return desc, int(n), int(total)
    return None


class CellClock:
    """Shows how long a cell has been running, where it shows no bar."""

    def __init__(self) -> None:
        self._over = Event()
        self._over.set()

    def start(self, *_: object) -> None:
        """Begin with a cell."""
        self.stop()
        self._over = Event()
        Thread(target=self._run, args=(self._over, time.monotonic()), daemon=True).start()

    def stop(self, *_: object) -> None:
        """End with it."""
        self._over.set()

    def _run(self, over: Event, since: float) -> None:
        slot: _Slot | None = None
        wait = PATIENCE
        while not over.wait(wait):
            wait = PERIOD
            if _Slot.shown:
                if slot:
                    slot.give_back()
                    slot = None
                continue
            slot = slot or _Slot.take(quiet=True)
            if slot:
                slot.show(f"running [{tqdm.format_interval(time.monotonic() - since)}]")
        if slot:
            slot.give_back()


class _Slot:
    """An output of the cell that runs, empty while nothing is shown in it."""

    shown = 0  # bars on display
    _free: ClassVar[list[_Slot]] = []
    _hooked = False
    _lock = Lock()

    def __init__(self, quiet: bool) -> None:
        from IPython.display import DisplayHandle

        self._handle, self._quiet, self._text = DisplayHandle(), quiet, ""
        self._handle.display({"text/plain": ""}, raw=True, metadata=MARK)

    @classmethod
    def take(cls, *, quiet: bool = False) -> _Slot | None:
        """Return an output of this cell for a bar, or None outside a notebook; a quiet one does not count as a bar."""
        shell = kernel_shell()
        if shell is None:
            return None
        with cls._lock:
            if not cls._hooked:
                shell.events.register("post_run_cell", cls._end)
                cls._hooked = True
            slot = cls._free.pop() if cls._free else cls(quiet)
            slot._quiet = quiet
            cls.shown += not quiet
        return slot

    @classmethod
    def _end(cls, *_: object) -> None:
        for bar in [*_open]:  # in a cell that raised, one may be left in the middle of its items
            bar.close()
        cls._free, cls.shown = [], 0

    def show(self, text: str) -> None:
        if text != self._text:
            self._text = text
            self._handle.update({"text/plain": text}, raw=True, metadata=MARK)

    def give_back(self) -> None:
        self._text = ""
        self._handle.update({}, raw=True, metadata=MARK)
        with _Slot._lock:
            _Slot.shown = max(_Slot.shown - (not self._quiet), 0)
            _Slot._free.append(self)


def kernel_shell() -> Any:
    """Return the shell of the notebook that this process runs, or None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell if hasattr(shell, "kernel") else None
