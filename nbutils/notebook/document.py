"""The one reader of notebooks, and what belongs to a notebook: its title, figures and recorded results."""

from __future__ import annotations

import codecs
import hashlib
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from bs4 import BeautifulSoup
from nbformat import NotebookNode

from nbutils import bars, claims, layout
from nbutils.plotting.live import LIVE as LIVE
from nbutils.plotting.live import WIDGET_VIEW as WIDGET_VIEW
from nbutils.plotting.manifests import files_of, manifest_of

SKIPPED_TAG = "skip-execution"  # nbclient's and JupyterLab's name
PLOTLY = "application/vnd.plotly.v1+json"


def read(path: Path) -> NotebookNode:
    """Return a notebook in format 4.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a notebook; the message names the file and the first defect.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no notebook {path}")
    content = path.read_bytes()
    if defect := _defect(content):
        raise ValueError(f"{path} is not a notebook: {defect}")
    try:
        with warnings.catch_warnings(), _silent(logging.getLogger("traitlets")):  # what is wrong is raised, in one line
            warnings.simplefilter("ignore")
            notebook = nbformat.convert(nbformat.reader.reads(content.decode()), 4)
            _complete(notebook)
            nbformat.validate(notebook, relax_add_props=True)
    except Exception as error:  # nbformat lets through whatever a damaged file breaks first
        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in getattr(error, "absolute_path", ()))
        reason = " ".join(str(getattr(error, "message", error)).split())[:300] or type(error).__name__
        raise ValueError(f"{path} is not a notebook: {place.lstrip('.') + ': ' if place else ''}{reason}") from None
    return notebook


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _complete(notebook: NotebookNode) -> None:
    """Add what other programs leave out and Jupyter does not miss; cells get new names where theirs are none."""
    if not isinstance(notebook.get("nbformat_minor"), int):
        notebook.nbformat_minor = 5
    cells = notebook.get("cells")
    for cell in cells if isinstance(cells, list) else ():
        if not isinstance(cell, dict):
            continue
        if not re.fullmatch(r"[\w-]{1,64}", str(cell.get("id")), re.ASCII) or not isinstance(cell.get("id"), str):
            cell.pop("id", None)
        cell.setdefault("metadata", NotebookNode())
        if cell.get("cell_type") == "code":
            cell.setdefault("execution_count", None)
            outputs = cell.setdefault("outputs", [])
            for output in outputs if isinstance(outputs, list) else ():
                if isinstance(output, dict) and output.get("output_type") in ("display_data", "execute_result"):
                    output.setdefault("metadata", NotebookNode())


def _defect(content: bytes) -> str | None:
    """Return what keeps a file from being JSON, None where nothing does."""
    if not content.strip():
        return "the file is empty"
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it begins with a byte order mark; save it as UTF-8 without one"
    conflict = re.search(rb"^(?:<<<<<<<|>>>>>>>|=======)", content, re.MULTILINE)
    if conflict:  # a line of JSON never begins so
        line = content.count(b"\n", 0, conflict.start()) + 1
        return f"line {line} is a conflict marker; resolve the merge"
    try:
        json.loads(content)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    return None


def is_bar(output: Mapping[str, Any]) -> bool:
    """Return whether an output holds a bar of progress (`nbutils.bars`), or nothing, as when one is over."""
    if output["output_type"] != "display_data":
        return False
    return not output["data"] or all(output["metadata"].get(key) == value for key, value in bars.MARK.items())


def code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Return position and cell of the cells that execute; one that is blank or to be skipped gets no count."""
    cells = enumerate(notebook.cells)
    return [(i, c) for i, c in cells if c.cell_type == "code" and c.source.strip() and SKIPPED_TAG not in tags(c)]


def tags(cell: Mapping[str, Any]) -> list[str]:
    """Return a cell's tags."""
    return cell.get("metadata", {}).get("tags", [])


def opening(notebook: NotebookNode) -> tuple[str, str]:
    """Return the first heading `# …` and the paragraph that follows it, as Markdown; empty where there is none.

    Pictures attached to the cell are their descriptions: elsewhere there is no attachment.
    """
    for cell in notebook.cells:
        source = re.sub(r"!\[([^\]]*)\]\(attachment:[^)]*\)", r"\1", cell.source)
        found = re.search(r"^# +(.+)$\s*(?:^(?!#)((?:.+\n?)+))?", source, re.MULTILINE)
        if cell.cell_type == "markdown" and found:
            return found[1].strip(), (found[2] or "").strip()
    return "", ""


def tally(*records: claims.Results) -> str:
    """Return how many hypotheses of some runs held, and how many stored results came back."""
    outcomes = [outcome["holds"] for record in records for outcome in record.hypotheses.values()]
    results = [bool(claim["holds"]) for record in records for claim in record.claims.values()]
    undecided = f", {outcomes.count(None)} undecided" if None in outcomes else ""
    counted = f"{outcomes.count(True)} of {len(outcomes)} hypotheses held{undecided}; " if outcomes else ""
    return f"{counted}{sum(results)} of {len(results)} stored results reproduced"


def unstyled(text: str) -> str:
    """Return text without the escape sequences of terminals, such as colours."""
    return re.sub(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))", "", text)


def plain(markdown: str) -> str:
    """Return a line of Markdown without its signs."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune  # costs a second; `list` does without

    return BeautifulSoup(markdown2html_mistune(markdown), "html.parser").get_text().strip()


def alt_text(output: Mapping[str, Any]) -> str:
    """Return the alt text of a picture in an output's metadata, empty where it has none."""
    entries = (entry for entry in output.get("metadata", {}).values() if isinstance(entry, Mapping))
    return next((str(entry["alt"]).strip() for entry in entries if entry.get("alt")), "")


def first_sentence(text: str) -> str:
    """Return the first sentence of an alt text, with the next one where the first says only where it was recorded."""
    sentences = re.split(r"(?<=[.!?])\s+(?=\w)", text.strip())
    return " ".join(sentences[: 2 if text.startswith("Recorded ") else 1])


class Figure(NamedTuple):
    """What the manifest knows of a figure; empty where it knows nothing.

    `name` is that given to `nb.show`; `files` are its pictures, `"light"` and `"dark"`, its `"data"` as CSV, and what
    `"live"` needs.
    """

    name: str
    caption: str
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Document:
    """An executed notebook with the figures and results that belong to it.

    Those of a notebook of the project are in `large-assets/<stem>`, those of an executed copy in the folder `<stem>`
    beside it: a copy that ended early must not show the results of another run.
    """

    path: Path
    notebook: NotebookNode

    @property
    def stem(self) -> str:
        return self.path.stem

    @property
    def title(self) -> str:
        """The first heading without its Markdown signs; the stem where there is none."""
        return plain(opening(self.notebook)[0]) or self.stem

    def asset(self, name: str) -> Path | None:
        """Return the path of a figure or of results, None where there is no such file."""
        beside, kept = self.path.parent / self.stem, layout.root() / "large-assets" / self.stem
        path = (beside if beside.is_dir() else kept) / name
        return path if path.is_file() else None

    @cached_property
    def manifest(self) -> dict[str, dict[str, Any]]:
        file = self.asset("manifest.json")
        return manifest_of(file.parent) if file else {}

    @cached_property
    def results(self) -> claims.Results | None:
        file = self.asset("results.json")
        return claims.load(file) if file else None

    @property
    def claims(self) -> str:
        """How many hypotheses held and how many stored results came back, as a sentence."""
        if self.results is None or not self.results.claims:
            return "No recorded claims."
        return f"{tally(self.results)}."

    @property
    def hypotheses(self) -> list[tuple[str, str, str]]:
        """Verdict, name and finding of every hypothesis."""
        outcomes = self.results.hypotheses.items() if self.results else ()
        return [(claims.VERDICTS[outcome["holds"]], name, outcome.get("found", "")) for name, outcome in outcomes]

    @property
    def provenance(self) -> str:
        """What the results were made with, empty where none are recorded."""
        if self.results is None:
            return ""
        versions = ", ".join(f"{name} {number}" for name, number in self.results.versions.items())
        device = "" if self.results.device == "cpu" else f"; device {self.results.device}"
        return f"Profile {self.results.profile}; data: {self.results.source}; {versions}{device}."

    def figure(self, content: bytes | None, alt: str, file: str = "", name: str = "") -> Figure:
        """Return what is recorded of a figure that is found by its bytes, else its file's name, else its alt text.

        Of figures that look alike it is the one of that name.
        """
        sha256 = "" if content is None else hashlib.sha256(content).hexdigest()
        tests: list[Callable[[str, Mapping[str, Any]], bool]] = [
            lambda key, entry: key == name and entry["light"]["sha256"] == sha256,
            lambda key, entry: entry["light"]["sha256"] == sha256 and entry["alt"] == alt,
            lambda key, entry: entry["light"]["sha256"] == sha256,
            lambda key, entry: file in (key, entry["light"]["file"]),
            lambda key, entry: bool(alt) and entry["alt"] == alt,
        ]
        for test in tests:
            for key, entry in self.manifest.items():
                if test(key, entry):
                    files = {which: self.asset(entry[which]["file"]) for which in files_of(entry)}
                    contents = {which: file.read_bytes() for which, file in files.items() if file}
                    return Figure(key, entry.get("caption") or first_sentence(entry["alt"]), contents)
        return Figure("", first_sentence(alt), {})
