"""Layers of a clean network in a poisoned one, and the reverse: where the attack lies."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from nbutils import progress
from nbutils.batches import Batch
from nbutils.hooks import submodule
from nbutils.sweeps.protocol import Metric
from nbutils.sweeps.units import measure

if TYPE_CHECKING:
    import pandas as pd


def swap_layers(
    a: nn.Module,
    b: nn.Module,
    layers: Mapping[str, str],
    batches: Iterable[Any],
    metric: Metric | Mapping[str, Metric],
    *,
    inputs: Callable[[Any], Batch] | None = None,
) -> pd.DataFrame:
    """Measure `a` with every subset of layers, parameters and buffers, taken from `b`.

    Args:
        a, b: two models of one architecture; not changed.
        layers: label -> module path; 2^layers models are measured.
        batches, metric, inputs: as for `nb.measure`.

    Returns:
        A tidy frame: one column of booleans per layer (True: from `b`), then `metric`, `value`, `n`.

    Raises:
        KeyError: no such module.
        ValueError: a layer's tensors differ in name or shape.
    """
    import pandas as pd

    for path in layers.values():
        one, other = (
            {key: tuple(value.shape) for key, value in submodule(m, path).state_dict().items()} for m in (a, b)
        )
        if one != other:
            raise ValueError(f"{path!r} differs between the two models: {one} and {other}")
    parts = []
    for chosen in progress.bar(list(itertools.product((False, True), repeat=len(layers))), "swapping layers"):
        mixed = copy.deepcopy(a)
        for path, from_b in zip(layers.values(), chosen, strict=True):
            if from_b:
                submodule(mixed, path).load_state_dict(submodule(b, path).state_dict())
        parts.append(measure(mixed, batches, metric, inputs=inputs).assign(**dict(zip(layers, chosen, strict=True))))
    return pd.concat(parts, ignore_index=True)[[*layers, "metric", "value", "n"]]
