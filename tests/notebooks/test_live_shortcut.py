"""The live figure of stains in a browser: its colours are PyTorch's, its numbers the tables', whatever is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from browsers import MARKS
from live_pages import STATE, page_of, status

from studies.shortcut.first_view import PANEL
from studies.shortcut.live import COLUMNS, MEASURES, STAINS, Answers, live_shortcut, looked_up, stained
from studies.shortcut.stains import REFERENCE, Stain, turned
from studies.shortcut.tiles import Tiles

pytest.importorskip("anywidget", reason="needs anywidget")

STATES, PIXELS = 1000, 12
STEM, NAME, ALT = "03-shortcut-neurons", "live-shortcut", "Tiles in a stain. One is called wrongly."
CONTROLS, KS, SETS = (
    ("coefficient", "pattern × weight", "head weight"),
    (0, 4, 64, 256),
    ("ID", "OOD", "recorded, 10 seeds"),
)
FIRST = ("pattern × weight", "OOD", 64)

pytestmark = MARKS


def some_stains(count: int, rng: np.random.Generator) -> Stain:
    """Return stains about as far from the reference as hospitals are, and beyond."""
    angles = torch.as_tensor(rng.normal(0, 8, (2, count, 2)))
    maxima = REFERENCE.maxima.double() * torch.as_tensor(np.exp(rng.normal(0, 0.2, (count, 2))))
    white = torch.as_tensor(rng.uniform(0.85, 1, count))
    return turned(Stain(REFERENCE.vectors.double().expand(count, 2, 3), maxima, white), *angles)


RNG = np.random.default_rng(0)
TILES = Tiles(
    torch.as_tensor(
        RNG.integers(0, 256, (4, 2, 2, 3), dtype=np.uint8)
    ),  # of four pixels, each a large square on screen
    torch.tensor([1, 0, 1, 0]),
    *[torch.zeros(4, dtype=torch.long)] * 2,
    np.full(4, "train"),
    ("H0",),
    ("a",),
    "noise",
)
OWN, OTHER = (some_stains(4, RNG) for _ in range(2))


def singles(stain: Stain) -> Stain:
    return Stain(*(part.float() for part in (stain.vectors, stain.maxima, stain.white)))


def answers() -> Answers:
    shape = len(CONTROLS), len(KS), len(STAINS)
    own, low, high = RNG.random((3, *shape, 4))
    right = RNG.uniform(0.6, 1, (*shape, 4))
    right[:, 0] = right[0, 0]
    return Answers(CONTROLS, KS, own[0, 0], own, low, high, right)


ANSWERS = answers()
TABLE = pd.DataFrame(
    [
        (where, control, measure, k, *RNG.normal(0, 0.05, len(COLUMNS)))
        for where in SETS
        for control in CONTROLS
        for measure in MEASURES
        for k in KS
        if (where, control) != (SETS[2], "head weight")
    ],
    columns=["set", "control", "measure", "k", *COLUMNS],
)
TABLE.loc[TABLE["set"] == SETS[2], [*COLUMNS[:5]]] = np.nan  # recorded elsewhere: differences alone


def figure():
    words = {"stain": "the other's", "network": "the network"}
    return live_shortcut(TABLE, ANSWERS, TILES, (singles(OWN), singles(OTHER)), first=FIRST, **words)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    return page_of(figure(), STEM, NAME, ALT, tmp_path_factory.mktemp("live"))


RECOLOUR = """([pixels, own, other, shares]) => pixels.map((some, i) =>
    Array.from(document.querySelector('.live-figure').live.recolour(some, own[i], other[i], shares[i])))"""
LOOKUP = "states => states.map((state) => document.querySelector('.live-figure').live.lookup(state))"


def test_what_the_page_recolours_is_pytorchs(page):
    random = np.random.default_rng(1)
    own, other = (some_stains(STATES, random) for _ in range(2))
    pixels = random.integers(0, 256, (STATES, PIXELS, 3)) / 255  # black ones, too
    shares = random.uniform(-0.2, 1.6, STATES)

    def listed(stain: Stain) -> list[dict[str, object]]:
        parts = zip(stain.vectors.flatten(1).tolist(), stain.maxima.tolist(), stain.white.tolist(), strict=True)
        return [{"vectors": v, "maxima": m, "white": w} for v, m, w in parts]

    def by_torch(i: int, share: float) -> np.ndarray:
        image = torch.as_tensor(pixels[i].T[:, :, None])  # (3, PIXELS, 1)
        return stained(image[None], own[[i]], other[[i]], share)[0, :, :, 0].T.numpy()

    found = page.evaluate(RECOLOUR, [pixels.reshape(STATES, -1).tolist(), listed(own), listed(other), shares.tolist()])
    found = np.array(found).reshape(STATES, PIXELS, 3)
    gaps = [np.abs(by_torch(i, shares[i]) - found[i]).max() for i in range(STATES)]
    print(f"largest difference over {STATES} states: {max(gaps):.1e}")
    assert max(gaps) < 1e-5
    wrong = [np.abs(by_torch(i, shares[i] + 0.1) - found[i]).max() for i in range(STATES)]  # the control
    assert np.mean(np.array(wrong) > 1e-3) > 0.9


def test_what_the_page_looks_up_is_the_tables_to_the_digit(page):
    random = np.random.default_rng(2)
    names = {"set": SETS, "measure": MEASURES, "control": CONTROLS, "k": KS, "stain": STAINS}
    picks = {name: random.integers(len(values), size=STATES) for name, values in names.items()}
    states = [{name: names[name][picks[name][i]] for name in names} for i in range(STATES)]
    order = [1, 3, 0, 2]  # of the tiles in the page: normal ones first
    table = looked_up(TABLE, SETS, CONTROLS, KS)
    for found, places in zip(page.evaluate(LOOKUP, states), zip(*picks.values(), strict=True), strict=True):
        at, (measure, control, k, stain) = places[0], places[1:]
        expected = table[at, measure, control, k]
        numbers = [np.nan if one is None else one for one in found["numbers"].values()]
        np.testing.assert_array_equal(numbers, expected)
        assert [found["right"][name] for name in ("own", "random", "low", "high")] == ANSWERS.right[
            control, k, stain
        ].tolist()
        assert found["right"]["whole"] == ANSWERS.right[control, 0, stain, 0]
        for name in ("own", "low", "high"):
            said = [one[name] for one in found["answers"]]
            assert said == getattr(ANSWERS, name)[control, k, stain, order].astype(np.float32).tolist()
        assert [one["whole"] for one in found["answers"]] == ANSWERS.whole[stain, order].astype(np.float32).tolist()


def test_the_first_view_is_the_static_pictures(page):
    said = [text.get_text() for ax in figure().static().axes for text in ax.texts]
    (found,) = page.evaluate(f"() => ({LOOKUP})([document.querySelector('.live-figure').live.state])")
    numbers, right = found["numbers"], found["right"]
    points = [f"{100 * numbers[name]:+.1f}".replace("-", "−") for name in ("mean", "low", "high")]
    told = f"{points[0]} [{points[1]}, {points[2]}]"
    assert f"less random, K = 64: {told}" in said
    assert told in status(page)
    shares = [f"{100 * right[name]:.0f} %" for name in ("whole", "own", "random")]
    assert "{} → {}; random as strong {}".format(*shares) in said
    assert all(share.replace(" ", "\N{NO-BREAK SPACE}") in status(page) for share in shares)


def test_a_tile_has_its_colours_on_the_screen_at_every_stain(page):
    rgb = page.evaluate("""async () => {
        const { live } = document.querySelector('.live-figure'), canvas = document.querySelector('.live-figure canvas');
        const seen = [];
        for (const stain of live.data.stains) {
            live.set({ stain });
            await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
            const scale = canvas.width / 135, at = (place) => Math.round((20 + 96 * place) * scale);
            for (const y of [0.25, 0.75]) for (const x of [0.25, 0.75]) {
                seen.push([...canvas.getContext('2d').getImageData(at(x), at(y), 1, 1).data].slice(0, 3));
            }
        }
        return seen;
    }""")
    image, one = TILES[[1]].images(), torch.tensor([1])
    expected = [stained(image, singles(OWN)[one], singles(OTHER)[one], share)[0].flatten(1).T for share in STAINS]
    assert np.abs(np.array(rgb) - 255 * torch.cat(expected).numpy()).max() <= 1  # a grey level
    assert np.ptp(np.array(rgb).reshape(len(STAINS), -1), axis=0).max() > 20


def middle(page, canvas: int, x: float, y: float) -> tuple[float, float]:
    """Return where on the screen a place of a canvas is, given in the pixels of a panel."""
    element = page.locator(".live-figure canvas").nth(canvas)
    element.scroll_into_view_if_needed()
    box = element.bounding_box()
    scale = box["width"] / PANEL[0]
    return box["x"] + x * scale, box["y"] + y * scale


def test_panels_are_moved_by_hand_and_by_key(page):
    before = page.evaluate(STATE)
    page.mouse.move(*middle(page, 5, 60, 100))
    assert page.evaluate(STATE) == before  # it only shows
    page.mouse.down()
    page.mouse.move(*middle(page, 5, 250, 100))
    page.mouse.up()
    assert page.evaluate(STATE) == before | {"k": 256}
    page.mouse.click(*middle(page, 4, 47, 100))
    assert page.evaluate(STATE) == before | {"k": 256, "stain": 0}
    page.mouse.click(*middle(page, 6, 100, 50))
    assert page.evaluate(STATE) == before | {"k": 256, "stain": 0, "set": "ID"}
    for canvas, key, part in (
        (0, "ArrowRight", {"stain": 0.1}),
        (0, "End", {"stain": 1.5}),
        (5, "ArrowLeft", {"k": 64}),
        (5, "ArrowDown", {"control": "head weight"}),
        (6, "ArrowDown", {"set": "OOD"}),
    ):
        page.locator(".live-figure canvas").nth(canvas).focus()
        page.keyboard.press(key)
        state = page.evaluate(STATE)
        assert {name: state[name] for name in part} == part


def test_nonsense_becomes_a_recorded_state(page, page_file):
    first = {"control": FIRST[0], "set": FIRST[1], "k": FIRST[2], "stain": 1}
    for wrong, right in (
        ("stain=0.43&k=70", {"stain": 0.4, "k": 64}),
        ("stain=NaN&k=&control=none&set=%00&measure=1", first),
        ("stain=-9&k=1e9", {"stain": 0, "k": 256}),
    ):
        page.goto("about:blank")
        page.goto(f"{page_file.as_uri()}#figure-{NAME}?{wrong}")
        state = page.evaluate(STATE)
        assert {name: state[name] for name in right} == right
    page.goto("about:blank")
    page.goto(f"{page_file.as_uri()}#figure-{NAME}?control=head+weight&set=recorded%2C+10+seeds&k=0")
    assert "head weight is not recorded" in status(page)
