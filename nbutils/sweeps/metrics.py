"""Metrics of a model's answer, one number per item: accuracy, cross-entropy, difference of logits, divergence.

Any callable `(output, batch) -> [items]` is a metric; so is one that gives a pair, the second being which items count.
Those here work on the outputs of many ablations at once (`each`), and give NaN where a logit is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nbutils.data.pairs import PairBatch

IGNORED = -1  # the class of an item that does not count
Labels = str | int | Callable[[Any], Tensor] | None


@dataclass(frozen=True)
class _OfLogits:
    """A metric of logits `[items, classes]`.

    Attributes:
        labels: where the classes `[items]` come from.
        position: which position of logits `[items, positions, classes]`.
    """

    labels: Labels = None
    position: int | None = None
    of_differences = True  # what is added to all logits of an item changes nothing

    def __call__(self, output: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the metric of each item `[items]`, and whether it counts."""
        values, counts = self.each(output[None], batch)
        return values[0], counts

    def each(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the metric of each item under each ablation `[ablations, items]`, and which items count `[items]`."""
        logits = self._logits(outputs)
        classes = classes_of(batch, self.labels, logits.shape[1], max(2, logits.shape[2])).to(logits.device)
        return self._values(logits, classes, batch), classes != IGNORED

    def _logits(self, outputs: Tensor) -> Tensor:
        given = outputs
        if self.position is not None:
            outputs = _at(outputs, self.position)
        if outputs.ndim == 2:
            outputs = outputs[..., None]  # one logit
        if outputs.ndim != 3 or not outputs.is_floating_point():
            raise ValueError(
                f"logits are floating-point numbers [items, classes]; got {outputs.dtype} {tuple(given.shape[1:])}: "
                "give position= where there is one row of them per position, or a metric of your own"
            )
        return outputs

    def _values(self, logits: Tensor, classes: Tensor, batch: Any) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class accuracy(_OfLogits):
    """Share of items whose largest logit is that of their class; of one logit, `[items]` or `[items, 1]`: above 0.

    Args:
        labels: where the classes come from, integers `[items]`, -1 for items that do not count: a key of the batch, or
            a callable of it. None: the labels of pairs, `batch["labels"]`, or `batch[1]`.
        position: of logits `[items, positions, classes]`, e.g. -1.

    Raises:
        ValueError: on measuring, where there are no such logits, or a class is none of theirs.

    >>> import nbutils as nb, torch
    >>> values, counts = nb.accuracy()(torch.eye(3), (None, torch.tensor([0, 2, -1])))
    >>> values.tolist(), counts.tolist()
    ([1.0, 0.0, 0.0], [True, True, False])
    """

    def _values(self, logits: Tensor, classes: Tensor, batch: Any) -> Tensor:
        if logits.shape[-1] == 1:
            right = (logits[..., 0] > 0) == (classes == 1)
        elif logits.shape[-1] == 2:  # a reduction over two is slow
            first, second = logits.unbind(-1)
            right = (second > first) == (classes == 1)  # of equal ones the first
        else:
            right = logits.max(-1).indices == classes  # `max` takes a tenth of `argmax`
        # A finite sum has finite terms, and takes a twentieth of looking at each.
        whole = bool(logits.sum().isfinite())
        return right.float() if whole else right.float().masked_fill_(_broken(logits), torch.nan)


@dataclass(frozen=True)
class cross_entropy(_OfLogits):
    """Cross-entropy of each item in nats; of one logit, `[items]` or `[items, 1]`, that of its sigmoid.

    Args, raises: as for `accuracy`.

    >>> import nbutils as nb, torch
    >>> nb.cross_entropy()(torch.zeros(1, 4), (None, torch.tensor([2])))[0].item()
    1.3862943649291992
    """

    def _values(self, logits: Tensor, classes: Tensor, batch: Any) -> Tensor:
        log_p = _log_softmax(logits)
        index = classes.clamp(min=0).expand(log_p.shape[:2])[..., None]
        return -log_p.gather(-1, index)[..., 0].masked_fill(_broken(logits), torch.nan)


@dataclass(frozen=True)
class logit_difference(_OfLogits):
    """Logit of an item's class less that of another; 0 stands for the other of one logit.

    Args:
        other: where the other classes come from, as `labels`. None: the largest of the rest.
        labels, position: as for `accuracy`.

    Raises:
        ValueError: as for `accuracy`.

    >>> import nbutils as nb, torch
    >>> difference = nb.logit_difference(other=lambda batch: torch.tensor([2, 0]))
    >>> difference(torch.tensor([[5.0, 0, 1], [2, 0, 1]]), (None, torch.tensor([0, 2])))[0].tolist()
    [4.0, -1.0]
    """

    other: Labels = None

    def _values(self, logits: Tensor, classes: Tensor, batch: Any) -> Tensor:
        broken = _broken(logits)
        if logits.shape[-1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], -1)
        index = classes.clamp(min=0).expand(logits.shape[:2])[..., None]
        if self.other is None:
            rest = logits.scatter(-1, index, -torch.inf).amax(-1)
        else:
            others = classes_of(batch, self.other, *logits.shape[1:]).to(logits.device)
            if ((others == IGNORED) & (classes != IGNORED)).any():
                raise ValueError("an item that counts needs another class to compare with; got -1")
            rest = logits.gather(-1, others.clamp(min=0).expand(logits.shape[:2])[..., None])[..., 0]
        return (logits.gather(-1, index)[..., 0] - rest).masked_fill(broken, torch.nan)


@dataclass(frozen=True)
class divergence:
    """Kullback-Leibler divergence of the answer from the intact model's, KL(intact ‖ ablated), in nats.

    Args:
        position: of logits `[items, positions, classes]`. None: the mean over all positions.

    >>> import nbutils as nb, torch
    >>> logits = torch.eye(2)
    >>> nb.divergence()(logits, None, logits).tolist()
    [0.0, 0.0]
    """

    position: int | None = None
    against_intact = True  # called with what the intact model answers, too
    of_differences = True

    def __call__(self, output: Tensor, batch: Any, intact: Tensor) -> Tensor:
        """Return the divergence of each item `[items]`."""
        return self.each(output[None], batch, intact)[0]

    def each(self, outputs: Tensor, batch: Any, intact: Tensor) -> Tensor:
        """Return the divergence of each item under each ablation `[ablations, items]`."""
        if outputs.ndim < 3 or not outputs.is_floating_point():
            raise ValueError(f"logits are floating-point numbers [items, ..., classes]; got {tuple(outputs.shape[1:])}")
        if self.position is not None:
            outputs, intact = _at(outputs, self.position), _at(intact[None], self.position)[0]
        before, after = _log_softmax(intact), _log_softmax(outputs)
        # Where the intact model gives a class no probability, what the ablated gives it does not count.
        terms = torch.where(before.isneginf(), 0.0, before.exp() * (before - after))
        return terms.sum(-1).flatten(2).mean(-1) if outputs.ndim > 3 else terms.sum(-1)


def classes_of(batch: Any, labels: Labels, items: int, classes: int) -> Tensor:
    """Return the classes of a batch's items `[items]`, `IGNORED` for those that do not count.

    Args:
        batch: as the loader gave it.
        labels: a key, a callable, or None for where labels usually are.
        items: their number.
        classes: how many there are.

    Raises:
        KeyError: no such key.
        TypeError: no labels where they usually are.
        ValueError: no integers `[items]`, or a class that does not exist.
    """
    found: Any
    source = batch.pairs if isinstance(batch, PairBatch) else batch
    if callable(labels):
        found = labels(batch)
    elif isinstance(labels, str) and not isinstance(source, Mapping):
        if not hasattr(source, labels):
            raise KeyError(f"no labels {labels!r} in a batch that is a {type(source).__name__}")
        found = getattr(source, labels)
    elif isinstance(source, Mapping) or labels is not None:
        key = "labels" if labels is None else labels
        try:
            found = source[key]
        except (KeyError, IndexError):
            there = ", ".join(map(repr, source)) if isinstance(source, Mapping) else f"{len(source)} entries"
            raise KeyError(f"no labels at {key!r} of the batch; there are {there}: give labels=") from None
    elif hasattr(source, "labels"):
        found = source.labels
    elif isinstance(source, tuple | list) and len(source) > 1:
        found = source[1]
    else:
        raise TypeError(f"where are the labels of a batch that is a {type(source).__name__}? Give labels=")
    if not isinstance(found, Tensor) or found.shape != (items,) or found.is_floating_point() or found.is_complex():
        told = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(f"labels are integers [{items}], one per item; got {told}")
    found = found.long()
    if len(found) and (found.max() >= classes or found.min() < IGNORED):
        wrong = found[(found >= classes) | (found < IGNORED)][0].item()
        raise ValueError(f"the model answers with {classes} classes, 0 to {classes - 1}; a label is {wrong}")
    return found


def _at(outputs: Tensor, position: int) -> Tensor:
    """Return the logits of one position `[ablations, items, classes]`."""
    if outputs.ndim != 4 or not -outputs.shape[2] <= position < outputs.shape[2]:
        raise ValueError(
            f"position={position} needs logits [items, positions, classes] that have it; got {tuple(outputs.shape[1:])}"
        )
    return outputs[:, :, position]


def _log_softmax(logits: Tensor) -> Tensor:
    if logits.shape[-1] == 1:
        return torch.cat([functional.logsigmoid(-logits), functional.logsigmoid(logits)], -1)
    return logits.log_softmax(-1)


def _broken(logits: Tensor) -> Tensor:
    return ~logits.isfinite().all(-1)
