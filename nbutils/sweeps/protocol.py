"""What is measured, and on what: batches, what the model runs on, what replaces activations, and metrics of its answer.

`Measurement` holds it. Sweeps and attributions go through its `steps`, and have it evaluate the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from nbutils import batches as kinds
from nbutils.ablation.types import AblationType
from nbutils.ablation.values import Where, gather_alone
from nbutils.batches import Batch
from nbutils.data.pairs import PairBatch, PairLoader
from nbutils.sites import Site

Metric = Callable[..., Any]  # (output, batch) -> values [items], or (values, which count); `nbutils.sweeps.metrics`
Reference = Callable[[Any], Batch] | Iterable[Any]


@dataclass(frozen=True, eq=False)
class Step:
    """One batch of a measurement.

    Attributes:
        batch: the very one that the loader gave.
        inputs: what the model runs on.
        items: their number.
        source: what the replacement comes from, for a type that needs a batch; else None.
    """

    batch: Any
    inputs: Batch
    items: int
    source: Batch | None = None


@dataclass(frozen=True, eq=False)
class Measurement:
    """Batches, and metrics of what a model answers to them.

    Attributes:
        batches: an iterable of batches. A batch is what a model runs on (`nbutils.batches`), a `PairBatch`, of which
            the clean inputs run, or anything else from which `inputs` takes what runs.
        metric: `(output, batch) -> [items]`, or a pair of such tensors, values and which items count; or several by
            name. One with a method `each`, `(outputs [ablations, items, ...], batch) -> [ablations, items]`, is called
            once for many ablations. One with `against_intact = True` is given what the intact model answers, too.
            One of logits with `of_differences = True` says that a number added to all of an item's changes nothing:
            where all say so, an engine may spare itself what all logits share.
        ablation: what replaces activations.
        inputs: batch -> what the model runs on.
        reference: what the replacement comes from: a callable, batch -> inputs item by item; or, for a type that needs
            a dataset, batches of inputs. None: for pairs what the type takes, else the batches themselves.
        where: as for `gather`.
        output: which tensor of the answer metrics are of: its key or position. None: the only one, or `logits`.

    Raises:
        TypeError: one batch in place of several, or no metric.
        ValueError: a reference that does not fit the type, or batches that can be gone through once where the type
            needs them twice.
    """

    batches: Iterable[Any]
    metric: Metric | Mapping[str, Metric]
    ablation: AblationType = AblationType.ZERO
    inputs: Callable[[Any], Batch] | None = None
    reference: Reference | None = None
    where: Where | None = None
    output: int | str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.batches, Tensor | Mapping | PairBatch) or not isinstance(self.batches, Iterable):
            raise TypeError(
                f"batches are a list of them, or a loader; got a {type(self.batches).__name__}: for one write [batch]"
            )
        if not isinstance(self.ablation, AblationType):
            raise TypeError(f"an ablation is an AblationType, e.g. AblationType.ZERO; got {self.ablation!r}")
        if not self.metrics or not all(map(callable, self.metrics.values())):
            raise TypeError(f"a metric is a callable (output, batch) -> [items], or several by name; got {self.metric}")
        kind, needs = self.ablation.name, self.ablation.needs
        if needs == "batch" and self.reference is not None and not callable(self.reference):
            raise ValueError(f"{kind} depends on the batch: reference is a callable, batch -> inputs item by item")
        if needs == "dataset" and not self._given and iter(self.batches) is self.batches:
            raise ValueError(
                f"{kind} takes a pass over all batches before the sweep; got a {type(self.batches).__name__}, which "
                "can be gone through once: give a list, a loader, or reference="
            )

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Name -> metric."""
        if isinstance(self.metric, Mapping):
            return dict(self.metric)
        name = getattr(self.metric, "__name__", type(self.metric).__name__)
        return {"metric" if name == "<lambda>" else name: self.metric}

    @property
    def against_intact(self) -> bool:
        """Whether a metric needs what the intact model answers."""
        return any(getattr(metric, "against_intact", False) for metric in self.metrics.values())

    @property
    def of_differences(self) -> bool:
        """Whether nothing but differences between logits counts."""
        return all(getattr(metric, "of_differences", False) for metric in self.metrics.values())

    @property
    def _given(self) -> bool:
        """Whether the reference is batches of its own."""
        return self.reference is not None and not callable(self.reference)

    def steps(self) -> Iterator[Step]:
        """Go through the batches once.

        Raises:
            TypeError: a batch of another kind.
            ValueError: no batch, one without items, or a source with other items.
        """
        empty = True
        for batch in self.batches:
            empty, inputs = False, self.runs_on(batch)
            items = kinds.count(inputs)
            source = self._sources(batch) if self.ablation.needs == "batch" else None
            if source is None:
                yield Step(batch, inputs, items)
                continue
            if len(source) != 1 or kinds.count(source[0]) != items:
                counts = ", ".join(str(kinds.count(each)) for each in source)
                raise ValueError(f"{self.ablation.name} needs a source per item; {items} items have sources: {counts}")
            yield Step(batch, inputs, items, source[0])
        if empty:
            raise ValueError("there is nothing to measure on: no batches")

    def dataset(self) -> Iterator[Batch]:
        """Go through the inputs that a type which needs a dataset takes; what `gather` averages over."""
        if not self._given:
            for batch in self.batches:
                yield from self._sources(batch)
            return
        for batch in kinds.each(cast("Iterable[Any]", self.reference)):
            yield from self.ablation.inputs(batch) if isinstance(batch, PairBatch) else [batch]

    def dataset_values(
        self, model: nn.Module, sites: Iterable[Site], together: Iterable[Site] = ()
    ) -> dict[Site, Tensor]:
        """Return what stands in at the whole places of sites: numbers for a type that needs nothing, or `[1, ...]`.

        Args:
            model: any module.
            sites: what is replaced unit by unit.
            together: what is replaced throughout.

        Raises:
            KeyError, TypeError, ValueError: as for `nbutils.ablation.values.gather_alone`.
        """
        inputs = self.dataset() if self.ablation.needs == "dataset" else ()
        return gather_alone(model, sites, self.ablation, inputs, together=together, where=self.where)

    def runs_on(self, batch: Any) -> Batch:
        """Return what the model runs on."""
        if self.inputs is not None:
            return self.inputs(batch)
        if isinstance(batch, PairBatch):
            return batch.clean
        # A loader over a TensorDataset of one tensor yields lists of it.
        return batch[0] if isinstance(batch, list | tuple) and len(batch) == 1 else batch

    def answer(self, answer: Any, items: int) -> Tensor:
        """Return the tensor that metrics are of, `[items, ...]`, from what a model answered.

        Raises:
            TypeError: there is none, or several and it is not said which.
            ValueError: its axis 0 is not the items.
        """
        output = Site("", item=output_key(answer, self.output)).take(answer)
        if not output.ndim or len(output) != items:
            raise ValueError(f"the model answers {tuple(output.shape)} to {items} items: axis 0 must be the items")
        return output

    def evaluate(self, output: Tensor, batch: Any, intact: Tensor | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Return of each metric its values and which items count, both `[items]`; gradients flow.

        Args:
            output: the tensor that metrics are of `[items, ...]`.
            batch: as the loader gave it.
            intact: what the intact model answers, where a metric needs it.

        Raises:
            TypeError, ValueError: a metric gives anything but a number per item.
        """
        found = {}
        for name, metric in self.metrics.items():
            more = (intact,) if getattr(metric, "against_intact", False) else ()
            with _unwritten(name, output, *more):
                found[name] = _checked(name, metric(output, batch, *more), output.shape[:1])
        return found

    def evaluate_each(
        self, outputs: Tensor, batch: Any, intact: Tensor | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return of each metric its values `[ablations, items]`, and which items count: likewise, or `[items]`.

        Args:
            outputs: `[ablations, items, ...]`.
            batch, intact: as for `evaluate`.

        Raises:
            TypeError, ValueError: as for `evaluate`.
        """
        found = {}
        for name, metric in self.metrics.items():
            more = (intact,) if getattr(metric, "against_intact", False) else ()
            with _unwritten(name, outputs, *more):
                if hasattr(metric, "each"):
                    found[name] = _checked(name, metric.each(outputs, batch, *more), outputs.shape[:2])
                    continue
                each = [_checked(name, metric(output, batch, *more), outputs.shape[1:2]) for output in outputs]
                values, counts = zip(*each, strict=True)
                found[name] = torch.stack(values), torch.stack(counts)
        return found

    def _sources(self, batch: Any) -> list[Batch]:
        if callable(self.reference):
            return [self.reference(batch)]
        if isinstance(batch, PairBatch):
            return self.ablation.inputs(batch)
        return self.ablation.inputs(cast("PairBatch", _CleanOnly(self.runs_on(batch), self.ablation.name)))


@dataclass(frozen=True, eq=False)
class _CleanOnly:
    """A batch that is no pairs, as an ablation type sees it."""

    clean: Batch
    kind: str

    @property
    def corrupt(self) -> Batch:
        raise ValueError(
            f"{self.kind} takes corrupt inputs, and the batches are no pairs: give batches of a "
            f"{PairLoader.__name__}, or reference=, a callable batch -> inputs item by item"
        )

    def __len__(self) -> int:
        return kinds.count(self.clean)


def output_key(answer: Any, wanted: int | str | None) -> int | str | None:
    """Return which tensor of a model's answer is meant: its key, its position, or None for the answer itself.

    Raises:
        TypeError: no tensor, several without it being said which, or not the one that is wanted.
    """
    if isinstance(answer, Tensor):
        if wanted is not None:
            raise TypeError(f"output={wanted!r}: the model answers with one tensor, not with several")
        return None
    keys: list[Any]
    if isinstance(answer, Mapping):
        keys = [key for key, value in answer.items() if isinstance(value, Tensor)]
    elif isinstance(answer, tuple | list):
        keys = [i for i, value in enumerate(answer) if isinstance(value, Tensor)]
        if isinstance(wanted or "logits", str) and (wanted or "logits") in getattr(answer, "_fields", ()):
            return cast("Any", answer)._fields.index(wanted or "logits")
    else:
        raise TypeError(f"a model answers with a tensor, or several by name; got a {type(answer).__name__}")
    if wanted is None and "logits" in keys:
        return "logits"
    chosen = wanted if wanted is not None else keys[0] if len(keys) == 1 else None
    if chosen is None or chosen not in keys:
        told = ", ".join(map(repr, keys)) or "no place"
        raise TypeError(f"the model answers with tensors at {told}: say by output= which one metrics are of")
    return chosen


@contextmanager
def _unwritten(name: str, *answers: Tensor) -> Iterator[None]:
    """Refuse a metric that writes into answers: others are given the same tensors.

    Raises:
        ValueError: it does.
    """
    versions = [answer._version for answer in answers]
    yield
    if [answer._version for answer in answers] != versions:
        raise ValueError(
            f"metric {name!r} writes into the answer, which other metrics are given, too: have it clone it"
        )


def _checked(name: str, found: Any, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Return values of a shape, and which of them count: likewise, or `[items]` for all ablations.

    Raises:
        TypeError: no tensor of numbers.
        ValueError: another shape.
    """
    values, counts = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    for tensor in (values,) if counts is None else (values, counts):
        if not isinstance(tensor, Tensor) or tensor.is_complex():
            told = f"{tensor.dtype}" if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
            raise TypeError(f"metric {name!r} gives a tensor of one number per item, or a pair of them; got {told}")
    if values.shape != shape:
        raise ValueError(f"metric {name!r} gives one number per item, {tuple(shape)}; got {tuple(values.shape)}")
    if counts is None:
        return values, torch.ones(shape[-1], dtype=torch.bool, device=values.device)
    if counts.dtype != torch.bool or counts.shape not in (shape, shape[-1:]):
        raise ValueError(
            f"metric {name!r}: which items count are booleans {tuple(shape[-1:])}; got {counts.dtype} "
            f"{tuple(counts.shape)}"
        )
    return values, counts
