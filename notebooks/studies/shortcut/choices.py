"""Choices of the notebook's parameters cell that come as text or as lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard, TypeVar

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


def expect_choices(
    counts: Mapping[str, object],
    shares: Mapping[str, object],
    *,
    n_random: object,
    size: object,
    atypia: object,
    precision: object,
    checkpoint: object,
) -> None:
    """Refuse choices of the parameters cell that are no numbers or make no sense.

    Args:
        counts: name -> a whole number of 1 or more, or None.
        shares: name -> a number between 0 and 1, without the ends.
        n_random: a whole number of 1 or more.
        size: pixels per side, a whole number of 16 or more: the network halves it three times.
        atypia: a number above 0.
        precision: "float32" or "bfloat16".
        checkpoint: a path as text, or None.

    Raises:
        ValueError: one line that says which choice, and what is expected.
    """
    for name, count in counts.items():
        if count is not None and not (_is_whole(count) and count >= 1):
            raise ValueError(f"{name} is a whole number of 1 or more, or None; got {count!r}")
    if not _is_whole(n_random) or n_random < 1:
        raise ValueError(f"N_RANDOM is a whole number of 1 or more; got {n_random!r}")
    for name, share in shares.items():
        if not _is_number(share) or not 0 < share < 1:
            raise ValueError(f"{name} is a share, a number between 0 and 1; got {share!r}")
    if not _is_whole(size) or size < 16:
        raise ValueError(f"SIZE is a whole number of 16 pixels or more per side; got {size!r}")
    if not _is_number(atypia) or not atypia > 0:
        raise ValueError(f"ATYPIA is a number above 0; got {atypia!r}")
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"PRECISION is 'float32' or 'bfloat16'; got {precision!r}")
    if checkpoint is not None and not isinstance(checkpoint, str):
        raise ValueError(f"CHECKPOINT is a path as text, or None; got {checkpoint!r}")


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
