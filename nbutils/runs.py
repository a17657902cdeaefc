"""Map a function over configurations, and keep what is finished.

Each configuration's result is one file of a store, written whole when it is there: by the worker that computed it if
it sees the store, else by the calling process. The same call after a crash, an interrupt or a lost worker computes only
what is missing. Configurations run one after another, on the cores of this machine (`"loky"`), or wherever a PEP 3148
executor takes them. Not `joblib.Memory`: it does not see what a function reads from its module, and hashes arguments
by pickling, which differs for networks of equal content.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from nbutils import __version__, processes, progress
from nbutils import results as stored
from nbutils.identity import Identifier

if TYPE_CHECKING:
    import pandas as pd

_PROCESS = uuid4().hex  # tells a worker from the process that started it, on whichever machine


class RunError(RuntimeError):
    """Some configurations failed: the message says how many, and why the first did."""


def run(
    function: Callable[..., Any],
    configurations: Sequence[Mapping[str, Any]],
    store: str | Path,
    *,
    executor: Executor | Literal["loky"] | None = None,
    workers: int | None = None,
    label: str = "runs",
) -> pd.DataFrame:
    """Call a function with each configuration whose result is not in the store yet.

    A result belongs to the content of the function and of the configuration, and to the version of this package:
    `nbutils.identity` says what counts. Of packages only the names do: other dependencies of a result belong in the
    configuration.

    Args:
        function: takes a configuration as keyword arguments. Returns a mapping of names, not `error`, to numbers,
            texts, truth values, None, dense arrays of numbers, tables and mappings of all these; or one table. Tables
            hold numbers, texts, truth values and None; their index is dropped.
        configurations: argument name -> whatever has content: numbers, texts, arrays, networks, ensembles, functions,
            and containers and objects of them. A file given as a `Path` counts by its content, a folder by its place.
        store: folder of the result files; made if missing. Several processes may use it at a time.
        executor: any PEP 3148 executor, e.g. `dask.distributed.Client(...).get_executor()`; `"loky"` makes one process
            per core of this machine. None computes here. Other processes are pinned first (`nbutils.seeding.pin`) if
            this one uses torch.
        workers: processes of `"loky"`; the number of cores by default.
        label: of the progress bar, which also counts failures.

    Returns:
        One row per configuration, in their order, or as many as its table has: the numbers and texts of configuration
        and result, and `error`: None, or the exception of a configuration that failed. The others go on, and the next
        call tries it again. A result's column replaces the configuration's of the same name. Arrays and the tables of
        a mapping stay on disk: see `results`.

    Raises:
        ValueError: no plain function, a configuration with something that has no content, or no executor.
        KeyboardInterrupt: interrupted; finished results are in the store.

    >>> import nbutils as nb
    >>> def double(x):
    ...     return {"y": 2 * x}
    >>> nb.run(double, [{"x": 1}, {"x": 2}], "build/doubled").y.tolist()
    [2, 4]
    """
    paths, tables = _run(function, configurations, Path(store), executor, workers, label)

    import pandas as pd

    rows = [
        {**_told(configuration), "error": None, **row}
        for path, configuration in zip(paths, configurations, strict=True)
        for row in tables[path]
    ]
    columns = dict.fromkeys(name for row in rows for name in row if name != "error")
    return pd.DataFrame(rows, columns=[*columns, "error"])


def results(
    function: Callable[..., Any],
    configurations: Sequence[Mapping[str, Any]],
    store: str | Path,
    *,
    executor: Executor | Literal["loky"] | None = None,
    workers: int | None = None,
    label: str = "runs",
) -> list[Any]:
    """As `run`, but return what the function returned for every configuration: tables, or dicts.

    Do not change arrays in place: they may be returned again.

    Raises:
        RunError: a configuration failed; the results of the others are kept.
        ValueError, KeyboardInterrupt: as for `run`.
    """
    paths, tables = _run(function, configurations, Path(store), executor, workers, label)
    failed = [
        (configuration, tables[path][0]["error"])
        for path, configuration in zip(paths, configurations, strict=True)
        if tables[path] and "error" in tables[path][0]
    ]
    if failed:
        configuration, error = failed[0]
        raise RunError(
            f"{label}: {len(failed)} of {len(configurations)} failed, the others are kept; "
            f"the first, {_told(configuration)}: {error}"
        )
    return [stored.restore(path) for path in paths]


_Outcome = str | stored.Plain  # an error, or a result
_Rows = list[dict[str, Any]]


def _run(
    function: Callable[..., Any],
    configurations: Sequence[Mapping[str, Any]],
    store: Path,
    executor: processes.Where,
    workers: int | None,
    label: str,
) -> tuple[list[Path], dict[Path, _Rows]]:
    """Return the file of each configuration, and the rows of each file, when all is computed."""
    processes.check(executor)
    folder = store.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    paths = _paths(function, configurations, folder)
    tables: dict[Path, _Rows] = {}
    missing: dict[Path, Mapping[str, Any]] = {}  # of equal configurations, one is computed
    for path, configuration in zip(paths, configurations, strict=True):
        try:
            tables[path] = stored.read(path)["rows"]
        except FileNotFoundError:
            missing[path] = configuration
        except ValueError as error:
            path.unlink(missing_ok=True)
            print(f"{label}: {error}; computing it again", file=sys.stderr)
            missing[path] = configuration
    failures, notes = 0, progress.Notes()

    def say(bar: Any) -> None:
        parts = [f"{failures} failed"] if failures else []
        for path, (what, n, total) in notes.read().items():
            if path not in tables:
                parts.append(f"{what} {n}/{total}" if total else f"{what} {n}")
        bar.set_postfix_str(", ".join(parts), refresh=False)

    with progress.bar(len(tables) + len(missing), label, asks=say) as bar:
        bar.update(len(tables))

        def keep(path: Path, outcome: _Outcome | Exception) -> None:
            nonlocal failures
            tables[path] = _kept(path, outcome)
            if tables[path] and "error" in tables[path][0]:
                failures += 1
            say(bar)
            bar.update()

        caller = _PROCESS if executor is not None and "torch" in sys.modules else None
        call = uuid4().hex  # Dask would answer equal arguments with the failure of the call before
        tasks = {path: (function, configuration, path, caller, call) for path, configuration in missing.items()}
        processes.compute(_attempt, tasks, keep, executor, workers, notes)
    return paths, tables


def _kept(path: Path, outcome: _Outcome | Exception) -> _Rows:
    """Return the rows of an outcome, which is in the store then, or the row of an error."""
    if isinstance(outcome, Exception):  # not the function's own: its worker died, or something did not travel
        outcome = _described(outcome)
    if isinstance(outcome, str):
        return [{"error": outcome}]
    try:
        if not path.exists():
            stored.write(path, *outcome)
        return stored.read(path)["rows"]  # so a table is the same whether its parts are new or not
    except (OSError, ValueError) as error:
        return [{"error": _described(error)}]


def _attempt(
    function: Callable[..., Any], configuration: Mapping[str, Any], path: Path, caller: str | None, _call: str
) -> _Outcome:
    """Call the function, in whichever process this is; return plain data, which travels."""
    try:
        if caller not in (None, _PROCESS):
            from nbutils import seeding

            seeding.pin()
        outcome = stored.plain(function(**configuration))
        if path.parent.is_dir():  # this process sees the store: the result is safe even if the caller is gone
            with suppress(OSError):  # else the caller writes it, and says what is wrong
                stored.write(path, *outcome)
    except (Exception, SystemExit) as error:
        return _described(error)
    return outcome


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _told(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row shows of a configuration: numbers, texts, paths, and containers of them."""
    return {name: value for name, value in configuration.items() if _is_short(value)}


def _is_short(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_short, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_short, value))
    scalar = hasattr(value, "item") and getattr(value, "shape", None) == ()
    return value is None or scalar or isinstance(value, bool | int | float | complex | str | bytes | Path)


def _paths(function: Callable[..., Any], configurations: Sequence[Mapping[str, Any]], store: Path) -> list[Path]:
    """Return the file of each configuration's result."""
    if not isinstance(function, FunctionType):
        raise ValueError(f"expected a function made by `def`; got {function!r}")
    identifier = Identifier()
    source = identifier.of(function, function.__name__)
    name = re.sub(r"\W", "", function.__name__)
    paths = []
    for configuration in configurations:
        if not isinstance(configuration, Mapping) or "error" in configuration:
            raise ValueError(
                f"a configuration maps argument names, 'error' not among them, to values; got {configuration!r}"
            )
        values = [(key, identifier.of(configuration[key], str(key))) for key in sorted(configuration, key=str)]
        paths.append(store / f"{name}-{identifier.of([source, values, __version__], name)[:20]}.json")
    return paths
