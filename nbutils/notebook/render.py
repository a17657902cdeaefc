"""Turn executed notebooks into a supplement: offline HTML pages with an index, and PDF documents.

A page holds everything it shows: pictures and scripts are embedded, formulas are MathML, and nothing is
fetched. `external_references` looks for what a browser would load, and every page is checked before it is
written.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import latex2mathml.converter
import nbformat
from bs4 import BeautifulSoup, Tag
from markupsafe import Markup
from nbconvert.filters import ansi2html, strip_ansi
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from nbutils import atomic, claims, layout
from nbutils.notebook.regression import PLOTLY, WIDGET_VIEW, alt_text, load_manifest
from nbutils.plotting.theme import DARK, LIGHT

TEMPLATES = Path(__file__).parent / "templates"
TITLE = "Ablation notebooks: supplement"
KEY_FIGURE_TAG = "key-figure"  # the cell whose figure stands for the notebook in the index
IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif"}
IMAGE_TYPES |= {".svg": "image/svg+xml", ".webp": "image/webp"}
PRINT_WIDTH = 627  # CSS pixels that fit between the margins of a PDF page
PRINT_CHARACTERS = 115  # that fit into a row of a table there, two for the gap after each column

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=jinja2.select_autoescape(["html.j2"]),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
)
_templates.filters["typst_string"] = lambda text: json.dumps(text, ensure_ascii=False)


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
        ValueError: a formula cannot be turned into MathML, two notebooks have one stem, or there is none.
        ModuleNotFoundError: `pdf` without the extra.
    """
    documents = [_Document.read(Path(path)) for path in notebooks]
    stems = [document.stem for document in documents]
    if not stems or len(set(stems)) < len(stems):
        raise ValueError(f"expected notebooks with stems of their own, got {', '.join(stems) or 'none'}")
    print_pdf = _typst_printer() if pdf else None

    out = Path(out)
    pages = {document.stem: _page(i, documents, out) for i, document in enumerate(documents)}
    pages = {"index": _index(documents, out)} | pages
    written = []
    for name, content in pages.items():
        found = external_references(content)
        if found:
            raise ValueError(f"{name}.html would load from outside: {'; '.join(found[:3])}")
        written.append(atomic.write(out / f"{name}.html", content))
    if print_pdf:
        for document in documents:
            written.append(atomic.write(out / f"{document.stem}.pdf", print_pdf(document, out)))
    return written


@dataclass(frozen=True)
class _Document:
    """A notebook with the figures and results that belong to it."""

    path: Path
    notebook: NotebookNode

    @classmethod
    def read(cls, path: Path) -> _Document:
        if not path.is_file():
            raise FileNotFoundError(f"no notebook {path}")
        return cls(path, nbformat.read(path, as_version=4))

    @property
    def stem(self) -> str:
        return self.path.stem

    def asset(self, name: str) -> Path | None:
        """Return a file from the folder beside the notebook, else from `large-assets`, else None."""
        folders = (self.path.parent / self.stem, layout.root() / "large-assets" / self.stem)
        return next((folder / name for folder in folders if (folder / name).is_file()), None)

    @cached_property
    def manifest(self) -> dict[str, dict[str, Any]]:
        file = self.asset("manifest.json")
        return load_manifest(file.parent) if file else {}

    @cached_property
    def results(self) -> claims.Results | None:
        file = self.asset("results.json")
        return claims.load(file) if file else None

    @cached_property
    def opening(self) -> tuple[str, str]:
        """The title and the paragraph that follows it, as Markdown."""
        source = next((cell.source for cell in self.notebook.cells if cell.cell_type == "markdown"), "")
        found = re.search(r"^# +(.+)$\s*(?:^(?!#)((?:.+\n?)+))?", source, re.MULTILINE)
        return (found[1].strip(), (found[2] or "").strip()) if found else (self.stem, "")

    @property
    def provenance(self) -> str:
        if self.results is None:
            return ""
        versions = ", ".join(f"{name} {number}" for name, number in self.results.versions.items())
        return f"{self.claims} Profile {self.results.profile}; data: {self.results.source}; {versions}."

    @property
    def claims(self) -> str:
        if self.results is None or not self.results.claims:
            return "No recorded claims."
        held = sum(bool(claim["holds"]) for claim in self.results.claims.values())
        return f"{held} of {len(self.results.claims)} claims hold."

    def versions(self, content: bytes | None, name: str, alt: str) -> dict[str, bytes]:
        """Return a figure's light and dark files, found by its bytes, else its name, else its alt text."""
        tests: list[Callable[[str, Mapping[str, Any]], bool]] = [
            lambda key, entry: name in (key, entry["light"]["file"]),
            lambda key, entry: bool(alt) and entry["alt"] == alt,
        ]
        if content is not None:
            sha256 = hashlib.sha256(content).hexdigest()
            tests.insert(0, lambda key, entry: entry["light"]["sha256"] == sha256)
        for test in tests:
            for key, entry in self.manifest.items():
                if test(key, entry):
                    files = {scheme: self.asset(entry[scheme]["file"]) for scheme in ("light", "dark")}
                    return {scheme: file.read_bytes() for scheme, file in files.items() if file}
        return {}


class _Markdown(IPythonRenderer):
    """Markdown with formulas handed to a typesetter."""

    def __init__(self, math: Callable[[str, bool], str], attachments: dict[str, dict[str, str]]) -> None:
        super().__init__(escape=False, exclude_anchor_links=True, attachments=attachments)
        self.math = math

    def inline_math(self, body: str) -> str:
        return self.math(body, False)

    def block_math(self, body: str) -> str:
        return self.math(body, True)

    def latex_environment(self, name: str, body: str) -> str:
        return self.math(rf"\begin{{{name}}}{body}\end{{{name}}}", True)


@dataclass
class _Writer(ABC):
    """Turns the cells of a notebook into HTML for one medium."""

    document: _Document
    stems: frozenset[str]  # of all notebooks that are rendered together
    out: Path

    @abstractmethod
    def math(self, tex: str, display: bool) -> str:
        """Return a formula."""

    @abstractmethod
    def image(self, content: bytes, mime: str, alt: str, width: str | None, dark: bytes | None) -> str:
        """Return a picture."""

    @abstractmethod
    def code(self, source: str) -> str:
        """Return the source of a code cell."""

    @abstractmethod
    def interactive(self, figure: Mapping[str, Any], alt: str, static: str) -> str:
        """Return a plotly figure, given its static picture (empty where there is none)."""

    @abstractmethod
    def text(self, text: str) -> str:
        """Return preformatted output."""

    def cells(self) -> list[dict[str, Any]]:
        """Return the cells that show something, each with its pieces of HTML."""
        cells: list[dict[str, Any]] = []
        for cell in self.document.notebook.cells:
            if cell.cell_type == "markdown":
                html = self.markdown(cell.source, cell.get("attachments", {}))
                cells.append({"kind": "markdown", "html": Markup(html)})
            elif cell.cell_type == "code" and cell.source.strip():
                outputs = [Markup(html) for output in cell.outputs if (html := self.output(output))]
                cells.append({"kind": "code", "source": Markup(self.code(cell.source)), "outputs": outputs})
        return cells

    def markdown(self, source: str, attachments: dict[str, dict[str, str]] | None = None) -> str:
        renderer = _Markdown(self.math, attachments or {})
        return self.tidy(MarkdownWithMath(renderer=renderer).render(source), dollars=False)

    def output(self, output: Mapping[str, Any]) -> str:
        """Return one output in the richest form that needs nothing from outside.

        Live widgets are left out, since the next cell says the same statically, and so is stderr, which tells
        of the machine and not of the experiment.
        """
        if output["output_type"] == "stream":
            return self.text(output["text"]) if output["name"] == "stdout" else ""
        if output["output_type"] == "error":
            return self.text("\n".join(output["traceback"]))
        data, alt = output["data"], alt_text(output)
        if WIDGET_VIEW in data:
            return ""
        if PLOTLY in data:
            return self.interactive(data[PLOTLY], alt, self.picture(output, "image/png", alt))
        if "text/html" in data:
            return self.tidy(data["text/html"], dollars=True)
        for mime in ("image/svg+xml", "image/png", "image/jpeg"):
            if mime in data:
                return self.picture(output, mime, alt)
        for mime in ("text/markdown", "text/latex"):
            if mime in data:
                return self.markdown(data[mime])
        return self.text(data["text/plain"]) if "text/plain" in data else ""

    def picture(self, output: Mapping[str, Any], mime: str, alt: str) -> str:
        """Return an output's picture with its dark version; the recorded file where it holds none."""
        stored = output["data"].get(mime)
        content = None
        if stored is not None:
            content = stored.encode() if mime == "image/svg+xml" else base64.b64decode(stored)
        files = self.document.versions(content, "", alt)
        content = content or files.get("light")
        width = output.get("metadata", {}).get(mime, {}).get("width")
        return self.image(content, mime, alt, width, files.get("dark")) if content else ""

    def tidy(self, html: str, *, dollars: bool) -> str:
        """Return HTML where nothing runs or loads, pictures are embedded and links lead somewhere.

        Args:
            html: a fragment.
            dollars: typeset `$…$` in its text, as JupyterLab does for outputs; code is left alone.
        """
        soup = BeautifulSoup(html, "html.parser")
        for tag in soup.find_all(["script", "link", "iframe", "object", "embed", "base", "meta", "form"]):
            tag.decompose()
        for tag in soup.find_all(True):
            for name in [name for name in tag.attrs if name.startswith("on")]:
                del tag[name]
        for tag in soup.find_all("style"):
            if "scoped" in tag.attrs:  # pandas; no browser honours the attribute
                tag.decompose()
            else:
                tag.string = re.sub(r"@import[^;]*;?|url\((?!\s*[\"']?data:)[^)]*\)", "", tag.get_text())
        if dollars:
            for node in soup.find_all(string=re.compile(r"\$[^$]+\$")):
                if not node.find_parent(["code", "pre", "style"]):
                    node.replace_with(self._fragment(self._typeset(str(node))))
        for tag in soup.find_all("img"):
            tag.replace_with(self._fragment(self._embedded(tag)))
        for tag in soup.find_all("a", href=True):
            self._link(tag)
        for tag in soup.find_all(re.compile(r"^h[1-6]$")):
            tag["id"] = tag.get_text().strip().replace(" ", "-")
        self._finish(soup)
        return str(soup)

    @abstractmethod
    def _finish(self, soup: BeautifulSoup) -> None:
        """Change what only this medium needs changed."""

    @staticmethod
    def _fragment(html: str) -> BeautifulSoup:
        return BeautifulSoup(html, "html.parser")

    def _typeset(self, text: str) -> str:
        # No space inside the dollars and no digit after them, so that prices stay prices.
        parts = re.split(r"(\$\$.+?\$\$|\$(?! )[^$]+?(?<! )\$(?!\d))", text, flags=re.DOTALL)
        return "".join(
            self.math(part.strip("$"), part.startswith("$$")) if i % 2 else escape(part, quote=False)
            for i, part in enumerate(parts)
        )

    def _embedded(self, tag: Tag) -> str:
        """Return an `<img>` with its content embedded, or its alt text where the content is elsewhere."""
        source, alt = str(tag.get("src", "")), str(tag.get("alt", ""))
        found = re.fullmatch(r"data:([\w.+/-]+);base64,(.*)", source, re.DOTALL)
        if found:
            mime, content = found[1], base64.b64decode(found[2])
        else:
            file = self.document.path.parent / source
            mime = IMAGE_TYPES.get(file.suffix.lower(), "")
            if not mime or re.match(r"[a-z]+:|//", source) or not file.is_file():
                return escape(alt, quote=False)
            content = file.read_bytes()
        files = self.document.versions(content, Path(source).name if not found else "", alt)
        width = str(tag["width"]) if tag.has_attr("width") else None
        return self.image(content, mime, alt, width, files.get("dark"))

    def _link(self, tag: Tag) -> None:
        """Point a link at the rendered notebook; leave its text where the supplement lacks the target."""
        href = str(tag["href"])
        if href.startswith(("#", "http://", "https://", "mailto:")):
            return
        path, _, fragment = href.partition("#")
        target = Path(path)
        if target.suffix == ".ipynb" and target.stem in self.stems:
            tag["href"] = f"{target.stem}.html" + (f"#{fragment}" if fragment else "")
        elif re.match(r"[a-z]+:|//", href) or not (self.out / path).exists():
            tag.unwrap()


@dataclass
class _Screen(_Writer):
    """HTML for a browser, light and dark."""

    figures: int = 0  # plotly figures so far

    def math(self, tex: str, display: bool) -> str:
        return _mathml(tex, display, self.document.path)

    def image(self, content: bytes, mime: str, alt: str, width: str | None, dark: bytes | None) -> str:
        def uri(data: bytes, kind: str) -> str:
            return f"data:{kind};base64,{base64.b64encode(data).decode()}"

        size = f' width="{escape(str(width))}"' if width else ""
        source = f'<source media="(prefers-color-scheme: dark)" srcset="{uri(dark, "image/png")}">' if dark else ""
        return f'<picture>{source}<img src="{uri(content, mime)}" alt="{escape(alt)}"{size}></picture>'

    def code(self, source: str) -> str:
        highlighted = Highlight2HTML(pygments_lexer="ipython3")(source)
        return '<div class="code">' + highlighted.strip().replace("<pre>", '<pre tabindex="0">', 1) + "</div>"

    def interactive(self, figure: Mapping[str, Any], alt: str, static: str) -> str:
        self.figures += 1
        content = json.dumps(
            {"data": figure["data"], "layout": figure.get("layout", {})},
            sort_keys=True,
            separators=(",", ":"),
        ).replace("<", r"\u003c")
        name = f"figure-{self.figures}"
        return (
            f'<div class="plotly-figure" role="figure" aria-label="{escape(alt)}" data-figure="{name}"></div>'
            f'<script type="application/json" id="{name}">{content}</script>'
            + (f"<noscript>{static}</noscript>" if static else "")
        )

    def text(self, text: str) -> str:
        return f'<pre tabindex="0">{ansi2html(text)}</pre>'

    def _finish(self, soup: BeautifulSoup) -> None:
        for tag in soup.find_all("table"):
            tag.attrs.pop("border", None)
            label = {"role": "region", "aria-label": "Table", "tabindex": "0"}
            tag.wrap(soup.new_tag("div", attrs={"class": "scroll", **label}))


# Environments that latex2mathml does not know or would number, by what they look like.
_ENVIRONMENTS = {"aligned": "align*", "align": "align*", "equation": "", "equation*": ""}
_BARS = re.compile(r"<mo>(&#x02016;|&#x0007C;)</mo>")  # ‖ and |, which browsers stretch to the whole row


def _mathml(tex: str, display: bool, path: Path) -> str:
    """Return a formula as MathML that carries its source as alternative text.

    Raises:
        ValueError: the formula holds a command that has no MathML, with the notebook and the formula.
    """
    source = tex.strip()
    for old, new in _ENVIRONMENTS.items():
        for end in ("begin", "end"):
            source = source.replace(rf"\{end}{{{old}}}", rf"\{end}{{{new}}}" if new else "")
    try:
        mathml = latex2mathml.converter.convert(source, display="block" if display else "inline")
    except Exception as error:  # the converter raises a class of its own for each fault
        raise ValueError(f"{path.name}: no MathML for ${tex}$: {type(error).__name__} {error}") from None
    unknown = re.search(r"<m[io]>(\\[^<]*|&)</m[io]>", mathml)
    if unknown:
        raise ValueError(f"{path.name}: no MathML for {unknown[1]} in ${tex}$; write it with known commands")
    mathml = _BARS.sub(r'<mo stretchy="false">\1</mo>', mathml)
    return mathml.replace("<math ", f'<math alttext="{escape(tex.strip())}" ', 1)


def _page(position: int, documents: Sequence[_Document], out: Path) -> str:
    """Return the page of one notebook."""
    document = documents[position]
    writer = _Screen(document, frozenset(other.stem for other in documents), out)
    cells = writer.cells()
    neighbours = {"previous": position - 1, "next": position + 1}
    links = {
        name: {"stem": documents[i].stem, "title": _plain(documents[i].opening[0])}
        for name, i in neighbours.items()
        if 0 <= i < len(documents)
    }
    context = {
        "title": _plain(document.opening[0]),
        "css": _css(),
        "cells": cells,
        "provenance": document.provenance,
        "previous": links.get("previous"),
        "next": links.get("next"),
        "plotly": _plotly() if writer.figures else None,
    }
    return _templates.get_template("page.html.j2").render(context)


def _css() -> Markup:
    return Markup((TEMPLATES / "supplement.css").read_text(encoding="utf-8"))


def _plotly() -> dict[str, Markup]:
    """Return the scripts that draw the figures of a page."""
    from plotly.offline import get_plotlyjs

    light, dark = ((theme.ink, theme.muted, *theme.accents) for theme in (LIGHT, DARK))
    theme = {"colours": dict(zip(light, dark, strict=True)), "layout": DARK.plotly()}
    return {
        "theme": Markup(json.dumps(theme, sort_keys=True)),
        "library": Markup(get_plotlyjs()),
        "figures": Markup((TEMPLATES / "plotly-figures.js").read_text(encoding="utf-8")),
    }


def _plain(markdown: str) -> str:
    """Return a heading without its Markdown signs."""
    return (
        BeautifulSoup(MarkdownWithMath(renderer=IPythonRenderer()).render(markdown), "html.parser").get_text().strip()
    )


def _index(documents: Sequence[_Document], out: Path) -> str:
    """Return the page that lists the notebooks."""
    pages = []
    for document in documents:
        writer = _Screen(document, frozenset(other.stem for other in documents), out)
        title, verdict = document.opening
        pages.append(
            {
                "stem": document.stem,
                "title": _plain(title),
                "verdict": Markup(re.sub(r"^\s*<p>|</p>\s*$", "", writer.markdown(verdict))),
                "claims": document.claims,
                "key_figure": Markup(_key_figure(document, writer)),
            }
        )
    return _templates.get_template("index.html.j2").render({"title": TITLE, "css": _css(), "pages": pages})


def _key_figure(document: _Document, writer: _Writer) -> str:
    """Return the first picture of the cell tagged `key-figure`, else of the notebook, else nothing."""
    cells = [cell for cell in document.notebook.cells if cell.cell_type == "code"]
    cells.sort(key=lambda cell: KEY_FIGURE_TAG not in cell.metadata.get("tags", ()))
    outputs = (output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {}))
    return next((writer.picture(output, "image/png", alt_text(output)) for output in outputs), "")


_LOADING = {"src", "srcset", "poster", "background", "data", "action", "formaction", "manifest", "xlink:href"}
_FETCHES = re.compile(r"\bfetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts|\bimport\b|\.src\s*=")
_CSS_LOADS = re.compile(r"@import[^;]*|url\(\s*[\"']?(?!data:|#)[^)]*\)", re.IGNORECASE)


class _Scanner(HTMLParser):
    """Collects what a browser would load, and scripts that could."""

    def __init__(self, trusted: Iterable[str]) -> None:
        super().__init__()
        self.found: list[str] = []
        self.trusted = set(trusted)
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "style" or (tag == "script" and ("type", "application/json") not in attrs):
            self.inside = tag
        for name, value in attrs:
            value = (value or "").strip()
            loads = name in _LOADING or (name == "href" and tag not in ("a", "area"))
            if loads and value and not value.startswith(("data:", "#")):
                self.found.append(f'<{tag} {name}="{value[:80]}">')
            if name == "style":
                self.found += _CSS_LOADS.findall(value)
            if name.startswith("on"):
                self.found += _FETCHES.findall(value)
        if tag == "meta" and any(name == "http-equiv" for name, _ in attrs):
            self.found.append("<meta http-equiv>")

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.found += _CSS_LOADS.findall(data)
        elif self.inside == "script" and data.strip() not in self.trusted:
            self.found += [f"script with {name}" for name in _FETCHES.findall(data)]


def external_references(html: str) -> list[str]:
    """Return what a browser would load for a page beyond the page itself; links to follow are not meant.

    Relative addresses count: a page must hold everything. A script counts if it could fetch, except plotly's
    own library, which holds addresses of maps that no figure here asks for.
    """
    from plotly.offline import get_plotlyjs

    scanner = _Scanner([get_plotlyjs().strip()])
    scanner.feed(html)
    scanner.close()
    return scanner.found


_BACKGROUND = re.compile(r"background(?:-color)?\s*:\s*(#[0-9a-fA-F]{6})\b")


@dataclass
class _Print(_Writer):
    """HTML for pandoc, with pictures as files."""

    folder: Path
    alts: dict[str, str] = field(default_factory=dict)  # by file name, because pandoc drops them

    def math(self, tex: str, display: bool) -> str:
        start, end, kind = (r"\[", r"\]", "display") if display else (r"\(", r"\)", "inline")
        return f'<span class="math {kind}">{start}{escape(tex.strip(), quote=False)}{end}</span>'

    def image(self, content: bytes, mime: str, alt: str, width: str | None, dark: bytes | None) -> str:
        suffix = next(suffix for suffix, kind in IMAGE_TYPES.items() if kind == mime)
        name = hashlib.sha256(content).hexdigest()[:16] + suffix
        (self.folder / name).write_bytes(content)
        self.alts[name] = alt
        pixels = int(width) if width and str(width).isdigit() else PRINT_WIDTH
        share = min(100, round(100 * pixels / PRINT_WIDTH))
        return f'<p><img src="{name}" width="{share}%"></p>'

    def code(self, source: str) -> str:
        return f'<pre class="python"><code>{escape(source, quote=False)}</code></pre>'

    def interactive(self, figure: Mapping[str, Any], alt: str, static: str) -> str:
        return static or f"<p><em>Interactive figure, in the HTML supplement only:</em> {escape(alt, quote=False)}</p>"

    def text(self, text: str) -> str:
        return f"<pre><code>{escape(strip_ansi(text), quote=False)}</code></pre>"

    def _finish(self, soup: BeautifulSoup) -> None:
        for tag in soup.find_all("details", class_="figure-description"):
            tag.decompose()  # the picture carries it
        for table in soup.find_all("table"):
            rows = [[cell.get_text().strip() for cell in row.find_all(["td", "th"])] for row in table.find_all("tr")]
            widest = max((sum(map(len, row)) + 2 * len(row) for row in rows), default=0)
            longest = max((len(text) for row in rows for text in row), default=0)
            if widest > PRINT_CHARACTERS and longest <= 20:  # numbers do not wrap, and prose does
                table["data-typst:text:size"] = f"{max(6.5, 10.5 * PRINT_CHARACTERS / widest):.1f}pt"
        for tag in soup.find_all(["td", "th", "span"], style=_BACKGROUND):
            colour = f"rgb({json.dumps(_BACKGROUND.search(str(tag['style']))[1])})"
            if tag.name != "span":
                tag["data-typst:fill"] = colour
            elif not tag.get_text().strip():
                tag.string = "■"
                tag["data-typst:text:fill"] = colour


def _typst_printer() -> Callable[[_Document, Path], bytes]:
    """Return a function that makes the PDF of one notebook.

    Raises:
        ModuleNotFoundError: pypandoc, pandoc itself or typst is missing.
    """
    try:
        import pypandoc
        import typst

        pypandoc.get_pandoc_path()
    except (ImportError, OSError):
        raise ModuleNotFoundError("PDF needs pandoc and typst; install them with: pip install 'nbutils[pdf]'") from None

    def print_pdf(document: _Document, out: Path) -> bytes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            writer = _Print(document, frozenset(), out, folder)
            pieces: list[str] = []
            for cell in writer.cells():
                pieces += [cell["html"]] if cell["kind"] == "markdown" else [cell["source"], *cell["outputs"]]
            body = pypandoc.convert_text(
                "\n".join(pieces),
                "typst",
                format="html+tex_math_single_backslash",
                extra_args=["--wrap=none"],
            )
            for image, alt in writer.alts.items():
                body = body.replace(f'image("{image}"', f'image("{image}", alt: {json.dumps(alt, ensure_ascii=False)}')
            context = {"title": _plain(document.opening[0]), "body": body}
            source = folder / "document.typ"
            source.write_text(_templates.get_template("document.typ.j2").render(context), encoding="utf-8")
            return typst.compile(source, root=folder, ignore_system_fonts=True)

    return print_pdf
