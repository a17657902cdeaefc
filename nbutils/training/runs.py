"""Map a function over configurations so that what is finished stays finished.

Each configuration's result is one file of a store, written whole when it is there: by the worker that computed it if
it sees the store, else by the calling process. The same call after a crash, an interrupt or a lost worker computes only
what is missing. Configurations run one after another, on the cores of this machine (`"loky"`), or wherever a PEP 3148
executor takes them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from nbutils import __version__, atomic, progress
from nbutils.data import arrays as array_files

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

_PROCESS = uuid4().hex  # tells a worker from the process that started it, on whichever machine


class ResultError(ValueError):
    """A result file cannot be used: the message names it and says why."""


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

    A result belongs to the function's source, the configuration and the version of this package. The source includes
    functions and classes of the same module or notebook that the function mentions, and the numbers, texts, lists and
    paths that it reads from there. It includes no packages, models or arrays: what else a result depends on belongs
    in the configuration.

    Args:
        function: takes a configuration as keyword arguments. Returns a mapping of names, not `error`, to numbers,
            texts, truth values, None and arrays; or a table without arrays (its index is dropped).
        configurations: argument name -> number, text, truth value, None, path, or lists and dicts of them. A path to a
            file counts by the file's content.
        store: folder of the result files; made if missing. Several processes may use it at a time.
        executor: any PEP 3148 executor, e.g. `dask.distributed.Client(...).get_executor()`; `"loky"` makes one process
            a core of this machine. None computes here. Other processes are pinned first (`nbutils.seeding.pin`) if
            this one uses torch.
        workers: processes of `"loky"`; the number of cores by default.
        label: of the progress bar, which also counts failures.

    Returns:
        One row a configuration, in their order, or as many as its table has: the configuration, the result's numbers
        and texts, and `error`: None, or the exception of a configuration that failed. The others go on, and the next
        call tries it again. A result's column replaces the configuration's of the same name. Arrays stay on disk: see
        `arrays`.

    Raises:
        ValueError: no plain function, a configuration of other things than listed, or no executor.
        KeyboardInterrupt: interrupted; what had finished is in the store.
    """
    if not (executor is None or executor == "loky" or hasattr(executor, "submit")):
        raise ValueError(f"executor must be None, 'loky' or a PEP 3148 executor; got {executor!r}")
    source = _source(function)
    folder = Path(store).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [_path(function, source, configuration, folder) for configuration in configurations]
    tables: dict[Path, list[dict[str, Any]]] = {}
    missing: dict[Path, Mapping[str, Any]] = {}  # of equal configurations, one is computed
    for path, configuration in zip(paths, configurations, strict=True):
        try:
            tables[path] = _read(path)[0]
        except FileNotFoundError:
            missing[path] = configuration
        except ValueError as error:
            path.unlink(missing_ok=True)
            print(f"{label}: {error}; computing it again", file=sys.stderr)
            missing[path] = configuration
    failures = 0
    with progress.bar(len(tables) + len(missing), label) as bar:
        bar.update(len(tables))

        def keep(path: Path, outcome: _Outcome) -> None:
            nonlocal failures
            if isinstance(outcome, str):
                tables[path] = [{"error": outcome}]
                failures += 1
                bar.set_postfix_str(f"{failures} failed")
            else:
                if not path.exists():
                    _write(path, *outcome)
                tables[path] = _read(path)[0]  # so a table is the same whether its parts are new or not
            bar.update()

        _compute(function, missing, executor, workers, keep)

    import pandas as pd

    rows = [
        {**configuration, "error": None, **row}
        for path, configuration in zip(paths, configurations, strict=True)
        for row in tables[path]
    ]
    columns = dict.fromkeys(name for row in rows for name in row if name != "error")
    return pd.DataFrame(rows, columns=[*columns, "error"])


def arrays(function: Callable[..., Any], configuration: Mapping[str, Any], store: str | Path) -> dict[str, Tensor]:
    """Return the arrays by name in the result of a configuration that `run` finished; do not change them in place.

    Raises:
        FileNotFoundError: it is not finished.
        ValueError: its files are damaged, or as for `run`.
    """
    path = _path(function, _source(function), configuration, Path(store))
    return _read(path)[1]


_Outcome = str | tuple[list[str], list[list[Any]], dict[str, Any]]  # an error; or columns, rows and arrays


def _compute(
    function: Callable[..., Any],
    missing: Mapping[Path, Mapping[str, Any]],
    executor: Executor | Literal["loky"] | None,
    workers: int | None,
    keep: Callable[[Path, _Outcome], None],
) -> None:
    """Hand every outcome to `keep` as it comes; when interrupted, also what came meanwhile."""
    if executor is None:
        for path, configuration in missing.items():
            keep(path, _attempt(function, configuration, path, None))
        return
    if executor == "loky":
        from loky import get_reusable_executor

        executor = get_reusable_executor(max_workers=workers)
    caller = _PROCESS if "torch" in sys.modules else None
    futures: dict[Future, Path] = {}
    try:
        for path, configuration in missing.items():
            try:
                future = executor.submit(_attempt, function, configuration, path, caller)
            except BrokenExecutor as error:  # a worker died while tasks were still being handed out
                future = Future()
                future.set_exception(error)
            futures[future] = path
        for future in as_completed(list(futures)):
            keep(futures[future], _outcome(future))
            del futures[future]
    finally:
        for future, path in futures.items():
            if not future.cancel() and future.done() and future.exception() is None:
                keep(path, future.result())


def _outcome(future: Future) -> _Outcome:
    try:
        return future.result()
    except Exception as error:  # not the function's own: its worker died, or something did not travel
        return _described(error)


def _attempt(
    function: Callable[..., Any], configuration: Mapping[str, Any], path: Path, caller: str | None
) -> _Outcome:
    """Call the function, in whichever process this is; return plain data, which travels."""
    try:
        if caller not in (None, _PROCESS):
            from nbutils import seeding

            seeding.pin()
        outcome = _plain_result(function(**configuration))
    except Exception as error:
        return _described(error)
    if path.parent.is_dir():  # this process sees the store: the result is safe even if the caller is gone
        with suppress(OSError):  # else the caller writes it, and says what is wrong
            _write(path, *outcome)
    return outcome


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _plain_result(result: Any) -> tuple[list[str], list[list[Any]], dict[str, Any]]:
    """Return a result's columns, its rows, and its arrays by name."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(result, pandas.DataFrame):
        columns = [str(name) for name in result.columns]
        rows = [[_plain_cell(value, columns[i]) for i, value in enumerate(row)] for row in result.to_numpy(object)]
        return columns, rows, {}
    if not isinstance(result, Mapping):
        raise ValueError(f"a run returns a mapping or a DataFrame; got {type(result).__name__}")
    large = {str(name): value for name, value in result.items() if getattr(value, "shape", ()) != ()}
    row = {str(name): _plain_cell(value, name) for name, value in result.items() if name not in large}
    return list(row), [list(row.values())], large


def _plain_cell(value: Any, name: object) -> Any:
    if name == "error":
        raise ValueError("'error' is the column of exceptions; give the result another name")
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()  # a scalar of numpy or torch
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a result holds numbers, texts, truth values and None; {name!r} is a {type(value).__name__}")


def _plain(value: Any, name: str) -> Any:
    """Return JSON that is equal where a configuration's values are."""
    if isinstance(value, Path):
        if not value.is_file():
            return {"path": str(value)}
        status = value.stat()
        return {"file": _content(value.resolve(), status.st_mtime_ns, status.st_size)}
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, name) for key, item in value.items()}
    try:
        return _plain_cell(value, name)
    except ValueError:
        raise ValueError(
            f"a configuration holds numbers, texts, truth values, None, paths, and lists and dicts of them; "
            f"{name!r} is a {type(value).__name__}"
        ) from None


@lru_cache(maxsize=256)
def _content(path: Path, changed: int, size: int) -> str:
    """Return the digest of a file's content, taken again where time or size have changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _source(function: Callable[..., Any]) -> list[Any]:
    """Return what a function is, as JSON: its text and whatever of its module it reads."""
    if not isinstance(function, FunctionType):
        raise ValueError(f"expected a function made by `def`; got {function!r}")
    parts: dict[FunctionType, list[Any]] = {}

    def visit(part: FunctionType) -> None:
        if part in parts:
            return
        parts[part] = [_text(part), _simple({"": part.__defaults__, **(part.__kwdefaults__ or {})})]
        read = {name: part.__globals__[name] for name in _names(part.__code__) if name in part.__globals__}
        for name, cell in zip(part.__code__.co_freevars, part.__closure__ or (), strict=True):
            if cell != type(cell)():  # an empty cell is a name that is not set yet
                read[name] = cell.cell_contents
        parts[part].append(_simple(read))
        for value in read.values():
            members = vars(value).values() if isinstance(value, type) else [value]
            for member in members:
                if isinstance(member, FunctionType) and member.__module__ == function.__module__:
                    visit(member)

    visit(function)
    return list(parts.values())


def _simple(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the values that a configuration could hold."""
    found = {}
    for name, value in values.items():
        try:
            found[name] = _plain(value, name)
        except ValueError:
            continue
    return found


def _text(function: FunctionType) -> object:
    if function.__name__ != "<lambda>":  # whose source is the lines it stands on, with all else that stands there
        try:
            return textwrap.dedent(inspect.getsource(function))
        except (OSError, TypeError):  # typed at a prompt, or made by exec
            pass
    return _bytecode(function.__code__)


def _bytecode(code: CodeType) -> list[Any]:
    constants: list[Any] = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            constants.append(_bytecode(constant))
        else:  # sets come in another order in another process
            constants.append(sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant))
    return [code.co_code.hex(), code.co_names, code.co_varnames, constants]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _path(function: Callable[..., Any], source: list[Any], configuration: Mapping[str, Any], store: Path) -> Path:
    if not isinstance(configuration, Mapping) or "error" in configuration:
        raise ValueError(
            f"a configuration maps argument names, 'error' not among them, to values; got {configuration!r}"
        )
    plain = {str(name): _plain(value, str(name)) for name, value in configuration.items()}
    name = re.sub(r"\W", "", function.__name__)
    return store / f"{name}-{_digest([source, plain, __version__])[:20]}.json"


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write(path: Path, columns: list[str], rows: list[list[Any]], large: Mapping[str, Any]) -> None:
    result = {"columns": columns, "rows": rows, "arrays": array_files.put(path.parent, large) if large else None}
    atomic.write(path, json.dumps({"sha256": _digest(result), "result": result}) + "\n")


def _read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Return the rows and the arrays of a result file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or its arrays are.
    """
    text = path.read_bytes()
    try:
        content = json.loads(text)
        result = content["result"]
        whole = content["sha256"] == _digest(result)
        rows = [dict(zip(result["columns"], row, strict=True)) for row in result["rows"]]
        key = result["arrays"]
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise ResultError(f"{path} is damaged")
    try:
        return rows, array_files.get(path.parent, key) if key else {}
    except FileNotFoundError as error:
        raise ResultError(f"{path} is damaged: {error}") from None
