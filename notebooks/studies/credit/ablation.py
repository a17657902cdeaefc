"""What ablating each unit of a hidden state does to the loss, and what a credit predicts of it.

A witness apart from ρ: a step that nobody chose, in place of a small one along random directions. The change is exact,
and a credit predicts it to first order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nbutils.ablation.types import AblationType
from nbutils.sites import Site
from nbutils.sweeps.metrics import cross_entropy
from nbutils.sweeps.units import measure, sweep
from studies.credit.network import ResidualMLP, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

STATE = Site("state", axis=1)  # h_l, in a `NetworkFrom`


class NetworkFrom(nn.Module):
    """What follows from h_l, in float64: states `[N, d]` to logits `[N, classes]`.

    h_l is the output of no module of the network, where it is read by a block and by the sum after it. Here it is that
    of `state`.

    Args:
        model: in any dtype; it is not changed.
        layer: l, 0 to L.
    """

    def __init__(self, model: ResidualMLP, layer: int) -> None:
        super().__init__()
        self.model, self.layer, self.state = cast(model, torch.float64), layer, nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        """Return logits."""
        return self.model.logits_from(self.state(h), self.layer)


def ablation_changes(
    model: ResidualMLP, layer: int, h: Tensor, labels: Tensor, *, share: float = 1.0
) -> NDArray[np.float64]:
    """Return what the mean cross-entropy gains when each unit of h_l is set to 0, one at a time, `[d]`.

    Args:
        model: in any dtype; this is in float64.
        layer: l, 0 to L.
        h: h_l `[N, d]`, float64.
        labels: `[N]`.
        share: of the way to 0, in (0, 1].

    Raises:
        ValueError: another share.
    """
    network, loss = NetworkFrom(model, layer), cross_entropy(labels=lambda _: labels)
    changed = sweep(
        network,
        STATE,
        [h],
        loss,
        AblationType.RESAMPLE,
        reference=lambda h: _kept(h, share),
        label=f"ablating units of h_{layer}",
    )
    return changed.value.to_numpy() - measure(network, [h], loss).value.item()


def predicted_changes(credits: Tensor, h: Tensor, *, share: float = 1.0) -> NDArray[np.float64]:
    """Return what credits say of `ablation_changes` to first order: the mean of credit · (stand-in − state), `[d]`.

    Args:
        credits: a_l `[N, d]`.
        h: h_l `[N, d]`, float64.
        share: of the way to 0, in (0, 1].

    Raises:
        ValueError: another share.
    """
    return (credits.to(h) * (_kept(h, share) - h)).mean(0).cpu().numpy()


def rank_correlation(predicted: ArrayLike, changes: ArrayLike) -> float:
    """Return Spearman's correlation over units: 1 where a credit ranks units as their ablations do, by sign and size.

    By chance it is 0, give or take 1/√(d − 1).

    Args:
        predicted, changes: `[d]`.
    """
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, changes).statistic)


def _kept(h: Tensor, share: float) -> Tensor:
    if not 0 < share <= 1:
        raise ValueError(f"a share of the way lies in (0, 1]; got {share}")
    return (1 - share) * h
