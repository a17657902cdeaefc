"""Turn executed notebooks into a supplement: offline HTML pages with an index, and PDF documents.

A page holds everything it shows: pictures and scripts are embedded, formulas are MathML, and nothing is
fetched, whoever wrote the notebook (see `nbutils.notebook.clean`). `external_references` looks for what a
browser would load, and every page is checked before it is written.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import latex2mathml.converter
from bs4 import BeautifulSoup
from nbconvert.filters import ansi2html
from plotly.offline import get_plotlyjs

from nbutils import atomic
from nbutils.notebook import pdf as printing
from nbutils.notebook.clean import compiled, drawable, policy
from nbutils.notebook.document import PLOTLY, Document, code_cells, opening, read, tags
from nbutils.notebook.export import TEMPLATES, Exporter
from nbutils.plotting.theme import DARK, LIGHT

TITLE = "Ablation notebooks: supplement"
KEY_FIGURE_TAG = "key-figure"  # the cell whose figure stands for the notebook in the index


def render_all(notebooks: Sequence[Path], out: Path, *, pdf: bool = False) -> list[Path]:
    """Write one self-contained HTML page for each notebook, and `index.html` that lists them.

    The bytes depend on the notebooks and their figures only.

    Args:
        notebooks: executed notebooks, in reading order. Figures and results are looked for in the folder
            `<stem>` beside the notebook, then in `large-assets/<stem>`.
        out: folder for the pages; made if missing.
        pdf: also write `<stem>.pdf` (extra `pdf`).

    Returns:
        The files written, the index first.

    Raises:
        FileNotFoundError: a notebook is missing.
        ValueError: a file is not a notebook, a formula cannot be turned into MathML, two notebooks have one stem, or
            there is none.
        ModuleNotFoundError: `pdf` without the extra.
    """
    documents = [Document(path, read(path)) for path in notebooks]
    stems = [document.stem for document in documents]
    if not stems or len(set(stems)) < len(stems):
        raise ValueError(f"expected notebooks with stems of their own, got {', '.join(stems) or 'none'}")
    print_pdf = printing.printer() if pdf else None

    screens = [_Screen(document, stems, out) for document in documents]
    pages = {"index": _index(screens)} | {stem: _page(i, screens) for i, stem in enumerate(stems)}
    written = []
    for name, content in pages.items():
        found = external_references(content)
        if found:
            raise ValueError(f"{name}.html would load from outside: {'; '.join(found[:3])}")
        written.append(atomic.write(out / f"{name}.html", content))
    if print_pdf:
        written += [atomic.write(out / f"{document.stem}.pdf", print_pdf(document, out)) for document in documents]
    return written


class _Screen(Exporter):
    """HTML for a browser, light and dark."""

    medium = "page"

    def math(self, tex: str, display: bool) -> str:
        try:
            return _mathml(tex, display)
        except ValueError as error:
            raise ValueError(f"{self.document.path.name}: {error}") from None

    def image(self, content: bytes, mime: str, alt: str, width: str | None, dark: bytes | None) -> str:
        def uri(data: bytes, kind: str) -> str:
            return f"data:{kind};base64,{base64.b64encode(data).decode()}"

        size = f' width="{escape(str(width))}"' if width else ""
        source = f'<source media="(prefers-color-scheme: dark)" srcset="{uri(dark, "image/png")}">' if dark else ""
        return f'<picture>{source}<img src="{uri(content, mime)}" alt="{escape(alt)}"{size}></picture>'

    def preformatted(self, text: str) -> str:
        return f'<pre tabindex="0">{ansi2html(text)}</pre>'

    def finish(self, soup: BeautifulSoup) -> None:
        for tag in soup.find_all("table"):
            tag.attrs.pop("border", None)
            label = {"role": "region", "aria-label": "Table", "tabindex": "0"}
            tag.wrap(soup.new_tag("div", attrs={"class": "scroll", **label}))


# Environments that latex2mathml does not know or would number, by what they look like.
_ENVIRONMENTS = {"aligned": "align*", "align": "align*", "equation": "", "equation*": ""}
_BARS = re.compile(r"<mo>(&#x02016;|&#x0007C;)</mo>")  # ‖ and |, which browsers stretch to the whole row


def _mathml(tex: str, display: bool) -> str:
    """Return a formula as MathML that carries its source as alternative text.

    Raises:
        ValueError: the formula holds a command that has no MathML; the message gives both.
    """
    source = tex.strip()
    for old, new in _ENVIRONMENTS.items():
        for end in ("begin", "end"):
            source = source.replace(rf"\{end}{{{old}}}", rf"\{end}{{{new}}}" if new else "")
    try:
        mathml = latex2mathml.converter.convert(source, display="block" if display else "inline")
    except Exception as error:  # the converter raises a class of its own for each fault
        raise ValueError(f"no MathML for ${tex}$: {type(error).__name__} {error}") from None
    unknown = re.search(r"<m[io]>(\\[^<]*|&)</m[io]>", mathml)
    if unknown:
        raise ValueError(f"no MathML for {unknown[1]} in ${tex}$; write it with known commands")
    mathml = _BARS.sub(r'<mo stretchy="false">\1</mo>', mathml)
    return mathml.replace("<math ", f'<math alttext="{escape(tex.strip())}" ', 1)


def _page(position: int, screens: Sequence[_Screen]) -> str:
    """Return the page of one notebook."""
    screen = screens[position]
    document = screen.document
    neighbours = {"previous": screens[:position][-1:], "next": screens[position + 1 :][:1]}
    links = {
        name: {"stem": other.document.stem, "title": other.document.title}
        for name, found in neighbours.items()
        for other in found
    }
    outputs = [output for _, cell in code_cells(document.notebook) for output in cell.outputs]
    figures = [figure for output in outputs if drawable(figure := output.get("data", {}).get(PLOTLY))]
    draw = (TEMPLATES / "plotly-figures.js").read_text(encoding="utf-8")
    scripts = [get_plotlyjs(), f"\n{draw.strip()}\n"] if figures else []
    return screen.html(
        title=document.title,
        provenance=document.provenance,
        dark_theme=_dark_theme() if figures else None,
        scripts=scripts,
        policy=policy(scripts, compiles=any(map(compiled, figures))),
        **links,
    )


def _dark_theme() -> str:
    """Return the colours of the dark theme for the figures of a page, as JSON."""
    light, dark = ((theme.ink, theme.muted, *theme.accents) for theme in (LIGHT, DARK))
    theme = {"colours": dict(zip(light, dark, strict=True)), "layout": DARK.plotly()}
    return json.dumps(theme, sort_keys=True)


def _index(screens: Sequence[_Screen]) -> str:
    """Return the page that lists the notebooks."""
    pages = [
        {
            "stem": screen.document.stem,
            "title": screen.document.title,
            "verdict": re.sub(r"^\s*<p>|</p>\s*$", "", _verdict(screen)),
            "claims": screen.document.claims,
            "key_figure": _key_figure(screen),
        }
        for screen in screens
    ]
    template = screens[0].environment.get_template("contents.html.j2")
    return template.render(title=TITLE, pages=pages, policy=policy([]))


def _verdict(screen: _Screen) -> str:
    notebook = screen.document.notebook
    attached = {name: content for cell in notebook.cells for name, content in cell.get("attachments", {}).items()}
    return screen.markdown(opening(notebook)[1], attached)


def _key_figure(screen: _Screen) -> str:
    """Return the first picture of the cell tagged `key-figure`, else of the notebook, else nothing."""
    cells = [cell for _, cell in code_cells(screen.document.notebook)]
    cells.sort(key=lambda cell: KEY_FIGURE_TAG not in tags(cell))
    outputs = (output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {}))
    return next((screen.picture(output, "image/png") for output in outputs), "")


_LOADING = {"src", "srcset", "poster", "background", "data", "action", "formaction", "manifest", "ping", "xlink:href"}
_POLICY = "content-security-policy"
_FETCHES = re.compile(r"\bfetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts|\bimport\b|\.src\s*=")
_CSS_LOADS = re.compile(r"@import[^;]*|url\(\s*[\"']?(?!data:|#)[^)]*\)", re.IGNORECASE)


def external_references(html: str) -> list[str]:
    """Return what a browser would load for a page beyond the page itself; links to follow are not meant.

    Relative addresses count: a page must hold everything. A script counts if it could fetch, except plotly's
    own library, which holds addresses of maps that no figure here asks for.
    """
    trusted = get_plotlyjs().strip()
    found: list[str] = []
    for tag in BeautifulSoup(html, "html.parser", multi_valued_attributes=None).find_all(True):
        for name, value in ((name, str(value).strip()) for name, value in tag.attrs.items()):
            loads = name in _LOADING or (name == "href" and tag.name not in ("a", "area"))
            if loads and value and not value.startswith(("data:", "#")):
                found.append(f'<{tag.name} {name}="{value[:80]}">')
            if name == "style":
                found += _CSS_LOADS.findall(value)
            if name.startswith("on"):
                found += _FETCHES.findall(value)
        if tag.name == "meta" and str(tag.get("http-equiv", _POLICY)).lower() != _POLICY:
            found.append("<meta http-equiv>")
        if tag.name == "style":
            found += _CSS_LOADS.findall(tag.get_text())
        if tag.name == "script" and tag.get("type") != "application/json" and tag.get_text().strip() != trusted:
            found += [f"script with {name}" for name in _FETCHES.findall(tag.get_text())]
    return found
