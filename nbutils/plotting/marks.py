"""One colour, marker and line for each name, throughout the collection: `notebooks/studies/marks.toml`.

    [stand-ins]
    zero = ["blue", "o", "solid"]

A section holds names that are seen together. Within one, no two names share a colour and no two a marker, so that
greyscale print and a reader who sees few hues can tell them apart; a name means the same in all sections.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from nbutils import layout
from nbutils.plotting.theme import current

COLOURS = ("blue", "vermilion", "green", "purple", "orange", "sky", "grey", "ink")
MARKERS = ("o", "s", "D", "^", "v", "X", "P", "*")
LINES: dict[str, Any] = {
    "solid": "-",
    "dashed": "--",
    "dotted": ":",
    "dashdot": "-.",
    "long": (0, (5, 1)),
    "longdot": (0, (3, 1, 1, 1)),
    "short": (0, (1, 1)),
}


class Mark(NamedTuple):
    """How a name is drawn: a colour as `#rrggbb`, and matplotlib's marker and line style."""

    color: str
    marker: str
    linestyle: Any


def mark(name: str) -> Mark:
    """Return how a name of the registry is drawn, in the theme in force.

    Raises:
        KeyError: the registry has no such name.

    >>> from nbutils.plotting.marks import mark
    >>> mark("random").marker
    'X'
    """
    entries = registry(layout.marks())
    if name not in entries:
        raise KeyError(f"{layout.marks()} has no {name!r}; there are {', '.join(entries)}")
    colour, marker, line = entries[name]
    theme = current()
    return Mark(theme.ink if colour == "ink" else theme.accents[COLOURS.index(colour)], marker, LINES[line])


@lru_cache(maxsize=2)
def registry(path: Path) -> dict[str, tuple[str, str, str]]:
    """Return colour, marker and line of every name in a registry.

    Raises:
        ValueError: an entry has another form, two names of a section look alike, or a name has two looks.
    """
    entries: dict[str, tuple[str, str, str]] = {}
    for section, names in tomllib.loads(path.read_text(encoding="utf-8")).items():
        taken: dict[str, str] = {}
        for name, look in names.items():
            known = isinstance(look, list) and len(look) == 3 and all(isinstance(part, str) for part in look)
            if not known or look[0] not in COLOURS or look[1] not in MARKERS or look[2] not in LINES:
                raise ValueError(
                    f"{path}: {name!r} is [colour, marker, line], of {', '.join(COLOURS)}; {' '.join(MARKERS)}; "
                    f"{', '.join(LINES)}; got {look!r}"
                )
            for part in look[:2]:
                if part in taken:
                    raise ValueError(f"{path}: {name!r} and {taken[part]!r} of [{section}] are both {part!r}")
                taken[part] = name
            if entries.setdefault(name, tuple(look)) != tuple(look):
                raise ValueError(f"{path}: {name!r} has two looks; a name means the same in all sections")
    return entries
