"""Accuracy by group, such as hospital and label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbutils.stats.proportions import Proportion

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def group_accuracies(hits: ArrayLike, *columns: ArrayLike) -> dict[tuple, Proportion]:
    """Return the accuracy in each group, items with the same values in all columns.

    Args:
        hits: `[items]`, booleans: right answers.
        columns: `[items]` each, e.g. hospitals and labels.

    Returns:
        Values of the columns -> accuracy, in their order; only groups that have items.

    Raises:
        ValueError: no columns, or shapes that do not correspond.
    """
    hits = np.asarray(hits)
    keys = [np.asarray(column) for column in columns]
    if not keys or any(key.shape != hits.shape for key in keys):
        raise ValueError(f"one value per item and column is needed; got {[list(key.shape) for key in (hits, *keys)]}")
    groups: dict[tuple, list[int]] = {}
    for item, group in enumerate(zip(*(key.tolist() for key in keys), strict=True)):
        groups.setdefault(group, []).append(item)
    return {group: Proportion.of(hits[groups[group]]) for group in sorted(groups)}


def worst_group(hits: ArrayLike, *columns: ArrayLike) -> tuple[tuple, Proportion]:
    """Return the group with the lowest accuracy, and that accuracy (Sagawa et al. 2020, arXiv 1911.08731).

    Args, raises: as for `group_accuracies`. Of equals, the first.
    """
    return min(group_accuracies(hits, *columns).items(), key=lambda group: group[1].value)
