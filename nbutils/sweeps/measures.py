"""The measures of a sweep: shares of items with the wanted answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

IGNORED = -1  # the wanted class of an item that a measure leaves out


@dataclass(frozen=True)
class Measures:
    """Inputs, and the classes that count as hits on them: a measure is the share of hits.

    Clean accuracy is `("clean", labels)`, robust accuracy `("triggered", labels)`. Attack success leaves out items of
    the target class: `("triggered", torch.where(labels == target, IGNORED, target))`.

    Attributes:
        inputs: name -> `[items, ...]`. Those that no measure uses are skipped.
        wanted: measure -> (name of its inputs, wanted classes `[items]`, integers). Items with the class `IGNORED` do
            not count.

    Raises:
        KeyError: a measure on inputs that are not there.
        ValueError: no measure, or classes that do not fit the inputs.
    """

    inputs: Mapping[str, Tensor]
    wanted: Mapping[str, tuple[str, Tensor]]

    def __post_init__(self) -> None:
        if not self.wanted:
            raise ValueError("give at least one measure")
        for name, (source, classes) in self.wanted.items():
            if source not in self.inputs:
                raise KeyError(f"measure {name!r} is on input {source!r}; there are {', '.join(self.inputs)}")
            items = len(self.inputs[source])
            if classes.shape != (items,) or classes.is_floating_point() or not (classes != IGNORED).any():
                raise ValueError(
                    f"measure {name!r} needs one class per item of {source!r}, as integers [{items}] of which some "
                    f"are not {IGNORED}; got {classes.dtype} {tuple(classes.shape)}"
                )

    @property
    def used(self) -> list[str]:
        """Names of the inputs that measures are on, each once."""
        return list(dict.fromkeys(source for source, _ in self.wanted.values()))

    @property
    def sample(self) -> Tensor:
        """One input `[1, ...]`."""
        return self.inputs[self.used[0]][:1]

    def on(self, source: str) -> dict[str, Tensor]:
        """Return measure -> wanted classes, for the measures on one of the inputs."""
        return {name: classes for name, (own, classes) in self.wanted.items() if own == source}

    def count(self, name: str) -> int:
        """Return how many items count for a measure."""
        return int((self.wanted[name][1] != IGNORED).sum())
