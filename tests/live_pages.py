"""Live figures on a page, for tests in a browser: opened, and every control moved by keyboard, mouse and touch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from browsers import without_network
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbutils import claims, layout
from nbutils.notebook.hygiene import hygiene
from nbutils.notebook.render import render_all
from nbutils.plotting import figures
from nbutils.plotting.live import WIDGET_VIEW, LiveFigure

FIGURE = ".live-figure"
LIVE = f"document.querySelector('{FIGURE}').live"
IDLE = f"() => {LIVE}.idle()"
STATE = f"() => ({{...{LIVE}.state}})"
NONSENSE = ("NaN", "undefined", "Infinity", "null", "[object", "cannot be drawn")  # in words for a reader
SETTLED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
ARROWS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"]
KEYS = {  # by what a control is
    "range": [*ARROWS, "Home", "End", "PageUp", "PageDown"],
    "select": ["ArrowUp", "ArrowDown", "Home", "End"],
    "canvas": [*ARROWS, *ARROWS, "Space", "Enter", "Escape"],
    "button": ["Enter", "Space"],
    "checkbox": ["Space"],
    "radio": ["ArrowUp", "ArrowDown"],
}
STROKE = 10  # moves between a pointer's going down and up


def page_of(live: LiveFigure, stem: str, name: str, alt: str, folder: Path) -> Path:
    """Show a live figure as a cell does, and return the page of the notebook that holds it."""
    outputs: list[Any] = []

    def kept(bundle, metadata, alt, caption):
        assert bundle.pop(WIDGET_VIEW)["model_id"]
        outputs.append(new_output("display_data", data=bundle, metadata=metadata))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(layout.OUT_VARIABLE, str(folder))
        patch.setattr(claims, "_results", None)
        patch.setattr(figures, "_display", kept)
        claims.begin(stem, profile="quick", source="embedded")
        figures.show(live, name, alt, caption="The network itself.")
    cell = new_code_cell("show()", outputs=outputs, execution_count=1)
    path = folder / f"{stem}.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell(f"# {stem[:2]} · Live\n\nText."), cell]), path)
    for check in ("alt text", "figures", "absolute paths"):
        assert hygiene(path, assets=folder / stem, only=check) == []
    return next(file for file in render_all([path], folder / "html") if file.stem == stem)


@contextmanager
def opened(browser, file: Path, scheme: str = "light", **options: Any) -> Iterator[Any]:
    """Yield a page that holds a live figure, without a network; an error of a script fails the test."""
    with without_network(browser, color_scheme=scheme, **options) as (page, troubles):
        page.goto(file.as_uri())
        page.locator(FIGURE).wait_for()
        page.evaluate(SETTLED)
        yield page
    assert troubles == []


def status(page) -> str:
    """Return what the figure says, once it has drawn; a fault, or nonsense in it, fails the test."""
    page.evaluate(SETTLED)
    page.wait_for_function(IDLE)
    words: str = page.locator(".live-status").inner_text()
    assert page.locator(".live-fault").count() == 0, words
    assert sensible(words), words
    return words


def sensible(words: str) -> bool:
    """Return whether a figure says something, and no fault or nonsense."""
    return bool(words.strip()) and not any(sign in words for sign in NONSENSE)


def controls(page) -> list[tuple[str, str, Any]]:
    """Return what each control of the figure is, its name, and where it is."""
    found = []
    for control in page.locator(FIGURE).locator("input, select, button, canvas").all():
        kind, name = control.evaluate("""e => [
            e.localName === 'input' ? e.type : e.localName,
            e.ariaLabel || e.labels?.[0]?.querySelector('span')?.innerText || e.labels?.[0]?.innerText || e.innerText,
        ]""")
        assert kind in KEYS, f"no test moves a control of the kind {kind}"
        found.append((kind, name, control))
    return found


def by_keyboard(page, kind: str, control, times: int, random: np.random.Generator) -> Iterator[None]:
    """Press keys on a control; yield after each."""
    control.focus()
    for key in random.choice(KEYS[kind], times):
        page.keyboard.press(str(key))
        yield


def by_mouse(page, kind: str, control, times: int, random: np.random.Generator) -> Iterator[None]:
    """Choose, click, or draw strokes on a control; yield after each move."""
    if kind == "select":  # its list is the system's
        for place in random.integers(control.locator("option").count(), size=times):
            control.select_option(index=int(place))
            yield
        return
    for places in strokes(control, times, random):
        if kind in ("range", "canvas"):
            page.mouse.move(*places[0])
            page.mouse.down()
            for place in places:
                page.mouse.move(*place)
                yield
            page.mouse.up()
        else:
            for place in places:
                page.mouse.click(*place)
                yield


def by_touch(page, kind: str, control, times: int, random: np.random.Generator) -> Iterator[None]:
    """Tap, or draw strokes on a control; yield after each move. A list of choices is the system's, and left alone."""
    session = page.context.new_cdp_session(page)

    def send(what: str, *places: list[float]) -> None:
        points = [dict(zip("xy", place, strict=True)) for place in places]
        session.send("Input.dispatchTouchEvent", {"type": f"touch{what}", "touchPoints": points})

    for places in strokes(control, times if kind != "select" else 0, random):
        if kind in ("range", "canvas"):
            send("Start", places[0])
            for place in places[1:]:
                send("Move", place)
                yield
            send("End")
            places = next(strokes(control, 4, random))  # what takes taps alone has scrolled; some miss what is there
        for place in places:
            page.touchscreen.tap(*place)
            yield


def strokes(control, times: int, random: np.random.Generator) -> Iterator[list[list[float]]]:
    """Yield points of the screen on a control, some at a time; it is brought into view before."""
    for start in range(0, times, STROKE):
        control.scroll_into_view_if_needed()
        box = control.bounding_box()
        shares = 0.02 + 0.96 * random.random((min(STROKE, times - start), 2))
        yield (shares * [box["width"], box["height"]] + [box["x"], box["y"]]).tolist()


def moved(page, way, kind: str, control, times: int, random: np.random.Generator) -> bool:
    """Move a control, and return whether that changed the state."""
    before, changed = page.evaluate(STATE), False
    for i, _ in enumerate(way(page, kind, control, times, random)):
        changed = changed or (i < 60 and page.evaluate(STATE) != before)
    return changed


def appearance(page) -> str:
    """Return the state, the words and the pictures of the figure as text."""
    page.evaluate(SETTLED)
    page.wait_for_function(IDLE)
    pictures = f"() => [...document.querySelectorAll('{FIGURE} canvas')].map(e => e.toDataURL())"
    return json.dumps([page.evaluate(STATE), page.locator(".live-status").inner_text(), page.evaluate(pictures)])
