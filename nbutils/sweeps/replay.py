"""Answers with units replaced, for any model: one forward for each row, from what precedes the site.

Modules that had finished when the site was reached give back what they gave the first time. So do later ones that are
called with the very tensors they were called with then: nothing that leads to them was replaced.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nbutils import batches
from nbutils.batches import Batch
from nbutils.hooks import edit, submodule
from nbutils.sites import Site
from nbutils.sweeps.hooked import Answer, items_at_most
from nbutils.sweeps.recording import Call, Mismatch, Recorder, answering, storages, tensors
from nbutils.sweeps.rows import Exchange, Fixed, Row, Values, by_place


@dataclass(eq=False)
class _Plan:
    """The outermost calls that had finished at a place, later ones on tensors of before, and edits outside of them."""

    before: list[Call] = field(default_factory=list)
    unmoved: list[Call] = field(default_factory=list)
    fixed: list[Site] = field(default_factory=list)


@dataclass(eq=False)
class _Work:
    inputs: Batch
    values: Values
    calls: dict[nn.Module, Call]
    plans: dict[Site, _Plan] = field(default_factory=dict)


class Replay:
    """Any model, run again from its middle.

    Attributes:
        least: bytes that one item needs.
        leaves: modules that ran and hold no others.
    """

    def __init__(self, model: nn.Module, widths: dict[Any, int], fixed: Fixed, answer: Answer, sample: Batch) -> None:
        self.model = model
        self._widths, self._fixed, self._answer = widths, fixed, answer
        self._recorder = Recorder(model)
        calls = self._recorder.record(sample)
        self._first: dict[nn.Module, Call] = calls
        self._sample: Batch | None = sample
        self._wanted: set[nn.Module] | None = None
        called = [module for module, call in calls.items() if call.calls]
        self.leaves = [module for module in called if next(module.children(), None) is None]
        made = {t.untyped_storage()._cdata: t.nbytes for call in calls.values() for t in tensors(call.output)}
        # Three times: the outputs kept, those of the twins, and what one forward makes.
        self.least = 3 * sum(made.values()) // batches.count(sample)

    def most(self, memory: int) -> int:
        """As `Chain.most`."""
        return min(items_at_most(self.model), memory // max(1, self.least))

    @staticmethod
    def holds(rows: Sequence[Row]) -> bool:
        """As `Chain.holds`."""
        place = rows[0].place
        return place.module != "" and place.call is None  # nothing precedes the model; of several calls, which?

    def ends_linearly(self, place: Site) -> bool:
        """Return whether one linear layer, and no other module with weights, runs after a place."""
        here = self._first.get(submodule(self.model, place.module))
        if here is None:
            return False
        limit = here.finished if place.part == "output" else here.started
        later = [module for module, call in self._first.items() if call.calls and call.started >= limit]
        weighted = [module for module in later if next(module.parameters(recurse=False), None) is not None]
        return len(weighted) == 1 and isinstance(weighted[0], nn.Linear)

    def keep(self, places: Iterable[Site]) -> None:
        """From here on keep of a run what these places need, and nothing of the sample."""
        if self._sample is not None:
            plans = [self._plan(place, _Work(self._sample, {}, self._first)) for place in places]
            self._wanted = {call.module for plan in plans for call in (*plan.before, *plan.unmoved)}
        self._first, self._sample = {}, None

    def work(self, inputs: Batch, values: Values) -> _Work:
        """As `Chain.work`."""
        if inputs is self._sample and not self._fixed.units:
            return _Work(inputs, values, self._first)
        with edit(self.model, self._fixed.edits(values)):
            return _Work(inputs, values, self._recorder.record(inputs, self._wanted))

    def outputs(self, work: _Work, rows: Sequence[Row]) -> Generator[torch.Tensor, None, None]:
        """As `Chain.outputs`.

        Raises:
            Mismatch: a run that goes another way than the recorded one.
        """
        items, fixed = batches.count(work.inputs), self._fixed.edits(work.values)
        for place, some in by_place(rows):
            if place not in work.plans:
                work.plans[place] = self._plan(place, work)
            plan = work.plans[place]
            exchange = Exchange(place, work.values[place], (), self._widths[place])
            with (
                edit(self.model, {other: fixed[other] for other in plan.fixed}),
                edit(self.model, {place: exchange}),
                answering(plan.before, plan.unmoved) as check,
            ):
                for row in some:
                    exchange.units = row.units
                    answered = batches.run(self.model, work.inputs)
                    check()
                    exchange.check()
                    yield self._answer(answered, items)[None]

    def _plan(self, place: Site, work: _Work) -> _Plan:
        here = work.calls.get(submodule(self.model, place.module))
        if here is None or here.calls != 1:
            raise Mismatch(f"{place.module!r} is met by no hook, or more than once")
        limit = here.finished if place.part == "output" else here.started
        pinned = {other: submodule(self.model, other.module) for other in self._fixed.units}
        known = storages(_values_of(work.inputs))
        plan, answered, inside = _Plan(), set[Call](), set[nn.Module]()
        for call in sorted(work.calls.values(), key=lambda call: call.started):
            given = storages(call.arguments)
            if not call.calls:
                continue
            if call.parent in answered:
                inside.add(call.module)
            elif call.reusable and call.finished <= limit:
                plan.before.append(call)
            elif (
                (call.reusable and call.started > limit and given and known.issuperset(given))
                # Whether it will be given back is not known before: the edits inside would not know either.
                and not any(module in pinned.values() for module in call.module.modules())
            ):
                plan.unmoved.append(call)
            else:
                continue
            answered.add(call)
            if call is not here and not call.copied and call.module not in inside:
                known |= storages(call.output)
        plan.fixed = [other for other, module in pinned.items() if module not in inside]
        return plan


def _values_of(inputs: Batch) -> list[Any]:
    if isinstance(inputs, torch.Tensor):
        return [inputs]
    return list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
