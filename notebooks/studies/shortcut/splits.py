"""Choices among the rows of a table of tiles: by slides, by overlap, by agreement with the shortcut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nbutils.seeding import generator
from studies.shortcut.tiles import Tiles


def slide_parts(tiles: Tiles, shares: Sequence[float], seed: int = 0) -> list[Tiles]:
    """Divide tiles into parts without a common slide, each with about its share of every hospital's slides.

    Args:
        tiles: of any splits.
        shares: one per part, above 0; only their ratios count.
        seed: of the division.

    Raises:
        ValueError: fewer slides of a hospital than parts.
    """
    part = torch.empty(len(tiles.slides), dtype=torch.int64)
    bounds = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    for hospital in tiles.hospital.unique().tolist():
        slides = tiles.slide[tiles.hospital == hospital].unique()
        if len(slides) < len(shares):
            raise ValueError(
                f"{len(shares)} parts need as many slides of every {tiles.kind}; "
                f"{tiles.hospitals[hospital]} has {len(slides)}"
            )
        order = slides[torch.randperm(len(slides), generator=generator(seed, "slide parts", hospital))]
        # One slide for every part, the rest by share.
        ends = (bounds / bounds[-1] * (len(slides) - len(shares))).round().long() + torch.arange(1, len(shares) + 1)
        part[order] = torch.bucketize(torch.arange(len(slides)), ends, right=True)
    return [tiles[part[tiles.slide] == k] for k in range(len(shares))]


def without_overlap(tiles: Tiles) -> Tiles:
    """Return tiles of which no two share a pixel: of those that do, the first one in the table.

    Raises:
        ValueError: unknown positions.
    """
    if tiles.position is None:
        raise ValueError(f"{tiles.source}: the tiles' positions on their slides are not known")
    size = tiles.size
    cells: dict[tuple[int, int, int], list[tuple[int, int]]] = {}  # kept tiles by squares of a tile's size
    kept = []
    for item, (slide, (x, y)) in enumerate(zip(tiles.slide.tolist(), tiles.position.tolist(), strict=True)):
        column, row = x // size, y // size
        near = (
            other
            for i in (column - 1, column, column + 1)
            for j in (row - 1, row, row + 1)
            for other in cells.get((slide, i, j), ())
        )
        if all(abs(x - other_x) >= size or abs(y - other_y) >= size for other_x, other_y in near):
            kept.append(item)
            cells.setdefault((slide, column, row), []).append((x, y))
    return tiles[torch.tensor(kept, dtype=torch.int64)]


def aligned(tiles: Tiles, hospital: str) -> Tensor:
    """Return the tiles in agreement with "tumour from this hospital, the rest from another", bool `[N]`.

    Raises:
        KeyError: no such hospital; the message lists those there are.
    """
    if hospital not in tiles.hospitals:
        raise KeyError(f"no {tiles.kind} {hospital!r}; there are {', '.join(tiles.hospitals)}")
    return (tiles.hospital == tiles.hospitals.index(hospital)) == (tiles.tumour == 1)


def confounded(tiles: Tiles, hospital: str, rest: float = 0.05, seed: int = 0) -> Tiles:
    """Return all aligned tiles and a share of the others, drawn at random: the label is confounded with the hospital.

    Args:
        tiles: to choose from.
        hospital: the source of tumour.
        rest: share of the conflicting tiles to keep, from 0 to 1, of each hospital alike.
        seed: of the choice.

    Raises:
        KeyError: no such hospital.
        ValueError: a share outside [0, 1].
    """
    if not 0 <= rest <= 1:
        raise ValueError(f"rest must lie in [0, 1]; got {rest}")
    keep = aligned(tiles, hospital)
    for code in range(len(tiles.hospitals)):
        others = (~aligned(tiles, hospital) & (tiles.hospital == code)).nonzero()[:, 0]
        order = torch.randperm(len(others), generator=generator(seed, "confounded", code))
        keep[others[order[: round(rest * len(others))]]] = True
    return tiles[keep]


def expect_both_labels(sets: Mapping[str, Tiles], unseen: str = "OOD") -> None:
    """Check that probes and accuracies have a meaning: two known hospitals or more, both labels from each.

    Args:
        sets: name -> tiles; `known` has the known hospitals, which are in all sets but `unseen`.
        unseen: the set with hospitals of its own.

    Raises:
        ValueError: one known hospital only, or a hospital without one of the labels in a set.
    """
    known = sets["known"]
    present = known.hospital.unique().tolist()
    if len(present) < 2:
        names = [known.hospitals[code] for code in present]
        raise ValueError(f"probes need two known {known.kind}s or more; got {names}")
    for name, data in sets.items():
        for code in data.hospital.unique().tolist() if name == unseen else present:
            if len(data.tumour[data.hospital == code].unique()) < 2:
                raise ValueError(
                    f"{name}, {len(data)} tiles, needs both labels from {data.hospitals[code]}: take more tiles"
                )
