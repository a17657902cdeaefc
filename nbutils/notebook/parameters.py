"""The parameters of a notebook: read from its cell without a kernel, and checked against what is asked for.

By papermill's convention one code cell is tagged `parameters`; the values in it are the defaults.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nbutils import layout
from nbutils.notebook.document import code_cells, read, tags

TAG = "parameters"  # papermill's name
UNKNOWN = object()  # a default that only a kernel could tell
LITERALS = {"true": True, "false": False, "null": None, "none": None}
_CHOICES = {"PROFILE": layout.PROFILES, "DATA": layout.DATA}
_COUNTS = {"N_SEEDS", "PROCESSES"}  # whose default, None, says nothing of the type
_MADE = {"RUNS"}  # paths that a run makes; every other must be there
_PATH_WORDS = {"DOPESHEET", "CHECKPOINT", "ROOT", "DIR", "FOLDER", "FILE", "PATH"}  # last in the name of a path
_ARITHMETIC: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def defaults(notebook: Path) -> dict[str, Any]:
    """Return the names assigned in the cell tagged `parameters`, in order, with their values.

    A value that is no literal and no arithmetic of numbers is `UNKNOWN`. Empty where there is no such cell.

    Raises:
        ValueError: the file is not a notebook, or the cell is not valid Python.
    """
    # papermill's inspection reads lines: it misses `A = B = 1`, takes text for code, and passes what does not parse.
    source = next((cell.source for _, cell in code_cells(read(notebook)) if TAG in tags(cell)), "")
    found: dict[str, Any] = {}
    for statement in _statements(notebook, source):
        pairs: list[tuple[ast.expr, ast.expr | None]] = []
        if isinstance(statement, ast.Assign):
            pairs = [(target, statement.value) for target in statement.targets]
        elif isinstance(statement, ast.AnnAssign):
            pairs = [(statement.target, statement.value)]
        for target, value in pairs:
            for name, default in _assigned(target, value):
                found.pop(name, None)
                found[name] = default
    return found


def parameter_names(notebook: Path) -> list[str]:
    """Return the names assigned in the cell tagged `parameters`, in order; none where there is no such cell.

    Raises:
        ValueError: the file is not a notebook, or the cell is not valid Python.
    """
    return list(defaults(notebook))


def _statements(notebook: Path, source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager  # for `%magic` and `!command`; half a second

    try:
        return ast.parse(TransformerManager().transform_cell(source)).body
    except SyntaxError as error:
        raise ValueError(f"{notebook.name}: the parameters cell is not valid Python: {error}") from None


def _assigned(target: ast.expr, value: ast.expr | None) -> Iterator[tuple[str, Any]]:
    """Yield the names of an assignment with their values; those of a tuple `A, B = 1, 2` one by one."""
    if isinstance(target, ast.Name):
        yield target.id, _literal(value)
    elif isinstance(target, ast.Starred):
        yield from _assigned(target.value, None)
    elif isinstance(target, ast.Tuple | ast.List):
        parts: list[Any] = [None] * len(target.elts)
        fits = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
        starred = any(isinstance(element, ast.Starred) for element in target.elts)
        if isinstance(value, ast.Tuple | ast.List) and fits and not starred:
            parts = list(value.elts)
        for element, part in zip(target.elts, parts, strict=True):
            yield from _assigned(element, part)


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return UNKNOWN
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        sides = _literal(node.left), _literal(node.right)
        if all(isinstance(side, int | float) for side in sides):
            try:
                return _ARITHMETIC[type(node.op)](*sides)
            except ArithmeticError:
                return UNKNOWN
        return UNKNOWN
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


def value_of(text: str) -> Any:
    """Read a value: a number, truth value, null or bracketed list as such, anything else as text."""
    if text.lower() in LITERALS:
        return LITERALS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return text if isinstance(value, tuple) and not text.startswith("(") else value  # 0,4,8: see `chosen`


def is_path(name: str, value: object) -> bool:
    """Tell whether a parameter's value is a path: by its name, or as the name of an existing file with a suffix."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    if _names_path(name):
        return True
    path = Path(value).expanduser()
    try:
        return bool(path.suffix and path.is_file()) or value.startswith(("./", "../", "~/"))
    except OSError:  # too long for a path
        return False


def _names_path(name: str) -> bool:
    return name in _MADE or name.split("_")[-1] in _PATH_WORDS


def absolute(name: str, value: Any) -> Any:
    """Return a value with a path made absolute from the working folder, because the kernel runs in another one."""
    return str(Path(value).expanduser().resolve()) if is_path(name, value) else value


def chosen(notebook: Path, given: Mapping[str, str]) -> dict[str, Any]:
    """Return values given as text as what the notebook's defaults say they are.

    Where the default is text, `8` and `0,4,8` stay text; where it is a list, `0,4,8` is one. Paths are absolute.

    Raises:
        ValueError: as `check_parameters`.
        FileNotFoundError: as `check_parameters`.
    """
    known = defaults(notebook)
    values = {}
    for name, text in given.items():
        value, default = value_of(text), known.get(name, UNKNOWN)
        if isinstance(default, str) and not isinstance(value, str | list | dict | tuple):
            value = text
        elif isinstance(default, list | tuple) and isinstance(value, str) and "," in text:
            value = [value_of(part.strip()) for part in text.split(",") if part.strip()]
        elif default in (None, UNKNOWN) and _names_path(name) and value is not None:
            value = text if not isinstance(value, str) else value  # a folder can be called 2024
        values[name] = absolute(name, value)
    check_parameters(notebook, values)
    return values


def check_parameters(notebook: Path, given: Mapping[str, Any] | Iterable[str]) -> None:
    """Check names, and values where they are given, without a kernel.

    Args:
        notebook: the notebook.
        given: names, or values by name.

    Raises:
        ValueError: a name is unknown, or a value is of another type than the default; the message names the notebook,
            and the nearest known names or the default.
        FileNotFoundError: a file or folder that is to be read does not exist.
    """
    known = defaults(notebook)
    unknown = [name for name in given if name not in known]
    if unknown:
        near = [match for name in unknown for match in difflib.get_close_matches(name.upper(), [*known], cutoff=0.5)]
        hint = ", ".join(dict.fromkeys(near or known)) or "none at all"
        raise ValueError(f"{notebook.name} has no parameter {', '.join(unknown)}; it has {hint}")
    for name, value in given.items() if isinstance(given, Mapping) else ():
        if fault := _fault(name, known[name], value):
            raise ValueError(f"{notebook.name}: {fault}; got {value!r}")
        reads = is_path(name, value) and name not in _MADE and "{" not in value
        if reads and not Path(value).expanduser().exists():
            raise FileNotFoundError(f"{notebook.name}: {name} is no file or folder: {value}")


def _fault(name: str, default: Any, value: Any) -> str | None:
    """Return what a parameter is where a value is not that, else None."""
    if name in _COUNTS and (default is None or type(default) is int):
        counts = (value is None and default is None) or (type(value) is int and value > 0)
        return None if counts else f"{name} is a whole number of 1 or more{', or None' if default is None else ''}"
    if default is UNKNOWN or default is None:
        return None
    if name in _CHOICES and default in _CHOICES[name]:
        known = _CHOICES[name]
        return None if value in known else f"{name} is one of {', '.join(map(repr, known))}"
    if isinstance(default, list | tuple):
        items = value if isinstance(value, list | tuple) else None
        if items is None or (default and any(_kind(item, default) is None for item in items)):
            return f"{name} is a list like {list(default[:2])!r}"
        return None
    if _kind(value, [default]) is None:
        return f"{name} is {_words(default)} like {default!r}"
    return None


def _kind(value: Any, examples: Iterable[Any]) -> type | None:
    """Return the type of the first example that a value is of as well, else None; a whole number serves as a float."""
    for example in examples:
        kind = type(example)
        if example is None or type(value) is kind or (kind is float and type(value) is int):
            return kind
    return None


def _words(default: Any) -> str:
    words = {bool: "a truth value", int: "a whole number", float: "a number", str: "text", dict: "a dictionary"}
    return words.get(type(default), f"of type {type(default).__name__}")
