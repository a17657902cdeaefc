"""Accuracy by group: hospital and label, slide, scanner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbutils.stats.proportions import Proportion

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


def group_accuracies(hits: ArrayLike, *columns: ArrayLike) -> dict[tuple, Proportion]:
    """Return the accuracy in each group of items that agree in all columns.

    Args:
        hits: `[items]`, booleans: whether the answer was right.
        columns: `[items]` each, e.g. hospitals and labels, or slides.

    Returns:
        Values of the columns -> accuracy, in their order; only groups that have items.

    Raises:
        ValueError: no columns, or shapes that do not correspond.
    """
    hits = np.asarray(hits)
    keys = [np.asarray(column) for column in columns]
    if not keys or any(key.shape != hits.shape for key in keys):
        raise ValueError(f"one value an item and column is needed; got {[list(key.shape) for key in (hits, *keys)]}")
    groups: dict[tuple, list[int]] = {}
    for item, group in enumerate(zip(*(key.tolist() for key in keys), strict=True)):
        groups.setdefault(group, []).append(item)
    return {group: Proportion.of(hits[groups[group]]) for group in sorted(groups)}


def worst_group(hits: ArrayLike, *columns: ArrayLike) -> tuple[tuple, Proportion]:
    """Return the group with the lowest accuracy, and that accuracy (Sagawa et al. 2020, arXiv 1911.08731).

    Args, raises: as for `group_accuracies`. Of equals, the first.
    """
    return min(group_accuracies(hits, *columns).items(), key=lambda group: group[1].value)


def worst_of_sweep(frame: pd.DataFrame, group: str) -> pd.DataFrame:
    """Return the accuracy of the worst group under every ablation of a sweep of pooled channels.

    Args:
        frame: as from `studies.shortcut.pooled.sweep`.
        group: name of the groups there, e.g. `"slide"`.

    Returns:
        The frame's columns, one row for `control`, `ablation`, `k`, `draw` and `set`; `measure` is `worst <group>`, `n`
        the size of that group.

    Raises:
        KeyError: the frame has no such groups.
    """
    rows = frame[frame["measure"].astype(str).str.startswith(f"{group}=")]
    if rows.empty:
        raise KeyError(
            f"the sweep has no groups {group!r}; its measures are {', '.join(frame['measure'].unique()[:5])} …"
        )
    keys = ["control", "ablation", "k", "draw", "set"]
    worst = rows.loc[rows.groupby(keys, observed=True)["value"].idxmin()]
    return worst.assign(measure=f"worst {group}").reset_index(drop=True)
