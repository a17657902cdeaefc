"""The live digit in a browser: its logits are PyTorch's for whatever is drawn and whichever units are off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from browsers import MARKS
from live_pages import LIVE, SETTLED, STATE, page_of, status

import nbutils as nb
from nbutils.data import digits
from studies.backdoor.live import (
    KINDS,
    Recorded,
    first_view,
    from_bytes,
    in_bytes,
    live_digit,
    shown_first,
    units_of,
)
from studies.backdoor.network import LAYERS, MnistNet
from studies.backdoor.plots.first_view import MEASURES
from studies.backdoor.trigger import Trigger

pytest.importorskip("anywidget", reason="needs anywidget")

STATES = 1000
STEM, NAME, ALT = "02-poisoned-mnist", "live-digit", "A digit, units and outputs. Four units are off."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
STEPS = 512  # of the pad
TRIGGER = Trigger.checkerboard()
FOUND = [("conv1", 3), ("conv2", 45), ("conv2", 6), ("fc1", 2)]

pytestmark = MARKS


def network() -> MnistNet:
    """Return an untrained network whose answers differ from image to image."""
    torch.manual_seed(0)
    model = MnistNet().eval()
    for parameter in model.parameters():
        parameter.data *= 3
    return model.double()


MODEL = network()
UNITS = units_of(MODEL)
REPORT = digits.load("embedded").report
FEW = from_bytes(*in_bytes(REPORT), REPORT)


def recorded(seed: int) -> Recorded:
    """Return measures of no meaning."""
    random = np.random.default_rng(seed)
    rows = [(*unit, name, random.random()) for unit in UNITS for name in MEASURES]
    return Recorded(pd.DataFrame(rows, columns=["site", "unit", "metric", "value"]), dict.fromkeys(MEASURES, 0.5))


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    live = live_digit(MODEL, TRIGGER, REPORT, FOUND, {kind: recorded(i) for i, kind in enumerate(KINDS)})
    return page_of(live, STEM, NAME, ALT, tmp_path_factory.mktemp("live"))


def written(strokes: list[np.ndarray]) -> str:
    """Return strokes, points `[N, 2]` of the pad, as the address has them."""

    def word(x: int, y: int) -> str:
        return "".join(LETTERS[(y * STEPS + x) >> shift & 63] for shift in (12, 6, 0))

    return ".".join("".join(word(*point) for point in stroke.tolist()) for stroke in strokes)


def by_hand(random: np.random.Generator) -> list[np.ndarray]:
    """Return a few smooth strokes, from dots to scribbles that leave the pad."""
    strokes = []
    for _ in range(random.integers(1, 4)):
        pushes = random.normal(size=(random.integers(1, 80), 2)).cumsum(0) * random.choice([0.3, 3])
        path = random.random(2) * STEPS + pushes.cumsum(0)
        strokes.append(np.clip(path, 0, STEPS - 1).round().astype(int))
    return strokes


def some_state(random: np.random.Generator) -> dict[str, Any]:
    """Return a state of the figure: an image of one of three kinds, with any units off."""
    off = np.flatnonzero(random.random(len(UNITS)) < random.choice([0, 0.03, 0.3, 0.9, 1]))
    state = {"image": "drawing", "nth": int(random.integers(50)), "drawing": written(by_hand(random))}
    state |= {"trigger": bool(random.integers(2)), "kind": str(random.choice(list(KINDS)))}
    state["off"] = ".".join(map(str, off))
    what = random.integers(3)
    if what == 0:
        state["image"] = str(random.integers(10))
    if what == 1:
        state["pixels"] = (random.random(784) ** random.choice([1, 8])).tolist()
    return state


@torch.no_grad()
def by_torch(images: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
    """Return the logits as the notebook's ablations give them, for images without the trigger `[N, 1, 28, 28]`."""
    both = images, TRIGGER.apply(images)
    off = sorted({int(unit) for unit in state["off"].split(".") if unit})
    sites = [nb.Site(LAYERS[UNITS[unit][0]], UNITS[unit][1]) for unit in off]
    paths = sorted({site.module for site in sites})
    kind = next(kind for kind in nb.AblationType if kind.value == state["kind"])
    values = nb.gather(MODEL, paths, kind, [both[not state["trigger"]]])
    with nb.edit(MODEL, nb.edits(sites, values)):
        return MODEL(both[state["trigger"]])


COMPUTE = f"""states => states.map((state) => {{
    const {{ pixels, logits }} = {LIVE}.compute(state);
    return [Array.from(pixels), Array.from(logits)];
}})"""


def test_what_the_page_computes_is_pytorchs(page):
    random = np.random.default_rng(0)
    states = [some_state(random) for _ in range(STATES)]
    found = [row for start in range(0, STATES, 100) for row in page.evaluate(COMPUTE, states[start : start + 100])]
    gaps, far = [], []
    for state, (pixels, logits) in zip(states, found, strict=True):
        images = (torch.tensor(pixels, dtype=torch.float64).reshape(1, 1, 28, 28) - digits.MEAN) / digits.STD
        if state["image"] != "drawing" and "pixels" not in state:
            own = FEW.images[FEW.labels == int(state["image"])]
            torch.testing.assert_close(images[0], own[state["nth"] % len(own)])
        gaps.append(np.abs(by_torch(images, state).numpy()[0] - logits).max())
        # The control: the trigger the other way, or unit 50 too. Where all of a layer is off, neither is seen.
        wrong = [state | {"trigger": not state["trigger"]}, state | {"off": f"50.{state['off']}".strip(".")}]
        far.append([np.abs(by_torch(images, other).numpy()[0] - logits).max() > 1e-3 for other in wrong])
    largest = np.abs([logits for _, logits in found]).max()
    print(f"largest difference over {STATES} states: {max(gaps):.1e}, of logits to {largest:.0f}")
    assert max(gaps) < 1e-5
    assert (np.mean(far, axis=0) > 0.3).all(), np.mean(far, axis=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("off", ["", "3", "45.80.81", "3.10.60.100"])
def test_the_measures_are_those_of_the_images_on_the_page(page, kind, off):
    labels, other = FEW.labels, FEW.labels != TRIGGER.target
    clean, attacked = (
        by_torch(FEW.images, {"off": off, "kind": kind, "trigger": on}).argmax(1) for on in (False, True)
    )
    expected = [(clean == labels).double().mean(), (attacked[other] == TRIGGER.target).double().mean()]
    found = page.evaluate(f"wanted => {LIVE}.measured(wanted)", {"kind": kind, "off": off})
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_first_view_is_the_static_pictures(page):
    off = sorted(UNITS.index(unit) for unit in FOUND)
    view = first_view(MODEL, TRIGGER, FEW, shown_first(MODEL, TRIGGER, FEW, off), off)
    found = page.evaluate(f"""() => {{
        const {{ compute, measured, state }} = {LIVE};
        const [now, before] = [state, {{ ...state, off: "" }}].map(compute);
        return {{
            pixels: [...now.pixels],
            logits: [now, before].map(({{ logits }}) => [...logits]),
            maps: now.layers.map((layer) => [...layer]),
            shares: [measured({{ ...state, off: "" }}), measured(state)],
        }};
    }}""")
    np.testing.assert_allclose(found["pixels"], view.pixels.ravel(), atol=1e-12)
    np.testing.assert_allclose(found["logits"], view.logits, atol=1e-9)
    np.testing.assert_allclose(found["shares"], view.shares)
    for own, maps in zip(found["maps"], view.maps.values(), strict=True):
        np.testing.assert_allclose(own, np.moveaxis(maps, 0, -1).ravel(), atol=1e-9)


PIXELS = f"""([drawing, coarse]) => {{
    const {{ compute, data, state }} = {LIVE}, {{ lens }} = data.hand;
    if (!coarse) data.hand.lens = null;
    const {{ pixels }} = compute({{ ...state, image: "drawing", drawing }});
    data.hand.lens = lens;
    return [...pixels];
}}"""


@pytest.mark.parametrize("coarse", [False, True])
def test_a_drawing_is_placed_and_sized_as_digits_are(page, coarse):
    turn = np.linspace(0, 5, 40)
    six = np.column_stack([100 - 40 * np.cos(turn) * (turn < 4), 60 + 30 * turn])  # lopsided
    drawings = [six, 2 * six + 30, 0.5 * six + [300, 200]]
    found = [page.evaluate(PIXELS, [written([points.round().astype(int)]), coarse]) for points in drawings]
    images = np.reshape(found, (-1, 28, 28))
    assert np.abs(images - images[0]).max() < 0.35  # points lie on a grid: edges may differ
    assert np.abs(images - images[0]).mean() < 0.01
    for image in images:
        assert image.min() >= 0
        assert image.max() <= 1
        rows = np.flatnonzero(image.max(1) > 0.1)
        assert 17 <= np.ptp(rows) + 1 <= 21
        centre = np.array([np.arange(28) + 0.5]) @ np.column_stack([image.sum(1), image.sum(0)]) / image.sum()
        if coarse:
            assert np.abs(centre - 14).max() > 0.1  # the box is in the middle, not the mass
        else:
            np.testing.assert_allclose(centre, 14, atol=0.05)
    assert len(np.unique(images[0].round(3))) > 10  # grey edges


def test_nothing_and_nonsense_on_the_pad_have_a_view(page):
    random = np.random.default_rng(1)
    scribble = written([random.integers(0, STEPS, (3000, 2))])
    for drawing in ("", "AAA", "....", "A", scribble, "%%%", "___", "AAA.A"):
        for off in ("", ".".join(map(str, range(len(UNITS)))), ".".join(map(str, range(32, 96)))):
            page.evaluate(f"wanted => {LIVE}.set(wanted)", {"image": "drawing", "drawing": drawing, "off": off})
            words = status(page)
            assert ("empty pad" in words) == (page.evaluate(STATE)["drawing"] == "")
            assert ("biases alone" in words) == bool(off)
    page.evaluate(f"wanted => {LIVE}.set(wanted)", {"drawing": scribble})
    assert len(page.evaluate(STATE)["drawing"]) <= 4500  # it stays in the address
    assert "The pad is full" in status(page)


def test_the_pen_draws_by_mouse_and_by_key(page):
    pad = page.locator(".live-figure canvas").first
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 160, steps=10)
    page.mouse.up()
    assert page.evaluate(STATE)["image"] == "drawing"
    upright = page.evaluate(f"() => [...{LIVE}.compute({LIVE}.state).pixels]")
    image = np.reshape(upright, (28, 28))
    assert image[6:22, 13:15].min() > 0.5
    assert image[:, :10].max() == 0
    pad.focus()
    for key in ("Delete", "Space", *["ArrowDown"] * 9, "Space"):
        page.keyboard.press(key)
    page.evaluate(SETTLED)
    assert "The pen is up" in status(page)
    np.testing.assert_allclose(page.evaluate(f"() => [...{LIVE}.compute({LIVE}.state).pixels]"), upright, atol=0.02)
    page.keyboard.press("Delete")
    assert page.evaluate(STATE)["drawing"] == ""


def test_a_unit_is_switched_by_hand_and_by_key(page):
    grid = page.locator(".live-figure canvas").nth(3)
    before = page.evaluate(STATE)
    grid.scroll_into_view_if_needed()
    box = grid.bounding_box()
    place = box["x"] + 15 / 440 * box["width"], box["y"] + 44 / 256 * box["height"]
    page.mouse.move(*place)
    assert page.evaluate(STATE) == before  # it only shows
    page.mouse.click(*place)
    assert page.evaluate(STATE) == before | {"unit": 0, "off": f"0.{before['off']}"}
    grid.focus()
    page.keyboard.press("Space")
    assert page.evaluate(STATE) == before | {"unit": 0}
    for key, unit in (("ArrowDown", 16), ("ArrowRight", 17), ("ArrowUp", 1)):
        page.keyboard.press(key)
        assert page.evaluate(STATE)["unit"] == unit
