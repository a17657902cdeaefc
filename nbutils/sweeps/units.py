"""Measure a model with units replaced: each in turn, or given ones throughout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from nbutils.ablation.types import AblationType
from nbutils.ablation.values import Where
from nbutils.batches import Batch
from nbutils.sites import Site
from nbutils.sweeps.driver import Driver
from nbutils.sweeps.protocol import Measurement, Metric, Reference

if TYPE_CHECKING:
    import pandas as pd

Sites = str | Site | Sequence[str | Site] | Mapping[Any, str | Site]


def sweep(
    model: nn.Module,
    sites: Sites,
    batches: Iterable[Any],
    metric: Metric | Mapping[str, Metric],
    ablation: AblationType = AblationType.ZERO,
    *,
    inputs: Callable[[Any], Batch] | None = None,
    reference: Reference | None = None,
    ablated: Iterable[str | Site] = (),
    where: Where | None = None,
    output: int | str | None = None,
    memory: int | None = None,
    label: str = "ablating units",
) -> pd.DataFrame:
    """Replace units on all items, one unit or group at a time, and measure.

    Exact: the answers are those of one full forward per row, to rounding. Fast engines give them where they can read
    the model (`nbutils.sweeps.chains`, `pooled`, `replay`), each compared with plain hooks before it is trusted. The
    model runs in eval mode and is left as it was. A sweep keeps nothing: to resume a long one, have `nb.run` call it
    with one site at a time.

    Args:
        model: any module.
        sites: one, several, or label -> site. A site without a unit stands for each of its units in turn; one with a
            unit or a group is one row.
        batches: gone through once; for a type that needs a dataset, twice. Each is what the model runs on: a tensor, a
            tuple of arguments or a mapping of keywords; or a `PairBatch`, of which the clean inputs run.
        metric: `(output, batch) -> [items]`, e.g. `nb.accuracy()`, or several by name; `batch` is the very one that
            `batches` gave. A pair of tensors says which items count. See `nbutils.sweeps.protocol.Measurement`.
        ablation: what replaces units.
        inputs: batch -> what the model runs on, where that is but a part: `operator.itemgetter(0)` of (inputs, labels).
        reference: what the replacement comes from: a callable, batch -> inputs item by item; or, for a type that needs
            a dataset, batches of inputs. None: for pairs what the type takes, else the batches themselves.
        ablated: what to replace throughout.
        where: as for `gather`.
        output: which tensor of the answer metrics are of: its key or position. None: the only one, or `logits`.
        memory: upper bound in bytes, without the batch, the model, its answers to one batch, and the activations at
            the sites where a type reduces a whole batch; None: as `nbutils.devices.room` says, 500 MB on the
            processor.
        label: of the progress bar.

    Returns:
        A tidy frame: `site`, `unit` (an index, or a group in words), `metric`, `value` (the mean over items; NaN where
        an item's is), `n` (items that count).

    Warns:
        EngineWarning: a fast engine is not to be trusted, or is kept from a model by hooks left on it and the like.

    Raises:
        KeyError: no such module.
        TypeError: a batch of another kind, no tensor at a site, or no metric.
        ValueError: no batches, no such unit, a module that does not run exactly once, items on another axis than 0, a
            metric of another shape or one that writes into the answer, a model that answers otherwise each time, a
            batch too large to run in one part where an answer depends on other items, arguments that do not fit each
            other, or a memory below what one item needs.

    >>> import torch, nbutils as nb
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False))
    >>> _ = torch.nn.init.eye_(model[0].weight)
    >>> batches = [(torch.eye(3), torch.arange(3))]
    >>> nb.sweep(model, "0", batches, nb.accuracy(), inputs=lambda batch: batch[0]).value.round(2).tolist()
    [1.0, 0.67, 0.67]
    """
    import pandas as pd

    named = named_sites(sites)
    task = Measurement(batches, metric, ablation, inputs, reference, where, output)
    driver = Driver(model, task, named, [Site.of(place) for place in ablated], memory)
    driver.run(label)
    names, rows = list(task.metrics), driver.rows
    units = [row.shown for row in rows for _ in names]
    labels = [row.label for row in rows for _ in names]
    return pd.DataFrame(
        {
            "site": pd.Series(labels, dtype=None if all(isinstance(label, str) for label in labels) else object),
            "unit": pd.Series(units, dtype=None if all(isinstance(unit, int) for unit in units) else object),
            "metric": names * len(rows),
            **_values(driver, names),
        }
    )


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    metric: Metric | Mapping[str, Metric],
    ablated: Iterable[str | Site] = (),
    ablation: AblationType = AblationType.ZERO,
    *,
    inputs: Callable[[Any], Batch] | None = None,
    reference: Reference | None = None,
    where: Where | None = None,
    output: int | str | None = None,
    memory: int | None = None,
) -> pd.DataFrame:
    """Measure a model with some sites replaced, none by default.

    Args, raises: as for `sweep`.

    Returns:
        A tidy frame: `metric`, `value`, `n`.

    >>> import torch, nbutils as nb
    >>> batches = [(torch.eye(3), torch.arange(3))]
    >>> nb.measure(torch.nn.Identity(), batches, nb.accuracy(), inputs=lambda batch: batch[0]).value.item()
    1.0
    """
    import pandas as pd

    task = Measurement(batches, metric, ablation, inputs, reference, where, output)
    driver = Driver(model, task, {}, [Site.of(place) for place in ablated], memory)
    driver.run(None)
    names = list(task.metrics)
    return pd.DataFrame({"metric": names, **_values(driver, names)})


def named_sites(sites: Sites) -> dict[Hashable, Site]:
    """Return label -> site. A site without a label is called by its module, or written out where that is not enough.

    Raises:
        TypeError: no name of a module, and no site.
        ValueError: no site, or one twice.
    """
    if isinstance(sites, Mapping):
        named = {label: Site.of(place) for label, place in sites.items()}
    else:
        # What cannot be gone through is taken for a place, which says what it should be.
        places: Iterable[Any] = sites if isinstance(sites, Iterable) and not isinstance(sites, str) else [sites]
        given = [Site.of(place) for place in places]
        several = Counter(site.module for site in given)
        named = {site.module if several[site.module] == 1 and _plain(site) else site: site for site in given}
        if len(named) < len(given):
            twice = next(site for site, count in Counter(given).items() if count > 1)
            raise ValueError(f"each site is given once; {twice} is there twice")
        named = {label if isinstance(label, str) else str(label): site for label, site in named.items()}
    if not named:
        raise ValueError("give at least one site to ablate")
    return named


def _plain(site: Site) -> bool:
    return site.part == "output" and site.item is None


def _values(driver: Driver, names: Sequence[str]) -> dict[str, Any]:
    """Return the columns `value` and `n`, metrics changing fastest."""
    import torch

    totals = torch.stack([driver.totals[name] for name in names], 1).flatten()
    counts = torch.stack([driver.counts[name] for name in names], 1).flatten()
    return {"value": (totals / counts).numpy(), "n": counts.numpy()}
