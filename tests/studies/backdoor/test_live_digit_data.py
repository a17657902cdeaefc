"""What the live figure's page is given: images as bytes, a lens, the recorded numbers, and where it begins."""

import json

import pandas as pd
import pytest
import torch

from nbutils.ablation.edits import edits
from nbutils.data.digits import MEAN, STD, Digits, load
from nbutils.hooks import edit
from nbutils.sites import Site
from studies.backdoor.live import (
    KINDS,
    SAMPLE,
    SAMPLE_BYTES,
    Recorded,
    answer,
    first_view,
    from_bytes,
    in_bytes,
    lens,
    live_digit,
    shown_first,
    units_of,
)
from studies.backdoor.network import LAYERS, MnistNet
from studies.backdoor.planted import plant_backdoor
from studies.backdoor.plots.first_view import MEASURES
from studies.backdoor.trigger import Trigger

TRIGGER = Trigger.checkerboard()


@pytest.fixture(scope="module")
def report() -> Digits:
    return load("embedded").report


@pytest.fixture(scope="module")
def model() -> MnistNet:
    torch.manual_seed(0)
    return MnistNet().eval()


def recorded(model: MnistNet) -> dict[str, Recorded]:
    rows = [(*unit, name, place / 200) for place, unit in enumerate(units_of(model)) for name in MEASURES]
    sweep = pd.DataFrame(rows, columns=["site", "unit", "metric", "value"])
    return dict.fromkeys(KINDS, Recorded(sweep.sample(frac=1, random_state=0), dict.fromkeys(MEASURES, 0.5)))


def test_images_as_bytes_are_the_images_to_half_a_grey(report):
    greys, corner = in_bytes(report)
    assert (greys.shape, corner) == ((SAMPLE, 20, 20), (4, 4)), "the margin is black in all"
    gap = (from_bytes(greys, corner, report).images - report.images[:SAMPLE]) * STD
    assert gap.abs().max() <= 0.5 / 255 + 1e-6
    assert gap.abs().max() > 1e-4, "bytes do round"
    noise = Digits(torch.rand(300, 1, 28, 28), torch.zeros(300, dtype=torch.int64), "mnist")
    greys, corner = in_bytes(noise)
    assert greys.nbytes <= SAMPLE_BYTES < greys.nbytes + 784, "as many as fit"
    assert corner == (0, 0)
    black = Digits(torch.full((3, 1, 28, 28), -MEAN / STD), torch.zeros(3, dtype=torch.int64), "mnist")
    assert in_bytes(black)[0].shape == (3, 28, 28)


def test_the_lens_makes_drawings_as_coarse_as_the_digits():
    coarse = lens().double()
    torch.testing.assert_close(coarse.sum(1), torch.ones(20, dtype=torch.float64))  # grey stays grey
    assert torch.linalg.matrix_rank(coarse, rtol=1e-6) == 8


@torch.no_grad()
def test_units_at_zero_are_the_notebooks(model, report):
    names = units_of(model)
    off = [3, 32, 77, 95, 96, 111]
    sites = [Site(LAYERS[names[place][0]], names[place][1]) for place in off]
    with edit(model, edits(sites)):
        expected = model(report.images[:20])
    logits, said = answer(model, report.images[:20], off)
    torch.testing.assert_close(logits, expected)
    assert (logits - model(report.images[:20])).abs().max() > 1e-3
    assert [tuple(values.shape[1:]) for values in said.values()] == [(32, 13, 13), (64, 5, 5), (16, 1, 1)]
    for place, (layer, unit) in enumerate(names):
        assert (said[layer][:, unit] == 0).all() or place not in off


def test_it_begins_with_an_image_that_the_trigger_turns_and_the_found_units_turn_back(model, report):
    few = from_bytes(*in_bytes(report), report)
    planted, wired = plant_backdoor(model, TRIGGER, report.images[:100])
    off = [units_of(model).index(unit) for unit in wired.items()]
    labels = answer(planted, few.images, off)[0].argmax(1)  # what this untrained network would read
    few = Digits(few.images, labels, few.source)
    shown = shown_first(planted, TRIGGER, few, off)
    view = first_view(planted, TRIGGER, few, shown, off)
    now, before = view.logits
    assert (before.argmax(), now.argmax()) == (TRIGGER.target, labels[shown])
    assert now.argmax() != TRIGGER.target
    assert view.shares[:, 1].tolist() == [1, 0], "attack success with all units on, and with the chain at zero"
    assert shown_first(planted, TRIGGER, few, [0]) == 0, "where nothing is turned back, the first"


def test_the_page_gets_each_units_numbers_in_its_order_and_is_small(model, report):
    live = live_digit(model, TRIGGER, report, [("conv2", 45), ("conv1", 3)], recorded(model))
    size = len(json.dumps(dict(live.data), separators=(",", ":")))
    assert size < 351_000
    kept = live.data["recorded"]["zero"]["units"]
    assert kept["shape"] == [112, 2]
    assert live.data["found"] == [3, 77]
    assert live.data["first"]["unit"] == 77, "the one that the search took first"
    assert live.static().get_size_inches().tolist() == pytest.approx([864 / 96, 484 / 96])
    bare = live_digit(model, TRIGGER, report, [], recorded(model))
    assert bare.data["found"] == []
    bare.static()


def test_what_the_figure_cannot_show_is_refused(model, report):
    with pytest.raises(KeyError, match="conv9"):
        live_digit(model, TRIGGER, report, [("conv9", 0)], recorded(model))
    with pytest.raises(KeyError, match="resample"):
        live_digit(model, TRIGGER, report, [], {"zero": recorded(model)["zero"]})
    with pytest.raises(ValueError, match="none"):
        live_digit(model, TRIGGER, report[:0], [], recorded(model))
