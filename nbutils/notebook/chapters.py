"""Notebooks on their way to pages or print: numbered, linked with each other, and checked."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from jinja2 import Template

from nbutils.notebook import bibliography
from nbutils.notebook.anchors import Body, link
from nbutils.notebook.clean import parsed
from nbutils.notebook.document import Document
from nbutils.notebook.export import Exporter, page_of


@dataclass
class Chapter:
    """A notebook's exporter and what it made of the cells."""

    exporter: Exporter
    body: Body

    @property
    def document(self) -> Document:
        return self.exporter.document

    @property
    def file(self) -> str:
        """The file name of its page."""
        return page_of(self.document.stem)

    def template(self, name: str) -> Template:
        return self.exporter.environment.get_template(name)

    def open(self) -> None:
        """Put the authors below the title and, in a study, what came of hypotheses and results below its cell."""
        soup, about = self.body.soup, bibliography.collection()
        first = soup.select_one("[data-cell]")
        if about and soup.h1:
            soup.h1.insert_after(parsed(self.template("byline.html.j2").render(text=about.byline)))
        if first and self.document.results and self.file != "index.html":  # which counts those of all notebooks
            first.insert_after(parsed(self.template("outcome.html.j2").render(document=self.document)))

    @property
    def faults(self) -> list[str]:
        """What is missing, by notebook and cell."""
        return [*self.exporter.faults, *(f"{self.document.path.name}, {text}" for text in self.body.faults)]

    @property
    def warnings(self) -> list[str]:
        """What is a gap on the page, or a link that became text."""
        return [*self.exporter.gaps, *(f"{self.document.path.name}, {text}" for text in self.body.dead)]


def linked(exporters: Iterable[Exporter]) -> list[Chapter]:
    """Return notebooks with their numbers, and with links between them and to the bibliography."""
    chapters = [Chapter(exporter, exporter.body()) for exporter in exporters]
    bodies = {chapter.file: chapter.body for chapter in chapters}
    works = bibliography.load()
    for chapter in chapters:
        link(chapter.body, chapter.file, bodies, works)
    return chapters


def complete(exporters: Iterable[Exporter], *, tell: bool = True) -> list[Chapter]:
    """Return the same, and tell on stderr what cannot be shown.

    Args:
        exporters: as for `linked`.
        tell: False for a second medium, which lacks what the first one lacked.

    Raises:
        ValueError: a picture, an attachment or what a reference names is missing; the message says in which cell.
    """
    chapters = linked(exporters)
    if faults := [fault for chapter in chapters for fault in chapter.faults]:
        raise ValueError("; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else ""))
    for chapter in chapters if tell else ():
        for warning in chapter.warnings:
            print(warning, file=sys.stderr)
    return chapters
