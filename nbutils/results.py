"""Results of a run as files: JSON with a digest, and the arrays beside it by their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils import atomic
from nbutils.data import arrays as array_files
from nbutils.identity import is_a

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

Plain = tuple[dict[str, Any], dict[str, Any]]  # JSON, and arrays by name


class ResultError(ValueError):
    """A result file cannot be used: the message names it and says why."""


def plain(result: Any) -> Plain:
    """Return a result as JSON, and its arrays by name.

    Raises:
        ValueError: it holds something that cannot be kept, which is named.
    """
    if _is_table(result):
        return {"table": _plain_table(result)}, {}
    if not isinstance(result, Mapping):
        raise ValueError(f"a run returns a mapping or a DataFrame; got {type(result).__name__}")
    paths = dict(_flat(result))
    named = {"/".join(path): value for path, value in paths.items()}
    if len(named) < len(paths):
        raise ValueError(f"names of a result must differ; got {['/'.join(path) for path in paths]}")
    large = {name: _dense(value, name) for name, value in named.items() if is_array(value)}
    numpy = {name: value.dtype.str for name, value in large.items() if is_a("numpy", "ndarray", value)}
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
    return is_a("pandas", "DataFrame", value)


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


def is_array(value: Any) -> bool:
    """Tell whether a value is an array or a tensor of one axis or more."""
    return (is_a("numpy", "ndarray", value) or is_a("torch", "Tensor", value)) and value.shape != ()


def _dense(value: Any, name: str) -> Any:
    """Return an array, if a file can hold it.

    Raises:
        ValueError: it holds something else than numbers, hides some, or is not laid out in memory.
    """
    if is_a("numpy", "ndarray", value):
        wrong = value.dtype.kind not in "biufc" or value.dtype.itemsize > 8
        what = "a masked array" if hasattr(value, "mask") else f"an array of {value.dtype}" if wrong else None
    else:
        kind = str(value.dtype).removeprefix("torch.")
        wrong = value.is_quantized or value.is_meta or kind in ("complex32", "complex128")
        what = f"a tensor of {kind}" if wrong else None if str(value.layout) == "torch.strided" else "a sparse tensor"
    if what:
        raise ValueError(f"a result holds dense arrays of numbers, of 8 bytes at most; {name!r} is {what}")
    return value


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write(path: Path, plain: Mapping[str, Any], large: Mapping[str, Any]) -> None:
    """Write what `plain` returned."""
    result = {**plain, "arrays": array_files.put(path.parent, large) if large else None}
    atomic.write(path, json.dumps({"sha256": _digest(result), "result": result}) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Return what `write` wrote, with `rows` in the place of its row or table.

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


def restore(path: Path) -> Any:
    """Return the result that was written.

    Raises:
        FileNotFoundError, ResultError: as for `read`.
    """
    import pandas as pd

    kept = read(path)
    if "table" in kept:
        return pd.DataFrame(kept["rows"], columns=kept["table"]["columns"])
    found = dict(kept["row"])
    found |= {name: _table(columns, kept["large"]) for name, columns in kept["tables"].items()}
    for name, array in kept["large"].items():
        kind = kept["numpy"].get(name)
        found[name] = array if kind is None else array.numpy().astype(kind, copy=False)
    result: dict[str, Any] = {}
    for names in kept["paths"]:
        inner = result
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
        inner[names[-1]] = found["/".join(names)]
    return result
