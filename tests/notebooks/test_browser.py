"""The collection in the place where it is used: JupyterLab in a browser, and the supplement without a network.

Screenshots go to `build/browser/`. The browser is the machine's own Chromium; nothing is downloaded.
"""

from __future__ import annotations

import ast
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import live_pages
import nbformat
import numpy as np
import pytest
from browsers import AXE, LIMIT, MARKS, NEEDS_AXE, SCREENSHOTS, faults, heap, without_network
from bs4 import BeautifulSoup

from nbutils import atomic, layout
from nbutils.notebook import parameters, render

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

NOTEBOOKS = layout.notebooks()
# That cells give what is stored, nbval proves at full size. Here they run in a front end, as small as they allow.
SMALL = {
    **{"N_SEEDS": 3, "SEEDS": [42, 123, 456], "FEW_SEEDS": 1, "EPOCHS": 1, "LAMBDAS": [0.01, 0.1], "N_RANDOM": 3},
    **{"GRID": 8, "SEARCH": 200, "MOST": 3, "RECOVERY_STEPS": 5, "MASK_STEPS": 5, "KS": "0,8,64,256"},
    **{"N_AUDIT": 64, "DIRECTIONS": 4, "NULL_DRAWS": 10, "PROMPTS": 16, "METHOD_PROMPTS": 8},
    **{"PATH_STEPS": 2, "OPTIMAL_STEPS": 2},
}
SHORTER = 20  # times, is the training
SCHEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

pytestmark = MARKS


def small(path: Path, sheets: Path) -> nbformat.NotebookNode:
    """Return a notebook without outputs, its parameters small and its schedule short."""
    known = parameters.parameter_names(path)
    values = {name: value for name, value in SMALL.items() if name in known}
    if "DOPESHEET" in known:
        sheet = layout.dopesheet(f"{path.stem}-quick")
        sheet = sheet if sheet.exists() else layout.dopesheet(path.stem)
        steps = re.compile(r"^([+-]?)(\d+)(?=,)", re.MULTILINE)  # whole ones; fractions stay
        text = steps.sub(
            lambda key: key[1] + str(max(int(key[2]) // SHORTER, len(key[1]))), sheet.read_text(encoding="utf-8")
        )
        values["DOPESHEET"] = str(atomic.write(sheets / f"{path.stem}.csv", text))
    notebook = nbformat.read(path, as_version=4)
    for place, cell in reversed([*enumerate(notebook.cells, start=1)]):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            text = "\n".join(f"{name} = {value!r}" for name, value in values.items())
            notebook.cells.insert(place, nbformat.v4.new_code_cell(text))
    return notebook


@pytest.fixture(scope="module")
def lab_folder(tmp_path_factory) -> Path:
    """Return the folder that JupyterLab serves."""
    return tmp_path_factory.mktemp("lab") / "notebooks"


@pytest.fixture(scope="module")
def lab(lab_folder) -> Iterator[str]:
    """Start JupyterLab on small copies of the notebooks, with a token; yield its address with `{}` for a path."""
    home = lab_folder.parent
    shutil.copytree(layout.root() / "notebooks", lab_folder)
    for path in NOTEBOOKS:
        nbformat.write(small(path, home / "sheets"), lab_folder / path.name)
    settings = {
        "notebook-extension/tracker": '{"windowingMode": "none"}',  # else cells out of sight have no elements
        "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    }
    for name, text in settings.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    token = secrets.token_hex(16)
    environment = os.environ | {
        f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    environment |= {"IPYTHONDIR": str(home / "ipython"), layout.OUT_VARIABLE: str(home / "out")}
    environment.pop("PYTEST_VERSION", None)  # kernels are to behave as a reader's
    command = [sys.executable, "-m", "nbutils.notebook.lab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    options = {
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "IdentityProvider.token": token,
        "ServerApp.root_dir": lab_folder,
        "LabApp.user_settings_dir": home / "settings",
        "LabApp.workspaces_dir": home / "workspaces",
        "LabApp.expose_app_in_browser": True,  # so that commands can be given, and cells looked at, by name
    }
    log = (home / "log").open("w")
    process = subprocess.Popen(
        [*command, *(f"--{name}={value}" for name, value in options.items())],
        cwd=home,
        env=environment,
        stdout=log,
        stderr=log,
    )
    address = f"http://127.0.0.1:{port}/{{}}?token={token}"
    try:
        while True:
            try:
                urllib.request.urlopen(address.format("api/status"), timeout=10).close()
                break
            except OSError:
                assert process.poll() is None, (home / "log").read_text()
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()  # shuts the kernels down, too
        process.wait(timeout=60)
        log.close()


CELLS = """() => window.jupyterapp.shell.currentWidget.content.widgets.map((cell, index) => {
    const outputs = cell.model.type === 'code' ? cell.model.outputs.toJSON() : [];
    return {
        index,
        ran: cell.model.type !== 'code' || !cell.model.sharedModel.source.trim() || cell.model.executionCount !== null,
        errors: outputs.filter(o => o.output_type === 'error').map(o => `cell ${index}: ${o.ename}: ${o.evalue}`),
        widget: outputs.some(o => o.data && 'application/vnd.jupyter.widget-view+json' in o.data),
    };
})"""
COMMAND = "([name, options]) => { window.jupyterapp.commands.execute(name, options); }"
ENDED = "all.every(cell => cell.ran) || all.some(cell => cell.errors.length)"
BUSY = "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status !== 'idle'"


def command(page: playwright.Page, name: str, **options: object) -> None:
    page.evaluate(COMMAND, [name, options])


def wait_until_idle(page: playwright.Page) -> None:
    """Wait until no cell is running or waiting to."""
    quiet = 0
    while quiet < 3:  # between two cells the kernel is idle for a moment
        waiting = page.locator(".jp-InputPrompt", has_text="[*]").count()
        quiet = 0 if waiting or page.evaluate(BUSY) else quiet + 1
        page.wait_for_timeout(500)


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request, browser, lab) -> Iterator[tuple[str, playwright.Page]]:
    """Open a notebook and run all its cells; yield its stem and the page."""
    stem = request.param.stem
    page = browser.new_page(viewport={"width": 1500, "height": 1100})
    try:
        open_notebook(page, lab, stem)
        assert not all(cell["ran"] for cell in page.evaluate(CELLS))
        command(page, "notebook:run-all-cells")
        page.wait_for_function(f"() => {{ const all = ({CELLS})(); return {ENDED} }}")
        wait_until_idle(page)
        yield stem, page
    finally:
        page.close()


def open_notebook(page: playwright.Page, lab: str, stem: str) -> None:
    """Open a notebook in a workspace of its own, where nothing else is open, and wait for its kernel."""
    page.set_default_timeout(1000 * LIMIT)
    page.goto(lab.format(f"lab/workspaces/{stem}/tree/{stem}.ipynb"))
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_function("() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel")
    wait_until_idle(page)


def test_all_cells_run_without_an_error(notebook):
    _, page = notebook
    cells = page.evaluate(CELLS)
    assert [error for cell in cells for error in cell["errors"]] == []
    assert all(cell["ran"] for cell in cells)


def live_figures(page: playwright.Page) -> list[playwright.Locator]:
    """Return the figures that move."""
    return page.locator(".jp-Notebook .live-figure").all()


CHOICES = "e => e.localName === 'select' ? e.options.length : e.type === 'range' ? 1 + +e.max - e.min : 2"


def test_every_control_of_a_live_figure_moves(notebook):
    stem, page = notebook
    source = page.evaluate("() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.source")
    found = live_figures(page)
    assert bool(found) == (".live import" in str(source))
    if not found:
        return
    random = np.random.default_rng(5)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for i, (kind, name, control) in enumerate(live_pages.controls(page)):  # one after the other, from the first view
        page.evaluate(f"() => {live_pages.LIVE}.reset()")
        page.evaluate(live_pages.SETTLED)
        way = live_pages.by_keyboard if kind == "button" else live_pages.by_mouse
        changed = live_pages.moved(page, way, kind, control, 12, random)
        live_pages.status(page)
        if kind in ("range", "select", "checkbox") and control.evaluate(CHOICES) > 1:
            assert changed, name
        word = re.sub(r"\W+", "-", name.lower()).strip("-")[:24]
        found[0].screenshot(path=SCREENSHOTS / f"{stem}-live-{i}-{word}.png")


def test_running_a_cell_twice_stacks_nothing(notebook):
    _, page = notebook
    for cell in page.evaluate(CELLS):
        if cell["widget"]:
            output = page.locator(".jp-Notebook .jp-Cell").nth(cell["index"]).locator(".jp-OutputArea-output")
            before = output.count(), output.locator(".live-figure").count()
            if before[1]:
                page.evaluate(
                    "i => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = i }", cell["index"]
                )
                command(page, "notebook:run-cell")
                page.wait_for_timeout(1000)
                wait_until_idle(page)
                output.locator(".live-figure").first.wait_for()
                assert (output.count(), output.locator(".live-figure").count()) == before


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_screenshot_in(notebook, scheme):
    stem, page = notebook
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    command(page, "apputils:change-theme", theme=SCHEMES[scheme])
    page.wait_for_selector(f"body[data-jp-theme-name='{SCHEMES[scheme]}']", state="attached")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.content.scrollToItem(0)")
    page.wait_for_timeout(500)
    page.screenshot(path=SCREENSHOTS / f"{stem}-top-{scheme}.png")
    for number, live in enumerate(live_figures(page), start=1):
        live.evaluate("e => e.scrollIntoView({block: 'start'})")
        page.wait_for_timeout(500)
        page.screenshot(path=SCREENSHOTS / f"{stem}-live-{number}-{scheme}.png")
    pictures = page.locator(".jp-Notebook .jp-RenderedImage img")
    assert pictures.evaluate_all("all => all.every(i => i.complete && i.naturalWidth > 0)")


STUDY = (
    """
from itertools import count
from pathlib import Path
import torch
from nbutils.hooks import edit
from nbutils import runs
model, x = torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.ones(1, 2)
before = model(x).tolist()
def hooks():
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
""",
    """
with edit(model, {"0": torch.zeros_like}):
    assert hooks() > 0 and model(x).abs().sum() == 0
    Path("inside").touch()
    while not Path("go").exists():
        model(x)
""",
    """
def slow(seed):
    Path(f"ran-{seed}").touch()
    while seed == 2 and not Path("go").exists():
        pass
    return {"square": seed * seed}
table = runs.run(slow, [{"seed": seed} for seed in range(4)], "store")
""",
    """
assert hooks() == 0 and model(x).tolist() == before
print("untouched")
""",
)


def run_study(page: playwright.Page, *cells: int) -> list[str]:
    """Run some cells of `STUDY` to their end; return their outputs as text."""
    for cell in cells:
        start_study(page, cell)
        page.wait_for_function(f"{CELL} !== null", arg=cell)
        wait_until_idle(page)
    return [page.locator(".jp-Notebook .jp-Cell").nth(cell).locator(".jp-OutputArea").inner_text() for cell in cells]


CELL = "i => window.jupyterapp.shell.currentWidget.content.widgets[i].model.executionCount"


def start_study(page: playwright.Page, cell: int, sign: Path | None = None) -> None:
    """Run a cell of `STUDY`, and wait for the file that it makes half-way, where one is given."""
    page.evaluate("i => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = i }", cell)
    page.evaluate(f"{CELL} = null", cell)
    command(page, "notebook:run-cell")
    while sign and not sign.exists():
        assert page.evaluate(CELL, cell) is None, "the cell ended before it was half-way"
        page.wait_for_timeout(200)


def test_interrupts_and_restarts_leave_nothing_behind(lab, lab_folder, browser):
    """A cell is stopped inside a hook, one inside a sweep; both run again, by the same kernel and by a new one."""
    cells = [nbformat.v4.new_code_cell(text.strip()) for text in STUDY]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), lab_folder / "study.ipynb")
    page = browser.new_page()
    open_notebook(page, lab, "study")
    inside = lab_folder / "inside"
    for _ in range(2):
        run_study(page, 0)
        start_study(page, 1, inside)
        inside.unlink()
        command(page, "notebook:interrupt-kernel")
        wait_until_idle(page)
        output = page.locator(".jp-Notebook .jp-Cell").nth(1).locator(".jp-OutputArea")
        assert "KeyboardInterrupt" in output.inner_text()
        assert "untouched" in run_study(page, 3)[0]
    start_study(page, 2, lab_folder / "ran-2")
    command(page, "notebook:interrupt-kernel")
    wait_until_idle(page)
    assert sorted(path.name for path in lab_folder.glob("ran-*")) == ["ran-0", "ran-1", "ran-2"]
    assert len(list((lab_folder / "store").glob("*.json"))) == 2

    start_study(page, 1, inside)  # inside the hook again, and now the kernel itself goes
    command(page, "notebook:restart-kernel")
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    page.wait_for_timeout(3000)
    wait_until_idle(page)
    (lab_folder / "go").touch()
    for name in ("ran-0", "ran-1"):
        (lab_folder / name).unlink()
    assert "untouched" in run_study(page, 0, 1, 2, 3)[3]
    assert sorted(path.name for path in lab_folder.glob("ran-*")) == ["ran-2", "ran-3"]  # the others were kept
    page.close()


MOVING = (
    """
from pathlib import Path
import torch
from matplotlib.figure import Figure
import nbutils as nb
from nbutils import claims
from studies.color_cube.live import Seed, live_cube
from studies.color_cube.network import ColorMLP
claims.begin("01-color-cube", profile="quick", source="embedded")
live = live_cube([Seed("0", ColorMLP(), ColorMLP(), torch.eye(5)[0])])
nb.show(Figure(), "another", "Another figure, which is empty.", caption="Empty.")
""",
    'nb.show(live, "live-cube", "A network to move. It is untrained.", caption="The network.")',
    """
Path("counting").touch()
counted = 0
while not Path("counted").exists():
    counted += 1
print("counted" if counted else "")
""",
    "print(live.state)",
    "live.move(strength=0.25)",
    "live.move(strength=-3, unknown=1)",
    "from ipywidgets.widgets import widget; print(len(widget._instances))",
)
KEYS = [
    "a",
    "b",
    "d",
    "d",
    "x",
    "c",
    "v",
    "m",
    "y",
    "Enter",
    "ArrowDown",
    "z",
    "0",
    "0",
    "Shift+Enter",
    "Control+Enter",
]
NOTEBOOK = """() => {
    const { model, activeCellIndex, widgets } = window.jupyterapp.shell.currentWidget.content;
    const cells = model.sharedModel.cells.map(cell => [cell.id, cell.source]);
    return [cells, activeCellIndex, widgets.map(cell => cell.model.executionCount ?? null)];
}"""


def test_a_live_figure_keeps_its_keys_and_disturbs_no_cell(lab, lab_folder, browser):
    cells = [nbformat.v4.new_code_cell(text.strip()) for text in MOVING]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), lab_folder / "moving.ipynb")
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    open_notebook(page, lab, "moving")
    run_study(page, 0, 1)
    figure = page.locator(live_pages.FIGURE)
    figure.wait_for()
    before, held = page.evaluate(NOTEBOOK), heap(page)
    for _, _, control in live_pages.controls(page):
        control.focus()
        for key in KEYS:
            page.keyboard.press(key)
    assert page.evaluate(NOTEBOOK) == before  # no cell came, went or ran

    start_study(page, 2, lab_folder / "counting")
    random = np.random.default_rng(0)
    for kind, _, control in live_pages.controls(page):
        live_pages.moved(page, live_pages.by_keyboard, kind, control, 300, random)
        live_pages.moved(page, live_pages.by_mouse, kind, control, 20, random)
        live_pages.status(page)
    (lab_folder / "counted").touch()
    wait_until_idle(page)
    assert page.locator(".jp-Notebook .jp-Cell").nth(2).locator(".jp-OutputArea").inner_text().strip() == "counted"
    assert page.evaluate(NOTEBOOK)[0] == before[0]
    assert heap(page) - held < 20
    assert page.locator(".jp-Notebook .jp-RenderedImage img").evaluate_all("all => all.every(i => i.naturalWidth > 0)")

    state = page.evaluate(live_pages.STATE)
    said = ast.literal_eval(run_study(page, 3)[0])
    assert said
    assert state | said == state
    run_study(page, 4)
    page.wait_for_function(f"() => {live_pages.LIVE}.state.strength === 0.25")
    alive = run_study(page, 6)
    run_study(page, 1, 1)
    assert run_study(page, 6) == alive  # a cell that runs again leaves no widget behind
    run_study(page, 5)
    page.wait_for_function(f"() => {live_pages.LIVE}.state.strength === 0")
    assert ast.literal_eval(run_study(page, 3)[0]) == {"strength": 0}  # what it does not know or allow is not its state
    assert not [cell["errors"] for cell in page.evaluate(CELLS) if cell["errors"]]

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for scheme, theme in SCHEMES.items():
        command(page, "apputils:change-theme", theme=theme)
        page.wait_for_selector(f"body[data-jp-theme-name='{theme}']", state="attached")
        page.wait_for_function(
            "dark => getComputedStyle(document.querySelector('.live-figure')).colorScheme === dark", arg=scheme
        )
        live_pages.status(page)
        figure.scroll_into_view_if_needed()
        page.screenshot(path=SCREENSHOTS / f"moving-{scheme}.png")

    page.evaluate("i => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = i }", 0)
    page.locator(".jp-Notebook .jp-InputPrompt").first.click()
    page.keyboard.press("a")  # the control: outside of the figure the key inserts a cell
    assert len(page.evaluate(NOTEBOOK)[0]) == len(before[0]) + 1
    assert troubles == []
    page.close()


def test_a_saved_live_figure_is_a_picture_until_it_is_run_again(lab, lab_folder, browser):
    path = lab_folder / "kept.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(text.strip()) for text in MOVING[:2]]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    open_notebook(page, lab, "kept")
    run_study(page, 0, 1)
    page.locator(live_pages.FIGURE).wait_for()
    command(page, "docmanager:save")
    while not nbformat.read(path, as_version=4).cells[1].outputs:
        page.wait_for_timeout(200)
    command(page, "kernelmenu:shutdown")
    page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel")
    page.close()
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    open_notebook(page, lab, "kept")
    output = page.locator(".jp-Notebook .jp-Cell").nth(1).locator(".jp-OutputArea")
    output.locator("img").wait_for(timeout=60_000)
    page.wait_for_timeout(2000)  # a widget that is looked for in vain says so by then
    assert "Error" not in output.inner_text()
    assert output.locator("img").is_visible()
    run_study(page, 0, 1)
    page.locator(live_pages.FIGURE).wait_for()
    assert not output.locator("img").count()
    page.close()


DRAWN = "() => [...document.querySelectorAll('.plotly-figure')].every(e => e.querySelector('svg, canvas'))"


@pytest.fixture(scope="module")
def supplement(tmp_path_factory) -> list[Path]:
    """Render the committed notebooks and an index."""
    return render.render_all(NOTEBOOKS, tmp_path_factory.mktemp("html"))


@pytest.fixture(params=SCHEMES)
def offline(request, browser) -> Iterator[tuple[str, playwright.Page, list[str]]]:
    """Yield a scheme, a page that has no network, and the requests and errors that it meets."""
    with without_network(browser, color_scheme=request.param) as (page, troubles):
        yield request.param, page, troubles


def html_pages(supplement: list[Path]) -> list[Path]:
    return [path for path in supplement if path.suffix == ".html"]


def test_the_supplement_needs_no_network(supplement, offline):
    scheme, page, troubles = offline
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    assert len(html_pages(supplement)) == len(NOTEBOOKS)  # notebook 00 is the index
    for path in html_pages(supplement):
        page.goto(path.as_uri())
        page.wait_for_function(DRAWN)  # then the pictures that stood for them are out of sight
        for picture in page.locator("img:visible").all():  # that of a live figure stands in for it without scripts
            picture.scroll_into_view_if_needed()
            assert picture.evaluate("i => i.complete && i.naturalWidth > 0 && i.getBoundingClientRect().width > 0")
        for formula in page.locator("math").all():
            box = formula.bounding_box()
            assert box is None or (box["width"] > 0 and box["height"] > 0)  # None where it is folded away
        prose = "".join(page.locator(".prose").all_inner_texts())
        assert not re.search(r"\$\$|\\(frac|sum|mathrm|cdot|left|alpha|theta|hat|bar)\b", prose)  # none is as typed
        for figure in page.locator(".js-plotly-plot").all():
            assert figure.locator("svg, canvas").count()
        page.evaluate("() => scrollTo(0, 0)")
        page.screenshot(path=SCREENSHOTS / f"supplement-{path.stem}-{scheme}.png")
    assert troubles == []


def test_a_page_that_asks_for_something_is_noticed(offline):
    _, page, troubles = offline
    page.set_content("<img src='http://192.0.2.1/x.png'><script>throw Error('no')</script>")
    assert {trouble.split(":")[0] for trouble in troubles} >= {"asked for http", "failed", "script"}


def test_the_supplement_is_used_by_keyboard(supplement, browser):
    page = browser.new_page()
    focused = (
        "() => { const e = document.activeElement; return e.tagName + ' ' + (e.getAttribute('href') ?? e.innerText) }"
    )
    for path in html_pages(supplement):
        page.goto(path.as_uri())
        places = []
        for _ in range(min(6, page.locator("a[href], summary, button").count())):
            page.keyboard.press("Tab")
            places.append(page.evaluate(focused))
            assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") != "none"
        assert len(set(places)) >= min(3, len(places)) > 0, places
    page.close()


def test_links_within_the_supplement_lead_somewhere(supplement):
    soups = {path.name: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in supplement}
    for name, soup in soups.items():
        for link in soup.find_all("a", href=True):
            file, _, anchor = link["href"].partition("#")
            if re.match(r"[a-z]+:", file):
                continue
            assert not file or (supplement[0].parent / file).is_file(), link
            assert not anchor or soups[file or name].find(id=anchor), link


def test_a_phone_scrolls_no_page_sideways_and_opens_figures_in_full(supplement, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    for path in html_pages(supplement):
        page.goto(path.as_uri())
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), path.name
    page.get_by_role("button", name="Enlarge").first.click()
    assert page.locator("dialog img").bounding_box()["width"] > 800
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached", timeout=20_000)
    page.close()


def test_one_switch_opens_all_code_and_each_piece_can_be_copied(supplement, browser):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(html_pages(supplement)[-1].as_uri())
    folds = page.locator("main details.code")
    closed = "all => all.map(fold => fold.open)"
    assert folds.count() > 10
    assert not any(folds.evaluate_all(closed))
    code = "() => [...document.querySelectorAll('.code')].reduce((sum, e) => sum + e.offsetHeight, 0)"
    share = f"() => ({code})() / document.querySelector('main').offsetHeight"
    assert page.evaluate(share) < 0.1
    page.get_by_role("button", name="Show all code").click()
    assert all(folds.evaluate_all(closed))
    assert page.evaluate(share) > 0.25  # the control
    folds.first.get_by_role("button", name="Copy").click()
    pieces = [piece.strip() for piece in folds.first.locator("pre").all_inner_texts()]
    assert page.evaluate("() => navigator.clipboard.readText()") == "\n\n".join(pieces) != ""
    page.get_by_role("button", name="Hide all code").click()
    assert not any(folds.evaluate_all(closed))
    context.close()


def test_figures_and_their_numbers_are_kept_as_files(supplement, browser):
    page = browser.new_page()
    page.goto(html_pages(supplement)[-1].as_uri())
    figure = page.locator("main figure").first
    with page.expect_download() as saved:
        figure.get_by_role("link", name="Picture").click()
    assert Path(saved.value.path()).read_bytes().startswith(b"\x89PNG")
    assert saved.value.suggested_filename.startswith(figure.get_attribute("id"))
    beside = page.get_by_role("link", name="Notebook", exact=True).get_attribute("href")
    assert nbformat.read(supplement[0].parent / beside, as_version=4).cells
    page.close()


def test_the_search_finds_a_section_of_another_notebook(supplement, browser):
    page = browser.new_page()
    page.goto(html_pages(supplement)[-1].as_uri())
    page.get_by_role("link", name="Search").click()
    field = page.get_by_role("searchbox")
    field.fill("no such word as qqq")
    assert page.get_by_role("status").inner_text() == "0 sections"
    field.fill("induction task")
    page.locator("search li a").first.click()
    assert page.url.endswith("05-source-ablations.html#trained-from-scratch-the-induction-task")
    page.close()


@NEEDS_AXE
def test_axe_finds_nothing_in_the_supplement(supplement, offline):
    _, page, _ = offline
    page.add_init_script(path=AXE)  # a script tag would be stopped by the page's policy
    for path in html_pages(supplement):
        page.goto(path.as_uri())
        for width in (1200, 390):
            page.set_viewport_size({"width": width, "height": 1000})
            assert faults(page) == [], (path.name, width)

        page.evaluate("() => document.querySelectorAll('img').forEach(i => i.removeAttribute('alt'))")
        page.evaluate("() => document.body.append(document.createElement('img'))")  # the control
        assert "image-alt" in [violation[1] for violation in faults(page)]
