"""The engine of a sweep: the fast one where it can read the model, else the one that runs any."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from nbutils.sites import Site
from nbutils.sweeps.chains import Chain
from nbutils.sweeps.replay import Replay

Engine = Chain | Replay


def choose(model: nn.Module, sites: Iterable[Site], sample: Tensor) -> Engine:
    """Return the fastest engine that can replace units at the sites.

    Args:
        model: inputs -> logits `[items, classes]`.
        sites: layers whose units are to be replaced.
        sample: one input `[1, ...]`.

    Raises:
        KeyError: no such module.
    """
    sites = [site.on(model) for site in sites]
    chain = Chain.read(model, sample)
    if chain is not None and all(chain.holds(site) for site in sites):
        return chain
    return Replay(model, sample)
