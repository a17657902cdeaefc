"""Timelines: a dopesheet resolved to the value of every parameter at every step."""

from __future__ import annotations

import operator
from bisect import bisect
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from nbutils.schedules.dopesheet import Dopesheet, Parameter
from nbutils.schedules.timing import TIMINGS

if TYPE_CHECKING:
    import pandas as pd


class Timeline:
    """The values of all parameters at steps 0 to the sheet's last step, computed once.

    A parameter holds its first keyed value from step 0 and its last to the end. Between, it moves from key to
    key with its timing in its space, and equals each keyed value exactly at the key's step.

    Args:
        dopesheet: the schedule to resolve.

    Attributes:
        parameters: names of the parameters, in the sheet's order.

    >>> import nbutils as nb
    >>> from pathlib import Path
    >>> _ = Path("sheet.csv").write_text("STEP,lr\\n0,0.1\\n10,0.01\\n")
    >>> timeline = nb.Timeline(nb.Dopesheet.from_csv("sheet.csv"))
    >>> timeline[0]["lr"], len(timeline)
    (0.1, 11)
    """

    def __init__(self, dopesheet: Dopesheet) -> None:
        self.parameters: tuple[str, ...] = tuple(parameter.name for parameter in dopesheet.parameters)
        self._values = np.empty((dopesheet.keyframes[-1].step + 1, len(self.parameters)))  # (step, parameter)
        for column, parameter in enumerate(dopesheet.parameters):
            self._values[:, column] = _resolve(parameter, dopesheet, len(self))
        self._phases = [(keyframe.step, keyframe.phase) for keyframe in dopesheet.keyframes if keyframe.phase]
        self._actions = {keyframe.step: keyframe.actions for keyframe in dopesheet.keyframes}

    @classmethod
    def from_csv(cls, path: str | PathLike[str]) -> Timeline:
        """Read and resolve a dopesheet.

        Raises:
            FileNotFoundError: there is no such file.
            DopesheetError: a defect of the sheet; the message names file, row, column and the expected entry.
        """
        return cls(Dopesheet.from_csv(path))

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, step: int) -> dict[str, float]:
        """Return every parameter's value at `step`.

        Raises:
            IndexError: `step` is negative or beyond the last.
        """
        return dict(zip(self.parameters, self._values[self._index(step)].tolist(), strict=True))

    def phase(self, step: int) -> str:
        """Return the phase that `step` lies in, or "" before the first one named.

        Raises:
            IndexError: `step` is negative or beyond the last.
        """
        place = bisect(self._phases, self._index(step), key=operator.itemgetter(0))
        return self._phases[place - 1][1] if place else ""

    def section(self, phase: str) -> Timeline:
        """Return one phase as a timeline of its own that begins at step 0.

        Raises:
            KeyError: no phase has this name, or several have; the message lists the sheet's.
        """
        places = [place for place, (_, name) in enumerate(self._phases) if name == phase]
        if len(places) != 1:
            named = ", ".join(name for _, name in self._phases) or "none"
            raise KeyError(f"expected one phase {phase!r}, got {len(places)}; the sheet's phases are {named}")
        ends = [step for step, _ in self._phases[1:]] + [len(self)]
        start, end = self._phases[places[0]][0], ends[places[0]]
        section = object.__new__(Timeline)
        section.parameters = self.parameters
        section._values = self._values[start:end]
        section._phases = [(0, phase)]
        section._actions = {step - start: names for step, names in self._actions.items() if start <= step < end}
        return section

    def first(self, steps: int) -> Timeline:
        """Return the first `steps` steps, as of a shorter run.

        Raises:
            ValueError: fewer than 1, or more than there are.
        """
        if not 1 <= steps <= len(self):
            raise ValueError(f"expected 1 to {len(self)} steps, got {steps}")
        part = object.__new__(Timeline)
        part.parameters = self.parameters
        part._values = self._values[:steps]
        part._phases = [(step, name) for step, name in self._phases if step < steps]
        part._actions = {step: names for step, names in self._actions.items() if step < steps}
        return part

    def actions(self, step: int) -> tuple[str, ...]:
        """Return the names of what happens at exactly `step`.

        Raises:
            IndexError: `step` is negative or beyond the last.
        """
        return self._actions.get(self._index(step), ())

    def frame(self) -> pd.DataFrame:
        """Return all values as a table: indexed by step, one column per parameter."""
        import pandas as pd

        index = pd.RangeIndex(len(self), name="step")
        return pd.DataFrame(self._values, index=index, columns=list(self.parameters), copy=True)

    def _index(self, step: int) -> int:
        step = operator.index(step)
        if not 0 <= step < len(self):
            raise IndexError(f"expected a step from 0 to {len(self) - 1}, got {step}")
        return step


def _resolve(parameter: Parameter, dopesheet: Dopesheet, steps: int) -> np.ndarray:
    """Return the values `[steps]` of one parameter."""
    keyed = [keyframe for keyframe in dopesheet.keyframes if parameter.name in keyframe.values]
    keys = np.array([keyframe.step for keyframe in keyed])
    targets = np.array([keyframe.values[parameter.name] for keyframe in keyed])
    if len(keys) == 1:
        return np.full(steps, targets[0])
    step = np.arange(steps)
    left = np.clip(np.searchsorted(keys, step, side="right") - 1, 0, len(keys) - 2)
    before, after = targets[left], targets[left + 1]
    fraction = np.clip((step - keys[left]) / (keys[left + 1] - keys[left]), 0, 1)
    share = TIMINGS[parameter.timing](fraction)
    if parameter.space == "log":
        values = np.exp(np.log(before) * (1 - share) + np.log(after) * share)
    else:
        values = before * (1 - share) + after * share
    # Rounding may overshoot a key by the last digit, which would turn a weight of 0 negative.
    values = np.clip(values, np.minimum(before, after), np.maximum(before, after))
    values[keys] = targets
    return values
