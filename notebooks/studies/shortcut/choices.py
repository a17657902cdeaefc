"""Choices of the notebook's parameters cell that come as text or as lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Number = TypeVar("Number", int, float)


def numbers(given: str | float | Sequence[float] | None, kind: Callable[[str], Number]) -> list[Number]:
    """Return numbers given as text such as `"0.9,0"`, as one number, as a list of them, or as None, an empty list.

    Args:
        given: as it stands in the parameters cell.
        kind: `int` or `float`.

    Raises:
        ValueError: something else, or no number of that kind.
    """
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, Sequence) else [given]
    try:
        return [kind(str(part)) for part in parts if part is not None]
    except ValueError:
        raise ValueError(f"expected numbers such as '8' or '0,8'; got {given!r}") from None
