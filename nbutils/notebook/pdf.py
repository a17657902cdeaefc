"""Print notebooks: HTML for pandoc with pictures as files, then typst. Code stands in an appendix."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from bs4 import BeautifulSoup, Tag
from nbconvert.filters import strip_ansi

from nbutils.notebook import bibliography
from nbutils.notebook.anchors import Body
from nbutils.notebook.chapters import Chapter, complete
from nbutils.notebook.document import Document
from nbutils.notebook.export import IMAGE_TYPES, Exporter

PRINT_WIDTH = 627  # CSS pixels that fit between the margins of a PDF page
PRINT_CHARACTERS = 115  # that fit into a row of a table there, two for the gap after each column
WHOLE_ROWS = 25  # of a table that is not divided between two pages
_BACKGROUND = re.compile(r"background(?:-color)?\s*:\s*(#[0-9a-fA-F]{6})\b")
# Whose identifiers pandoc keeps.
_KEPT = frozenset(["h1", "h2", "h3", "h4", "h5", "h6", "section", "div", "span", "li", "a", "table", "figure"])
_SVG_LINK = re.compile(rb"""\bhref\s*=\s*(["'])\s*(?!#|data:)[^"']*\1""", re.IGNORECASE)


class _Print(Exporter):
    """HTML for pandoc, with pictures as files."""

    medium = "print"

    def __init__(self, document: Document, stems: Sequence[str], folder: Path, out: Path) -> None:
        super().__init__(document, stems, out)
        self.folder = folder
        self.secret = secrets.token_bytes(16)
        self.alts: dict[str, str] = {}  # by file name, because pandoc drops them
        self.code: list[Tag] = []

    def body(self) -> Body:
        """Return the cells as HTML, numbered; their code is left in `code`, below the headings it belongs to."""
        body = super().body()
        heading: Tag | None = None
        for tag in body.soup.find_all(["h2", "pre"]):
            if tag.name == "h2":
                heading = tag
            elif tag.has_attr("data-code"):
                if heading is not None:
                    title = body.soup.new_tag("h3")
                    title.string = heading.get_text()
                    self.code.append(title)
                    heading = None
                self.code.append(tag.extract())
        for table in body.soup.select("table:has(> caption[id])"):
            table["id"] = table.caption.attrs.pop("id") if table.caption else ""  # pandoc keeps no other
        for number in body.soup.select('span[id^="equation-"] > .number'):
            formula = number.find_previous_sibling("span")
            if formula is not None:
                formula.string = formula.get_text().removesuffix(r"\]") + rf"\qquad\text{{{number.get_text()}}}\]"
            number.decompose()
        return body

    def math(self, tex: str, display: bool) -> str:
        start, end, kind = (r"\[", r"\]", "display") if display else (r"\(", r"\)", "inline")
        return f'<span class="math {kind}">{start}{escape(tex.strip(), quote=False)}{end}</span>'

    def image(self, content: bytes, mime: str, alt: str, width: str | None, dark: bytes | None) -> str:
        suffix = next(suffix for suffix, kind in IMAGE_TYPES.items() if kind == mime)
        # The secret, because alt texts are put in by name: no text of the notebook may look like one.
        name = hashlib.sha256(self.secret + content).hexdigest()[:16] + suffix
        if mime == IMAGE_TYPES[".svg"]:
            content = _SVG_LINK.sub(b"", content)  # typst stops at what it does not find
        (self.folder / name).write_bytes(content)
        self.alts[name] = alt
        pixels = int(width) if width and str(width).isdigit() else PRINT_WIDTH
        share = min(100, round(100 * pixels / PRINT_WIDTH))
        return f'<p><img src="{name}" width="{share}%" alt=""></p>'

    def preformatted(self, text: str) -> str:
        return f"<pre><code>{escape(strip_ansi(text), quote=False)}</code></pre>"

    def finish(self, soup: BeautifulSoup) -> None:
        for tag in soup.find_all(class_=re.compile("^figure-(description|caption)$")):
            tag.decompose()  # the picture carries them
        for tag in soup.find_all("svg"):  # pandoc would make a picture of it that typst cannot find
            tag.replace_with("[a drawing, in the HTML supplement only]")
        for table in soup.find_all("table"):
            rows = [[cell.get_text().strip() for cell in row.find_all(["td", "th"])] for row in table.find_all("tr")]
            widest = max((sum(map(len, row)) + 2 * len(row) for row in rows), default=0)
            longest = max((len(text) for row in rows for text in row), default=0)
            if widest > PRINT_CHARACTERS and longest <= 20:  # numbers do not wrap, and prose does
                table["data-typst:text:size"] = f"{max(6.5, 10.5 * PRINT_CHARACTERS / widest):.1f}pt"
            if len(rows) <= WHOLE_ROWS:
                table.wrap(soup.new_tag("div", attrs={"data-typst:breakable": "false"}))
        for tag in soup.find_all(["td", "th", "span"], style=_BACKGROUND):
            colour = f"rgb({json.dumps(_BACKGROUND.findall(str(tag['style']))[0])})"
            if tag.name != "span":
                tag["data-typst:fill"] = colour
            elif not tag.get_text().strip():
                tag.string = "■"
                tag["data-typst:text:fill"] = colour


def _linked(html: str) -> str:
    """Return HTML whose identifiers are unique and kept by pandoc, and whose links inside it lead to one of them.

    Typst accepts no others.
    """
    soup = BeautifulSoup(html, "html.parser")
    identifiers: set[str] = set()
    for tag in soup.find_all(id=True):
        name = str(tag["id"])
        if name in identifiers or tag.name not in _KEPT:
            del tag["id"]
        else:
            identifiers.add(name)
    for tag in soup.find_all("a", href=re.compile("^#")):
        if str(tag["href"])[1:] not in identifiers:
            tag.unwrap()
    return str(soup)


def _placed(chapter: Chapter, chapters: Sequence[Chapter]) -> None:
    """Let all anchors, and the links to them, begin with the notebook's name."""
    stems = {other.file: other.document.stem for other in chapters}
    soup, own = chapter.body.soup, chapter.document.stem
    for tag in soup.find_all(id=True):
        tag["id"] = f"{own}.{tag['id']}"
    for tag in soup.find_all("a", href=True):
        file, hash_sign, fragment = str(tag["href"]).partition("#")
        if file in stems or (hash_sign and not file):
            tag["href"] = f"#{stems.get(file, own)}" + (f".{fragment}" if fragment else "")
    for tag in soup.select("[data-cell]"):
        tag.unwrap()
    if soup.h1:
        soup.h1["id"] = own


def _html(chapters: Sequence[Chapter]) -> str:
    """Return one document for pandoc: the notebooks with what they cite, and their code."""
    for chapter in chapters:
        chapter.open()
        for tag in chapter.body.soup.select(".byline span"):
            tag.decompose()  # the document ends with it
        _placed(chapter, chapters)
    template = chapters[0].template("document.html.j2")
    return template.render(chapters=chapters, several=len(chapters) > 1)


def printer() -> Callable[[Sequence[Document], Path], bytes]:
    """Return a function that makes one PDF of notebooks.

    Raises:
        ModuleNotFoundError: pypandoc, pandoc itself or typst is missing. The function raises a ValueError where typst
            cannot set the notebooks, or something that they show is missing.
    """
    try:
        import pypandoc
        import typst

        pypandoc.get_pandoc_path()
    except (ImportError, OSError):
        raise ModuleNotFoundError("PDF needs pandoc and typst; install them with: pip install 'nbutils[pdf]'") from None

    def print_pdf(documents: Sequence[Document], out: Path) -> bytes:
        stems = [document.stem for document in documents]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            exporters = [_Print(document, stems, folder, out) for document in documents]
            html = _html(complete(exporters, tell=False))
            formats = {"to": "typst", "format": "html+tex_math_single_backslash"}
            arguments = ["--wrap=none", "--sandbox", "--quiet"]
            body = pypandoc.convert_text(_linked(html), **formats, extra_args=arguments)
            for image, alt in (item for exporter in exporters for item in exporter.alts.items()):
                body = body.replace(f'image("{image}"', f'image("{image}", alt: {json.dumps(alt, ensure_ascii=False)}')
            about = bibliography.collection()
            title = documents[0].title if len(documents) == 1 or about is None else about.title
            template = exporters[0].environment.get_template("document.typ.j2")
            words = {
                "title": title,
                "byline": about.byline if about else "",
                "cite": about.cite(title) if about else "",
            }
            said = {key: json.dumps(text, ensure_ascii=False) for key, text in words.items()}
            source = folder / "document.typ"
            source.write_text(template.render(**said, body=body, several=len(documents) > 1), encoding="utf-8")
            try:
                return typst.compile(source, root=folder, ignore_system_fonts=True)
            except RuntimeError as error:  # a picture that is none, or deeper than typst goes
                names = ", ".join(document.path.name for document in documents)
                raise ValueError(f"{names}: typst: {error}") from None

    return print_pdf
