"""Accuracies under thousands of ablations of pooled channels: every control, K, draw and stand-in."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from nbutils.ablation.types import AblationType
from nbutils.sweeps import units
from nbutils.sweeps.metrics import accuracy
from nbutils.sweeps.protocol import Metric, Reference
from studies.shortcut.controls import ChannelSet, Controls, strength
from studies.shortcut.pooled import Pool, after_pool

if TYPE_CHECKING:
    import pandas as pd

Ablation = tuple[AblationType, Reference | None]  # what `nb.sweep` takes under these names


def sweep(
    head: nn.Linear,
    sets: Mapping[str, Pool],
    reference: Pool,
    controls: Controls,
    ablations: Mapping[str, Ablation] | None = None,
) -> pd.DataFrame:
    """Ablate the channels of every control and measure the head's accuracy.

    Args:
        head: features -> logits; two classes or more.
        sets: name -> items to measure on.
        reference: source of the strength that random channels are matched on, and of means.
        controls: the channels, the same ones under every ablation.
        ablations: label -> type and reference, as `nb.sweep` takes them. None: `mean`, that of the reference (what the
            source calls zeroing: 0 in standardised space).

    Returns:
        A tidy frame: `control`, `ablation`, `k`, `draw`, `set`, `measure`, `value`, `n`. Controls are the ranked ones,
        `random` and `matched random`. Measures are `accuracy` and, for every group, e.g. `slide=3`; `n` is the number
        of items.

    Raises:
        ValueError: items of another number of channels than the head reads or the controls rank.
    """
    import pandas as pd

    widths = {name: items.channels for name, items in sets.items()}
    for name, width in {**widths, "reference": reference.channels, "controls": controls.channels}.items():
        if width != head.in_features:
            raise ValueError(f"the head reads {head.in_features} channels; {name!r} has {width}")
    channels = controls.sets(strength(head, reference))
    ablations = {"mean": mean_of(reference)} if ablations is None else ablations
    parts = []
    for name, items in sets.items():
        metrics = accuracies(items)
        for label, ablation in ablations.items():
            found = measured(head, items, channels, metrics, ablation)
            parts.append(found.assign(set=name, ablation=label))
    frame = pd.concat(parts, ignore_index=True)[["control", "ablation", "k", "draw", "set", "measure", "value", "n"]]
    for column in ("control", "ablation", "set", "measure"):  # otherwise most of the frame is repeated words
        frame[column] = frame[column].astype("category")
    return frame


def mean_of(reference: Pool) -> Ablation:
    """Return the ablation that puts a channel's mean over the reference in its place."""
    return AblationType.TOKENWISE_MEAN_CLEAN, [reference.features]


def measured(
    head: nn.Linear, items: Pool, channels: Sequence[ChannelSet], metrics: Mapping[str, Metric], ablation: Ablation
) -> pd.DataFrame:
    """Return metrics of a head with every set of channels replaced.

    Args:
        head: features -> logits.
        items: what is measured on; the batch that metrics get.
        channels: the sets; the empty one is the unmodified head.
        metrics: name -> metric, as `nb.sweep` takes them.
        ablation: type and reference.

    Returns:
        A tidy frame: `control`, `k`, `draw`, `measure`, `value`, `n`.
    """
    import pandas as pd

    model, (kind, reference) = after_pool(head, items), ablation
    sites = {at: each.site for at, each in enumerate(channels) if each.site is not None}
    features = attrgetter("features")
    intact = units.measure(model, [items], metrics, inputs=features)
    values = np.tile(intact["value"].to_numpy(), (len(channels), 1))
    if sites:
        found = units.sweep(model, sites, [items], metrics, kind, inputs=features, reference=reference)
        values[list(sites)] = found["value"].to_numpy().reshape(len(sites), len(metrics))
    return pd.DataFrame(
        {
            "control": pd.Categorical([each.control for each in channels]).repeat(len(metrics)),
            "k": np.repeat([each.k for each in channels], len(metrics)),
            "draw": np.repeat([each.draw for each in channels], len(metrics)),
            "measure": np.tile([*metrics], len(channels)),
            "value": values.ravel(),
            "n": np.tile(intact["n"].to_numpy(), len(channels)),
        }
    )


def accuracies(items: Pool) -> dict[str, Metric]:
    """Return `accuracy` and, for every group, e.g. `slide=3`; what is right is found once for all of them."""
    hits = _Hits()
    found: dict[str, Metric] = {"accuracy": hits}
    for name, column in items.groups.items():
        found |= {f"{name}={group}": _Within(hits, name, group) for group in column.unique().tolist()}
    return found


class _Hits:
    """Accuracy that knows its last answer."""

    of_differences = True

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[Tensor], Tensor, Tensor] | None = None

    def __call__(self, output: Tensor, items: Pool) -> tuple[Tensor, Tensor]:
        return accuracy()(output, items)

    def each(self, outputs: Tensor, items: Pool) -> tuple[Tensor, Tensor]:
        """Return which items are right `[ablations, items]`, and which count: all."""
        if self._last is None or self._last[0]() is not outputs:
            self._last = weakref.ref(outputs), *accuracy().each(outputs, items)
        return self._last[1:]


@dataclass(frozen=True)
class _Within:
    """Accuracy in a group."""

    hits: _Hits
    name: str
    group: int
    of_differences = True

    def __call__(self, output: Tensor, items: Pool) -> tuple[Tensor, Tensor]:
        values, counts = self.each(output[None], items)
        return values[0], counts

    def each(self, outputs: Tensor, items: Pool) -> tuple[Tensor, Tensor]:
        """Return which items are right `[ablations, items]`, and which are in the group `[items]`."""
        return self.hits.each(outputs, items)[0], items.groups[self.name] == self.group
