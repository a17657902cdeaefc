"""Turn executed notebooks into a supplement: offline HTML pages with an index, and PDF documents.

A page holds everything it shows: pictures and scripts are embedded, formulas are MathML, and nothing is
fetched, whoever wrote the notebook (see `nbutils.notebook.clean` and `nbutils.notebook.offline`). Figures, tables and
works have the same numbers on the page and in print (see `nbutils.notebook.anchors`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from nbutils import atomic
from nbutils.notebook import bibliography
from nbutils.notebook import pdf as printing
from nbutils.notebook.chapters import Chapter, complete
from nbutils.notebook.clean import compiled, drawable, policy
from nbutils.notebook.document import PLOTLY, Document, code_cells, opening, read, tags
from nbutils.notebook.export import TEMPLATES, page_of
from nbutils.notebook.offline import external_references, packed
from nbutils.notebook.screen import Screen
from nbutils.notebook.searching import entries
from nbutils.plotting import live
from nbutils.plotting.theme import DARK, LIGHT

TITLE = "Ablation notebooks"
KEY_FIGURE_TAG = "key-figure"  # the cell whose figure stands for the notebook in the index


def render_all(notebooks: Sequence[Path], out: Path, *, pdf: bool = False) -> list[Path]:
    """Write one self-contained HTML page for each notebook, beside the notebook itself, and an index with a search.

    Notebook 00 is the index; where it is not among them, one that lists the notebooks is made. The bytes depend on the
    notebooks, their figures, the bibliography and `CITATION.cff` only. What cannot be shown is a gap on the page and a
    line on stderr.

    Args:
        notebooks: executed notebooks, in reading order. Figures and results are looked for in the folder
            `<stem>` beside the notebook, then in `large-assets/<stem>`.
        out: folder for the pages; made if missing.
        pdf: also write `<stem>.pdf`, and all of them as `supplement.pdf` (extra `pdf`).

    Returns:
        The pages and documents written, the index first.

    Raises:
        FileNotFoundError: a notebook is missing.
        ValueError: a file is not a notebook; a formula cannot be turned into MathML; a picture, an attachment, or a
            figure that is referred to is missing; two notebooks have one page, or there is none.
        ModuleNotFoundError: `pdf` without the extra.
    """
    documents = [Document(path, read(path)) for path in notebooks]
    stems = [document.stem for document in documents]
    if not stems or len(set(map(page_of, stems))) < len(stems):
        raise ValueError(f"expected notebooks with pages of their own, got {', '.join(stems) or 'none'}")
    print_pdf = printing.printer() if pdf else None

    chapters = complete([Screen(document, stems, out) for document in documents])
    pages = {chapter.file: _page(i, chapters) for i, chapter in enumerate(chapters)}
    pages = {"index.html": pages.pop("index.html", None) or _index(chapters)} | pages
    for name, content in pages.items():
        if found := external_references(content):
            raise ValueError(f"{name} would load from outside: {'; '.join(found[:3])}")
    written = [atomic.write(out / name, content) for name, content in pages.items()]
    for document in documents:
        atomic.write(out / document.path.name, document.path.read_bytes())
    if print_pdf:
        prints = {f"{document.stem}.pdf": [document] for document in documents}
        prints |= {"supplement.pdf": documents} if len(documents) > 1 else {}
        written += [atomic.write(out / name, print_pdf(chosen, out)) for name, chosen in prints.items()]
    return written


def _page(position: int, chapters: Sequence[Chapter]) -> str:
    """Return the page of one notebook."""
    chapter = chapters[position]
    document, body = chapter.document, chapter.body
    outputs = [output for _, cell in code_cells(document.notebook) for output in cell.outputs]
    figures = [figure for output in outputs if drawable(figure := output.get("data", {}).get(PLOTLY))]
    scripts = [_script("page.js"), *([_script("plotly-figures.js")] if figures else [])]
    index = chapter.file == "index.html"
    if index:
        scripts.append(_script("search.js"))
    neighbours = {"previous": chapters[:position][-1:], "next": chapters[position + 1 :][:1]}
    links = {name: _listed(other) for name, found in neighbours.items() for other in found}
    modules = [live.on_page(script, _script("live-page.js")) for script in chapter.exporter.modules]
    chapter.open()
    return chapter.template("page.html.j2").render(
        **links,
        **_about(document.title, document.stem),
        body=body.soup,
        contents=[section for section in body.outline if section.level == 2],
        works=sorted(body.cited, key=lambda work: work.plain()),
        notebook=document.path.name,
        provenance=document.provenance,
        dark_theme=_dark_theme() if figures else None,
        plotly=packed(get_plotlyjs()) if figures else None,
        scripts=scripts,
        modules=modules,
        live_style=live.STYLE.read_text(encoding="utf-8") if modules else "",
        policy=policy(
            [*scripts, *modules, *([get_plotlyjs()] if figures else [])], compiles=any(map(compiled, figures))
        ),
        search=_search(chapters) if index else None,
        pages=[_listed(other) for other in chapters if other is not chapter] if index else [],
    )


def _script(name: str) -> str:
    return f"\n{(TEMPLATES / name).read_text(encoding='utf-8').strip()}\n"


def _listed(chapter: Chapter) -> dict[str, str]:
    return {"file": chapter.file, "title": chapter.document.title}


def _about(title: str, stem: str) -> dict[str, Any]:
    """Return what a page says of the collection."""
    about = bibliography.collection()
    return {
        "title": title,
        "home": about.title if about else TITLE,
        "cite": about.cite(title) if about else "",
        "bibtex": about.bibtex(title, stem) if about else "",
    }


def _search(chapters: Sequence[Chapter]) -> str:
    """Return what the search looks through, as JSON that stays inside its `<script>`."""
    found = [entry for chapter in chapters for entry in entries(chapter.body, chapter.file, chapter.document.title)]
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).replace("<", r"\u003c")


def _dark_theme() -> str:
    """Return the colours of the dark theme for the figures of a page, as JSON."""
    light, dark = ((theme.ink, theme.muted, *theme.accents) for theme in (LIGHT, DARK))
    theme = {"colours": dict(zip(light, dark, strict=True)), "layout": DARK.plotly()}
    return json.dumps(theme, sort_keys=True)


def _index(chapters: Sequence[Chapter]) -> str:
    """Return a page that lists the notebooks, for where none of them does."""
    pages = [
        _listed(chapter)
        | {
            "verdict": re.sub(r"^\s*<p>|</p>\s*$", "", _verdict(chapter)),
            "claims": chapter.document.claims,
            "key_figure": _key_figure(chapter),
        }
        for chapter in chapters
    ]
    scripts = [_script("search.js")]
    about = _about(f"{TITLE}: supplement", "supplement")
    resources = {"scripts": scripts, "policy": policy(scripts), "search": _search(chapters)}
    return chapters[0].template("contents.html.j2").render(pages=pages, **resources, **about)


def _verdict(chapter: Chapter) -> str:
    notebook = chapter.document.notebook
    attached = {name: content for cell in notebook.cells for name, content in cell.get("attachments", {}).items()}
    return chapter.exporter.markdown(opening(notebook)[1], attached)


def _key_figure(chapter: Chapter) -> str:
    """Return the first picture of the cell tagged `key-figure`, else of the notebook, else nothing."""
    cells = [cell for _, cell in code_cells(chapter.document.notebook)]
    cells.sort(key=lambda cell: KEY_FIGURE_TAG not in tags(cell))
    outputs = (output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {}))
    return next((chapter.exporter.picture(output, "image/png") for output in outputs), "")
