"""The live figures of the stored notebooks, on their pages: every control moves, the address holds the view, and
without scripts a picture stands.

What a figure computes is compared with PyTorch by a test of its own. Screenshots go to `build/browser/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from browsers import AXE, MARKS, NEEDS_AXE, SCREENSHOTS, faults, heap
from live_pages import (
    FIGURE,
    LIVE,
    SETTLED,
    STATE,
    appearance,
    by_keyboard,
    by_mouse,
    by_touch,
    controls,
    moved,
    opened,
    page_of,
    sensible,
    status,
)
from matplotlib.figure import Figure

from nbutils import layout
from nbutils.notebook.render import render_all
from nbutils.plotting.live import LiveFigure
from nbutils.plotting.manifests import manifest_of

MOVES = {by_keyboard: 300, by_mouse: 60, by_touch: 30}  # of each control; a pointer's wait for a frame each
GROWTH = 20  # megabytes
FIGURES = {  # notebook -> the live figure that it shows
    path: [name for name, entry in manifest_of(layout.assets(path.stem)).items() if "live" in entry]
    for path in layout.notebooks()
}
NOTEBOOKS = [path for path, names in FIGURES.items() if names]
IMPOSSIBLE = [
    *("", "NaN", "undefined", "null", "Infinity", "-Infinity", "-1", "1e99", "-1e99", "1e-320", "0x10", "9" * 400),
    *(
        "a.9999..3",
        "0 0 0",
        "0,0,0",
        "-1.-2",
        "[object Object]",
        "{}",
        "[]",
        "\0",
        "%",
        "é" * 2000,
        "__proto__",
        "true",
    ),
]
OTHERS = """() => [...document.querySelectorAll('main figure img, .plotly-figure svg')]
    .filter(e => e.checkVisibility()).length"""

ASK = f"""async (hashes) => {{
    const found = [];
    for (const hash of hashes) {{
        location.hash = hash;
        await ({SETTLED})();
        const unfit = Object.values({LIVE}.state).some(value => value === undefined || Number.isNaN(value));
        found.push([document.querySelector('.live-status').innerText, unfit]);
    }}
    return found;
}}"""

pytestmark = MARKS


def test_some_notebook_has_a_live_figure_and_none_has_two():
    assert NOTEBOOKS
    assert all(len(names) == 1 for names in FIGURES.values() if names)


FAULTY = """export default { render({ model, el }) {
  const view = liveView({ model, el });
  view.slider("level", { label: "Level", value: 1, min: 0, max: 9, step: 1 });
  view.keep("shift", 0, Number);
  view.canvas({
    label: "A line", width: 300, height: 200,
    draw: (ink, look, { level }) => { if (level > 4) throw new Error("too high"); },
    drag: ({ dx }) => ({ shift: view.state.shift + dx }),
    hover: (at) => { view.over = at; },
  });
  view.follow(({ level }) => view.say(`Level ${level}.`));
  return view.end;
} };
"""


def test_a_fault_stays_in_sight_and_a_canvas_both_drags_and_hovers(project, browser):
    script = project.root / "notebooks" / "figure.js"
    script.write_text(FAULTY)
    live = LiveFigure(script, {}, lambda: Figure((2, 1)), "Look.")
    page_file = page_of(live, "01-faulty", "faulty", "A line.", project.root / "made")
    with opened(browser, page_file) as page:
        assert status(page) == "Level 1."
        box = page.locator(f"{FIGURE} canvas").bounding_box()
        page.mouse.move(box["x"] + 50, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + 90, box["y"] + 50, steps=4)
        page.mouse.up()
        assert page.evaluate(STATE)["shift"] == pytest.approx(40, abs=1)
        assert page.evaluate(f"() => {LIVE}.over.x") == pytest.approx(90, abs=1)

        page.evaluate("() => { location.hash = '#figure-faulty?level=3&unknown=1&level=nonsense' }")
        page.wait_for_function("() => location.hash === '#figure-faulty'")  # of what it does not know nothing stays
        page.evaluate("() => { console.error = () => {}; }")
        page.evaluate(f"() => {LIVE}.set({{ level: 6 }})")
        page.wait_for_timeout(900)  # by then what was to be said would be
        assert page.locator(".live-fault").inner_text() == "This view cannot be drawn: too high"
        page.evaluate(f"() => {LIVE}.set({{ level: 2 }})")
        page.wait_for_timeout(900)
        assert status(page) == "Level 2."


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem[:2])
def file(request, tmp_path_factory) -> Path:
    """Render a notebook as it is stored."""
    found = render_all([request.param], tmp_path_factory.mktemp("html"))
    return next(page for page in found if page.stem == request.param.stem)


@pytest.fixture
def page(file, browser) -> Iterator:
    with opened(browser, file) as page:
        yield page


def name_of(file: Path) -> str:
    return next(names[0] for path, names in FIGURES.items() if path.stem == file.stem)


def place_of(control) -> list[int]:
    """Return where a control is in its figure, in pixels."""
    place: list[int] = control.evaluate(f"""e => {{
        const [own, all] = [e, e.closest('{FIGURE}')].map(one => one.getBoundingClientRect());
        return [own.x - all.x, own.y - all.y, own.width, own.height].map(Math.round);
    }}""")
    return place


@pytest.mark.parametrize("way", [by_keyboard, by_mouse, by_touch])
def test_every_control_moves(browser, file, way):
    random = np.random.default_rng(1)
    touch = {"has_touch": True, "is_mobile": True, "viewport": {"width": 390, "height": 844}} if way is by_touch else {}
    with opened(browser, file, **touch) as page:
        before, others = heap(page), page.evaluate(OTHERS)
        for kind, name, control in controls(page):
            if not control.is_visible():
                page.evaluate(f"() => {LIVE}.reset()")
                page.evaluate(SETTLED)
            place = place_of(control)
            changed = moved(page, way, kind, control, MOVES[way], random)
            status(page)
            assert place_of(control) == place, name  # it does not jump away from under the hand
            if kind in ("range", "checkbox", "radio") or (kind == "select" and way is not by_touch):
                assert changed, name
            if kind == "canvas":  # what a pointer moves, keys move too
                assert changed == (control.get_attribute("tabindex") == "0"), name
        assert page.evaluate(OTHERS) == others > 0
        grown = heap(page) - before
        print(f"memory grew by {grown:.1f} MB")
        assert grown < GROWTH


def test_every_button_does_something(page):
    random = np.random.default_rng(2)
    found = controls(page)
    for kind, name, button in found:
        if kind != "button":
            continue
        for _ in range(3):
            for other, _, control in found:
                if other != "button":
                    moved(page, by_mouse, other, control, 5, random)
                    moved(page, by_keyboard, other, control, 3, random)
            before = appearance(page)
            button.click()
            page.wait_for_timeout(400)
            if appearance(page) != before:
                break
        else:
            pytest.fail(f"{name} changes nothing")


def test_the_address_holds_the_view(page):
    random = np.random.default_rng(3)
    first = page.evaluate(STATE)
    for kind, _, control in controls(page):
        if kind != "button":
            moved(page, by_mouse, kind, control, 10, random)
            moved(page, by_keyboard, kind, control, 3, random)
    words, state = status(page), page.evaluate(STATE)
    assert state != first
    page.wait_for_timeout(500)  # the address follows when the hand rests
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    assert status(page) == words
    assert page.evaluate(STATE) == state
    page.goto("about:blank")
    page.goto(address.partition("#")[0])
    assert page.evaluate(STATE) == first
    assert status(page) != words  # the control


def test_an_impossible_address_gives_a_view(page, file):
    place = f"figure-{name_of(file)}"
    parts = [*page.evaluate(STATE), "__proto__", "constructor", "other"]
    for part in parts:
        asked = [f"{place}?{urlencode({part: value})}" for value in IMPOSSIBLE]
        for value, (words, unfit) in zip(IMPOSSIBLE, page.evaluate(ASK, asked), strict=True):
            assert sensible(words), (part, value, words)
            assert not unfit, (part, value)
        status(page)
    for value in IMPOSSIBLE[::5]:  # the page opened anew takes longer
        page.goto("about:blank")
        page.goto(f"{file.as_uri()}#{place}?{urlencode(dict.fromkeys(parts, value))}")
        status(page)


def test_a_picture_stands_where_scripts_are_off(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator(f"#figure-{name_of(file)} .live-static img").is_visible()
    assert page.locator(FIGURE).count() == 0
    context.close()


def test_the_picture_makes_way_for_the_figure_and_only_its_own_scripts_run(browser, file):
    page = browser.new_page()
    page.goto(file.as_uri())
    page.locator(FIGURE).wait_for()
    assert not page.locator(f"#figure-{name_of(file)} .live-static img").is_visible()
    page.evaluate("() => document.body.append(Object.assign(document.createElement('script'), {text: 'window.x = 1'}))")
    assert page.evaluate("() => window.x") is None
    page.close()


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_by_itself_for_readers_who_want_it_still(browser, file, motion):
    with opened(browser, file, reduced_motion=motion) as page:
        shares = f"""() => new Promise(done => {{
            const shares = [];
            {LIVE}.animate(share => shares.push(share));
            setTimeout(() => done(shares), 600);
        }})"""
        found = page.evaluate(shares)
        assert found[-1] == 1
        assert (len(found) == 1) == (motion == "reduce")


@NEEDS_AXE
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_figure(browser, file, scheme):
    with opened(browser, file, scheme) as page:
        page.add_init_script(path=AXE)  # a script tag would be stopped by the page's policy
        page.reload()
        figure = f"document.querySelector('{FIGURE}').closest('figure')"
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 1000})
            page.locator(FIGURE).scroll_into_view_if_needed()
            status(page)
            assert faults(page, figure) == [], width
        page.evaluate(f"() => {figure}.querySelectorAll('canvas').forEach(e => e.removeAttribute('aria-label'))")
        assert "role-img-alt" in [fault[1] for fault in faults(page, figure)]  # the control


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_screenshot(browser, file, scheme, width):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with opened(browser, file, scheme, viewport={"width": width, "height": 1000}) as page:
        status(page)
        stem = f"live-{file.stem[:2]}-{width}-{scheme}"
        whole = page.locator("figure", has=page.locator(FIGURE))
        whole.screenshot(path=SCREENSHOTS / f"{stem}.png")
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        if (scheme, width) != ("light", 1280):
            return
        random = np.random.default_rng(4)
        for i, (kind, name, control) in enumerate(controls(page)):  # one after the other, from the first view
            page.evaluate(f"() => {LIVE}.reset()")
            moved(page, by_keyboard if kind == "button" else by_mouse, kind, control, 5, random)
            page.mouse.up()
            page.wait_for_timeout(400)
            word = re.sub(r"\W+", "-", name.lower()).strip("-")[:24]
            whole.screenshot(path=SCREENSHOTS / f"{stem}-{i}-{word}.png")
