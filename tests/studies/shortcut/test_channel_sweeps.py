"""A sweep of pooled channels gives the answers of the head run again for every draw."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbutils.ablation.types import AblationType
from nbutils.seeding import generator
from nbutils.sweeps import pooled
from studies.shortcut.controls import Controls, matched_masks, random_masks, strength, top
from studies.shortcut.pooled import Pool, twins
from studies.shortcut.sweeps import mean_of, sweep

# Label -> type, reference, and what a channel gets, by hand.
ABLATIONS = {
    "zero": lambda reference: (AblationType.ZERO, None, lambda items: torch.zeros_like(items.features)),
    "mean": lambda reference: (*mean_of(reference), lambda items: reference.features.mean(0)),
    "resample": lambda reference: (AblationType.RESAMPLE, *[twins(reference, seed=5)] * 2),
    "same-label resample": lambda reference: (AblationType.RESAMPLE, *[twins(reference, same_label=True, seed=5)] * 2),
}


def pool(count=60, channels=24, classes=2, seed=0, shift=0.0):
    rng = generator(seed, "test pool")
    features = torch.randn(count, channels, generator=rng).relu() + shift
    slides = torch.randint(3, (count,), generator=rng)
    return Pool(features, torch.randint(classes, (count,), generator=rng), {"slide": slides})


def head(channels=24, classes=2, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(channels, classes)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_accuracies_are_those_of_the_head_run_again_for_every_draw(ablation, classes):
    items, reference, layer = pool(classes=classes), pool(80, classes=classes, seed=1), head(classes=classes)
    orders = {"shortcut": torch.randperm(24, generator=generator(1, "order"))}
    chosen = Controls(orders, ks=(0, 3, 10, 24), draws=7, seed=5)
    *own, by_hand = ABLATIONS[ablation](reference)
    frame = sweep(layer, {"id": items}, reference, chosen, {ablation: tuple(own)})
    assert list(frame.columns) == ["control", "ablation", "k", "draw", "set", "measure", "value", "n"]
    assert {*frame.ablation} == {ablation}
    values = by_hand(items)
    strong = strength(layer, reference)
    for k in chosen.ks:
        times = 7 if k else 1
        masks = {
            "shortcut": top(orders["shortcut"], k)[None],
            "random": random_masks(24, k, times, generator(5, "random", k)),
            "matched random": matched_masks(
                top(orders["shortcut"], k), strong, times, generator(5, "matched random", k)
            ),
        }
        for control, some in masks.items():
            rows = frame[(frame.control == control) & (frame.k == k)]
            assert sorted(rows.draw.unique()) == list(range(len(some)))
            for draw, mask in enumerate(some):
                assert mask.sum() == k
                again = layer(torch.where(mask, values, items.features)).detach()
                right = again.argmax(1) == items.labels
                found = rows[rows.draw == draw].set_index("measure")
                assert found.value["accuracy"] == pytest.approx(right.double().mean().item())
                for slide in range(3):
                    here = items.groups["slide"] == slide
                    assert found.value[f"slide={slide}"] == pytest.approx(right[here].double().mean().item())
                    assert found.n[f"slide={slide}"] == here.sum()
    assert frame[frame.measure == "accuracy"].value.nunique() > 3  # accuracies do move


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_sweep_starts_at_the_unmodified_head(ablation):
    items, layer = pool(501, 512), head(512)
    orders = {"shortcut": torch.arange(512), "other": torch.arange(512).flip(0)}
    chosen = Controls(orders, ks=(0, 4), draws=3)
    frame = sweep(layer, {"id": items}, items, chosen, {ablation: ABLATIONS[ablation](items)[:2]})
    start = frame[(frame.k == 0) & (frame.measure == "accuracy")]
    assert sorted(start.control) == ["matched random", "other", "random", "shortcut"]
    assert {*start.value} == {(layer(items.features).argmax(1) == items.labels).double().mean().item()}


def test_a_sweep_is_a_function_of_its_seed_and_not_of_how_it_is_cut(monkeypatch):
    items, reference, layer = pool(), pool(80, seed=1), head()

    def swept(ks=(0, 5), seed=0):
        chosen = Controls({"shortcut": torch.arange(24)}, ks=ks, draws=9, seed=seed)
        return sweep(layer, {"id": items}, reference, chosen)

    one = swept()
    monkeypatch.setattr(pooled, "ELEMENTS", 100)
    assert swept().equals(one)
    assert not swept(seed=1).equals(one)
    assert swept(ks=(5,)).value.tolist() == one[one.k == 5].value.tolist()


def test_items_and_controls_must_be_of_the_heads_width():
    items, chosen = pool(), Controls({"shortcut": torch.arange(24)}, ks=(0, 4), draws=2)
    narrow = Controls({"shortcut": torch.arange(23)}, ks=(0, 4), draws=2)
    for sets, reference, controls, message in [
        ({"ood": pool(channels=25)}, items, chosen, "'ood' has 25"),
        ({"id": items}, pool(channels=25), chosen, "'reference' has 25"),
        ({"id": items}, items, narrow, "'controls' has 23"),
    ]:
        with pytest.raises(ValueError, match=f"the head reads 24 channels; {message}"):
            sweep(head(), sets, reference, controls)
