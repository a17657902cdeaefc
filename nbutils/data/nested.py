"""Where in a trainer's checkpoint a network's weights lie, and what their names begin with there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from torch import Tensor

PREFIXES = ("module.", "model.", "net.", "backbone.")
"""What wraps a network, at the beginning of every name: data-parallel training, Lightning, WILDS and others."""

_WITHIN = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # at any place
_AVERAGE = re.compile(r"(^|_)(ema|swa|avg|average|averaged|shadow|teacher)(_|$)", re.IGNORECASE)
_OTHER = re.compile(r"(^|_)(opt|optim\w*|momentum|exp_avg\w*|grads?|gradients?)(_|$)", re.IGNORECASE)  # never weights
_STEPS = ("n_averaged",)  # what torch.optim.swa_utils.AveragedModel counts beside the weights
_DEPTH = 3  # dictionaries within dictionaries
_MOST = 10_000  # of them: a dictionary may lie in itself


class StateError(ValueError):
    """A file of weights cannot be used: the message names the file, and the parameter where there is one."""


@dataclass(frozen=True)
class State:
    """A dictionary of a checkpoint, with names as the network has them.

    Attributes:
        tensors: by name.
        where: the file, the dictionary in it and the prefix taken off, for messages.
        key: of the dictionary, e.g. `"state_dict"`; of nested ones `"state_dict.model"`; empty for the file's own.
        aside: keys of other dictionaries with tensors.
    """

    tensors: dict
    where: str
    key: str
    aside: tuple[str, ...] = ()


def is_count(name: str) -> bool:
    """Say whether a buffer only counts batches; files of before torch 0.4.1 and some trainers leave it out."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def choose(own: Mapping[str, Tensor], found: Mapping[str, object], path: str | Path) -> State:
    """Return the dictionary that fits, or else the one that shares most names.

    Args:
        own: the network's state dict.
        found: the file's content.
        path: of the file, for messages.

    Raises:
        StateError: two fit, or there is no dictionary of tensors. An average is looked at where nothing else fits.
    """
    looked = islice(_dictionaries(found), _MOST)
    places = {key: state for key, state in looked if _holds_tensors(state)}
    fitting: dict[str, State] = {}
    for key, state in places.items():
        for prefix, renamed in _renamings(state):
            if _fits(own, renamed):
                fitting.setdefault(key, State(renamed, _where(path, key, prefix), key))
    chosen = [key for key in fitting if not _is_average(key)] or list(fitting)
    if len(chosen) > 1:
        raise StateError(
            f"{path}: {' and '.join(map(repr, chosen))} both fit; expected one: save the one that is meant by itself"
        )
    if not chosen:
        if not places:
            keys = ", ".join(repr(key) for key in list(found)[:8])
            raise StateError(f"{path}: expected tensors by name; found {keys or 'nothing'}")
        return _closest(own, places, path)
    (key,) = chosen
    return replace(fitting[key], aside=tuple(_others(found, key)))


def _where(path: str | Path, key: str, prefix: str) -> str:
    return f"{path}{f', in {key!r}' if key else ''}{f' without {prefix!r}' if prefix else ''}"


def _closest(own: Mapping[str, Tensor], places: Mapping[str, dict], path: str | Path) -> State:
    """Return what shares most names with the network, a prefix taken off wherever it is."""
    states = [
        State(renamed, _where(path, key, prefix), key)
        for key, state in places.items()
        for prefix, renamed in _renamings(state, everywhere=False)
    ]
    return max(states, key=lambda state: (len(own.keys() & state.tensors.keys()), len(state.tensors)))


def _dictionaries(content: Mapping, key: str = "", depth: int = 0) -> Iterator[tuple[str, dict]]:
    """Yield the content and the dictionaries in it, each with the keys that lead to it; no lists, no optimizer's."""
    yield key, dict(content)
    if depth < _DEPTH:
        for name, value in content.items():
            if isinstance(value, Mapping) and isinstance(name, str) and not _OTHER.search(name):
                yield from _dictionaries(value, f"{key}.{name}" if key else name, depth + 1)


def _holds_tensors(state: Mapping) -> bool:
    return any(isinstance(value, Tensor) for value in state.values())


def _others(found: Mapping, key: str) -> Iterator[str]:
    """Yield the file's keys beside the one that was read under which there are tensors in dictionaries."""
    for name, value in found.items():
        if key and name != key.split(".")[0] and isinstance(value, Mapping):
            inner = [part for part in value.values() if isinstance(part, Mapping)]
            deeper = [part for state in inner for part in state.values() if isinstance(part, Mapping)]
            if any(map(_holds_tensors, [value, *inner, *deeper])):
                yield str(name)


def _renamings(state: dict, everywhere: bool = True) -> Iterator[tuple[str, dict]]:
    """Yield the dictionary with more and more taken off the beginning of its names, and what was taken off.

    Args:
        state: the dictionary.
        everywhere: only what all names begin with; else what any does.
    """
    yield "", state
    if not all(isinstance(name, str) for name in state):
        return
    number = all if everywhere else any
    names = {name: _WITHIN.sub("", name) for name in state}
    if len(set(names.values())) < len(names):  # two would become one
        return
    if any(name != short for name, short in names.items()):
        yield "_orig_mod.", {short: state[name] for name, short in names.items()}
    taken = ""
    while True:
        kept = {name: short for name, short in names.items() if taken or short not in _STEPS}
        prefix = next((p for p in PREFIXES if kept and number(short.startswith(p) for short in kept.values())), None)
        if prefix is None:
            return
        taken += prefix
        names = {name: short.removeprefix(prefix) for name, short in kept.items()}
        if len(set(names.values())) < len(names):
            return
        yield taken, {short: state[name] for name, short in names.items()}


def _fits(own: Mapping[str, Tensor], state: Mapping) -> bool:
    """Say whether names and shapes are the network's; counts of batches may be missing."""
    missing = own.keys() - state.keys()
    return (
        not state.keys() - own.keys()
        and all(is_count(name) for name in missing)
        and all(isinstance(value, Tensor) and value.shape == own[name].shape for name, value in state.items())
    )


def _is_average(key: str) -> bool:
    return any(_AVERAGE.search(part) for part in key.split("."))
