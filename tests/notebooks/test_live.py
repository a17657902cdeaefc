"""Live figures in a browser: what they compute is PyTorch's, every control moves, and without scripts a picture stands.

Screenshots go to `build/browser/`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbutils import claims, hooks, layout
from nbutils.notebook.hygiene import hygiene
from nbutils.notebook.render import render_all
from nbutils.plotting import figures
from nbutils.plotting.live import WIDGET_VIEW
from studies.color_cube.live import Seed, live_cube
from studies.color_cube.mappers import BoundedFalloff
from studies.color_cube.network import ColorMLP
from studies.color_cube.steering import Suppression

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytest.importorskip("anywidget", reason="needs anywidget")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = layout.root() / "build" / "browser"
STATES, MOVES = 1000, 300
STEM, NAME, ALT = "01-color-cube", "live-cube", "A sphere, a cube and errors. Red is gone."

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not CHROMIUM, reason="found no chromium or google-chrome"),
]


def network(seed: int) -> ColorMLP:
    """Return an untrained network whose activations reach where GELU bends."""
    torch.manual_seed(seed)
    model = ColorMLP().double().eval()
    for parameter in model.parameters():
        parameter.data *= 2
    return model


SEEDS = [
    Seed(
        f"{i} ({what})",
        network(i),
        network(10 + i),
        torch.nn.functional.normalize(torch.arange(5.0).double() - i, dim=0),
    )
    for i, what in enumerate(("median", "best", "failed"))
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """Show the live figure as a cell does, and render the notebook that holds it."""
    folder = tmp_path_factory.mktemp("live")
    outputs: list[Any] = []

    def kept(bundle, metadata, alt, caption):
        assert bundle.pop(WIDGET_VIEW)["model_id"]
        outputs.append(new_output("display_data", data=bundle, metadata=metadata))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(layout.OUT_VARIABLE, str(folder))
        patch.setattr(claims, "_results", None)
        patch.setattr(figures, "_display", kept)
        claims.begin(STEM, profile="quick", source="embedded")
        figures.show(live_cube(SEEDS), NAME, ALT, caption="The network itself.")
    cell = new_code_cell("show()", outputs=outputs, execution_count=1)
    path = folder / f"{STEM}.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# 01 · Live\n\nText."), cell]), path)
    for check in ("alt text", "figures", "absolute paths"):
        assert hygiene(path, assets=folder / STEM, only=check) == []
    return next(file for file in render_all([path], folder / "html") if file.stem == STEM)


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def page(request, browser, page_file) -> Iterator[playwright.Page]:
    """Yield the page, opened without a network; an error of a script fails the test."""
    context = browser.new_context(offline=True, color_scheme=request.param, viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(120_000)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.goto(page_file.as_uri())
    page.locator(".live-figure").wait_for()
    yield page
    context.close()
    assert troubles == []


def by_torch(state: dict[str, Any], rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return latents and reconstructions as the notebook computes them."""
    seed = next(seed for seed in SEEDS if seed.label == state["seed"])
    model = seed.plain if state["plan"] == "post hoc" else seed.anchored
    axis = seed.direction if state["plan"] == "post hoc" else torch.eye(5, dtype=torch.float64)[0]
    edits: dict[str, Any] = {"bottleneck": Suppression(axis, BoundedFalloff(power=0), state["strength"])}
    if state["plan"] in ("none", "ablated"):
        share = 1 - state["strength"] if state["plan"] == "ablated" else 1.0
        edits = {"encoder": lambda z: torch.cat([share * z[..., :1], z[..., 1:]], -1)}
    with torch.no_grad(), hooks.edit(model, edits), hooks.capture(model, "bottleneck") as seen:
        recon = model(torch.as_tensor(rgb))
    return seen["bottleneck"].numpy(), recon.numpy()


COMPUTE = """([states, colours]) => states.map((state, i) => {
    const found = document.querySelector('.live-figure').live.compute(state, Float64Array.from(colours[i]));
    return [Array.from(found.latents), Array.from(found.recon)];
})"""


def test_what_the_page_computes_is_pytorchs(page):
    random = np.random.default_rng(0)
    plans = ["suppressed", "ablated", "post hoc", "none"]
    states = [
        {"seed": SEEDS[random.integers(3)].label, "plan": plans[random.integers(4)], "strength": random.random()}
        for _ in range(STATES)
    ]
    colours = random.random((STATES, 8, 3))
    found = page.evaluate(COMPUTE, [states, colours.reshape(STATES, -1).tolist()])
    worst = 0.0
    for state, rgb, own in zip(states, colours, found, strict=True):
        for theirs, ours in zip(by_torch(state, rgb), own, strict=True):
            worst = max(worst, np.abs(theirs.ravel() - ours).max())
    print(f"largest difference over {STATES} states: {worst:.1e}")
    assert worst < 1e-5
    wrong = by_torch(states[0] | {"plan": "none", "strength": 0.0}, colours[0])[1]  # the control
    moved = next(i for i, state in enumerate(states) if state["plan"] == "ablated" and state["strength"] > 0.5)
    assert np.abs(by_torch(states[moved], colours[moved])[1].ravel() - found[moved][1]).max() < 1e-5
    assert np.abs(wrong.ravel() - found[moved][1]).max() > 1e-3


def heap(page: playwright.Page) -> float:
    """Return the megabytes of objects that scripts hold, after a collection."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    return session.send("Runtime.getHeapUsage")["usedSize"] / 1e6


def test_every_control_moves_300_times(page):
    random = np.random.default_rng(1)
    figure = page.locator(".live-figure")
    fault = figure.locator(".live-fault")
    before = heap(page)
    slider = figure.get_by_role("slider")
    slider.focus()
    for _ in range(MOVES):
        page.keyboard.press(["ArrowLeft", "ArrowRight", "Home", "PageUp"][random.integers(4)])
    for select in figure.locator("select").all():
        select.focus()
        before_it = select.input_value()
        for _ in range(MOVES):
            page.keyboard.press(["ArrowDown", "ArrowUp", "Home", "End"][random.integers(4)])
        page.keyboard.press("Home" if before_it != "0" else "End")
        assert select.input_value() != before_it
    for canvas in figure.locator("canvas").all():
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        place = random.random((MOVES, 2)) * [box["width"], box["height"]] + [box["x"], box["y"]]
        page.mouse.move(*place[0])
        page.mouse.down()
        for x, y in place:
            page.mouse.move(x, y)
        page.mouse.up()
        if canvas.get_attribute("tabindex") == "0":
            canvas.focus()
            for _ in range(MOVES):
                page.keyboard.press(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Space"][random.integers(5)])
    for button in figure.get_by_role("button").all():
        button.focus()
        for _ in range(MOVES):
            page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    assert fault.count() == 0
    assert heap(page) - before < 20
    assert page.evaluate("() => document.querySelector('.live-figure').live.state.strength") == 1  # of the first view


def test_the_address_holds_the_view_and_nonsense_does_no_harm(page, page_file):
    slider = page.locator(".live-figure").get_by_role("slider")
    slider.focus()
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    page.locator(".live-figure select").nth(1).select_option(label="suppress a direction found afterwards")
    page.wait_for_url(lambda url: "strength=0.7" in url and "plan=post" in url)
    address = page.url
    words = page.locator(".live-status").inner_text()
    page.goto("about:blank")
    page.goto(address)
    assert page.locator(".live-figure").get_by_role("slider").input_value() == "0.7"
    page.wait_for_function("words => document.querySelector('.live-status').innerText === words", arg=words)

    page.goto("about:blank")
    wrong = "strength=9&plan=delete&seed=%00&yaw=NaN&pitch=1e9&brushed=a.9999..3&dimensions=0+0+0&other=1"
    page.goto(f"{page_file.as_uri()}#figure-{NAME}?{wrong}")
    state = page.evaluate("() => document.querySelector('.live-figure').live.state")
    first = {"seed": SEEDS[0].label, "plan": "suppressed", "strength": 1, "dimensions": "0 1 2", "brushed": "3"}
    assert {name: state[name] for name in first} == first
    assert page.locator(".live-fault").count() == 0


def test_only_its_own_scripts_run(browser, page_file):
    page = browser.new_page()
    page.goto(page_file.as_uri())
    assert page.locator(".live-figure").count() == 1
    page.evaluate("() => document.body.append(Object.assign(document.createElement('script'), {text: 'window.x = 1'}))")
    assert page.evaluate("() => window.x") is None
    page.close()


def test_a_picture_stands_where_scripts_are_off(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("figure img").is_visible()
    assert page.locator(".live-figure").count() == 0
    context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_screenshot(page, width):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    scheme = page.evaluate("() => matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'")
    page.set_viewport_size({"width": width, "height": 1000})
    page.wait_for_timeout(300)
    page.screenshot(path=SCREENSHOTS / f"live-{NAME}-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
