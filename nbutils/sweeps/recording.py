"""What the modules of a model did in one forward pass, and how they give it back without running."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nbutils import batches
from nbutils.batches import Batch
from nbutils.hooks import watch

Versions = list[tuple[Tensor, int]]  # tensors, and how often they had been written into
Simple = bool | int | float | str | None


class Mismatch(Exception):
    """A pass went another way than the recorded one."""


@dataclass(eq=False)
class Call:
    """What a module did; times count the starts and ends of modules.

    Attributes:
        path: of the module.
        calls: how often it ran.
        arguments: what it was called with, positions and keywords.
        output: what it put out: the very objects, or copies where something writes into them later.
        kept: whether `output` can be given back.
        hooked: whether others have hooks on it: they would run again on what it gives back.
        parent: the call inside which it ran.
        copied: whether `output` is a copy, to be copied again where what is given back is written into.
        taken, versions: the tensors of `arguments` when it started, of `output` when it was done.
    """

    path: str
    module: nn.Module
    hooked: bool
    calls: int = 0
    started: int = 0
    finished: int = 0
    arguments: tuple[Any, ...] = ()
    output: Any = None
    kept: bool = False
    copied: bool = False
    parent: Call | None = None
    taken: Versions = field(default_factory=list)
    versions: Versions = field(default_factory=list)
    _lent: tuple[Any, Versions] | None = None

    @property
    def reusable(self) -> bool:
        return self.kept and self.calls == 1 and not self.hooked

    def give(self) -> Any:
        """Return what it put out."""
        if self.copied:
            # Handed out until it is written into: who does may be among those that do not run.
            if self._lent is None or written(self._lent[1]):
                lent = _copied(self.output)
                self._lent = lent, versions_of(lent)
            return self._lent[0]
        return copy.copy(self.output) if isinstance(self.output, list | dict) else self.output


class Recorder:
    """Records passes of a model, and learns which outputs are written into after their module is done.

    Attributes:
        late: paths of the modules that put them out: theirs are copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.late: set[str] = set()
        self._modules = dict(reachable(model))
        self._hooked = {path for path, module in self._modules.items() if is_hooked(module)}

    def record(self, inputs: Batch, wanted: Container[nn.Module] | None = None) -> dict[nn.Module, Call]:
        """Run the model once and return each module's call.

        Args:
            inputs: what it runs on.
            wanted: the modules whose outputs are kept; None: all.
        """
        while True:
            calls = self._pass(inputs, wanted)
            found = {call.path for call in calls.values() if written(call.versions)}
            if not found - self.late:
                return calls
            self.late |= found

    def _pass(self, inputs: Batch, wanted: Container[nn.Module] | None) -> dict[nn.Module, Call]:
        clock = iter(range(1 << 62))
        calls = {module: Call(path, module, path in self._hooked) for path, module in self._modules.items()}
        running: list[Call] = []

        def start(call: Call, *arguments: Any, **keywords: Any) -> None:
            call.calls += 1
            if wanted is None or call.module in wanted:
                call.arguments = (*arguments, *keywords.items())
                call.taken = versions_of(call.arguments)
            call.parent = running[-1] if running else None
            call.started = next(clock)
            running.append(call)

        def finish(call: Call, output: Any) -> None:
            while running and running.pop() is not call:
                pass  # a module inside ended by an exception that was caught
            call.finished = next(clock)
            call.kept = (wanted is None or call.module in wanted) and _simple(output)
            if call.kept:
                call.copied = call.path in self.late
                call.output = _copied(output) if call.copied else output
                # Numbers of a view's base count, too. A copy is nobody else's.
                call.versions = [] if call.copied else versions_of(output)

        ends = {call.path: partial(finish, call) for call in calls.values()}
        with watch(self.model, ends, inputs={call.path: partial(start, call) for call in calls.values()}):
            batches.run(self.model, inputs)
        return calls


@contextmanager
def answering(stand_ins: Iterable[Call], unmoved: Iterable[Call]) -> Iterator[Callable[[], None]]:
    """Make modules give back what they put out without running.

    Args:
        stand_ins: calls to answer whatever the arguments; each must be met once.
        unmoved: calls to answer where the arguments are the very ones recorded.

    Yields:
        What raises a `Mismatch` unless each stand-in was met once since it was last called.
    """
    met: dict[str, int] = {}
    own: dict[nn.Module, Any] = {}
    before = list(stand_ins)

    def answer(call: Call) -> Callable[..., Any]:
        def forward(*_arguments: Any, **_keywords: Any) -> Any:
            met[call.path] = met.get(call.path, 0) + 1
            return call.give()

        return forward

    def answer_same(call: Call, forward: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(*arguments: Any, **keywords: Any) -> Any:
            given = (*arguments, *keywords.items())
            same = len(given) == len(call.arguments) and all(map(_same, given, call.arguments))
            if same and not written(call.taken):
                return call.give()
            return forward(*arguments, **keywords)

        return maybe

    def check() -> None:
        for call in before:
            if met.pop(call.path, 0) != 1:
                raise Mismatch(f"{call.path!r} was recorded before the site, and is not asked for again")
            if written(call.versions):
                raise Mismatch(f"what {call.path!r} put out was written into")

    try:
        for call in before:
            own[call.module] = vars(call.module).get("forward")
            call.module.forward = answer(call)
        for call in unmoved:
            own[call.module] = vars(call.module).get("forward")
            call.module.forward = answer_same(call, call.module.forward)
        yield check
    finally:
        for module, forward in own.items():
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward


class Outside(TorchDispatchMode):
    """Sees the operations, but views, that a model itself runs, outside of its modules.

    Attributes:
        inside: whether a module runs: kept by who follows them.
        ran: the names of the operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inside = False
        self.ran: set[str] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the wrapper that keeps the compiler away loads it, which takes seconds; `eager` does that, too

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside and not func.is_view:
            self.ran.add(str(func))
        return func(*args, **(kwargs or {}))


def written(versions: Versions) -> bool:
    """Return whether something has been written into one of the tensors."""
    return any(tensor._version != version for tensor, version in versions)


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was written into; nothing writes into one made in inference mode, outside of that."""
    return 0 if tensor.is_inference() else tensor._version


def versions_of(value: Any) -> Versions:
    """Return the tensors in a value that can be written into, and how often each was."""
    return [(tensor, tensor._version) for tensor in tensors(value) if not tensor.is_inference()]


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors in what a module takes or puts out; inside `torch.vmap` those of all items."""
    if isinstance(value, Tensor):
        while torch._C._functorch.is_batchedtensor(value):
            value = torch._C._functorch.get_unwrapped(value)
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for element in value for tensor in tensors(element)] if isinstance(value, list | tuple) else []


def owned(inputs: Batch) -> Batch:
    """Return inputs whose changes are counted: copies of inference tensors, the others themselves."""
    if isinstance(inputs, Tensor):
        return inputs.clone() if inputs.is_inference() else inputs
    if not any(tensor.is_inference() for tensor in tensors(inputs)):
        return inputs
    return cast("Batch", _copied(inputs))


def storages(value: Any) -> set[int]:
    """Return what tells apart the memory of the tensors in a value."""
    return {tensor.untyped_storage()._cdata for tensor in tensors(value)}


def is_hooked(module: nn.Module) -> bool:
    """Return whether a module has hooks of its forward pass."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def reachable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield path and module of what lies below a model, but not what lies in scripted modules, which no hook meets."""
    seen = {model}

    def below(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        if isinstance(module, torch.jit.ScriptModule):
            return
        for name, child in module.named_children():
            if child not in seen and not isinstance(child, torch.jit.ScriptModule):
                seen.add(child)
                yield prefix + name, child
                yield from below(child, f"{prefix}{name}.")

    yield from below(model, "")


def _simple(value: Any) -> bool:
    """Return whether a value is made of tensors and constants, so that it can be given back.

    A tensor inside `torch.vmap` cannot.
    """
    if isinstance(value, Tensor) and torch._C._functorch.is_batchedtensor(value):
        return False
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return all(map(_simple, value))
    return isinstance(value, Tensor | Simple)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        made = copy.copy(value)
        for key, element in value.items():
            made[key] = _copied(element)  # type: ignore[index]  # dicts and ModelOutputs can be written to
        return made
    if isinstance(value, list | tuple):
        elements = [_copied(element) for element in value]
        return type(value)(*elements) if hasattr(value, "_fields") else type(value)(elements)
    return value


def _layout(tensor: Tensor) -> tuple[object, ...]:
    place = tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()
    return *place, tensor.is_neg(), tensor.is_conj()


def _same(one: Any, other: Any) -> bool:
    """Return whether an argument is the very one: the same tensor, the same view of it, or an equal constant."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one is other or type(one) is not type(other) or one.dtype != other.dtype:
            return one is other
        return _layout(one) == _layout(other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, Simple) and type(one) is type(other) and bool(one == other)
