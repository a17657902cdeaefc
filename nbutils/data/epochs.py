"""The order in which training shows its samples: epochs without replacement, shuffled for each seed."""

from __future__ import annotations

import torch
from torch import Tensor

from nbutils.seeding import generator


def length(count: int, batch_size: int, samples: str = "samples") -> int:
    """Return the steps of an epoch, `count // batch_size`; the remaining samples sit out that epoch.

    Args:
        count: samples in the data set.
        batch_size: samples per step.
        samples: what they are, for the message.

    Raises:
        ValueError: a batch size outside 1 to `count`.
    """
    if not 1 <= batch_size <= count:
        raise ValueError(f"batch_size must lie between 1 and the {count} {samples}; got {batch_size}")
    return count // batch_size


def order(seed: int, stream: tuple[str | int, ...], count: int, batch_size: int, steps: range) -> Tensor:
    """Return the samples of some consecutive steps, as indices `[len(steps), batch_size]`.

    Args:
        seed: of the network in training.
        stream: names the order among all that the seed draws (see `nbutils.seeding.generator`).
        count: samples in the data set.
        batch_size: samples per step.
        steps: numbers of the steps, 0 for the first of training; at least one.

    Raises:
        ValueError: a batch size outside 1 to `count`.
    """
    per_epoch = length(count, batch_size)
    epochs = range(steps[0] // per_epoch, steps[-1] // per_epoch + 1)
    shuffled = {epoch: torch.randperm(count, generator=generator(seed, *stream, epoch)) for epoch in epochs}
    places = [divmod(step, per_epoch) for step in steps]  # epoch, and batch within it
    return torch.stack([shuffled[epoch][batch * batch_size :][:batch_size] for epoch, batch in places])
