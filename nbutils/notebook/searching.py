"""What the search of the supplement looks through: the prose and the captions, by section."""

from __future__ import annotations

from collections.abc import Iterator

from bs4 import NavigableString, Tag

from nbutils.notebook.anchors import Body

_HEADINGS = ("h1", "h2", "h3", "h4")
_LEFT_OUT = {"pre", "script", "style", "details", "table", "noscript"}  # but captions of tables


def entries(body: Body, file: str, title: str) -> Iterator[dict[str, str]]:
    """Yield, for every section of a page, its `url`, its `title`, its `heading` and its `text`."""
    url, heading, words = file, title, list[str]()
    for tag, text in _texts(body.soup):
        if tag is not None:
            if words:
                yield {"url": url, "title": title, "heading": heading, "text": _joined(words)}
            url, heading, words = f"{file}#{tag['id']}", tag.get_text().strip(), []
        else:
            words.append(text)
    if words:
        yield {"url": url, "title": title, "heading": heading, "text": _joined(words)}


def _texts(parent: Tag) -> Iterator[tuple[Tag | None, str]]:
    """Yield headings, and the texts between them."""
    for child in parent.children:
        if isinstance(child, Tag) and child.name in _HEADINGS and child.get("id"):
            yield child, ""
        elif isinstance(child, Tag) and child.name == "table" and child.caption:
            yield None, child.caption.get_text()
        elif isinstance(child, Tag) and child.name not in _LEFT_OUT:
            yield from _texts(child)
        elif type(child) is NavigableString:
            yield None, str(child)


def _joined(words: list[str]) -> str:
    return " ".join("".join(words).split())
