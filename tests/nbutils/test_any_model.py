"""One property of any model: what replaces units, and what the model then answers, is what hooks by hand give, or one
clear refusal names the place."""

from __future__ import annotations

import importlib.util
import random
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import any_oddities
import any_sequences
import any_vision
import pytest
import torch
from agreement import CLEAR, DATASET, KINDS, ByHand, Kind, call, items, metric, same_state, state
from any_models import ITEMS, Case, Place, spread
from torch import Tensor, nn

import nbutils as nb
from nbutils.hooks import UnusedEditWarning
from nbutils.sweeps.engines import EngineWarning

CASES = [*any_vision.CASES, *any_sequences.CASES, *any_oddities.CASES]
if importlib.util.find_spec("transformers"):
    import any_transformers

    CASES += any_transformers.CASES
DRAWS = 3  # random draws for each place


class Refused:
    """A call's one clear error."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def attempt(function: Callable[[], Any], names: Iterable[str]) -> Any:
    """Return what a call gives, or its refusal: of the usual kinds, and with the module's name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnusedEditWarning)
            return function()
    except (*CLEAR, UnusedEditWarning) as error:
        refused = Refused(error)
    told = str(refused.error.args[0])
    assert any((repr(name) if name else "the model") in told for name in names), f"no place is named: {refused.error!r}"
    return refused


@cache
def prepared(name: str) -> tuple[Case, nn.Module, Any, Any]:
    """Build a model once; it waits in training mode, which no call may change."""
    case = next(case for case in CASES if case.name == name)
    torch.manual_seed(0)
    model = spread(case.build())
    clean, corrupt = case.batch(ITEMS), case.batch(ITEMS)
    if isinstance(clean, dict) and "attention_mask" in clean:
        corrupt["attention_mask"] = clean["attention_mask"]
    model.eval()
    with torch.no_grad():
        call(model, clean)
    return case, model.train(), clean, corrupt


class Draw:
    """Random units of a place, a random type, and a random way to write the site."""

    def __init__(self, case: Case, place: Place, shape: torch.Size, dice: random.Random, kind: Any) -> None:
        self.case, self.place, self.kind = case, place, kind
        self.shape, width = shape, shape[place.axis]
        some = sorted(dice.sample(range(width), min(width, 2)))
        self.unit = dice.choice([*some, slice(some[0], some[-1] + 1), some, None])
        self.axes: list[int | None] = [place.axis, place.axis - len(shape)]
        self.axis = dice.choice([*self.axes, None])
        self.size = dice.choice([1, 3, ITEMS])  # of the batches that a mean over a dataset is taken of
        self.run = dice.choice([*range(place.calls), *range(place.calls), "every", None]) if place.calls > 1 else None
        once = place.calls == 1 or isinstance(self.run, int)
        fine = once and not place.refused and not (place.integers and "MEAN" in kind.name)
        self.must = fine and (self.axis is not None or place.said or len(shape) == 2)
        self.must_zero = place.weights and self.axis is None  # without a run nobody knows that 2 is the last axis

        positions = place.positions if place.given else None
        where = {"part": place.part, "item": place.item, "positions": positions, "call": self.run}
        self.site = nb.Site(place.module, self.unit, self.axis, **where)

    def __str__(self) -> str:
        return f"{self.case}: {self.site}, {self.kind.name}"


def close(case: Case, found: Tensor, expected: Tensor, what: object) -> None:
    assert found.shape == expected.shape, f"{what}: {tuple(found.shape)}, expected {tuple(expected.shape)}"
    apart = (found.detach() - expected.detach()).abs().max().item()
    assert apart <= case.close * max(1.0, expected.abs().max().item()), f"{what}: by {apart:.3g}"


class Notes:
    """What was right or refused at a place; what must not be refused fails."""

    def __init__(self, draw: Draw, model: nn.Module) -> None:
        self.draw, self.outcomes = draw, {}
        self._modules = [name for name, _ in model.named_modules(remove_duplicate=False)]

    def __call__(self, what: str, function: Callable[[], Any], must: bool = True) -> Any:
        """Return what a call gives, or its refusal."""
        # Of weights the layer that makes the unit is named, and may be another.
        names = [self.draw.place.module, *(self._modules if "weights" in what else ())]
        found = self.outcomes[what] = attempt(function, names)
        if must and self.draw.must:
            assert not isinstance(found, Refused), f"{self.draw}: {what} refuses: {found.error!r}"
        return found


def check(draw: Draw, hand: ByHand, model: nn.Module) -> dict[str, Any]:
    """Compare every function with hooks by hand at one place, and return what was refused."""
    place, kind, site = draw.place, draw.kind, draw.site
    clean, corrupt = hand.inputs["clean"], hand.inputs["corrupt"]
    pairs = nb.PairLoader(nb.Pairs(clean, corrupt, torch.zeros(ITEMS)), draw.size)
    cuts = [slice(None)] if kind.name.startswith("BATCH") else [slice(0, 3), slice(3, None)]
    twins = pairs if kind in DATASET else [items(corrupt, cut) for cut in cuts]
    note = Notes(draw, model)
    before = state(model)
    values = note("gather", lambda: nb.gather(model, [site], kind, twins))
    rows = note("src_ablations", lambda: nb.src_ablations(model, [site], pairs if kind in DATASET else corrupt, kind))
    zeroed = [
        note(f"zero_weights{told}", lambda given=given: nb.zero_weights(model, [site], given), draw.must_zero)
        for told, given in (("", None), (" with a batch", clean))
        if kind is Kind.ZERO
    ]
    assert same_state(before, state(model)), f"{draw}: the model is not as it was"
    undefined = place.calls == 0 or (place.calls > 1 and not isinstance(draw.run, int))
    if (undefined and kind is not Kind.ZERO) or (place.refused and "MEAN" in kind.name):
        assert isinstance(values, Refused), f"{draw}: gather should refuse"
        assert isinstance(rows, Refused), f"{draw}: src_ablations should refuse"
        return note.outcomes
    if place.calls:
        replaced(draw, hand, model, note, values, rows, zeroed)
        swept(draw, hand, model, note)
        padding_aware(draw, hand, model, note)
    return note.outcomes


def replaced(
    draw: Draw, hand: ByHand, model: nn.Module, note: Notes, values: Any, rows: Any, zeroed: list[Any]
) -> None:
    """What stands in is what it should be, and with it in place the model answers as with hooks by hand."""
    case, place, site, clean = draw.case, draw.place, draw.site, hand.inputs["clean"]

    def edited(values: Any) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.no_grad(), nb.edit(model, nb.edits([site], values)):
                return case.answer(call(model, clean))

        return run

    run = draw.run if isinstance(draw.run, int) else 0
    expected = hand.answer(place, draw.unit, hand.value(place, draw.kind, run), draw.run if place.calls > 1 else 0)
    model.eval()
    try:
        if not isinstance(values, Refused):
            found = note("edits of gather", edited(values))
            if not isinstance(found, Refused):
                close(case, found, expected, f"{draw}: edits of gather")
        if not isinstance(rows, Refused):
            row = by_hand(hand, draw, run)
            close(case, *torch.broadcast_tensors(rows[0], row), f"{draw}: src_ablations")
            found = note("edits of src_ablations", edited(rows))
            if not isinstance(found, Refused):
                close(case, found, expected, f"{draw}: edits of src_ablations")
        for copied in zeroed:
            if not isinstance(copied, Refused):
                alone = ByHand(case, copied, clean, hand.inputs["corrupt"])
                close(case, alone.answer(), expected, f"{draw}: zero_weights")
    finally:
        model.train()


def padding_aware(draw: Draw, hand: ByHand, model: nn.Module, note: Notes) -> None:
    """A mean over the positions that count is that by hand."""
    case, place, kind, site = draw.case, draw.place, draw.kind, draw.site
    clean, corrupt = hand.inputs["clean"], hand.inputs["corrupt"]
    mask = clean.get("attention_mask") if isinstance(clean, dict) else None
    if mask is None or "MEAN" not in kind.name or place.positions != (1,) or place.calls != 1 or place.shared:
        return
    twins = nb.PairLoader(nb.Pairs(clean, corrupt, torch.zeros(ITEMS)), ITEMS) if kind in DATASET else [corrupt]
    fits = draw.shape[1] == mask.shape[1]
    values = note("gather where", lambda: nb.gather(model, [site], kind, twins, where="attention_mask"), fits)
    assert fits or isinstance(values, Refused), f"{draw}: a mask of another length should be refused"
    if not isinstance(values, Refused):
        expected = torch.as_tensor(hand.value(place, kind, 0, mask)).to(values[site])
        expected = expected[(slice(None),) * place.axis + (slice(None) if draw.unit is None else draw.unit,)]
        close(case, *torch.broadcast_tensors(values[site], expected), f"{draw}: means over what counts")


def swept(draw: Draw, hand: ByHand, model: nn.Module, note: Notes) -> None:
    """A row of a sweep is the metric with hooks by hand; a site without a unit stands for each of its units."""
    case, place, kind, site = draw.case, draw.place, draw.kind, draw.site
    whole = case.mixed or kind.name.startswith("BATCH")
    pairs = nb.Pairs(hand.inputs["clean"], hand.inputs["corrupt"], torch.zeros(ITEMS))
    loader = nb.PairLoader(pairs, ITEMS if whole else draw.size)
    reference = (lambda batch: batch.corrupt) if kind.name.startswith("BATCH") else None
    run = draw.run if isinstance(draw.run, int) else 0
    width = draw.shape[place.axis]
    if draw.unit is None and width > 16:
        return
    before = state(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EngineWarning)  # says why a faster engine is not used
        frame = note(
            "sweep",
            lambda: nb.sweep(model, {"here": site}, loader, metric(case), kind, reference=reference, output=case.key),
        )
    assert same_state(before, state(model)), f"{draw}: a sweep left the model otherwise than it was"
    if isinstance(frame, Refused):
        return
    assert len(frame) == (width if draw.unit is None else 1), f"{draw}: {len(frame)} rows"
    assert (frame.n == ITEMS).all(), f"{draw}: {frame.n.tolist()} items"
    value = hand.value(place, kind, run)
    for row, unit in enumerate(range(width) if draw.unit is None else [draw.unit]):
        answer = hand.answer(place, unit, value, draw.run if place.calls > 1 else 0)
        expected = metric(replace(case, part=lambda answer: answer))(answer, None).mean()
        close(case, torch.tensor(frame.value.iloc[row]), expected, f"{draw}: sweep of {unit}")


def by_hand(hand: ByHand, draw: Draw, run: int) -> Tensor:
    """Return what stands in for the units alone, `[items, ...]`, or `[1, ...]` for all items."""
    whole = hand.activation(draw.place, "corrupt", run)
    value = torch.as_tensor(hand.value(draw.place, draw.kind, run)).to(whole)
    value = value.expand(value.shape[0] if value.ndim else 1, *whole.shape[1:])
    return value[(slice(None),) * draw.place.axis + (slice(None) if draw.unit is None else draw.unit,)]


def captured(case: Case, place: Place, model: nn.Module, hand: ByHand) -> None:
    """What `capture` gives is what a hook gives, and the gradient there that of zeros added by a hook."""
    model.eval()
    site = nb.Site(place.module, part=place.part, item=place.item)

    def measure(output: Any) -> Tensor:
        return metric(replace(case, part=lambda answer: answer))(case.answer(output), None)

    def through() -> tuple[Tensor, Tensor | None]:
        with nb.capture(model, site) as seen:
            score = measure(call(model, hand.inputs["clean"])).sum()
            seen[site]
        if not (score.requires_grad and seen[site].requires_grad):
            return seen[site], None
        return seen[site], torch.autograd.grad(score, seen[site], allow_unused=True)[0]

    try:
        found = attempt(through, [place.module])
        if place.calls != 1 or isinstance(found, Refused):
            assert isinstance(found, Refused), f"{case}: capture should refuse {place}"
            assert place.calls != 1 or place.refused, f"{case}: capture refuses {place}: {found.error!r}"
            return
        close(case, found[0].detach(), hand.activation(place, "clean"), f"{case}: capture of {place}")
        if found[1] is None:
            return
        by_hand = hand.gradient(place, lambda output: measure(output).sum())
        close(case, found[1], by_hand, f"{case}: gradient at {place}")
    finally:
        model.train()


def drawn(case: Case, place: Place, shape: torch.Size, seed: int) -> list[Draw]:
    dice = random.Random(f"{case.name} {place} {seed}")
    kinds = [Kind.ZERO, *dice.sample([kind for kind in KINDS if kind is not Kind.ZERO], DRAWS - 1)]
    return [Draw(case, place, shape, dice, kind) for kind in kinds]


def shape_at(hand: ByHand, place: Place) -> torch.Size:
    if place.calls:
        return hand.activation(place, "clean").shape
    return torch.Size([ITEMS] + [3] * max(place.axis, *place.positions, 1))


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_any_model_answers_as_with_hooks_by_hand_or_one_call_refuses(name):
    case, model, clean, corrupt = prepared(name)
    hand = ByHand(case, model, clean, corrupt)
    intact = hand.answer()
    for place in case.places:
        captured(case, place, model, hand)
        if place.calls and not place.refused:  # what nobody would notice tests nothing
            assert (hand.answer(place) - intact).abs().max() > 30 * case.close, f"{place} does not matter"
        for draw in drawn(case, place, shape_at(hand, place), 0):
            check(draw, hand, model)


@pytest.mark.parametrize("name", ["convolutions, batch norm, in-place activations", "Swin", "heads on axis 1", "LSTM"])
def test_another_axis_than_the_true_one_is_noticed(name):
    """The harness itself: were the package to take units on another axis, or positions, the comparison would fail."""
    case, model, clean, corrupt = prepared(name)
    hand = ByHand(case, model, clean, corrupt)
    for place in (place for place in case.places if place.calls == 1 and not place.refused):
        shape = shape_at(hand, place)
        others = [axis for axis in range(1, len(shape)) if axis != place.axis]
        for kind in (Kind.ZERO, Kind.RESAMPLE, Kind.MEAN):
            draw = Draw(case, place, shape, random.Random(0), kind)
            draw.unit, draw.site, draw.must_zero = 0, replace(draw.site, unit=0, axis=place.axis), False
            check(draw, hand, model)
            for axis in others:
                draw.place = replace(place, axis=axis)
                with pytest.raises(AssertionError, match=r"by \d|expected \("):
                    check(draw, hand, model)
        if others:
            draw.place = replace(place, positions=())
            with pytest.raises(AssertionError, match=r"by \d|expected \("):
                check(draw, hand, model)
