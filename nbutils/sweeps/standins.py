"""What stands in at the places of a sweep: one value for all batches, or one that each batch's source gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from nbutils import batches as kinds
from nbutils.ablation.types import AblationType
from nbutils.ablation.values import mask_of, of_batch
from nbutils.batches import Batch
from nbutils.hooks import capture
from nbutils.sites import Site
from nbutils.sweeps.protocol import Measurement, Step
from nbutils.sweeps.rows import Values, part


def stand_ins(
    model: nn.Module, task: Measurement, places: Sequence[Site], given: Values, step: Step
) -> Callable[[slice], Values]:
    """Return what gives the values for some items of a batch.

    Args:
        model: in eval mode.
        task: the ablation, and where it is taken.
        places: whole sites.
        given: of a type that does not depend on the batch.
        step: the batch.
    """
    if step.source is None or not places:
        return lambda items: given
    if task.ablation is AblationType.RESAMPLE:  # item by item: never on all of them at a time
        return lambda items: _taken(model, task, places, kinds.select(step.source, items))  # type: ignore[arg-type]
    whole = _taken(model, task, places, step.source)
    return lambda items: part(whole, items, step.items)


def _taken(model: nn.Module, task: Measurement, places: Sequence[Site], source: Batch) -> dict[Site, Tensor | float]:
    items = kinds.count(source)
    mask = None if task.ablation is AblationType.RESAMPLE else mask_of(task.where, source)
    with capture(model, *places) as seen:
        kinds.run(model, source)
    found: dict[Site, Tensor | float] = {}
    for place in places:
        tensor = seen[place]
        if mask is not None and len(tensor) != items:  # all items share it
            tensor = tensor.expand(items, *tensor.shape[1:])
        value, repeated = of_batch(tensor, task.ablation, place, mask)
        found[place] = value[:1] if repeated else value
    return found
