"""HTML for a browser: light and dark, formulas as MathML, code folded, figures with what a reader can do with them."""

from __future__ import annotations

import base64
import re
from html import escape

import latex2mathml.converter
from bs4 import BeautifulSoup
from nbconvert.filters import ansi2html

from nbutils.notebook.anchors import Body
from nbutils.notebook.document import Figure
from nbutils.notebook.export import Exporter

LONG_FORMULA = 40  # characters of TeX, from which a narrow page must be able to move it sideways
LONG_HEADER = 12  # characters of a row's header, which wide tables would squeeze into as many lines as it has words


class Screen(Exporter):
    """HTML for a browser."""

    medium = "page"

    def body(self) -> Body:
        """Return the cells as HTML, numbered; code that shows nothing is folded with what follows."""
        body = super().body()
        _fold(body.soup)
        _describe(body.soup)
        return body

    def math(self, tex: str, display: bool) -> str:
        long = not display and len(tex) > LONG_FORMULA
        try:
            return f'<span class="math inline">{_mathml(tex, display)}</span>' if long else _mathml(tex, display)
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from None

    def image(self, content: bytes, mime: str, alt: str, width: str | None, dark: bytes | None) -> str:
        size = f' width="{escape(str(width))}"' if width else ""
        source = f'<source media="(prefers-color-scheme: dark)" srcset="{_uri(dark, "image/png")}">' if dark else ""
        return f'<picture>{source}<img src="{_uri(content, mime)}" alt="{escape(alt)}"{size}></picture>'

    def tools(self, figure: Figure) -> str:
        if "data" not in figure.files:
            return '<div class="tools"></div>'
        uri = _uri(figure.files["data"], "text/csv")
        return f'<div class="tools"><a href="{uri}" download="{escape(figure.name)}.csv">Data (CSV)</a></div>'

    def preformatted(self, text: str) -> str:
        return f'<pre tabindex="0">{ansi2html(text)}</pre>'

    def finish(self, soup: BeautifulSoup) -> None:
        for tag in soup.select("span.math.inline, math[display=block]"):
            if len(str(tag.get("alttext", ""))) > LONG_FORMULA or tag.name == "span":
                tag["tabindex"] = "0"
        for tag in soup.find_all("th"):
            if not tag.get_text().strip():
                tag.name = "td"  # a header that says nothing is none
        for tag in soup.select("tbody th"):
            if len(tag.get_text()) > LONG_HEADER:
                tag["class"] = "long"
        for tag in soup.find_all("table"):
            tag.attrs.pop("border", None)
            label = {"role": "group", "aria-label": "Table", "tabindex": "0"}
            tag.wrap(soup.new_tag("div", attrs={"class": "scroll", **label}))


def _uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def _fold(soup: BeautifulSoup) -> None:
    """Put cells of code that show nothing into the fold of the next cell, and say how long each fold is."""
    for step in soup.select("section.step"):
        after = step.find_next_sibling(True)
        if after and after.get("class") == step.get("class") and not step.select_one(".output"):
            for summary in after.select(":scope > details.code > summary"):
                summary.insert_after(*step.select(":scope > details.code > .highlight"))
                step.decompose()
    for summary in soup.select("details.code > summary"):
        parts = summary.find_next_siblings(class_="highlight")
        lines = sum(len(part.get_text().strip().splitlines()) for part in parts)
        summary.string = f"Code, {lines} line{'s' if lines > 1 else ''}"


def _describe(soup: BeautifulSoup) -> None:
    """Put the description of a figure, which is an output of its own, below its caption."""
    for summary in soup.select(".output > details.figure-description > summary"):
        description, output = summary.parent, summary.find_parent(class_="output")
        figure = output.find_previous_sibling(True) if output else None
        tools = figure.select_one("figure > .tools") if figure else None
        if description and output and tools:
            summary.string = "Description"
            tools.insert(0, description)
            output.decompose()  # with the caption, which the figure has


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
