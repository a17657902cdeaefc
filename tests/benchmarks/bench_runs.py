"""A seed sweep through `runs.run`: in this process, on one and two processes of loky, on one and two workers of Dask.

Each engine's processes are started, and have imported torch, before the clock starts; every timing has a store of its
own. The sweep is run on all engines in turn, `ROUNDS` times, and the fastest counts: other work only ever adds time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from nbutils import layout, runs, seeding

SEEDS = 8
STEPS = 600  # of notebook 01's 1,501: the better part of a second
SHORT = 50  # tasks that do nothing
ROUNDS = 2

Sweep = Callable[[object], float]


def train(seed: int, steps: int) -> dict[str, float]:
    """Train one network of notebook 01 for some steps; return its last loss and the processor time it took."""
    from nbutils.schedules.dopesheet import Dopesheet
    from nbutils.schedules.timeline import Timeline
    from nbutils.training.ensemble import Ensemble
    from nbutils.training.fit import fit
    from nbutils.training.objective import Objective
    from studies.color_cube.data import ColorBatches
    from studies.color_cube.network import ColorMLP

    start = time.process_time()
    timeline = Timeline(Dopesheet.from_text(f"STEP,lr\n0,0.01\n{steps - 1},0.01\n"))
    history = fit(Ensemble(ColorMLP, [seed]), ColorBatches(), Objective([]), timeline).history
    return {"loss": history.value.iloc[-1], "seconds": time.process_time() - start}


def nothing(seed: int) -> dict[str, int]:
    return {"seed": seed}


def measure() -> list[dict[str, object]]:
    """Time both sweeps on every engine."""
    seeding.pin()
    long: dict[str, list[tuple[float, float]]] = {}
    short: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, engine in engines():
            with engine as call:
                call(train, [{"seed": seed, "steps": 2} for seed in range(1000, 1004)])
                long.setdefault(name, []).append(call(train, [{"seed": s, "steps": STEPS} for s in range(SEEDS)]))
                short.setdefault(name, []).append(call(nothing, [{"seed": seed} for seed in range(SHORT)])[0])
    here = "this process"
    rows = []
    for name, reference in [
        ("loky, 1 process", here),
        ("loky, 2 processes", "loky, 1 process"),
        ("Dask, 1 worker", here),
        ("Dask, 2 workers", "Dask, 1 worker"),
    ]:
        ours, theirs = min(long[name]), min(long[reference])
        note = f"against {reference}; processor time a task {ours[1]:.2f} s, there {theirs[1]:.2f} s"
        rows.append(_row(f"{SEEDS} seeds, {name}", ours[0], theirs[0], "s", note))
    for name in short:
        if name != here:
            each, there = (1000 * min(short[which]) / SHORT for which in (name, here))
            rows.append(_row(f"a task that does nothing, {name}", each, there, "ms", f"against {here}"))
    return rows


def engines() -> Iterator[tuple[str, object]]:
    yield "this process", _timed(None)
    for workers in (1, 2):
        yield f"loky, {workers} process{'es'[: 2 * workers - 2]}", _loky(workers)
    for workers in (1, 2):
        yield f"Dask, {workers} worker{'s'[: workers - 1]}", _dask(workers)


@contextmanager
def _timed(executor: object, workers: int | None = None) -> Iterator[Sweep]:
    with ExitStack() as stack:

        def call(function, configurations):
            store = stack.enter_context(tempfile.TemporaryDirectory(dir=layout.root() / "build"))
            start = time.perf_counter()
            table = runs.run(function, configurations, store, executor=executor, workers=workers)
            seconds = time.perf_counter() - start
            assert table.error.isna().all(), table.error.dropna().iloc[0]
            return seconds, float(table.seconds.mean()) if "seconds" in table else 0.0

        yield call


@contextmanager
def _loky(workers: int) -> Iterator[Sweep]:
    from loky import get_reusable_executor

    with _timed("loky", workers) as call:
        yield call
    get_reusable_executor().shutdown()


@contextmanager
def _dask(workers: int) -> Iterator[Sweep]:
    from distributed import Client, LocalCluster

    start = partial(LocalCluster, host="127.0.0.1", dashboard_address=None, silence_logs="ERROR")
    with (
        start(n_workers=workers, threads_per_worker=1) as cluster,
        Client(cluster) as client,
        _timed(client.get_executor()) as call,
    ):
        yield call


def _row(name: str, ours: float, reference: float, unit: str, note: str) -> dict[str, object]:
    return {"name": name, "ours": ours, "reference": reference, "ratio": reference / ours, "unit": unit, "note": note}
