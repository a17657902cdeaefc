"""The set-up of a notebook: its choices checked, threads pinned, workers started, a place for its results."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from nbutils import claims, devices, hints, layout, progress, seeding
from nbutils import processes as workers
from nbutils import runs as kept_runs
from nbutils.data import sources

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")

PROFILES, DATA = layout.PROFILES, layout.DATA


class Session:
    """What the cells of a notebook share. `begin` makes it.

    Attributes:
        stem: the notebook's stem.
        profile: `"quick"` or `"full"`.
        data: `"embedded"`, `"real"` or `"auto"`, as asked for.
        seeds: of the networks, in order.
        processes: that share the work, 1 or more.
        executor: what `nbutils.fit` takes: `"loky"` for several processes, None for one.
        device: that networks are trained and measured on.
        store: folder of results; a temporary one, unless runs are kept. Each device has its own.
        dopesheet: path of the schedule.
    """

    def __init__(
        self,
        stem: str,
        profile: str,
        seeds: Sequence[int],
        count: int,
        *,
        data: str,
        device: torch.device,
        kept: Path | None,
        sheet: Path,
    ):
        self.stem, self.profile, self.seeds, self.device = stem, profile, tuple(seeds), device
        self.data, self.processes = data, count
        self.executor: Literal["loky"] | None = "loky" if count > 1 else None
        self._kept = kept is not None
        self._scratch = TemporaryDirectory(prefix=f"{stem}-")  # removed with the session
        self.store = kept or Path(self._scratch.name)
        self.dopesheet = sheet

    @property
    def full(self) -> bool:
        """Whether the profile is `"full"`."""
        return self.profile == "full"

    def moved(self, value: Value) -> Value:
        """Return a tensor, a network, or a container of them, on the session's device (`nbutils.devices.moved`)."""
        return devices.moved(value, self.device)

    def checkpoint(self, name: str) -> Path | None:
        """Return the file that a training run resumes from, or None where runs are not kept."""
        return self.store / f"{name}.safetensors" if self._kept else None

    def results(self, function: Callable[..., Any], configurations: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Return a function's result for each configuration, from all processes, by `nbutils.runs.results`."""
        return kept_runs.results(
            function,
            configurations,
            self.store,
            executor=self.executor,
            workers=self.processes,
            label=function.__name__,
        )

    def reads(self, source: str) -> None:
        """Start the record of claims and metrics, with the name of the data that they are about.

        Warns where embedded data takes the place of real ones, by `"auto"`.

        Raises:
            ValueError: it would take their place although real data were asked for.
        """
        if source.startswith("embedded") and self.data != "embedded":
            if self.data == "real":
                raise ValueError(f"DATA is 'real', and the data are {source}; {sources.told()}")
            text = f"DATA is 'auto', and no real data were found: these are {source}; {sources.told()}"
            warnings.warn(text, stacklevel=2)
        claims.begin(self.stem, profile=self.profile, source=source, device=devices.told(self.device))

    def __str__(self) -> str:
        """Say what the notebook runs on: versions, cores, processes, device, seeds, profile."""
        import platform

        import numpy
        import torch

        return (
            f"python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}\n"
            f"{os.cpu_count()} cores, {self.processes} processes of {torch.get_num_threads()} thread, "
            f"device {devices.told(self.device)}\n"
            f"{len(self.seeds)} seeds, profile {self.profile}"
        )


def begin(
    stem: str,
    *,
    profile: str,
    data: str,
    seeds: int | Sequence[int],
    device: str | torch.device = "cpu",
    processes: int | None = None,
    runs: str | Path | None = None,
    dopesheet: str | Path | None = None,
    imports: str = "nbutils.training.fit",
) -> Session:
    """Check a notebook's choices, pin threads and kernels, and start its worker processes.

    Call it before any computation of torch: see `nbutils.seeding.pin`.

    Args:
        stem: the notebook's stem; it names the dopesheet and the folder of figures.
        profile: `"quick"` or `"full"`.
        data: `"embedded"`, `"real"` or `"auto"`.
        seeds: how many, for 0, 1, …; or the seeds themselves.
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, … or `"mps"`: the one that is named, or an error. The stored digits of a
            notebook are the processor's.
        processes: how many share the work; None: one per core, and one on another device than the processor. Results
            do not depend on it.
        runs: folder in the project that keeps networks and results; None: they are lost with the session.
        dopesheet: path of a schedule other than the notebook's own.
        imports: module that workers import while the notebook goes on.

    Raises:
        FileNotFoundError: no such dopesheet.
        ValueError: no such profile, data or device, no seeds, a seed twice or below 0, fewer than one process, a path
            that is none, no stem or that of another notebook than the one that runs.

    >>> import nbutils as nb
    >>> session = nb.begin("01-color-cube", profile="quick", data="embedded", seeds=3, processes=1)
    >>> session.seeds, session.executor, session.dopesheet.name
    ((0, 1, 2), None, '01-color-cube.csv')
    """
    for name, value, known in (("PROFILE", profile, PROFILES), ("DATA", data, DATA)):
        if value not in known:
            raise ValueError(f"{name} is one of {', '.join(map(repr, known))}; got {value!r}")
    if not isinstance(stem, str) or not stem or Path(stem).name != stem:
        raise ValueError(f"STEM is a notebook's name without folder or suffix; got {stem!r}")
    layout.expect_own(stem)
    chosen = _seeds(seeds)
    if processes is not None and (not _whole(processes) or processes < 1):
        raise ValueError(f"PROCESSES is a whole number of 1 or more, or None; got {processes!r}")
    for name, path in (("RUNS", runs), ("DOPESHEET", dopesheet)):
        if path is not None and not (isinstance(path, str | Path) and str(path)):
            raise ValueError(f"{name} is a path or None; got {path!r}")
    if dopesheet is not None and not Path(dopesheet).is_file():
        raise FileNotFoundError(f"DOPESHEET {str(dopesheet)!r} is no file; None means dopesheets/{stem}.csv")
    chosen_device = devices.choose(device)
    own = os.cpu_count() or 1 if chosen_device.type == "cpu" else 1  # processes would share the one accelerator
    count = processes or own
    hints.watch()
    progress.watch_cells()
    seeding.pin(threads=1)  # operators of this size lose time with a second thread; processes use the cores
    workers.warm_up(count, imports)
    sheet = layout.dopesheet(stem) if dopesheet is None else Path(dopesheet)
    kept = None if runs is None else layout.root() / runs
    if kept is not None and chosen_device.type != "cpu":  # content tells results apart, not where they were computed
        kept /= str(chosen_device).replace(":", "-")
    return Session(stem, profile, chosen, count, data=data, device=chosen_device, kept=kept, sheet=sheet)


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    chosen = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    if isinstance(chosen, str) or not isinstance(chosen, Sequence) or not chosen or not all(map(_whole, chosen)):
        raise ValueError(f"seeds are a number of 1 or more, or a list like [42, 123]; got {seeds!r}")
    if min(chosen) < 0 or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds are 0 or more, each once; got {seeds!r}")
    return list(chosen)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
