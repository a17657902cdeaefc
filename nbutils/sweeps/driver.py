"""One pass over batches: every row's answers from its engine, bounded in memory, and the metrics of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Sized
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nbutils import batches as kinds
from nbutils import devices, progress
from nbutils.ablation.running import differ, running
from nbutils.hooks import unchanged
from nbutils.sites import Site
from nbutils.sweeps.engines import COMPARED, Engines
from nbutils.sweeps.hooked import Hooked
from nbutils.sweeps.protocol import Measurement, Step
from nbutils.sweeps.recording import owned
from nbutils.sweeps.rows import Fixed, Row, Values
from nbutils.sweeps.standins import stand_ins


class Driver:
    """Measures a model with each row's units replaced; without sites, with no more replaced than what is fixed.

    Attributes:
        rows: in the order of the sites; known once it ran.
        totals, counts: metric -> `[rows]`, the sum of its values over items, and how many items count; of one row
            where there are no sites.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Measurement,
        sites: Mapping[Hashable, Site],
        ablated: Sequence[Site],
        memory: int | None,
    ) -> None:
        self.model, self.task = model, task
        self.memory = devices.room(devices.of(model)) if memory is None else memory
        self.rows: list[Row] = []
        self.totals: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self._sites = [(label, site, site.whole) for label, site in sites.items()]
        self._ablated = [(site, site.whole) for site in ablated]
        wholes: list[Site] = [whole for _, _, whole in self._sites] + [whole for _, whole in self._ablated]
        self._wholes = list(dict.fromkeys(wholes))
        self._places: dict[Site, Site] = {}  # as given -> with its axis, counted from the front
        self._widths: dict[Site, int] = {}
        self._fixed = Fixed()
        self._order: list[int] = []  # rows, those of a place beside each other
        self._item_bytes = 0  # of the model's answer to one item
        self._engines: dict[Any, Engines] = {}
        self._divisible = False  # whether a batch may run in parts, once seen

    def run(self, label: str | None) -> None:
        """Go through the batches.

        Raises:
            KeyError, TypeError, ValueError: as for `nbutils.sweeps.units.sweep`.
        """
        batches, needs = self.task.batches, self.task.ablation.needs
        bar = progress.bar(len(batches) if isinstance(batches, Sized) else 0, label or "", show=label is not None)
        with _alone(self.model), torch.inference_mode(False), torch.no_grad(), unchanged(self.model), bar:
            self.model.eval()
            given: dict[Site, Tensor] = {}
            if needs != "batch":
                given = self.task.dataset_values(
                    self.model, [site for _, site, _ in self._sites], [site for site, _ in self._ablated]
                )
            for step in self.task.steps():
                step = replace(step, inputs=owned(step.inputs))
                if not self._item_bytes:
                    self._trace(step)
                self._measure(step, {self._places[whole]: value for whole, value in given.items()})
                bar.update()
        for name, counts in self.counts.items():
            if not (counts > 0).all():
                raise ValueError(f"metric {name!r}: no item counts")

    def _trace(self, step: Step) -> None:
        """Run on a few items: how many units are there, do the modules run once, are items on axis 0?"""
        shapes: dict[Site, Tensor] = {}
        some = kinds.select(step.inputs, slice(0, COMPARED))
        with running(self.model, self._wholes, lambda site, x: shapes.update({site: x.to("meta")})) as run:
            try:
                answered = run(some)
            except TypeError as error:
                if self.task.inputs is None and isinstance(step.batch, tuple | list) and len(step.batch) > 1:
                    hint = "a tuple is a model's arguments; of (inputs, labels) give inputs=operator.itemgetter(0)"
                    raise TypeError(f"{error}: {hint}") from error
                raise
            except Exception as error:
                if listed := kinds.listed(step.inputs, step.items):
                    raise ValueError(
                        f"the model does not run on {kinds.count(some)} of {step.items} items: {listed} of the batch "
                        f"is a list of {step.items}, which is not divided with them; give a tensor"
                    ) from error
                raise
        answer = self.task.answer(answered, kinds.count(some))
        self._item_bytes = max(1, answer.nbytes // len(answer))
        for whole in self._wholes:
            site, shape = whole.on(self.model), shapes[whole]
            place = self._places[whole] = replace(site, axis=site.units_axis(shape))
            self._widths[place] = place.count(shape)
        for label, site, whole in self._sites:
            self.rows += self._rows_of(label, site, whole)
        number = {place: at for at, place in enumerate(self._widths)}
        self._order = sorted(range(len(self.rows)), key=lambda at: number[self.rows[at].place])
        units: dict[Site, tuple[int, ...] | None] = {}
        for site, whole in self._ablated:
            place = self._within(site, whole)
            before = units.get(place, ())
            units[place] = None if site.unit is None or before is None else (*before, *site.indices)
        self._fixed = Fixed(units)

    def _rows_of(self, label: Hashable, site: Site, whole: Site) -> list[Row]:
        place = self._within(site, whole)
        if site.unit is None:
            return [Row(label, place, (unit,), unit) for unit in range(self._widths[place])]
        return [Row(label, place, site.indices, site.unit if isinstance(site.unit, int) else told(site.unit))]

    def _within(self, site: Site, whole: Site) -> Site:
        """Return the place of a site, whose units must be there."""
        place = self._places[whole]
        if site.unit is not None and max(site.indices) >= self._widths[place]:
            raise ValueError(
                f"{place.name} has units 0 to {self._widths[place] - 1} on axis {place.axis}; got {max(site.indices)}"
            )
        return place

    def _measure(self, step: Step, given: Values) -> None:
        """Add one batch."""
        share = self.memory // 2  # for what engines work on; the rest for answers, which metrics take by the batch
        values = stand_ins(self.model, self.task, list(self._widths), given, step)
        engines = self._engines_for(step, values(slice(0, min(COMPARED, step.items))))
        size = engines.most(share)
        if size < 1:
            least = 2 * engines.least
            raise ValueError(f"memory={self.memory} bytes is less than one item needs; give at least {least}")
        parts = [slice(first, min(first + size, step.items)) for first in range(0, step.items, size)]
        if len(parts) > 1:
            self._check_divisible(step, parts[0])
        batch = _Batch(step, engines, parts, values)
        intact = None
        if self.task.against_intact:
            plain = Hooked(self.model, {}, Fixed(), self.task.answer, 1)
            intact = torch.cat([plain.intact(batch.inputs(items), {}) for items in parts])
        if not self._sites:
            answers = [engines.hooked.intact(batch.inputs(items), values(items)) for items in parts]
            self._add([0], torch.cat(answers)[None], step, intact)
        many = max(1, (self.memory - share) // (self._item_bytes * step.items))
        for first in range(0, len(self._order), many):
            some = self._order[first : first + many]
            # Metrics are called when no engine has its hands on the model: they may run it.
            self._add(some, batch.answers([self.rows[at] for at in some]), step, intact)

    def _check_divisible(self, step: Step, part: slice) -> None:
        """Refuse a batch that is to run in parts where the model's answer to an item depends on the others with it.

        Raises:
            ValueError: it does, or a list has an entry per item, of which parts would all get the first ones.
        """
        if listed := kinds.listed(step.inputs, step.items):
            raise ValueError(
                f"{listed} of a batch is a list of {step.items}, as many as items, and the batch runs in parts, of "
                f"{part.stop} items: give a tensor, which is divided with the others, or smaller batches"
            )
        if self._divisible:
            return
        half = max(1, part.stop // 2)
        answers = [
            self.task.answer(kinds.run(self.model, kinds.select(step.inputs, slice(0, count))), count)[:half]
            for count in (part.stop, half)
        ]
        if differ(*answers):
            raise ValueError(
                f"the model answers {half} items otherwise alone than among {part.stop}: its answer to one depends on "
                f"the others, and a batch of {step.items} runs in parts; give batches of {part.stop} or less"
            )
        self._divisible = True

    def _engines_for(self, step: Step, values: Values) -> Engines:
        """Return the engines for inputs of a batch's shape, without items."""
        shapes = kinds.shapes(step.inputs)
        named = shapes.items() if isinstance(shapes, dict) else [("", shapes)]
        key = tuple((name, shape[1:]) for name, shape in named)
        some = kinds.select(step.inputs, slice(0, COMPARED))
        if key not in self._engines:
            rows = [self.rows[at] for at in self._order]
            made = Engines(
                *(self.model, rows, self._fixed, self.task.answer, some, values, self._widths),
                of_differences=self.task.of_differences,
            )
            self._engines[key] = made
        return self._engines[key]

    def _add(self, rows: list[int], answers: Tensor, step: Step, intact: Tensor | None) -> None:
        index = torch.tensor(rows)
        for name, (values, counts) in self.task.evaluate_each(answers, step.batch, intact).items():
            if name not in self.totals:
                self.totals[name] = torch.zeros(max(1, len(self.rows)), dtype=torch.float64)
                self.counts[name] = torch.zeros(max(1, len(self.rows)), dtype=torch.long)
            # Not by a product: what does not count may be infinite.
            if not bool(counts.all()):
                some = counts.ndim == 1
                values = values.index_select(1, counts.nonzero()[:, 0]) if some else values.masked_fill(~counts, 0)
            self.totals[name][index] += values.sum(1, dtype=torch.float64).cpu()
            self.counts[name][index] += counts.sum(-1).cpu()


@dataclass(eq=False)
class _Batch:
    """A batch, and what its rows share."""

    step: Step
    engines: Engines
    parts: list[slice]
    values: Callable[[slice], Values]
    _kept: tuple[Values, dict[int, Any]] | None = None

    def inputs(self, items: slice) -> Any:
        """Return some items of what the model runs on."""
        return self.step.inputs if len(self.parts) == 1 else kinds.select(self.step.inputs, items)

    def answers(self, rows: list[Row]) -> Tensor:
        """Return what the model answers with each row's units replaced `[rows, items, ...]`."""
        room: Tensor | None = None
        for items in self.parts:
            values, works = self._kept or (self.values(items), {})
            if len(self.parts) == 1:  # for the next rows, too
                self._kept = values, works
            at = 0
            # Closed at once when the sweep is stopped, because the model is edited until then.
            with closing(self.engines.outputs(works, self.inputs(items), values, rows)) as some:
                for found in some:
                    if found.shape[:2] == (len(rows), self.step.items):  # all at once
                        return found
                    if room is None:
                        room = found.new_empty(len(rows), self.step.items, *found.shape[2:])
                    room[at : at + len(found), items] = found
                    at += len(found)
        assert room is not None  # there are rows
        return room


_busy: dict[int, tuple[int, int]] = {}  # id of a model -> the thread that sweeps it, and how many sweeps deep
_lock = threading.Lock()


@contextmanager
def _alone(model: nn.Module) -> Iterator[None]:
    """Refuse a model that another thread sweeps: each would meet the other's edits. A metric may sweep it, too."""
    own = threading.get_ident()
    with _lock:
        thread, depth = _busy.get(id(model), (own, 0))
        if thread != own:
            raise ValueError("another thread sweeps this model: each would meet the other's edits; give it a copy")
        _busy[id(model)] = own, depth + 1
    try:
        yield
    finally:
        with _lock:
            if depth:
                _busy[id(model)] = own, depth
            else:
                del _busy[id(model)]


def told(units: range | tuple[int, ...] | int | None) -> str:
    """Return a group in words: `0:64`, or its indices."""
    if isinstance(units, range) and units.step == 1:
        return f"{units.start}:{units.stop}"
    indices = tuple(units or ()) if not isinstance(units, int) else (units,)
    some = ", ".join(map(str, indices[:8]))
    return some if len(indices) <= 8 else f"{some}, … ({len(indices)})"
