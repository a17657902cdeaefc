"""A stranger's notebook: on its page nothing runs and nothing is fetched, and its PDF holds no code of its own."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_render import CHROMIUM

from nbutils.notebook import clean, export, pdf
from nbutils.notebook.document import PLOTLY, Document, read
from nbutils.notebook.offline import PACKED, external_references
from nbutils.notebook.render import render_all
from nbutils.notebook.screen import Screen

WEB = "http://127.0.0.1:9"  # in a browser, the address of a server that counts
RUN = "document.title='RAN'"
CSS = "background:url(WEB/a.png)"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
PICTURE = "<svg xmlns='http://www.w3.org/2000/svg'><image href='WEB/a.png'/><script>alert()</script></svg>"

HTML = [
    "<script>RUN</script>",
    "<script src=WEB/a.js></script>",
    "<scr<script>x</script>ipt>RUN</script>",
    "<img src=x onerror=RUN>",
    "<IMG SRC=x OnError=RUN>",
    "<svg onload=RUN></svg>",
    "<svg/onload=RUN>",
    "<svg><script>RUN</script></svg>",
    "<svg><use href='WEB/a.svg#x'/></svg>",
    "<svg><image xlink:href='WEB/a.png'/></svg>",
    "<svg><foreignObject><iframe src=WEB/></iframe></foreignObject></svg>",
    "<svg><a xlink:href='javascript:RUN'><text>x</text></a></svg>",
    "<svg><animate attributeName=href values='javascript:RUN' /><set attributeName=onclick to=RUN /></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=RUN&gt;'></table></math>",
    "<math href='javascript:RUN'><mi xlink:href='javascript:RUN'>x</mi></math>",
    "<math><annotation-xml encoding='text/html'><script>RUN</script></annotation-xml></math>",
    "<details open ontoggle=RUN><summary>x</summary></details>",
    "<body onload=RUN>",
    "<video src=WEB/a.mp4 poster=WEB/a.png autoplay></video><audio src=WEB/a.mp3 autoplay></audio>",
    "<video><source src=WEB/a.mp4 onerror=RUN></video><track src=WEB/a.vtt>",
    "<input type=image src=WEB/a.png autofocus onfocus=RUN>",
    "<button formaction='javascript:RUN' form=x>x</button>",
    "<form action='javascript:RUN'><input type=submit></form>",
    "<a href='javascript:RUN'>x</a>",
    "<a href=' jAva\tscript&colon;RUN'>x</a>",
    "<a href='&#1;javascript:RUN'>x</a>",
    "<a href='vbscript:RUN'>x</a><a href='data:text/html,<script>RUN</script>'>x</a>",
    "<a href='file:///etc/passwd'>x</a><a href='/etc/passwd'>x</a><a href='../../../../../../../etc/passwd'>x</a>",
    "<a href='//127.0.0.1:9/a'>x</a><a href='\\\\127.0.0.1\\a'>x</a>",
    "<a href='#x' ping='WEB/ping'>x</a>",
    "<area href='javascript:RUN'><map name=x><area href='javascript:RUN'></map>",
    "<picture><source srcset='WEB/a.png 2x'><img srcset='WEB/b.png 2x' src='WEB/c.png' alt=x></picture>",
    "<img src='data:text/html,<script>RUN</script>' alt=x><img src='data:image/png;base64,!' alt=x>",
    f'<img src="data:image/svg+xml;base64,{base64.b64encode(PICTURE.encode()).decode()}" alt=x>',
    "<img src='/etc/hostname' alt=x><img src='../secret.png' alt=x><img src='link.png' alt=x>",
    f"<p style='{CSS}'>x</p>",
    "<p style='background:u\\72l(WEB/a.png)'>x</p>",
    "<p style='background:image-set(\"WEB/a.png\" 1x)'>x</p>",
    "<p style='background:url/**/(WEB/a.png);list-style:cross-fade(url(WEB/a.png))'>x</p>",
    f"<style>p{{{CSS}}}</style>",
    "<style>@import 'WEB/a.css';</style><style>@\\69mport 'WEB/a.css';</style>",
    "<style>@import/**/'WEB/a.css'</style><style>@font-face{font-family:x;src:url(WEB/a.woff)}*{font-family:x}</style>",
    "<style></style/><img src=WEB/a.png onerror=RUN></style>",
    "<style><!--</style><script>RUN</script>--></style>",
    "<style>@namespace x url(WEB/a.css);</style>",
    "<link rel=stylesheet href=WEB/a.css><link rel=prefetch href=WEB/a><link rel=dns-prefetch href=//a.invalid>",
    "<meta http-equiv=refresh content='0;url=WEB/a'>",
    "<meta http-equiv=Content-Security-Policy content=\"img-src 'none'\">",
    "<base href=WEB/>",
    "<iframe src=WEB/a></iframe><iframe srcdoc='<script>parent.RUN</script>'></iframe>",
    "<frameset><frame src=WEB/a></frameset>",
    "<object data=WEB/a></object><embed src=WEB/a><applet code=WEB/a></applet>",
    "<table background=WEB/a.png><td background=WEB/b.png>x</table>",
    "<!--[if true]><script>RUN</script><![endif]-->",
    "<!--><script>RUN</script>-->",
    "<!--!><img src=x onerror=RUN>-->",
    "<![CDATA[><script>RUN</script>]]>",
    "<?php ><img src=x onerror=RUN>?>",
    "<!doctype x [<!ENTITY y '><script>RUN</script>'>]>",
    "<noscript><p title='</noscript><img src=x onerror=RUN>'></noscript>",
    "<textarea><p title='</textarea><img src=x onerror=RUN>'></textarea>",
    "<title><p title='</title><script>RUN</script>'></title><xmp><p title='</xmp><script>RUN</script>'></xmp>",
    "<template><script>RUN</script></template><template shadowrootmode=open><img src=WEB/a.png></template>",
    "<plaintext><script>RUN</script>",
    "<x-a onfocus=RUN tabindex=0 autofocus></x-a><p is=x contenteditable autofocus onfocus=RUN>x</p>",
    '<div class="plotly-figure"></div><p>{"data": [], "layout": {"images": [{"source": "WEB/a.png"}]}}</p>',
    '<p id="dark-theme">{"colours": {}, "layout": {"images": [{"source": "WEB/a.png"}]}}</p>',
    "<p id=content><b id=Plotly></b><b name=getElementById></b><a id=matchMedia href='#'>x</a>",
    "<p style='position:fixed;inset:0;z-index:9'>all claims hold</p>",
    "<style>main{display:none}body::before{content:'all claims hold'}</style>",
]
MARKDOWN = [
    "[x](javascript:RUN) [x](JAVASCRIPT:RUN) [x](<java\tscript:RUN>) <javascript:RUN>",
    "![x](WEB/a.png) ![x](../secret.png) ![x](/etc/hostname) ![x](link.png)",
    "[x](/etc/passwd) [x](../secret.png) ![x](javascript:RUN)",
    "$\\text{<img src=x onerror=RUN>}$ and $\\href{javascript:RUN}{x}$",
    "<script>RUN</script>\n\n<img src=x onerror=RUN>\n\n# dark-theme\n\n# content",
    "![x](attachment:a.html)",
]
FIGURES = [
    {"data": [], "layout": {"images": [{"source": "WEB/a.png", "x": 0, "y": 0}]}},
    {"data": [], "layout": {"template": {"layout": {"images": [{"source": "WEB/a.png"}]}}}},
    {"data": [{"type": "scattermapbox", "lat": [0], "lon": [0]}], "layout": {"mapbox": {"style": "WEB/a.json"}}},
    {"data": [{"type": "choropleth", "locations": ["FRA"], "z": [1]}], "layout": {"geo": {"scope": "europe"}}},
    {"data": [{"type": "scattermap", "lat": [0], "lon": [0]}], "layout": {"map": {"style": "WEB/a.json"}}},
    {"data": [{"type": "image", "source": "WEB/a.png"}], "layout": {}},
    {"data": [{"type": "scatter", "y": [1], "text": ["<a href='javascript:RUN'>x</a>"]}], "layout": {}},
    {"data": [], "layout": {"title": {"text": "</script><script>RUN</script><img src=x onerror=RUN>"}}},
]


def filled(value: str, web: str = WEB) -> str:
    return value.replace("WEB", web).replace("RUN", RUN)


def shown(data: dict[str, object], metadata: dict[str, object] | None = None) -> nbformat.NotebookNode:
    return new_output("display_data", data=data, metadata=metadata or {})


def hostile(folder: Path, web: str = WEB) -> Path:
    """Write a notebook with all of it, a picture outside, and a link to that inside the folder."""
    (folder / "in").mkdir()
    (folder / "secret.png").write_bytes(base64.b64decode(PIXEL))
    (folder / "in" / "link.png").symlink_to(folder / "secret.png")
    outputs = [shown({"text/html": filled(part, web)}) for part in HTML]
    outputs += [shown({PLOTLY: json.loads(filled(json.dumps(part), web))}) for part in FIGURES]
    outputs += [shown({"text/markdown": filled(part, web), "text/latex": filled(part, web)}) for part in MARKDOWN]
    outputs += [shown({"image/svg+xml": filled(PICTURE, web)}, {"image/svg+xml": {"width": '9" onload="RUN'}})]
    outputs += [shown({"application/javascript": RUN, "text/plain": "x"}), shown({"text/plain": f"<script>{RUN}"})]
    outputs += [new_output("stream", name="stdout", text=f"\x1b]8;;javascript:{RUN}\x07x<script>{RUN}</script>")]
    cells = [new_markdown_cell("# 09 · <img src=x onerror=RUN>\n\nNo <b onclick=x>claims</b>.")]
    cells += [new_markdown_cell(filled(part, web)) for part in MARKDOWN]
    cells[-1]["attachments"] = {"a.html": {"text/html": base64.b64encode(b"<script>").decode()}}
    cells += [new_code_cell("# </code><script>", execution_count=1, outputs=[output]) for output in outputs]
    path = folder / "in" / "09-stranger.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


NAMES = (
    "a abbr b blockquote br caption cite code col colgroup dd del details dfn div dl dt em figcaption figure h1 h2 h3"
    " h4 h5 h6 hr i img ins kbd li mark math mfrac mi mn mo mover mpadded mphantom mroot mrow mspace msqrt mstyle msub"
    " msubsup msup mtable mtd mtext mtr munder munderover ol p picture pre q s samp small source span strong style sub"
    " summary sup svg table tbody td text tfoot th thead tr u ul var"
)
SAFE = frozenset(NAMES.split())
# What an attribute of these names may hold, white space and control characters aside; others hold what they like.
HOLDS = {
    "src": r"data:image/.*",
    "srcset": r"data:image/.*",
    "href": r"(https?://|mailto:|#|[\w-]+\.html(#|$)).*",
    "style": r"(?!.*position)[^(\\@]*",
}
HOLDS |= dict.fromkeys(["ping", "srcdoc", "is", "action", "formaction", "background"], "(?!)")


class Seen(HTMLParser):
    """What a page holds, read by another parser than the one that cleaned it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        if tag not in SAFE:
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            text = re.sub(r"[\x00-\x20]", "", value or "").lower()
            if name.startswith("on") or not re.fullmatch(HOLDS.get(name, ".*"), text, re.DOTALL):
                self.found.append(f"{name}={text}")

    def handle_data(self, data: str) -> None:
        if self.inside == "style" and re.search(r"url|import|\\|@font|image-set|content:'", data):
            self.found.append(data)

    def handle_comment(self, data: str) -> None:
        self.found.append(f"<!--{data}")

    def unknown_decl(self, data: str) -> None:
        self.found.append(f"<![{data}")

    def handle_pi(self, data: str) -> None:
        self.found.append(f"<?{data}")

    def handle_decl(self, decl: str) -> None:
        self.found.append(f"<!{decl}")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def screen(stranger: Path) -> Screen:
    return Screen(Document(stranger, read(stranger)), ["09-stranger"], stranger.parent / "out")


@pytest.mark.parametrize("part", HTML)
def test_of_hostile_html_only_what_is_allowed_is_left(screen: Screen, part: str) -> None:
    assert Seen(screen.tidy(filled(part))).found == []


def test_the_second_parser_sees_what_is_hostile() -> None:
    assert sum(bool(Seen(filled(part)).found) for part in HTML) > 0.8 * len(HTML)  # others borrow a name of the page


@pytest.mark.parametrize("part", MARKDOWN)
def test_of_hostile_markdown_only_what_is_allowed_is_left(screen: Screen, part: str) -> None:
    assert Seen(screen.markdown(filled(part))).found == []


def test_what_a_reader_needs_is_kept(screen: Screen) -> None:
    kept = [
        '<table class="dataframe"><tr><th colspan="2" style="width: 9em; color: rgb(1, 2, 3)">a</th></tr></table>',
        '<details class="figure-description" open=""><summary>x</summary><b>y</b></details>',
        '<a href="https://example.org/?a=1&amp;b=2" id="here">x</a><a href="#here">y</a><a href="mailto:a@b.c">z</a>',
        '<svg height="9" viewbox="0 0 9 9"><g transform="scale(2)"><path d="M0 0L9 9" fill="url(#g)"></path></g></svg>',
    ]
    for part in kept:
        assert part in screen.tidy(part)
    assert screen.tidy("<center>x <x-y>y</x-y></center>") == "x y"  # text stays where its element goes
    sheet = "<style>#T_ab th, #T_ab td:hover { color: red; position: fixed }</style><table id='T_ab'></table>"
    assert "#T_ab th, #T_ab td:hover { color: red }" in screen.tidy(sheet)
    assert "style" not in screen.tidy(sheet.replace("#T_ab td:hover", "main"))


def test_pictures_are_of_the_folder_or_the_project(screen: Screen, stranger: Path) -> None:
    (stranger.parent / "own.png").write_bytes(base64.b64decode(PIXEL))
    for source, embedded in [("own.png", True), ("./own.png", True), ("../secret.png", False), ("link.png", False)]:
        assert (PIXEL in screen.tidy(f'<img src="{source}" alt="told">')) is embedded
    gap = '<span class="gap">[Not shown: told]</span>'
    assert screen.tidy('<img src="../secret.png" alt="told">') == gap
    assert screen.tidy(f'<img src="data:image/png;base64,{PIXEL}" alt="told">').count(PIXEL) == 1


def test_a_page_with_all_of_it_names_its_scripts_and_nothing_else_runs(stranger: Path, tmp_path: Path) -> None:
    index, page = render_all([stranger], tmp_path)
    for path in (index, page):
        text = path.read_text(encoding="utf-8")
        assert external_references(text) == []
        soup = BeautifulSoup(text, "html.parser")
        policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
        run = [tag.string.encode() for tag in soup.find_all("script") if not tag.get("type")]
        run += [gzip.decompress(base64.b64decode(tag.string)) for tag in soup.find_all("script", type=PACKED)]
        hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in run]
        assert re.findall(r"'sha256-([^']+)'", policy) == hashes
        assert "script-src 'none'" not in policy  # the page's own run
        assert policy.startswith("default-src 'none'; ")
        assert not re.search(r"unsafe-eval|script-src[^;]*unsafe-inline", policy)
        for tag in soup.find_all("script"):
            tag.decompose()
        for tag in soup.main.find_all(["article", "section", "noscript", "search", "aside"]):
            tag.unwrap()
        assert Seen(soup.main.decode_contents()).found == []
    figures = BeautifulSoup(page.read_text(), "html.parser").find_all("script", type="application/json")
    assert len(figures) == len(FIGURES) - 3 + 1  # without the maps, with the dark theme
    assert not any(WEB in str(figure) for figure in figures)


def test_code_that_plotly_compiles_is_allowed_where_a_figure_needs_it() -> None:
    assert clean.compiled({"data": [{"type": "scattergl"}]})
    assert not clean.compiled({"data": [{"type": "scatter3d"}]})
    assert "'unsafe-eval'" in clean.policy(["x"], compiles=True)
    assert clean.policy([], compiles=True) == clean.policy([])


class _Server(ThreadingHTTPServer):
    asked: list[str]


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Answer) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


CLICKS = """<script>
addEventListener("load", () => setTimeout(() => {
  for (const link of document.querySelectorAll("a, summary, button, area"))
    if (!/^https?:|^mailto:|[.]html|[.]ipynb$/.test(link.href ?? ""))
      link.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
  setTimeout(() => { document.title = "REPORT " + document.title; }, 500);
}, 500));
</script>"""


def browsed(page: Path, folder: Path, network: str) -> str:
    """Open a page in Chromium, click on what can be clicked, and return the title it has then."""
    copy = folder / "page.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("<head>", f"<head>{CLICKS}", 1), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000", "--dump-dom"]
    command += [f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {network}", copy.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r"<title>(.*?)</title>", run.stdout)
    assert found, run.stderr
    return found[1]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_nothing_runs_and_nothing_is_fetched(server: _Server, tmp_path: Path) -> None:
    web = f"http://127.0.0.1:{server.server_address[1]}"
    control = tmp_path / "control.html"
    control.write_text(filled(f"<html><head></head><img src=x onerror=RUN><img src={web}/a.png></html>"))
    assert browsed(control, tmp_path, "127.0.0.1") == "REPORT RAN"
    assert server.asked == ["/a.png"]
    server.asked.clear()
    _, page = render_all([hostile(tmp_path, web)], tmp_path / "out")
    assert browsed(page, tmp_path, "127.0.0.1").startswith("REPORT 09")
    assert server.asked == []


PRINTED = [
    "<p data-typst:text:fill='CODE'>x</p><span data-typst:text:fill='CODE'>x</span>",
    "<div data-typst:inset='CODE'>x</div><p data-typst-x='CODE'>x</p>",
    "<table data-typst:align='CODE'><tr><td data-typst:fill='CODE'>x</td></tr></table>",
    '<p>#CODE $#CODE$ \\(#CODE\\) \\(\\text{" #CODE "}\\) \\(\\operatorname{#CODE}\\) \\[ \\frac{ #CODE \\]</p>',
    "<pre>```\n#CODE\n```</pre><pre><code>`````````\n#CODE</code></pre><code>` #CODE `</code><code>```` #CODE</code>",
    "<h2 id='x> #CODE'>x> #CODE</h2><p id='x> #CODE <y'>x</p><a href='#x> #CODE'>x</a><a href='#nowhere'>x</a>",
    "<h2>same</h2><h2>same</h2><a href='#same'>x</a><a href='https://a.b/\") #CODE (\"'>x</a>",
    "<pre class='raw typst {=typst}\n#CODE'>#CODE</pre><span class='math inline'>#CODE</span>",
    "<p>*/ #CODE /* // @x &lt;y> ~ = - +</p><p>= x</p><p>https://a.b/#CODE</p><cite>@x</cite>",
    f"<img src='data:image/png;base64,{PIXEL}' alt='\") #CODE (\"'>",
    f"<img src='data:image/png;base64,{PIXEL}' alt='```\n#CODE'><pre>image(\"NAME.png\"</pre>",
    "<svg><text>#CODE</text></svg><span style='background:#ff0000\") #CODE'> </span>",
    "<table><caption>#CODE</caption><tr><td colspan='2) #CODE'>x</td><td colspan=1000000>x</td></tr></table>",
    "<ol type='#CODE' start=-9><li>x</li></ol><figure><figcaption>#CODE</figcaption>]#CODE</figure>",
]


def test_a_pdf_runs_no_code_of_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pypandoc", "typst"):
        pytest.importorskip(module, reason="the extra 'pdf' is not installed")
    name = hashlib.sha256(base64.b64decode(PIXEL)).hexdigest()[:16]
    parts = [part.replace("CODE", 'panic("RAN")').replace("NAME", name) for part in PRINTED]
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'>{filled(PICTURE)}</svg>"
    outputs = [shown({"text/html": part}) for part in parts] + [shown({"image/svg+xml": svg})]
    outputs += [new_output("stream", name="stdout", text='```\n#panic("RAN")\n` \x1b[31m')]
    fenced = '```{=typst}\n#panic("RAN")\n```\n\n$#panic("RAN")$ $\\mathrm{"#panic("RAN")}$'
    cells = [new_markdown_cell('# 09 " #panic("RAN") \\ "'), new_markdown_cell(fenced)]
    cells += [new_code_cell("x", execution_count=1, outputs=outputs)]
    path = tmp_path / "09-print.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    print_pdf = pdf.printer()
    document = Document(path, read(path))
    assert print_pdf([document], tmp_path / "out").startswith(b"%PDF")
    monkeypatch.setattr(export, "clean", lambda soup: None)
    with pytest.raises(ValueError, match=r"09-print\.ipynb: typst: "):  # the control
        print_pdf([document], tmp_path / "out")
