"""The works that notebooks cite, from `references.bib`, and how the collection itself is cited, from `CITATION.cff`.

A notebook cites a work by a link to the entry's `url`. The reader takes the form in which the file is kept: one field a
line, in braces, accents as LaTeX writes them (`{\\"o}`) or as they are.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import yaml
from bs4 import BeautifulSoup

from nbutils import layout

_ENTRY = re.compile(r"^@\w+\{(?P<key>[\w:-]+),\n(?P<fields>.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^  (\w+) = \{(.*)\},?$", re.MULTILINE)
_NEEDED = ("author", "title", "year", "url")
_MARKS = dict(
    zip(
        "\"'`^~=.uvHcrk",
        map(chr, [0x308, 0x301, 0x300, 0x302, 0x303, 0x304, 0x307, 0x306, 0x30C, 0x30B, 0x327, 0x30A, 0x328]),
        strict=True,
    )
)
_LETTERS = {"ss": "ß", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ae": "æ", "AE": "Æ", "aa": "å", "AA": "Å", "i": "ı"}
PAPER = re.compile(r"https?://(?:dx\.)?(?:doi|arxiv)\.org/[^\s)\]>\"]+")  # what must have an entry


@dataclass(frozen=True)
class Work:
    """One entry: `key` and its fields as plain text."""

    key: str
    fields: Mapping[str, str]

    @property
    def url(self) -> str:
        return self.fields["url"]

    def html(self) -> str:
        """Return authors, year, title, where it appeared, and a link, as a reader expects them."""
        field = {name: escape(value, quote=False) for name, value in self.fields.items()}
        venue = field.get("journal") or field.get("booktitle") or field.get("publisher") or ""
        volume = f" {field['volume']}" if venue and "volume" in field else ""
        pages = f", {field['pages']}" if venue and "pages" in field else ""
        place = f" <i>{venue}</i>{volume}{pages}." if venue else ""
        text = f"{_people(field['author'])} ({field['year']}). {field['title'].rstrip('.')}.{place}"
        return f'{text} <a href="{escape(self.url)}">{field["url"].removeprefix("https://")}</a>'

    def plain(self) -> str:
        """Return the same as text."""
        return BeautifulSoup(self.html(), "html.parser").get_text()


def _people(author: str) -> str:
    """Return `Family, Given and …` as `Family, G., …`; ten names or more are the first and "et al."."""
    names = []
    for name in author.split(" and "):
        family, _, given = name.partition(", ")
        initials = re.sub(r"(\w)[\w'’]*\.?", r"\1.", given)
        names.append(f"{family}, {initials}" if given else family)
    if len(names) >= 10:
        return f"{names[0]} et al."
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def path() -> Path:
    """Return where the bibliography of the notebooks is."""
    return layout.root() / "notebooks" / "references.bib"


def load(file: Path | None = None) -> dict[str, Work]:
    """Return the works by their addresses; none where there is no file.

    Raises:
        ValueError: an entry is of another form or lacks a field, or two have the same key or address.
    """
    file = file or path()
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = list(_ENTRY.finditer(text))
    if len(found) != len(re.findall(r"^@", text, re.MULTILINE)):
        raise ValueError(f"{file}: expected entries '@kind{{key,', then fields '  name = {{…}},' one a line, then '}}'")
    for entry in found:
        if strange := [line for line in entry["fields"].splitlines() if line.strip() and not _FIELD.fullmatch(line)]:
            raise ValueError(f"{file}: {entry['key']}: expected '  name = {{…}},', got {strange[0]!r}")
    works = [Work(entry["key"], dict(_fields(entry["fields"]))) for entry in found]
    for work in works:
        if lacking := [name for name in _NEEDED if not work.fields.get(name)]:
            raise ValueError(f"{file}: {work.key} lacks {', '.join(lacking)}")
    for name in ("key", "url"):
        if twice := [value for value, n in Counter(getattr(work, name) for work in works).items() if n > 1]:
            raise ValueError(f"{file}: two entries have the {name} {twice[0]}")
    return {work.url: work for work in works}


def _fields(text: str) -> Iterator[tuple[str, str]]:
    for name, value in _FIELD.findall(text):
        yield name, value if name == "url" else _plain(value)


def _plain(text: str) -> str:
    """Return a field without LaTeX's signs: accents, special letters, dashes, braces."""
    text = re.sub(r"\\([\"'`^~=.]|[uvHcrk](?![A-Za-z]))\s*\{?\\?([A-Za-z])\}?", lambda m: m[2] + _MARKS[m[1]], text)
    text = re.sub(r"\\(ss|ae|AE|aa|AA|[oOlLi])(?![A-Za-z])\s*", lambda m: _LETTERS[m[1]], text)
    text = re.sub(r"\\([&%$#_])", r"\1", text).replace("---", "—").replace("--", "–")
    return unicodedata.normalize("NFC", re.sub(r"[{}]", "", text)).strip()


@dataclass(frozen=True)
class Collection:
    """The collection as `CITATION.cff` describes it."""

    title: str
    authors: tuple[str, ...]
    date: str
    version: str
    license: str

    @property
    def byline(self) -> str:
        """Authors, date, version and licence in one line."""
        version = f"version {self.version}" if self.version else ""
        return " · ".join(filter(None, [", ".join(self.authors), self.date, version, self.license]))

    def cite(self, title: str) -> str:
        """Return how to cite one of its notebooks, or itself where the title is its own, as a sentence."""
        year = f" ({self.date[:4]})" if self.date else ""
        version = f", version {self.version}" if self.version else ""
        within = "" if title == self.title else f". In: {self.title}"
        return f"{', '.join(self.authors)}{year}. {title}{within}{version}."

    def bibtex(self, title: str, key: str) -> str:
        """Return the same for BibTeX."""
        fields = {"author": " and ".join(f"{{{name}}}" for name in self.authors), "title": title}
        fields |= {"booktitle": self.title, "year": self.date[:4], "note": f"Version {self.version}"}
        lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
        return f"@incollection{{{key},\n" + ",\n".join(lines) + "\n}"


def collection() -> Collection | None:
    """Return what the project's `CITATION.cff` says, None where there is none.

    Raises:
        ValueError: it has no title or no authors.
    """
    file = layout.root() / "CITATION.cff"
    if not file.is_file():
        return None
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
        people = [one.get("name") or f"{one['given-names']} {one['family-names']}" for one in said["authors"]]
        rest = (str(said.get(name, "")) for name in ("date-released", "version", "license"))
        return Collection(said["title"], tuple(people), *rest)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: expected a title and authors with names ({type(error).__name__}: {error})") from None
