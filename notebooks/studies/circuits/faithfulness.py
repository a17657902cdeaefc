"""How much of a measure a circuit keeps: faithfulness, prompt by prompt, and by number of edges.

It compares three models on one measure, prompt by prompt: the circuit (everything else ablated), the whole model (1)
and the one with everything ablated (0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike
    from torch import Tensor


@dataclass(frozen=True)
class Faithfulness:
    """How much of a measure a circuit keeps: 1 all of it, 0 none; below and above are possible.

    Attributes:
        ratio_of_means: (mean circuit − mean ablated) / (mean clean − mean ablated).
        mean_of_ratios: the same quotient of each prompt, averaged. Prompts on which ablating makes little difference
            weigh heavily in it.
        sd: standard deviation of the prompts' quotients.
        low, high: their 10th and 90th percentiles.
        worst: the smallest of them.
        prompts: how many have a quotient.
        undefined: how many have none: clean and ablated are equal.
    """

    ratio_of_means: float
    mean_of_ratios: float
    sd: float
    low: float
    high: float
    worst: float
    prompts: int
    undefined: int


def faithfulness(circuit: ArrayLike | Tensor, clean: ArrayLike | Tensor, ablated: ArrayLike | Tensor) -> Faithfulness:
    """Compare a circuit with the whole model and with everything ablated, prompt by prompt.

    Args:
        circuit, clean, ablated: one value per prompt `[N]`, finite.

    Returns:
        NaN where a quotient has nothing to divide by.

    Raises:
        ValueError: shapes that differ, no prompts, or values that are not finite.
    """
    circuit, clean, ablated = np.asarray(circuit, float), np.asarray(clean, float), np.asarray(ablated, float)
    if not circuit.shape == clean.shape == ablated.shape or clean.ndim != 1 or not len(clean):
        raise ValueError(
            "faithfulness compares one value per prompt of three models; got "
            f"{list(circuit.shape)}, {list(clean.shape)} and {list(ablated.shape)}"
        )
    if not all(np.isfinite(values).all() for values in (circuit, clean, ablated)):
        raise ValueError("faithfulness needs finite values")
    difference = clean - ablated
    defined = difference != 0
    quotients = (circuit - ablated)[defined] / difference[defined]
    whole = difference.mean()
    ratio = (circuit - ablated).mean() / whole if whole != 0 else np.nan
    some = len(quotients) > 0
    low, high = np.quantile(quotients, [0.1, 0.9]).tolist() if some else (np.nan, np.nan)
    return Faithfulness(
        float(ratio),
        float(quotients.mean()) if some else np.nan,
        float(quotients.std()) if some else np.nan,
        low,
        high,
        float(quotients.min()) if some else np.nan,
        len(quotients),
        int((~defined).sum()),
    )


def faithfulness_curve(
    kept: ArrayLike, circuits: ArrayLike | Tensor, clean: ArrayLike | Tensor, ablated: ArrayLike | Tensor
) -> pd.DataFrame:
    """Return the faithfulness of circuits of growing size.

    Args:
        kept: edges that each circuit keeps `[circuits]`.
        circuits: the measure `[circuits, N]`.
        clean, ablated: `[N]`, as for `faithfulness`.

    Returns:
        A row per circuit: `edges`, and the fields of `Faithfulness`.
    """
    import pandas as pd

    kept, circuits = np.asarray(kept), np.asarray(circuits)
    if len(kept) != len(circuits):
        raise ValueError(f"a number of edges for each of {len(circuits)} circuits is needed; got {len(kept)}")
    rows = [vars(faithfulness(values, clean, ablated)) for values in circuits]
    return pd.DataFrame(rows).assign(edges=kept)[["edges", *rows[0]]]
