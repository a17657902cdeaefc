"""Turn a notebook into HTML that loads nothing, by nbconvert with templates of our own.

nbconvert walks through the cells and chooses what an output shows; here is what it leaves open: formulas, pictures
with their dark versions, and HTML where nothing runs.
"""

from __future__ import annotations

import base64
import json
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup, Tag
from jinja2 import pass_context
from jinja2.runtime import Context
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from nbutils import layout
from nbutils.notebook.clean import clean, drawable, figure_parts, parsed, scheme
from nbutils.notebook.document import PLOTLY, Document, alt_text

TEMPLATES = Path(__file__).parent / "templates"
IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif"}
IMAGE_TYPES |= {".svg": "image/svg+xml", ".webp": "image/webp"}
SHOWN = [PLOTLY, "text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/latex", "text/plain"]


class _Markdown(IPythonRenderer):
    """Markdown with formulas handed to a typesetter; a picture that is attached nowhere is its alt text."""

    def __init__(self, math: Callable[[str, bool], str], attachments: dict[str, dict[str, str]]) -> None:
        super().__init__(escape=False, exclude_anchor_links=True, attachments=attachments)
        self.math = math

    def inline_math(self, body: str) -> str:
        return self.math(body, False)

    def block_math(self, body: str) -> str:
        return self.math(body, True)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        missing = url.startswith("attachment:") and not self.attachments.get(url.removeprefix("attachment:"))
        return escape(text) if missing else super().image(text, url, title)

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

    def html(self, **resources: Any) -> str:
        """Return the notebook as HTML; `resources` are what its template asks for."""
        return self.from_notebook_node(self.document.notebook, resources)[0]

    @property
    def default_config(self) -> Any:
        """nbconvert's settings, with our order of what an output shows."""
        config = super().default_config
        config.NbConvertBase.display_data_priority = SHOWN
        return config

    def default_filters(self) -> Iterator[tuple[str, Any]]:
        """Yield nbconvert's filters, and ours for the templates."""
        yield from super().default_filters()
        ours = (self.picture, self.preformatted, self.tidy, alt_text, drawable, json_script)
        yield from ((function.__name__, function) for function in ours)

    @pass_context
    def markdown2html(self, context: Context, source: str) -> str:
        """Return Markdown as HTML; nbconvert's own leaves formulas to a script."""
        return self.markdown(source, context.get("cell", {}).get("attachments", {}))

    def markdown(self, source: str, attachments: dict[str, dict[str, str]] | None = None) -> str:
        """Return Markdown as tidy HTML with typeset formulas."""
        renderer = _Markdown(self.math, attachments or {})
        return self.tidy(MarkdownWithMath(renderer=renderer).render(source), dollars=False)

    def picture(self, output: Mapping[str, Any], mime: str) -> str:
        """Return an output's picture with its dark version; the recorded file where it holds none."""
        stored, alt = output["data"].get(mime), alt_text(output)
        content = None
        if stored is not None:
            content = stored.encode() if mime == "image/svg+xml" else _decoded(stored)
        files = self.document.versions(content, "", alt)
        content = content or files.get("light")
        width = output.get("metadata", {}).get(mime, {}).get("width")
        return self.image(content, mime, alt, width, files.get("dark")) if content else ""

    def tidy(self, html: str, *, dollars: bool = True) -> str:
        """Return HTML where nothing runs or loads, pictures are embedded and links lead somewhere.

        Args:
            html: a fragment.
            dollars: typeset `$…$` in its text, as JupyterLab does for outputs; code is left alone.
        """
        soup = parsed(html)
        clean(soup)
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
            tag["id"] = tag.get_text().strip().replace(" ", "-")
        self.finish(soup)
        return str(soup)

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
        found = re.match(r"data:([\w.+/-]+);base64,", source)
        if found:
            mime, file = found[1], Path()
            content = _decoded(source[found.end() :])
        else:
            file = self.document.path.parent / source
            mime = IMAGE_TYPES.get(file.suffix.lower(), "")
            content = file.read_bytes() if mime and not scheme(source) and self._inside(file) else b""
        if not content or mime not in IMAGE_TYPES.values():
            return escape(alt, quote=False)
        files = self.document.versions(content, file.name, alt)
        width = str(tag["width"]) if tag.has_attr("width") else None
        return self.image(content, mime, alt, width, files.get("dark"))

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
            tag["href"] = f"{target.stem}.html" + (f"#{fragment}" if fragment else "")
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


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""
