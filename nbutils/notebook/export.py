"""Turn a notebook into HTML that loads nothing, by nbconvert with templates of our own.

nbconvert walks through the cells and chooses what an output shows; here is what it leaves open: formulas, figures
with their captions and dark versions, and HTML where nothing runs. What cannot be shown leaves a visible gap.
"""

from __future__ import annotations

import base64
import json
import re
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bs4 import BeautifulSoup, Tag
from jinja2 import pass_context
from jinja2.runtime import Context
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from PIL import Image

from nbutils import layout
from nbutils.notebook.anchors import Body, numbered, slug
from nbutils.notebook.clean import clean, drawable, figure_parts, parsed, scheme
from nbutils.notebook.document import LIVE, PLOTLY, WIDGET_VIEW, Document, Figure, alt_text
from nbutils.plotting.live import parts_of

TEMPLATES = Path(__file__).parent / "templates"
IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif"}
IMAGE_TYPES |= {".svg": "image/svg+xml", ".webp": "image/webp"}
SHOWN = [
    PLOTLY,
    LIVE,
    "text/html",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "text/markdown",
    "text/latex",
    "text/plain",
]

# What clean() takes out although a reader would see or hear it.
LOST = ["audio", "canvas", "embed", "form", "iframe", "input", "object", "select", "textarea", "video"]

MOST_UNCLOSED = 100  # environments of LaTeX; for each that does not end, the parser reads on to the last character


class _Markdown(IPythonRenderer):
    """Markdown with formulas handed to a typesetter; a picture that is attached nowhere keeps its address."""

    def __init__(self, math: Callable[[str, bool], str], attachments: dict[str, dict[str, str]]) -> None:
        super().__init__(escape=False, exclude_anchor_links=True, attachments=attachments)
        self.math = math

    def inline_math(self, body: str) -> str:
        return self.math(body, False)

    def block_math(self, body: str) -> str:
        return self.math(body, True)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        missing = url.startswith("attachment:") and not self.attachments.get(url.removeprefix("attachment:"))
        if missing:
            return f'<img src="{escape(url)}" alt="{escape(text)}">'
        return super().image(text, url, title)

    def latex_environment(self, name: str, body: str) -> str:
        return self.math(rf"\begin{{{name}}}{body}\end{{{name}}}", True)


def json_script(figure: Mapping[str, Any]) -> str:
    """Return a plotly figure as JSON that stays inside its `<script>` and names no picture elsewhere."""
    content = figure_parts({"data": figure["data"], "layout": figure.get("layout", {})})
    return json.dumps(content, sort_keys=True, separators=(",", ":")).replace("<", r"\u003c")


class Exporter(HTMLExporter):
    """Turns a notebook into HTML for one medium per subclass.

    Args:
        document: the notebook with its figures.
        stems: of all notebooks that are rendered together; links between them stay links.
        out: folder for the pages, to which other relative links must lead.
    """

    medium: str  # the folder of its template

    def __init__(self, document: Document, stems: Iterable[str], out: Path) -> None:
        super().__init__(
            template_name=self.medium,
            extra_template_basedirs=[str(TEMPLATES)],
            extra_template_paths=[str(TEMPLATES)],
            filters={"highlight_code": Highlight2HTML(pygments_lexer="ipython3")},
        )
        self.document, self.stems, self.out = document, frozenset(stems), out
        self.gaps: list[str] = []
        self.modules: list[str] = []  # of its live figures
        self.faults: list[str] = []
        self._cell: int | None = None

    def body(self) -> Body:
        """Return the cells as HTML with numbered figures, tables and equations; `faults` and `gaps` are then known."""
        notebook = NotebookNode(self.document.notebook | {"metadata": NotebookNode()})  # of nobody's widgets
        return numbered(self.from_notebook_node(notebook)[0], self.document.stem)

    @property
    def where(self) -> str:
        """The notebook and the cell that is being turned into HTML."""
        return self.document.path.name + (f", cell {self._cell}" if self._cell is not None else "")

    def enter(self, cell: int) -> str:
        """Keep which cell comes next; a template's filter, so it returns no text."""
        self._cell = cell
        return ""

    @abstractmethod
    def math(self, tex: str, display: bool) -> str:
        """Return a formula."""

    @abstractmethod
    def image(self, content: bytes, mime: str, alt: str, width: str | None, dark: bytes | None) -> str:
        """Return a picture."""

    @abstractmethod
    def preformatted(self, text: str) -> str:
        """Return text with its white space."""

    @abstractmethod
    def finish(self, soup: BeautifulSoup) -> None:
        """Change what only this medium needs changed."""

    def tools(self, figure: Figure) -> str:
        """Return what a reader can do with a figure, below its caption."""
        return ""

    @property
    def default_config(self) -> Any:
        """nbconvert's settings, with our order of what an output shows."""
        config = super().default_config
        config.NbConvertBase.display_data_priority = SHOWN
        return config

    def default_filters(self) -> Iterator[tuple[str, Any]]:
        """Yield nbconvert's filters, and ours for the templates."""
        yield from super().default_filters()
        own = (self.enter, self.picture, self.live, self.framed, self.preformatted, self.fragment)
        ours: tuple[Callable[..., Any], ...] = (*own, alt_text, drawable, in_words, json_script, unshown)
        yield from ((function.__name__, function) for function in ours)
        yield "gap", pass_context(lambda context, what: self.gap(what))  # or jinja2 would call it once, beforehand

    @pass_context
    def markdown2html(self, context: Context, source: str) -> str:
        """Return Markdown as HTML; nbconvert's own leaves formulas to a script."""
        return self.markdown(source, context.get("cell", {}).get("attachments", {}))

    def markdown(self, source: str, attachments: dict[str, dict[str, str]] | None = None) -> str:
        """Return Markdown as tidy HTML with typeset formulas; one that is no Markdown but long is left as it is."""
        if _unclosed(source) > MOST_UNCLOSED:
            return self.preformatted(source)
        renderer = _Markdown(self._formula, attachments or {})
        return self.tidy(MarkdownWithMath(renderer=renderer).render(source), dollars=False)

    def _formula(self, tex: str, display: bool) -> str:
        """Return a formula; one with a `\\label` in an element that is numbered."""
        label = re.search(r"\\label\{([\w:-]+)\}", tex) if display else None
        if label is None:
            return self.math(tex, display)
        return f'<span id="equation-{label[1]}">{self.math(tex.replace(label[0], ""), display)}</span>'

    def picture(self, output: Mapping[str, Any], mime: str) -> str:
        """Return an output's picture with its dark version; the recorded file where it holds none."""
        content, alt = _content(output, mime), alt_text(output)
        if content is not None and not is_picture(content, mime):
            return ""
        files = self.document.figure(content, alt).files
        content = content or files.get("light")
        width = output.get("metadata", {}).get(mime, {}).get("width")
        return self.image(content, mime, alt, width, files.get("dark")) if content else ""

    def live(self, output: Mapping[str, Any]) -> str:
        """Return a live figure's place, its data and its static picture, which stands there until a script runs."""
        static = self.picture(output, "image/png")
        try:
            parts = parts_of(self._figure(output, "image/png").files.get("live", b""))
        except ValueError:
            return f"{static}{self.gap('what lets this figure move')}"
        script = parts["script"]
        if script not in self.modules:
            self.modules.append(script)
        stored = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":")).replace("<", r"\u003c")
        place = f'<div class="live" data-script="{escape(script)}"></div>'
        return f'{place}<script type="application/json">{stored}</script><div class="live-static">{static}</div>'

    def framed(self, picture: str, output: Mapping[str, Any], mime: str = "") -> str:
        """Return a picture of an output as a figure with its caption; nothing where there is no picture."""
        if not picture.strip():
            return ""
        figure = self._figure(output, mime)
        caption = self.tidy(escape(figure.caption, quote=False))
        below = f"<figcaption>{caption}</figcaption>" if caption else ""
        return f'<figure data-figure="{escape(figure.name)}">{picture}{below}{self.tools(figure)}</figure>'

    def _figure(self, output: Mapping[str, Any], mime: str) -> Figure:
        """Return what is recorded of an output's figure; a live one's output says its name."""
        live = output["data"].get(LIVE)
        name = live.get("figure") if isinstance(live, Mapping) else ""
        return self.document.figure(_content(output, mime), alt_text(output), name=str(name))

    def gap(self, what: str) -> str:
        """Return a note in place of what cannot be shown, and keep a warning."""
        self.gaps.append(f"{self.where}: not shown: {what}")
        return f'<span class="gap">[Not shown: {escape(what, quote=False)}]</span>'

    def fragment(self, html: str) -> str:
        """Return an output's HTML as `tidy` does; a gap where only scripts would draw what it shows."""
        tidied = self.tidy(html)
        shown = parsed(tidied)
        drawn = parsed(html).find("script") and not shown.get_text().strip() and not shown.find(["img", "svg", "table"])
        return self.gap("what only scripts draw") if drawn else tidied

    def tidy(self, html: str, *, dollars: bool = True) -> str:
        """Return HTML where nothing runs or loads, pictures are embedded and links lead somewhere.

        Sounds, films, frames and forms are gaps.

        Args:
            html: a fragment.
            dollars: typeset `$…$` in its text, as JupyterLab does for outputs; code is left alone.
        """
        soup = parsed(html)
        lost = [tag for tag in soup.find_all(LOST) if not tag.find_parent(LOST)]
        marks = [(soup.new_tag("span"), tag.name) for tag in lost]
        for tag, (mark, _) in zip(lost, marks, strict=True):
            tag.replace_with(mark)
        clean(soup)
        for mark, name in marks:
            if not mark.decomposed:
                mark.replace_with(parsed(self.gap(f"<{name}>")))
        if dollars:
            for node in soup.find_all(string=re.compile(r"\$[^$]+\$")):
                if not node.find_parent(["code", "pre", "style"]):
                    typeset = parsed(self._typeset(str(node)))
                    clean(typeset)
                    node.replace_with(typeset)
        for tag in soup.find_all("img"):
            tag.replace_with(parsed(self._embedded(tag)))
        for tag in soup.find_all("a", href=True):
            self._link(tag)
        for tag in soup.find_all(re.compile(r"^h[1-6]$")):
            tag["id"] = slug(tag.get_text())
        self.finish(soup)
        return str(soup)

    def _typeset(self, text: str) -> str:
        # No space inside the dollars and no digit after them, so that prices stay prices.
        parts = re.split(r"(\$\$.+?\$\$|\$(?! )[^$]+?(?<! )\$(?!\d))", text, flags=re.DOTALL)
        return "".join(
            self._formula(part.strip("$"), part.startswith("$$")) if i % 2 else escape(part, quote=False)
            for i, part in enumerate(parts)
        )

    def _embedded(self, tag: Tag) -> str:
        """Return an `<img>` with its content embedded; a gap with its alt text where the content is elsewhere."""
        source, alt = str(tag.get("src", "")), str(tag.get("alt", ""))
        found = re.match(r"data:([\w.+/-]+);base64,", source)
        if found:
            mime, file = found[1], Path()
            content = _decoded(source[found.end() :])
        else:
            file = self.document.path.parent / source
            mime = IMAGE_TYPES.get(file.suffix.lower(), "")
            content = file.read_bytes() if mime and not scheme(source) and self._inside(file) else b""
        if not is_picture(content, mime):
            self._missing(source, file)
            return self.gap(alt or "a picture")
        files = self.document.figure(content, alt, file.name).files or self._dark(file)
        width = str(tag["width"]) if tag.has_attr("width") else None
        return self.image(content, mime, alt, width, files.get("dark"))

    def _dark(self, file: Path) -> dict[str, bytes]:
        """Return the dark version of a picture that is another notebook's, where it lies beside it."""
        dark = file.with_suffix(f".dark{file.suffix}") if file.suffix == ".png" else file
        return {"dark": dark.read_bytes()} if dark != file and self._inside(dark) else {}

    def _missing(self, source: str, file: Path) -> None:
        """Keep a fault where the author of a Markdown cell means a picture that is not there."""
        written = self._cell is not None and self.document.notebook.cells[self._cell].cell_type == "markdown"
        attached = source.startswith("attachment:")
        if written and attached:
            self.faults.append(f"{self.where}: no attachment {source.removeprefix('attachment:')!r}")
        elif written and not scheme(source) and file.suffix.lower() in IMAGE_TYPES and not _exists(file):
            self.faults.append(f"{self.where}: no picture {source!r}")

    def _inside(self, file: Path) -> bool:
        """Tell whether a file is there, and of the notebook's folder or of the project, links followed."""
        try:
            folders = (self.document.path.parent.resolve(), layout.root())
            return file.is_file() and any(file.resolve().is_relative_to(folder) for folder in folders)
        except (OSError, ValueError):  # no name of a file
            return False

    def _link(self, tag: Tag) -> None:
        """Point a link at the rendered notebook; leave its text where the supplement lacks the target."""
        href = str(tag["href"]).strip()
        if scheme(href) in ("http", "https", "mailto") or href.startswith("#"):
            return
        path, _, fragment = href.partition("#")
        target = Path(path)
        if not scheme(href) and target.suffix == ".ipynb" and target.stem in self.stems:
            tag["href"] = page_of(target.stem) + (f"#{fragment}" if fragment else "")
        elif scheme(href) or not self._beside(path):
            tag.unwrap()

    def _beside(self, path: str) -> bool:
        """Tell whether a link from the pages leads to something of their folder or of the project."""
        try:
            target = (self.out / path).resolve()
            within = any(target.is_relative_to(folder) for folder in (self.out.resolve(), layout.root()))
            return within and not Path(path).is_absolute() and target.exists()
        except (OSError, ValueError):  # no name of a file
            return False


def unshown(output: Mapping[str, Any]) -> str:
    """Return what an output is that no page can show; empty where one can, or where it is text alone."""
    kinds = [mime for mime in output.get("data", {}) if mime != "text/plain"]
    if WIDGET_VIEW in kinds and LIVE not in kinds:
        return "a control that needs a kernel"
    return "" if set(kinds) & set(SHOWN) else ", ".join(kinds)


def in_words(output: Mapping[str, Any]) -> str:
    """Return the text of an output that no page can show; empty where it is Python's name for an object."""
    text = str(output["data"].get("text/plain", "")).strip()
    return "" if WIDGET_VIEW in output["data"] or re.fullmatch(r"<.*>", text, re.DOTALL) else text


def is_picture(content: bytes, mime: str) -> bool:
    """Tell whether content is what its kind says, as far as its start, its checksums or its XML tell."""
    try:
        if mime == IMAGE_TYPES[".svg"]:
            return ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
        with warnings.catch_warnings(action="ignore"):  # of its size
            Image.open(BytesIO(content), formats=[mime.removeprefix("image/").upper()]).verify()
        return mime in IMAGE_TYPES.values()
    except Exception:  # of any kind: the decoders' own, or Python's
        return False


def page_of(stem: str) -> str:
    """Return the file name of a notebook's page; that of notebook 00 is the index of the collection."""
    return "index.html" if stem.startswith("00-") else f"{stem}.html"


def _content(output: Mapping[str, Any], mime: str) -> bytes | None:
    stored = output["data"].get(mime)
    return stored if stored is None else stored.encode() if mime == "image/svg+xml" else _decoded(stored)


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except (OSError, ValueError):  # no name of a file
        return False


def _unclosed(source: str) -> int:
    """Return how many environments of LaTeX do not end."""
    last = {found[1]: found.start() for found in re.finditer(r"\\end\{(\w*\*?)\}", source)}
    begun = re.finditer(r"\\begin\{(\w*\*?)\}", source)
    return sum(last.get(found[1], -1) < found.start() for found in begun)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""
