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
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from nbutils import __version__, atomic, progress
from nbutils.data import arrays as array_files
from nbutils.processes import pool

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

_PROCESS = uuid4().hex  # tells a worker from the process that started it, on whichever machine


class ResultError(ValueError):
    """A result file cannot be used: the message names it and says why."""


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

    A result belongs to the function's source, the configuration and the version of this package. The source includes
    functions and classes of the same module or notebook that the function mentions, and whatever it reads from there
    that a configuration could hold. It includes no packages and no other objects: what else a result depends on
    belongs in the configuration.

    Args:
        function: takes a configuration as keyword arguments. Returns a mapping of names, not `error`, to numbers,
            texts, truth values, None, arrays, tables and mappings of all these; or one table. Tables hold numbers,
            texts, truth values and None; their index is dropped.
        configurations: argument name -> number, text, truth value, None, path, array, network, ensemble, or lists,
            dicts and dataclasses of them. Files, arrays and networks count by their content.
        store: folder of the result files; made if missing. Several processes may use it at a time.
        executor: any PEP 3148 executor, e.g. `dask.distributed.Client(...).get_executor()`; `"loky"` makes one process
            a core of this machine. None computes here. Other processes are pinned first (`nbutils.seeding.pin`) if
            this one uses torch.
        workers: processes of `"loky"`; the number of cores by default.
        label: of the progress bar, which also counts failures.

    Returns:
        One row a configuration, in their order, or as many as its table has: the numbers and texts of configuration
        and result, and `error`: None, or the exception of a configuration that failed. The others go on, and the next
        call tries it again. A result's column replaces the configuration's of the same name. Arrays and the tables of
        a mapping stay on disk: see `results`.

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
            tables[path] = _read(path)["rows"]
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
                tables[path] = _read(path)["rows"]  # so a table is the same whether its parts are new or not
            bar.update()

        _compute(function, missing, executor, workers, keep)

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
    table = run(function, configurations, store, executor=executor, workers=workers, label=label)
    failed = table[table["error"].notna()]
    if len(failed):
        first = {name: value for name, value in failed.iloc[0].items() if name != "error" and value == value}
        raise RunError(
            f"{label}: {len(failed)} of {len(configurations)} failed, the others are kept; "
            f"the first, {first}: {failed.iloc[0]['error']}"
        )
    source = _source(function)
    return [_result(_path(function, source, each, Path(store))) for each in configurations]


_Outcome = str | tuple[dict[str, Any], dict[str, Any]]  # an error; or JSON and arrays by name


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
            keep(path, _attempt(function, configuration, path, None, ""))
        return
    if executor == "loky":
        executor = pool(workers)
    caller = _PROCESS if "torch" in sys.modules else None
    call = uuid4().hex  # Dask would answer equal arguments with the failure of the call before
    futures: dict[Future, Path] = {}
    try:
        for path, configuration in missing.items():
            try:
                future = executor.submit(_attempt, function, configuration, path, caller, call)
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
    function: Callable[..., Any], configuration: Mapping[str, Any], path: Path, caller: str | None, call: str
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


def _plain_result(result: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a result as JSON, and its arrays by name."""
    if _is_table(result):
        return {"table": _plain_table(result)}, {}
    if not isinstance(result, Mapping):
        raise ValueError(f"a run returns a mapping or a DataFrame; got {type(result).__name__}")
    paths = dict(_flat(result))
    named = {"/".join(path): value for path, value in paths.items()}
    if len(named) < len(paths):
        raise ValueError(f"names of a result must differ; got {['/'.join(path) for path in paths]}")
    large = {name: value for name, value in named.items() if _is_array(value)}
    numpy = [name for name, value in large.items() if _is("numpy", "ndarray", value)]
    tables = {}
    for name, value in named.items():
        if _is_table(value):
            tables[name], columns = _plain_columns(name, value)
            large |= columns
    row = {name: _plain_cell(value, name) for name, value in named.items() if name not in tables and name not in large}
    return {"row": row, "tables": tables, "paths": list(paths), "numpy": numpy}, large


def _flat(result: Mapping[Any, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in result.items():
        path = (*above, str(name))
        if isinstance(value, Mapping):
            yield from _flat(value, path)
        else:
            yield path, value


def _is_table(value: object) -> bool:
    return _is("pandas", "DataFrame", value)


def _plain_table(table: pd.DataFrame) -> dict[str, Any]:
    columns = [str(name) for name in table.columns]
    rows = [[_plain_cell(value, columns[i]) for i, value in enumerate(row)] for row in table.to_numpy(object)]
    return {"columns": columns, "rows": rows}


def _plain_columns(name: str, table: pd.DataFrame) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a table that may be large: its columns as JSON, their numbers as arrays."""
    plain, numbers = [], {}
    for i, (column, values) in enumerate(table.items()):
        kept: dict[str, Any] = {"name": str(column)}
        if values.dtype == "category":
            kept |= {"categories": [_plain_cell(value, column) for value in values.cat.categories]}
            kept |= {"ordered": bool(values.cat.ordered), "numbers": f"{name}:{i}"}
            numbers[f"{name}:{i}"] = values.cat.codes.to_numpy(copy=True)
        elif values.dtype.kind in "bif" and values.dtype.name in _NUMBERS:
            kept["numbers"] = f"{name}:{i}"
            numbers[f"{name}:{i}"] = values.to_numpy(copy=True)
        else:
            missing = values.isna() & (values.dtype != object)  # pandas' own kinds hold its NA, which JSON has not
            kept["values"] = [
                None if m else _plain_cell(value, column) for m, value in zip(missing, values, strict=True)
            ]
            kept["dtype"] = table.dtypes.iloc[i].name
        plain.append(kept)
    return plain, numbers


_NUMBERS = {"bool", "int8", "int16", "int32", "int64", "float32", "float64"}  # what a file of arrays holds


def _table(columns: Sequence[Mapping[str, Any]], arrays: Mapping[str, Tensor]) -> pd.DataFrame:
    import pandas as pd

    found = []
    for column in columns:
        values = arrays[column["numbers"]].numpy().copy() if "numbers" in column else column["values"]
        if "categories" in column:
            values = pd.Categorical.from_codes(values, column["categories"], ordered=column["ordered"])
        found.append(pd.Series(values, name=column["name"], dtype=column.get("dtype")))
    return pd.concat(found, axis=1) if found else pd.DataFrame()


def _plain_cell(value: Any, name: object) -> Any:
    if name == "error":
        raise ValueError("'error' is the column of exceptions; give the result another name")
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()  # a scalar of numpy or torch
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a result holds numbers, texts, truth values and None; {name!r} is a {type(value).__name__}")


def _told(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row shows of a configuration: all but arrays, networks and what holds them."""
    return {name: value for name, value in configuration.items() if not _is_large(value)}


def _is_large(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_large, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_large, value))
    ensemble = _is("nbutils.training.ensemble", "Ensemble", value)
    return ensemble or _is_array(value) or _is("torch.nn", "Module", value) or is_dataclass(value)


def _is_array(value: object) -> bool:
    return (_is("numpy", "ndarray", value) or _is("torch", "Tensor", value)) and value.shape != ()


def _is(module: str, kind: str, value: object) -> bool:
    """Tell whether a value is of a type of a module, which nobody has imported if there are no such values."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], kind))


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
    if _is_array(value):
        if value.dtype == object:
            return {"array": _plain(value.tolist(), name)}
        import torch

        return {"array": array_files.digest({"": torch.as_tensor(value)})}
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__qualname__} | {
            field.name: _plain(getattr(value, field.name), name) for field in fields(value)
        }
    if _is("nbutils.training.ensemble", "Ensemble", value):
        return {
            "seeds": list(value.seeds),
            "variants": repr(value.variants),
            "state": array_files.digest(value.state()),
        }
    if _is("torch.nn", "Module", value):
        state = array_files.digest(value.state_dict())
        return {"network": repr(value), "state": state, "training": value.training}
    try:
        return _plain_cell(value, name)
    except ValueError:
        raise ValueError(
            f"a configuration holds numbers, texts, truth values, None, paths, arrays, networks, and lists, dicts and "
            f"dataclasses of them; {name!r} is a {type(value).__name__}"
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
            members = [value]
            if isinstance(value, type | dict):
                members = value.values() if isinstance(value, dict) else vars(value).values()
            for member in members:
                if isinstance(member, FunctionType) and member.__module__ == function.__module__:
                    visit(member)

    visit(function)
    return list(parts.values())


def _simple(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the values that a configuration could hold."""
    found = {}
    for name, value in values.items():
        with suppress(ValueError):
            found[name] = _plain(value, name)
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


def _write(path: Path, plain: Mapping[str, Any], large: Mapping[str, Any]) -> None:
    result = {**plain, "arrays": array_files.put(path.parent, large) if large else None}
    atomic.write(path, json.dumps({"sha256": _digest(result), "result": result}) + "\n")


def _read(path: Path) -> dict[str, Any]:
    """Return what `_write` wrote, with `rows` in the place of its row or table.

    Raises:
        FileNotFoundError: there is none.
        ResultError: it is damaged, or its arrays are.
    """
    text = path.read_bytes()
    try:
        content = json.loads(text)
        result = content["result"]
        whole = content["sha256"] == _digest(result)
        rows = _rows(result["table"]) if "table" in result else [result["row"]]
        key = result["arrays"]
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise ResultError(f"{path} is damaged")
    try:
        return {**result, "rows": rows, "large": array_files.get(path.parent, key) if key else {}}
    except (FileNotFoundError, array_files.ArrayError) as error:
        raise ResultError(f"{path} is damaged: {error}") from None


def _rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def _result(path: Path) -> Any:
    import pandas as pd

    read = _read(path)
    if "table" in read:
        return pd.DataFrame(read["rows"], columns=read["table"]["columns"])
    tables = {name: _table(columns, read["large"]) for name, columns in read["tables"].items()}
    large = {name: array.numpy() if name in read["numpy"] else array for name, array in read["large"].items()}
    found = read["row"] | tables | large
    result: dict[str, Any] = {}
    for path in read["paths"]:
        inner = result
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = found["/".join(path)]
    return result
