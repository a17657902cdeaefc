"""Numbers of figures, tables and equations, and where the links of a notebook lead.

In the Markdown of a notebook `[Figure](#figure-name)` becomes "Figure 01.7", and `[Figure](03-other.ipynb#figure-name)`
the number on the other page; so do `[Table](#table-name)` and `[Equation](#equation-name)`. Other words stay as they
are, and are a link. Names are: of a figure, that given to `nb.show`; of a table, that given to `nb.show_table`, or the
end `{#table-name}` of a paragraph `Table: caption {#table-name}` beside a Markdown table; of an equation, its
`\\label{name}`. Headings are found in the spelling of JupyterLab (`#What-it-shows`) and in lower case.

A link to a work of the bibliography becomes a citation: it leads to the list of references, which leads to the work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from bs4 import BeautifulSoup, Tag

from nbutils.notebook.bibliography import Work

KINDS = ("figure", "table", "equation")
_WORDS = {"figure": "figure", "fig": "figure", "table": "table", "equation": "equation", "eq": "equation"}
_CAPTION = re.compile(r"^Table:\s+(.*?)(?:\s*\{#table-([\w-]+)\})?$", re.DOTALL)
_RESERVED = ("content", "contents", "dark-theme", "references", "cite", "search", "made")  # the page's own


@dataclass(frozen=True)
class Section:
    """A heading: its level (2 to 4), its anchor and its text."""

    level: int
    anchor: str
    text: str


@dataclass
class Body:
    """The cells of a notebook as HTML, numbered.

    Attributes:
        soup: the cells; each stands in an element with `data-cell`, its place in the notebook.
        number: of the notebook, e.g. `"01"`; empty where its name has none.
        labels: `"Figure 01.7"` by anchor.
        outline: the headings below the title.
        cited: the works of the bibliography that are linked to, in order.
        faults: links to figures, tables and equations that are not there, by cell.
        dead: other links that lead nowhere.
    """

    soup: BeautifulSoup
    number: str
    labels: dict[str, str] = field(default_factory=dict)
    outline: list[Section] = field(default_factory=list)
    cited: list[Work] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)

    def anchors(self) -> set[str]:
        return {str(tag["id"]) for tag in self.soup.find_all(id=True)}


def slug(text: str) -> str:
    """Return the anchor of a heading: lower-case letters, digits, hyphens and underscores."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", text).strip().lower()) or "section"


def numbered(html: str, stem: str) -> Body:
    """Return the cells of a notebook with anchors of their own, and with numbers.

    Args:
        html: what the exporter made of the cells.
        stem: the notebook's name.
    """
    soup = BeautifulSoup(html, "html.parser")
    body = Body(soup, stem.split("-")[0] if stem[:1].isdigit() else "")
    for paragraph in soup.find_all("p"):
        _caption(soup, paragraph)
    for tag in soup.select("figure[data-figure]"):
        tag["id"] = f"figure-{tag['data-figure'] or 'unnamed'}"
    for tag in soup.find_all("caption"):
        tag["id"] = tag.get("id") or "table-" + "-".join(slug(tag.get_text()).split("-")[:5])
    _unique(soup)
    for kind in KINDS:
        labelled = soup.find_all(_is_labelled(kind))
        for n, tag in enumerate(labelled, start=1):
            label = f"{body.number}.{n}" if body.number else str(n)
            body.labels[str(tag["id"])] = f"{kind.capitalize()} {label}"
            _print_number(soup, tag, kind, label)
    for tag in soup.find_all(["h2", "h3", "h4"], id=True):
        body.outline.append(Section(int(tag.name[1]), str(tag["id"]), tag.get_text().strip()))
    return body


def _caption(soup: BeautifulSoup, paragraph: Tag) -> None:
    """Make a paragraph `Table: …` beside a table its caption."""
    found = _CAPTION.match(paragraph.get_text())
    if not found:
        return
    beside = (paragraph.find_previous_sibling(True), paragraph.find_next_sibling(True))
    tables = [table for tag in beside if tag and (table := tag if tag.name == "table" else tag.find("table"))]
    table = next((table for table in tables if not table.caption), None)
    if table is None:
        return
    caption = soup.new_tag("caption", attrs={"id": f"table-{found[2]}"} if found[2] else {})
    texts = paragraph.find_all(string=True)
    texts[0].replace_with(re.sub(r"^\s*Table:\s+", "", texts[0]))
    last = paragraph.find_all(string=True)[-1]
    last.replace_with(re.sub(r"\s*\{#table-[\w-]+\}\s*$", "", last))
    caption.extend(list(paragraph.contents))
    table.insert(0, caption)
    paragraph.decompose()


def _is_labelled(kind: str) -> Callable[[Tag], bool]:
    name = {"figure": "figure", "table": "caption", "equation": "span"}[kind]
    return lambda tag: tag.name == name and str(tag.get("id", "")).startswith(f"{kind}-")


def _print_number(soup: BeautifulSoup, tag: Tag, kind: str, label: str) -> None:
    if kind == "equation":
        number = soup.new_tag("span", attrs={"class": "number"})
        number.string = f"({label})"
        tag.append(number)
        return
    caption = tag.figcaption if kind == "figure" else tag
    if caption is None:
        caption = soup.new_tag("figcaption")
        tag.append(caption)
    number = soup.new_tag("b", attrs={"class": "number"})
    number.string = f"{kind.capitalize()} {label}."
    caption.insert(0, " ")
    caption.insert(0, number)


def _unique(soup: BeautifulSoup) -> None:
    """Let no two elements have the same anchor, nor one of the page's own."""
    seen = set(_RESERVED)
    for tag in soup.find_all(id=True):
        name, n = str(tag["id"]), 2
        while tag["id"] in seen:
            tag["id"], n = f"{name}-{n}", n + 1
        seen.add(str(tag["id"]))


def link(body: Body, page: str, others: Mapping[str, Body], works: Mapping[str, Work]) -> None:
    """Point the links of a notebook at figures, headings and works; what leads nowhere is kept as text and noted.

    Args:
        body: whose links.
        page: the file name of its page.
        others: all notebooks that are rendered together, by the file names of their pages.
        works: the bibliography, by address.
    """
    anchors = {name: (other.anchors(), other.labels) for name, other in others.items()}
    for tag in body.soup.find_all("a", href=True):
        href = str(tag["href"]).strip()
        file, hash_sign, fragment = href.partition("#")
        if href in works:
            _cite(body, tag, works[href])
        elif hash_sign and fragment and (file or page) in anchors:
            known, labels = anchors[file or page]
            anchor = next((name for name in _spellings(fragment) if name in known), None)
            if anchor is None:
                _note(body, tag, href)
                continue
            tag["href"] = f"{file}#{anchor}"
            words = tag.get_text().strip().rstrip(".").lower()
            if anchor in labels and _WORDS.get(words) == anchor.split("-")[0]:
                tag.string = labels[anchor].replace(" ", "\N{NO-BREAK SPACE}")


def _spellings(fragment: str) -> Iterator[str]:
    yield fragment
    yield slug(unquote(fragment))


def _cite(body: Body, tag: Tag, work: Work) -> None:
    tag["class"], tag["title"] = "citation", work.plain()
    tag["href"] = f"#ref-{work.key}"
    if work not in body.cited:
        body.cited.append(work)


def _note(body: Body, tag: Tag, href: str) -> None:
    cell = next((parent for parent in tag.parents if parent.has_attr("data-cell")), None)
    where = f"cell {cell['data-cell']}: " if cell else ""
    fragment = href.partition("#")[2]
    label = fragment.partition("-")[0].lower()
    if label in KINDS and "-" in fragment:
        own = [name.partition("-")[2] for name in body.labels if name.startswith(label)]
        hint = f"; there are {', '.join(own) or 'none'}" if href.startswith("#") else ""
        body.faults.append(f"{where}no {label} {fragment.partition('-')[2]!r} ({href}){hint}")
    else:
        body.dead.append(f"{where}the link {href!r} leads to no heading")
    tag.unwrap()
