"""Layers of a clean network in a poisoned one, and the reverse: where the attack lies."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from nbutils import progress
from nbutils.hooks import submodule

if TYPE_CHECKING:
    import pandas as pd
from nbutils.sweeps.units import MEMORY, Inputs, Measures, _sites, measure


def swap_layers(
    a: nn.Module,
    b: nn.Module,
    layers: Mapping[str, str] | Sequence[str],
    inputs: Inputs,
    measures: Measures,
    *,
    memory: int = MEMORY,
) -> pd.DataFrame:
    """Measure `a` with every subset of layers, parameters and buffers, taken from `b`.

    Args:
        a, b: two models of one architecture.
        layers: label -> module path, or the paths alone; 2^layers models are measured.
        inputs, measures, memory: as for `sweep_units`.

    Returns:
        A tidy frame: a column of booleans a layer (True: from `b`), then `measure`, `value`, `n`.

    Raises:
        KeyError: no such module.
        ValueError: a layer's tensors differ in name or shape.
    """
    import pandas as pd

    paths = {name: site.module for name, site in _sites(layers).items()}
    for path in paths.values():
        one, other = (
            {key: tuple(value.shape) for key, value in submodule(m, path).state_dict().items()} for m in (a, b)
        )
        if one != other:
            raise ValueError(f"{path!r} differs between the two models: {one} and {other}")
    parts = []
    for chosen in progress.bar(list(itertools.product((False, True), repeat=len(paths))), "swapping layers"):
        mixed = copy.deepcopy(a)
        for path, from_b in zip(paths.values(), chosen, strict=True):
            if from_b:
                submodule(mixed, path).load_state_dict(submodule(b, path).state_dict())
        columns = dict(zip(paths, chosen, strict=True))
        parts.append(measure(mixed, inputs, measures, memory=memory).assign(**columns))
    return pd.concat(parts, ignore_index=True)[[*paths, "measure", "value", "n"]]
