"""The identity of a run: its functions, networks and data, by content.

Stored results (`nbutils.runs`) and checkpoints (`nbutils.training.fit`) belong to the run that made them. Two
runs are the same when everything they are made of has the same content, in whichever process:

- Numbers, texts, arrays and containers count by type and content: `1` is not `"1"`, a list is no tuple, and neither are
  two dicts of another order. A tensor counts with whether it wants a gradient, not with its device or strides.
- Functions count by their compiled code, defaults, attributes, closure, and what they read of their module, all
  followed further. A comment, a docstring, an annotation or a move to another line changes nothing; another minor
  version of Python does, because it compiles otherwise. What a function imports in its body is not followed.
- Classes count by their bases and members. Functions and classes of packages (the standard library, what is installed,
  this one) count by their names; of this one the version counts, too. What own code has put into such a class counts.
- Other objects count by their class and by what pickling would keep of them; `__getstate__` may leave out a cache, and
  a `functools.cached_property` is left out. A network counts with its attributes and hooks.
- A file given as a `Path` counts by its content, not its place. A folder counts by its place: runs write to folders,
  and one may hold more than can be read each time. Pass its files, or a digest of them.

What has no content to compare (a lock, an open file, a generator, a pool of workers) is refused, but counts by its type
where a function or a class merely reads it.
"""

from __future__ import annotations

import copyreg
import dis
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from functools import _lru_cache_wrapper, cached_property
from pathlib import Path
from threading import Thread
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from nbutils.data import arrays

# Bookkeeping of Python that comes and goes, or repeats what the methods hold.
_BOOKKEEPING = {
    *("__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__"),
    *("__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__", "__module__"),
    *("__orig_bases__", "__parameters__", "__protocol_attrs__", "__slotnames__", "__static_attributes__"),
    *("__weakref__", "_abc_impl"),
}
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_LAYOUT = {"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "RESUME"}  # instructions that compute nothing


class UnidentifiedError(ValueError):
    """A value has no content to tell it by: the message names it."""


class Identifier:
    """Tells things apart by content, and looks at each of them once: use one for all parts of a call.

    What it has seen must not change while it is in use.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, bool], tuple[object, str]] = {}  # with the object, whose id is then taken
        self._open: list[int] = []  # ids of what is being looked at, outermost first
        self._reads = 0  # how many functions and classes are among them
        self._files: dict[Path, str] = {}

    def of(self, value: object, name: str) -> str:
        """Return 32 hexadecimal digits that are equal where contents are.

        Args:
            value: anything.
            name: of the value, for the message.

        Raises:
            UnidentifiedError: something in it has no content to compare.
        """
        try:
            return _hash([self._walk(value)])
        except UnidentifiedError as error:
            raise UnidentifiedError(f"cannot identify {name!r}: {error}") from None

    def _walk(self, value: Any) -> str:
        if type(value) in _ATOMS:
            return repr(value)
        if is_a("numpy", "integer", value) or is_a("numpy", "bool_", value) or is_a("numpy", "float64", value):
            return repr(value.item())
        key = id(value), self._reads > 0
        if key in self._known:
            return self._known[key][1]
        if id(value) in self._open:
            return f"cycle {len(self._open) - self._open.index(id(value))}"
        self._open.append(id(value))
        inside = isinstance(value, FunctionType | type)
        self._reads += inside
        try:
            found = _hash(self._parts(value))
        except UnidentifiedError:
            if self._reads == inside:
                raise
            found = f"some {type(value).__qualname__}"
        finally:
            self._open.pop()
            self._reads -= inside
        self._known[key] = value, found
        return found

    def _all(self, values: Iterable[Any]) -> Iterator[str]:
        return map(self._walk, values)

    def _parts(self, value: Any) -> list[str]:
        """Return what a value consists of; the first part says of what kind it is."""
        if type(value) in (list, tuple):
            return [type(value).__name__, *self._all(value)]
        if type(value) is dict or (isinstance(value, Mapping) and type(value).__module__ == "builtins"):
            return ["dict", *self._all(part for item in value.items() for part in item)]
        if type(value) in (set, frozenset):
            return [type(value).__name__, *sorted(self._all(value))]
        if is_a("torch", "Tensor", value):
            return self._tensor(value)
        if type(value).__name__ == "ndarray" and is_a("numpy", "ndarray", value):  # a masked one keeps more
            if value.dtype.hasobject:
                return ["array of objects", repr(value.shape), self._walk(value.tolist())]
            return ["array", arrays.digest({"": value})]
        if is_a("pandas", "DataFrame", value) or is_a("pandas", "Series", value):
            return self._table(value)
        if is_a("torch.nn", "Module", value):
            state = {k: list(v.values()) if "_hooks" in k and v else v for k, v in vars(value).items()}
            return ["network", self._walk(type(value)), self._walk(state)]  # hooks are keyed by a running number
        if isinstance(value, Path):
            return ["file", self._file(value)] if value.is_file() else ["path", str(value)]
        return self._code(value)

    def _tensor(self, tensor: Any) -> list[str]:
        hooks = list((tensor._backward_hooks or {}).values())
        about = [type(tensor).__name__, str(tensor.requires_grad), self._walk(hooks)]
        if tensor.is_meta:
            return ["shape", *about, repr((tensor.dtype, tuple(tensor.shape)))]
        if str(tensor.layout) != "torch.strided":
            return ["sparse", *about, str(tensor.layout), arrays.digest({"": tensor.to_dense()})]
        return ["tensor", *about, arrays.digest({"": tensor})]

    def _table(self, table: Any) -> list[str]:
        frame = table.to_frame() if table.ndim == 1 else table
        columns = [frame.iloc[:, i] for i in range(frame.shape[1])]
        found = [(c.name, repr(c.dtype), c.to_numpy() if c.dtype.kind in "biuf" else list(c)) for c in columns]
        return ["table", type(table).__name__, self._walk(list(frame.index)), self._walk(found)]

    def _file(self, path: Path) -> str:
        place = path.resolve()
        if place not in self._files:
            with place.open("rb") as file:
                self._files[place] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._files[place]

    def _code(self, value: Any) -> list[str]:
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, CodeType):
            return ["code", *self._all(_instructions(value))]
        if isinstance(value, ModuleType):
            return ["module", value.__name__, *_source(value)]
        if isinstance(value, MethodType):
            return ["method", self._walk(value.__func__), self._walk(value.__self__)]
        if isinstance(value, staticmethod | classmethod):
            return [type(value).__name__, self._walk(value.__func__)]
        if isinstance(value, property):
            return ["property", *self._all([value.fget, value.fset, value.fdel])]
        if isinstance(value, cached_property):
            return ["cached property", self._walk(value.func)]
        if isinstance(value, _lru_cache_wrapper):
            return ["cached", *self._all([value.__wrapped__, value.cache_parameters()])]
        return self._object(value)

    def _function(self, function: FunctionType) -> list[str]:
        code = function.__code__
        own = _own(function.__globals__.get("__name__"))
        read: dict[str, Any] = _reads(code, function.__globals__) if own else {}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if cell != type(cell)():  # an empty cell is a name that is not set yet
                read[name] = cell.cell_contents
        text = f"{function.__globals__.get('__name__')}.{code.co_qualname}"
        if own or "<" in text:  # a package may have several of such a name
            text = self._walk(code)
        about = function.__defaults__, function.__kwdefaults__, vars(function)
        return ["function", text, *self._all([*about, dict(sorted(read.items()))])]

    def _class(self, kind: type) -> list[str]:
        if _own(kind.__module__):
            members = {name: member for name, member in vars(kind).items() if name not in _BOOKKEEPING}
            above, name = [*kind.__bases__, type(kind)], kind.__qualname__
        else:  # what own code has put there
            members = {
                name: member
                for base in reversed(kind.__mro__)
                for name, member in vars(base).items()
                if isinstance(member, FunctionType) and _own(member.__globals__.get("__name__"))
            }
            above, name = [], f"{kind.__module__}.{kind.__qualname__}"
        return ["class", name, *self._all([*above, dict(sorted(members.items()))])]

    def _object(self, value: Any) -> list[str]:
        if hasattr(type(value), "__identity__"):
            return ["object", *self._all([type(value), value.__identity__()])]
        try:
            if isinstance(value, Executor | Thread):  # has a state, which is another one in each process
                raise TypeError
            make = copyreg.dispatch_table.get(type(value))
            reduced: Any = make(value) if make else value.__reduce_ex__(4)
        except Exception:
            raise UnidentifiedError(f"a {type(value).__name__} has no content to compare") from None
        if isinstance(reduced, str):
            return ["name", str(getattr(value, "__module__", "")), reduced]
        make, arguments, state, items, pairs = [*reduced, None, None, None][:5]
        if isinstance(state, dict):
            kept = (n for n in state if not isinstance(getattr(type(value), n, None), cached_property))
            state = {name: state[name] for name in sorted(kept, key=str)}
        return ["object", *self._all([make, arguments, state, list(items or ()), list(pairs or ())])]


def _source(module: ModuleType) -> list[str]:
    """Return the digest of a module of the user's, where it is unknown what is read of it; nothing of others."""
    file = getattr(module, "__file__", None)
    if not _own(module.__name__) or file is None or not Path(file).is_file():
        return []
    return [hashlib.sha256(Path(file).read_bytes()).hexdigest()]


def _own(module: str | None) -> bool:
    """Tell whether a module is the user's: part of no package that is installed, nor of Python, nor of this one."""
    module = module or ""
    top = module.partition(".")[0]
    if top == "nbutils" or top in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return not {"site-packages", "dist-packages"} & set(Path(file).parts)


def _reads(code: CodeType, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return what code reads of its module by name, and of own modules that it reads from."""
    codes, found = [code], {}
    attributes: set[str] = set()
    for part in codes:  # grows
        codes += [constant for constant in part.co_consts if isinstance(constant, CodeType)]
        attributes.update(part.co_names)
        for instruction in dis.get_instructions(part):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and instruction.argval in names:
                found[instruction.argval] = names[instruction.argval]
    modules = [(name, value) for name, value in found.items() if isinstance(value, ModuleType)]
    seen = set()
    for place, module in modules:  # grows
        if module in seen or not _own(module.__name__):
            continue
        seen.add(module)
        for name in sorted(attributes & vars(module).keys()):
            found[f"{place}.{name}"] = value = vars(module)[name]
            if isinstance(value, ModuleType):
                modules.append((f"{place}.{name}", value))
    # Of the user's modules that are followed here, what is read counts, and not the rest of them.
    for name, value in found.items():
        if isinstance(value, ModuleType) and value in seen:
            found[name] = value.__name__
    return found


def _instructions(code: CodeType) -> list[Any]:
    """Return what code does, without where it stands, its documentation and the order of its constants."""
    found: list[Any] = [code.co_varnames, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount]
    found += [code.co_flags & 0x2AF, code.co_exceptiontable]  # the kinds of function: *args, generator, coroutine
    for instruction in dis.get_instructions(code):
        if instruction.opname not in _LAYOUT:
            argument = instruction.argval
            found.append((instruction.opname, argument if instruction.opcode in dis.hasconst else repr(argument)))
    return found


def is_a(module: str, kind: str, value: object) -> bool:
    """Tell whether a value is of a type of a module, which nobody has imported if there are no such values."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], kind))


def _hash(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
