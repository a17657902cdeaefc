"""The supplement: pages that hold everything they show, and keep what the notebook says."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from plotly.offline import get_plotlyjs

from nbutils.notebook.document import PLOTLY, WIDGET_VIEW
from nbutils.notebook.offline import PACKED, external_references, packed
from nbutils.notebook.render import render_all

ALT = 'Error grows with "strength" & then levels off'
SUM = " + ".join("abcdefghijkl")
ROWS = pd.DataFrame({"r": [0.5, 1]}, ["red", "red, rare labels"])
HTML_TABLE = '<table><tr><td><span style="background:#ff0000">&emsp;</span> $r_1$ for $5</td></tr></table>'


def png(colour: str) -> bytes:
    with matplotlib.rc_context({"figure.facecolor": colour}):
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([0, 1])
        raw = BytesIO()
        figure.savefig(raw, format="png", metadata={"Software": None})
    return raw.getvalue()


LIGHT, DARK = png("white"), png("black")


def shown(data: dict[str, object], metadata: dict[str, object] | None = None) -> nbformat.NotebookNode:
    return new_output("display_data", data=data, metadata=metadata or {})


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two executed notebooks; the first shows one output of every kind."""
    folder = tmp_path_factory.mktemp("executed")
    assets = folder / "07-first"
    assets.mkdir()
    (assets / "growth.png").write_bytes(LIGHT)
    (assets / "growth.dark.png").write_bytes(DARK)
    entry = {"light": {"file": "growth.png", "sha256": hashlib.sha256(LIGHT).hexdigest()}}
    entry |= {
        "dark": {"file": "growth.dark.png", "sha256": hashlib.sha256(DARK).hexdigest()},
        "alt": ALT,
        "cell": 1,
    }
    (assets / "manifest.json").write_text(json.dumps({"growth": entry}))
    record = {"stem": "07-first", "profile": "quick", "source": "made up", "versions": {}, "metrics": {}}
    record["claims"] = {"a": {"value": 1, "holds": True}, "b": {"value": 2, "holds": False}}
    (assets / "results.json").write_text(json.dumps(record))

    sphere = go.Figure(go.Scatter(x=np.arange(3) / 3, y=[1, 2, 3], name="a fetch('b') </script> name"))
    outputs = [
        [
            shown(
                {"image/png": base64.b64encode(LIGHT).decode(), "text/plain": ALT},
                {"image/png": {"alt": ALT}},
            )
        ],
        [
            shown({"text/html": ROWS.to_html(), "text/plain": "r"}),
            shown({"text/html": HTML_TABLE}),
        ],
        [shown({PLOTLY: json.loads(sphere.to_json())}, {PLOTLY: {"alt": "Three points"}})],
        [shown({WIDGET_VIEW: {"model_id": "abc"}, "text/plain": "IntSlider(value=3)"})],
        [
            new_output("stream", name="stdout", text="r = 0.93 <ok>\n"),
            new_output("stream", name="stderr", text="a warning\n"),
        ],
    ]
    first = new_notebook(
        cells=[
            new_markdown_cell(
                "# 07 · Delete only *red*\n\n**Confirmed**: $r_1 = 0.93$."
                " See [next](08-second.ipynb#Conclusion), [sheet](../dopesheets/07-first.csv), [web](https://example.org).\n\nMore."
            ),
            new_markdown_cell(
                "## A sum\n\n$$\\sum_i x_i$$\n\n\\begin{align} a &= b \\end{align}"
                f"\n\n$${SUM}$$\n\nCode `$y$`, \\$5."
            ),
            new_raw_cell("raw <script>alert()</script>"),
            *(new_code_cell(f"# $z$\nshow({i})", execution_count=i + 1, outputs=o) for i, o in enumerate(outputs)),
        ]
    )
    second = new_notebook(
        cells=[new_markdown_cell("# 08 · Second\nNot confirmed.\n\n[back](07-first.ipynb)\n\n## Conclusion")]
    )
    paths = [folder / "07-first.ipynb", folder / "08-second.ipynb"]
    for path, notebook in zip(paths, (first, second), strict=True):
        nbformat.write(notebook, path)
    return paths


@pytest.fixture(scope="module")
def pages(notebooks: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    written = render_all(notebooks, tmp_path_factory.mktemp("supplement"))
    return {path.name: path for path in written}


@pytest.fixture(scope="module")
def first(pages: dict[str, Path]) -> BeautifulSoup:
    return BeautifulSoup(pages["07-first.html"].read_text(), "html.parser")


def test_one_page_a_notebook_and_an_index_that_load_nothing(pages: dict[str, Path]) -> None:
    assert list(pages) == ["index.html", "07-first.html", "08-second.html"]
    for page in pages.values():
        assert external_references(page.read_text()) == []


@pytest.mark.parametrize(
    "part",
    [
        '<script src="https://cdn.example.org/MathJax.js"></script>',
        "<script>require(['x']); fetch('data.json')</script>",
        '<script type="module">import "./x.js"</script>',
        f'<script type="{PACKED}">{packed("alert()")}</script>',
        '<link rel="stylesheet" href="style.css">',
        '<img src="//example.org/a.png" alt="">',
        '<img src="figure.png" alt="">',
        '<picture><source srcset="https://example.org/a.png 2x"></picture>',
        "<style>@import 'https://example.org/a.css';</style>",
        "<style>@font-face { src: url(https://example.org/a.woff) }</style>",
        '<p style="background: url(a.png)">x</p>',
        '<svg><image href="https://example.org/a.png"/></svg>',
        '<iframe src="https://example.org"></iframe>',
        '<meta http-equiv="refresh" content="0; url=https://example.org">',
    ],
)
def test_the_scan_catches_what_a_browser_would_load(part: str) -> None:
    page = f"<!doctype html><title>x</title>{part}"
    assert external_references(page)


def test_the_scan_passes_links_and_what_is_embedded() -> None:
    page = (
        '<a href="https://example.org">x</a><a href="#y">y</a><img src="data:image/png;base64,AA==" alt="z">'
        '<math xmlns="http://www.w3.org/1998/Math/MathML"></math><style>a { background: url(data:,) }</style>'
        f'<script type="application/json">"fetch(1)"</script><script type="{PACKED}">{packed(get_plotlyjs())}</script>'
    )
    assert external_references(page) == []


def test_a_page_keeps_what_the_notebook_says(first: BeautifulSoup) -> None:
    assert first.html["lang"] == "en"
    assert first.title.text == "07 · Delete only red"
    assert first.find("a", class_="skip")["href"] == "#" + first.main["id"]
    assert "r = 0.93 <ok>" in first.main.text
    assert first.find("h2", id="a-sum")
    assert "1 of 2 stored results reproduced." in first.find(class_="outcome").text
    assert "Profile quick; data: made up" in first.find(class_="provenance").text
    assert first.find("div", class_="scroll").table
    for absent in ("IntSlider", "model_id", "a warning", "alert"):
        assert absent not in str(first.main)


def test_what_a_phone_moves_sideways_takes_the_focus_and_long_names_of_rows_have_room(first: BeautifulSoup) -> None:
    formulas = first.main.select("math[display=block]")
    assert [formula.has_attr("tabindex") for formula in formulas] == [False, False, True]
    names = first.main.select("tbody th")
    assert [name.get("class") for name in names] == [None, ["long"]]


def test_a_figure_keeps_its_alt_text_and_has_a_dark_version(first: BeautifulSoup) -> None:
    picture = first.main.find("picture")
    assert picture.img["alt"] == ALT
    assert picture.source["media"] == "(prefers-color-scheme: dark)"
    for tag, content in ((picture.img["src"], LIGHT), (picture.source["srcset"], DARK)):
        assert tag == "data:image/png;base64," + base64.b64encode(content).decode()


def test_formulas_are_mathml_and_code_is_left_alone(first: BeautifulSoup) -> None:
    formulas = {math["alttext"]: math for math in first.main.find_all("math")}
    assert set(formulas) == {"r_1 = 0.93", r"\sum_i x_i", r"\begin{align} a &= b \end{align}", "r_1", SUM}
    assert formulas[r"\sum_i x_i"]["display"] == "block"
    assert {code.text for code in first.main.find_all("code")} == {"$y$"}
    assert "for $5" in first.main.text
    assert "# $z$" in first.main.text


def test_links_lead_to_pages_or_are_text(first: BeautifulSoup) -> None:
    links = {a.text: a["href"] for a in first.main.select(".prose p:not(.byline) a")}
    assert links == {"next": "08-second.html#conclusion", "web": "https://example.org"}
    assert "sheet" in first.main.text


def test_plotly_is_embedded_once_and_only_where_it_is_used(pages: dict[str, Path], first: BeautifulSoup) -> None:
    count = {name: page.read_text().count(packed(get_plotlyjs())) for name, page in pages.items()}
    assert count == {"index.html": 0, "07-first.html": 1, "08-second.html": 0}
    box = first.find(class_="plotly-figure")
    assert box["aria-label"] == "Three points"
    assert "a fetch('b') </script> name" in json.loads(box.find_next_sibling("script").string)["data"][0]["name"]


def test_the_index_lists_title_verdict_claims_and_picture(pages: dict[str, Path]) -> None:
    index = BeautifulSoup(pages["index.html"].read_text(), "html.parser")
    first, second = index.find_all("article")
    assert first.a["href"] == "07-first.html"
    assert first.p.text.startswith("Confirmed: ")
    assert "More." not in first.text
    assert "1 of 2 stored results reproduced." in first.text
    assert first.img["alt"] == ALT
    assert (second.a.text, second.p.text, second.img) == ("08 · Second", "Not confirmed.", None)


def test_the_same_notebooks_give_the_same_bytes(pages: dict[str, Path], notebooks: list[Path], tmp_path: Path) -> None:
    for page in render_all(notebooks, tmp_path):
        assert page.read_bytes() == pages[page.name].read_bytes()


def one_output(folder: Path, html: str, markdown: str = "# 09 · Title") -> Path:
    path = folder / "09-one.ipynb"
    cell = new_code_cell("x", execution_count=1, outputs=[shown({"text/html": html})])
    nbformat.write(new_notebook(cells=[new_markdown_cell(markdown), cell]), path)
    return path


def test_what_would_load_is_taken_out(tmp_path: Path) -> None:
    html = (
        '<script src="https://example.org/a.js"></script><img src="https://example.org/a.png" alt="a cat">'
        '<link href="a.css"><p onclick="fetch(1)">text</p><p style="background: url(https://example.org/a.png)">'
    )
    page = render_all([one_output(tmp_path, html)], tmp_path / "out")[1].read_text()
    assert "example.org" not in page
    assert "a cat" in page


UNSHOWN = {
    "a control that needs a kernel": {WIDGET_VIEW: {"model_id": "a"}, "text/plain": "IntSlider(value=3)"},
    "application/javascript": {"application/javascript": "draw()", "text/plain": "<Javascript object>"},
    "application/x-nobody": {"application/x-nobody": "01", "text/plain": "Nobody's chart"},
    "<audio>": {"text/html": "<audio controls src='data:audio/wav;base64,AA=='></audio>"},
    "<iframe>": {"text/html": "<div><iframe src='https://example.org'><object></object></iframe></div>"},
    "what only scripts draw": {"text/html": "<div id='a'></div><script>draw()</script>"},
    "a picture that is none": {"image/png": base64.b64encode(LIGHT[:60]).decode(), "text/plain": "<Figure>"},
    "a cat": {"text/html": '<img alt="a cat" src="data:image/jpeg;base64,AAAA">'},
    "a picture that is none: a dog": {"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'><g"},
    "a figure that only scripts draw: a dog": {PLOTLY: {"data": [], "layout": {}}},
    "a map, which needs a network, or no figure of plotly: a dog": {PLOTLY: "nothing"},
}


def test_what_cannot_be_shown_is_a_gap_and_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = {kind: {"alt": "a dog"} for kind in ("image/svg+xml", PLOTLY)}
    cells = [
        new_code_cell("x", execution_count=n, outputs=[shown(data, {k: told[k] for k in data if k in told})])
        for n, data in enumerate(UNSHOWN.values(), start=1)
    ]
    nbformat.write(new_notebook(cells=[new_markdown_cell("# 09 · Odd"), *cells]), path := tmp_path / "09-odd.ipynb")
    page = BeautifulSoup(render_all([path], tmp_path / "out")[1].read_text(), "html.parser")
    steps = page.select("section.step")
    assert [step.select_one(".gap").text for step in steps] == [f"[Not shown: {what}]" for what in UNSHOWN]
    warned = [f"09-odd.ipynb, cell {n}: not shown: {what}" for n, what in enumerate(UNSHOWN, start=1)]
    assert capsys.readouterr().err.splitlines() == warned
    assert "Nobody's chart" in steps[2].text
    assert "IntSlider" not in page.text


def test_an_unknown_formula_is_refused_by_name(tmp_path: Path) -> None:
    path = one_output(tmp_path, "", "# 09 · $\\unheard{x}$")
    with pytest.raises(ValueError, match=r"09-one\.ipynb, cell 0: no MathML for \\unheard in \$\\unheard\{x\}\$"):
        render_all([path], tmp_path)


def test_without_the_extra_pdf_says_what_to_install(
    notebooks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'nbutils\[pdf\]'"):
        render_all(notebooks, tmp_path, pdf=True)


def test_pdf_holds_text_and_described_pictures(notebooks: list[Path], tmp_path: Path) -> None:
    for module in ("pypandoc", "typst"):
        pytest.importorskip(module, reason="the extra 'pdf' is not installed")
    written = {path.name: path.read_bytes() for path in render_all(notebooks, tmp_path / "a", pdf=True)}
    again = {path.name: path.read_bytes() for path in render_all(notebooks, tmp_path / "b", pdf=True)}
    assert written == again
    assert written["07-first.pdf"].startswith(b"%PDF")
    assert b"/Alt(Error grows with" in written["07-first.pdf"]
    assert b"/Alt(Error" not in written["08-second.pdf"]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REPORT = """<script>
const errors = []; addEventListener("error", (e) => errors.push(e.message || e.target.tagName), true);
addEventListener("load", () => setTimeout(() => {
  const images = [...document.images].map((i) => [i.naturalWidth, i.currentSrc.slice(-60)]);
  const loaded = performance.getEntriesByType("resource").map((e) => e.name)
    .filter((name) => !name.startsWith("data:"));
  const plots = document.querySelectorAll(".plotly-figure svg.main-svg").length;
  document.title = "REPORT" + JSON.stringify({ errors, images, loaded, plots });
}, 500));
</script>"""


def browse(page: Path, folder: Path, *, dark: bool = False) -> dict[str, list]:
    """Open a page in Chromium without a network and return what it drew and asked for."""
    copy = folder / "page.html"
    copy.write_text(page.read_text().replace("<head>", f"<head>{REPORT}", 1))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000", "--dump-dom"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", copy.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r"<title>REPORT(.*?)</title>", run.stdout)
    assert found, run.stderr
    return json.loads(BeautifulSoup(found[1], "html.parser").text)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_without_a_network_draws_everything(pages: dict[str, Path], tmp_path: Path) -> None:
    for name, dark in (("07-first.html", False), ("07-first.html", True), ("index.html", False)):
        folder = tmp_path / f"{name}-{dark}"
        folder.mkdir()
        report = browse(pages[name], folder, dark=dark)
        picture = base64.b64encode(DARK if dark else LIGHT).decode()[-60:]
        assert report["images"] == [[200, picture]]
        assert report["errors"] == report["loaded"] == []
        assert bool(report["plots"]) is (name != "index.html")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_what_a_page_with_outside_parts_lacks(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text('<html><head></head><body><img src="http://example.invalid/a.png" alt=""></body></html>')
    report = browse(page, tmp_path)
    assert report["images"][0][0] == 0
    assert report["errors"] == ["IMG"]
