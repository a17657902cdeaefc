"""The live figure of units in a browser: ranks and their agreement are scipy's, and units are picked by every hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browsers import MARKS
from live_pages import STATE, opened, page_of, status

from studies.across.live import FIRST_ROW, ORDER, PLANE, PLOT, ROW, ROWS, Network, compare, live_units, rows_of

pytest.importorskip("anywidget", reason="needs anywidget")

STATES, TABLES = 1000, 16
STEM, NAME, ALT = "06-what-ablations-show", "live-units", "Units by rank under two stand-ins. Most of them move."
READ = ["magnitude", "gradient × change", "random"]

pytestmark = MARKS


def network(seed: int) -> Network:
    """Return a network of up to 180 units in up to four layers, among them silent units and effects that are tied."""
    random = np.random.default_rng(seed)
    sizes = random.integers(4, 45, random.integers(1, 5))
    units = sizes.sum()
    common = random.standard_normal(units)
    table = {name: common + random.exponential(2) * random.standard_normal(units) for name in ORDER}
    effects = pd.DataFrame(table) * 10.0 ** random.uniform(-5, 1)
    effects[random.random(units) < 0.1] = 0.0
    effects["mean"] = effects["mean"].round(4)
    read = pd.DataFrame({name: random.random(units).round(random.integers(1, 4)) for name in READ})
    layers = [f"layer{i}" for i, size in enumerate(sizes) for _ in range(size)]
    numbers = [unit for size in sizes for unit in range(size)]
    return Network(f"net {seed}", "nats", effects.assign(layer=layers, unit=numbers), read)


NETWORKS = [network(seed) for seed in range(TABLES)]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    live = live_units(NETWORKS, shown="net 3")
    return page_of(live, STEM, NAME, ALT, tmp_path_factory.mktemp("live"))


@cache
def by_scipy(label: str, across: str, up: str) -> np.ndarray:
    """Return agreement of every row, then what moves, what is shared, and every unit's two places."""
    found = compare(next(one for one in NETWORKS if one.label == label), across, up)
    alike = [found.alike[name] for name in (*ORDER, *READ)]
    return np.concatenate([alike, [found.far.sum(), found.shared, found.strongest], *found.places])


COMPARE = """states => states.map((state) => {
    const live = document.querySelector('.live-figure').live, found = live.compare(state);
    const { standIns, predictors } = live.data;
    const alike = [...standIns.map(({ name }) => name), ...predictors].map((name) => found.alike[name]);
    const moved = found.far.filter(Boolean).length;
    return [...alike, moved, found.shared, found.strongest, ...found.places[0], ...found.places[1]];
})"""


def test_ranks_and_their_agreement_are_scipys(page):
    random = np.random.default_rng(0)
    every = [(one.label, across, up) for one in NETWORKS for across in ORDER for up in (*ORDER, *READ)]
    asked = [every[i] for i in random.permutation(len(every))[:STATES]]
    states = [dict(zip(("network", "across", "up"), state, strict=True)) for state in asked]
    found = [np.array(one, dtype=float) for one in page.evaluate(COMPARE, states)]
    worst = 0.0
    for state, own in zip(asked, found, strict=True):
        expected = by_scipy(*state)
        assert np.isfinite(own).all()
        assert own.shape == expected.shape
        worst = max(worst, float(np.abs(own - expected).max()))
    print(f"largest difference over {len(asked)} states: {worst:.1e}")
    assert len(asked) == STATES
    assert worst < 1e-5
    # The control: what the page says of a pair does not hold of the pair turned round.
    turned = [(own, by_scipy(label, up, across)) for (label, across, up), own in zip(asked[:100], found, strict=False)
              if up in ORDER and up != across]  # fmt: skip
    assert np.mean([np.abs(own - other).max() > 1e-3 for own, other in turned]) > 0.9


def test_the_first_view_says_what_the_picture_shows(page):
    own = next(one for one in NETWORKS if one.label == "net 3")
    found = compare(own, "zero", "resample")
    text = status(page)
    unit = own.effects.iloc[found.moved]
    assert f"τ {found.alike['resample']:.2f}".replace("-", "−") in text
    assert f"{found.far.sum()} move" in text
    assert f"{found.shared} of the {found.strongest} strongest" in text
    assert f"{unit.layer}, unit {unit.unit}: rank" in text


def spot(page, number: int, x: float, y: float) -> tuple[float, float]:
    """Return where on the screen a point of a canvas is."""
    canvas = page.locator(".live-figure canvas").nth(number)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    scale = box["width"] / (PLANE, ROWS)[number][0]
    return box["x"] + x * scale, box["y"] + y * scale


def on_plane(page, unit: int) -> tuple[float, float]:
    across, up = compare(NETWORKS[3], "zero", "resample").places[:, unit]
    left, right, top, bottom = PLOT
    return spot(page, 0, left + across * (right - left), bottom - up * (bottom - top))


def test_a_unit_is_picked_by_mouse_and_key(page):
    before = page.evaluate(STATE)
    weakest, strongest = np.argsort(compare(NETWORKS[3], "zero", "resample").places[0], kind="stable")[[0, -1]]
    place = on_plane(page, int(strongest))
    page.mouse.move(*place)
    assert page.evaluate(STATE) == before  # it only shows
    page.mouse.click(*place)
    assert page.evaluate(STATE) == before | {"unit": f"net 3 {strongest}"}
    page.locator(".live-figure canvas").first.focus()
    page.keyboard.press("ArrowRight")  # the next one is the first
    assert page.evaluate(STATE)["unit"] == f"net 3 {weakest}"
    page.keyboard.press("Space")
    page.locator(".live-figure canvas").nth(1).focus()
    page.keyboard.press("ArrowUp")
    after = page.evaluate(STATE)
    assert after["up"] == ORDER[-2]
    assert after["unit"] != f"net 3 {weakest}"


def test_a_unit_and_a_stand_in_are_picked_by_touch(browser, page_file):
    with opened(browser, page_file, has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844}) as page:
        page.touchscreen.tap(*on_plane(page, 0))
        assert page.evaluate(STATE)["unit"] == "net 3 0"
        for row, expected in ((2, "mean"), (len(ORDER) + 1, READ[0]), (len(ORDER), READ[0])):  # the last is a head
            page.touchscreen.tap(*spot(page, 1, 60, FIRST_ROW + ROW * row))
            assert page.evaluate(STATE)["up"] == expected
    assert rows_of(READ)[len(ORDER)] is None


def test_a_unit_of_another_network_does_no_harm(page):
    first = page.evaluate(STATE)
    assert first == {"network": "net 3", "across": "zero", "up": "resample", "unit": ""}
    words = status(page)
    for unit, kept in (("net 5 -1", ""), ("5", ""), ("net 3 9999", ""), ("net 3 1.5", ""), ("net 5 2", "net 5 2")):
        page.evaluate("unit => document.querySelector('.live-figure').live.set({ unit })", unit)
        assert page.evaluate(STATE) == first | {"unit": kept}
        assert status(page) == words  # the unit that moves most
    page.locator(".live-figure select").first.select_option(index=5)
    assert "layer0, unit 2: rank" in status(page)


def test_units_glide_to_their_places_unless_the_reader_wants_it_still(browser, page_file):
    looks = """async () => {
        const found = new Set(), canvas = document.querySelector('.live-figure canvas');
        document.querySelector('.live-figure').live.set({ up: 'zero' });
        for (let frame = 0; frame < 60; frame += 1) {
            await new Promise(requestAnimationFrame);
            found.add(canvas.toDataURL());
        }
        return found.size;
    }"""
    between = {}
    for motion in ("reduce", "no-preference"):
        with opened(browser, page_file, reduced_motion=motion) as page:
            status(page)
            between[motion] = page.evaluate(looks) > 2  # more than before and after
    assert between == {"reduce": False, "no-preference": True}
