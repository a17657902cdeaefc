"""Whether a stored notebook, its figures and its results are fit to be committed. Files are read, no kernel starts."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from nbformat import NotebookNode

from nbutils import claims, layout
from nbutils.notebook import bibliography
from nbutils.notebook.chapters import linked
from nbutils.notebook.clean import parsed
from nbutils.notebook.compare import DATA_URI, stored_fault
from nbutils.notebook.document import PLOTLY, Document, alt_text, code_cells, is_bar, read, tags
from nbutils.notebook.screen import Screen
from nbutils.plotting import texts
from nbutils.plotting.figures import PIXELS_PER_INCH, SCREEN_PIXELS_PER_INCH
from nbutils.plotting.live import MAX_LIVE_BYTES, module, parts_of
from nbutils.plotting.manifests import files_of, manifest_of

MAX_NOTEBOOK_BYTES = 1_000_000
MAX_FIGURE_BYTES = 300_000
MAX_CELL_LINES = 30
MAX_PIXELS = 870 * PIXELS_PER_INCH // SCREEN_PIXELS_PER_INCH + 1  # 870 CSS pixels, in those of the files
FIGURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".webp")


def check_executed(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield faults of execution: counts are 1..N from top to bottom and no error is stored."""
    for expected, (i, cell) in enumerate(code_cells(notebook), start=1):
        fault = stored_fault(cell)
        if fault:
            yield f"cell {i}: {fault}"
        elif cell.execution_count != expected:
            yield f"cell {i}: expected execution count {expected}, got {cell.execution_count}"


def check_size(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield a fault where the file is too large to read in a review."""
    size = path.stat().st_size
    if size >= MAX_NOTEBOOK_BYTES:
        yield f"{size:,} bytes; a notebook stays under {MAX_NOTEBOOK_BYTES:,}"


def check_no_widget_state(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield a fault where the metadata store the state of widgets."""
    if "widgets" in notebook.metadata:
        yield "metadata.widgets holds the state of widgets; the next cell says the same statically"


def check_outputs(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield the outputs that are no result: what cells wrote to stderr, and bars of progress."""
    for i, cell in code_cells(notebook):
        for output in cell.outputs:
            if output.get("name") == "stderr":
                yield f"cell {i}: stderr is stored: {output['text'].strip()[:80]!r}"
            elif is_bar(output):
                yield f"cell {i}: a progress bar is stored"


_ABSOLUTE_PATH = re.compile(r"(?<![\w.])/(?:home|root|tmp|Users)/|\bC:\\(?!\\)")


def _written(output: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of an output that a reader sees."""
    if output["output_type"] == "stream":
        yield output["text"]
    elif output["output_type"] == "error":
        yield "\n".join([output["evalue"], *output["traceback"]])
    else:
        for mime, value in output["data"].items():
            if mime.endswith("json"):
                yield from _strings(value)
            elif not mime.startswith(("image/", "application/pdf")):
                yield value


def _strings(value: Any) -> Iterator[str]:
    """Yield the strings of a JSON value, encoded arrays excepted."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key != "bdata":
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def check_no_absolute_paths(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield the absolute paths in sources and outputs: they name one machine."""
    for i, cell in enumerate(notebook.cells):
        texts = [cell.source, *(text for output in cell.get("outputs", ()) for text in _written(output))]
        for text in texts:
            clean = re.sub(DATA_URI, "", text)
            found = _ABSOLUTE_PATH.search(clean)
            if found:
                yield f"cell {i}: absolute path {clean[found.start() : found.start() + 40]!r}"
                break


_MARKDOWN_IMAGE = re.compile(r"!\[\s*\]\(")


def check_alt_text(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield the images without a description: image outputs, `<img>` in HTML, images in Markdown."""
    for i, cell in enumerate(notebook.cells):
        sources = [cell.source] if cell.cell_type == "markdown" else []
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if any(mime.startswith("image/") or mime == PLOTLY for mime in data) and not alt_text(output):
                yield f"cell {i}: a figure has no alt text"
            sources += [data[mime] for mime in ("text/html", "text/markdown") if mime in data]
        for text in sources:
            images = parsed(text).find_all("img")
            if any(not str(tag.get("alt", "")).strip() for tag in images) or _MARKDOWN_IMAGE.search(text):
                yield f"cell {i}: an image has no alt text"


def check_figure_texts(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield figures shown without alt text of their own that `figures.toml` lacks, and entries that no cell shows."""
    yield from texts.faults(path.stem, [cell.source for _, cell in code_cells(notebook)])


def check_figures(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield faults of the figure files: each listed one exists, unchanged and small, and none is unlisted."""
    folders = (assets, *(assets / which for which in layout.RECORDED))
    try:
        manifests = {folder: manifest_of(folder) for folder in folders}
    except ValueError as error:
        yield str(error)
        return
    outputs = (output for _, cell in code_cells(notebook) for output in cell.outputs)
    if not manifests[assets] and any("image/png" in output.get("data", {}) for output in outputs):
        yield f"the notebook shows figures, but {assets.name}/manifest.json lists none"
    listed: set[Path] = set()
    for folder, manifest in manifests.items():
        for name, entry in manifest.items():
            if not entry["alt"].strip():
                yield f"figure {name}: no alt text in the manifest"
            for key in files_of(entry):
                file = folder / entry[key]["file"]
                listed.add(file)
                most = MAX_LIVE_BYTES if key == "live" else MAX_FIGURE_BYTES
                if fault := _file_fault(file, entry[key]["sha256"], most):
                    yield f"figure {name}: {file.relative_to(assets.parent).as_posix()} {fault}"
                elif key == "live" and (fault := _still(file)):
                    yield f"figure {name}: it does not move: {fault}"
    for file in sorted(assets.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(assets).parts)  # editors' and systems' own
        if file.suffix.lower() in FIGURE_SUFFIXES and file not in listed and not hidden:
            yield f"{file.relative_to(assets.parent).as_posix()} is not in the manifest"


def _file_fault(file: Path, sha256: str, most: int) -> str | None:
    if not file.is_file():
        return "is missing"
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        return "is not the file that the manifest describes"
    if len(content) >= most:
        return f"has {len(content):,} bytes; a figure stays under {most:,}"
    return None


def _still(file: Path) -> str | None:
    """Return why what is stored lets no live figure move, or None where it does."""
    try:
        module(parts_of(file.read_bytes())["script"])
    except ValueError as error:
        return str(error)
    return None


def check_shown(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield the figures that are wider than the page, have no caption, or are shown by scripts alone."""
    for i, cell in code_cells(notebook):
        for output in cell.outputs:
            if PLOTLY in output.get("data", {}) and "image/png" not in output["data"]:
                yield f"cell {i}: a plotly figure has no picture; give nb.show a twin"
    for folder in (assets, *(assets / which for which in layout.RECORDED)):
        try:
            entries = manifest_of(folder)
        except ValueError:
            return  # told by `check_figures`
        for name, entry in entries.items():
            figure = f"figure {name}" if folder == assets else f"figure {folder.name}/{name}"
            if folder == assets and not entry.get("caption", "").strip():
                yield f"{figure}: no caption"
            file = folder / entry["light"]["file"]
            width = int.from_bytes(file.read_bytes()[16:20]) if file.is_file() else 0  # of a PNG
            if width > MAX_PIXELS:
                yield f"{figure}: {width} pixels wide; at most {MAX_PIXELS} fit the page"


def check_heading(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield a fault where the first heading is not `# NN · …` with the number of the file name."""
    number = path.stem.split("-")[0]
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    heading = next((line for line in lines if line.startswith("#")), "")
    if not re.match(rf"# {re.escape(number)} · \S", heading):
        yield f"expected the first heading to be '# {number} · …', got {heading!r}"


def check_parameters(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield a fault where there is not exactly one cell tagged `parameters`."""
    count = sum("parameters" in tags(cell) for _, cell in code_cells(notebook))
    if count != 1:
        yield f"expected one code cell tagged 'parameters', got {count}"


def check_cell_length(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield the code cells that are too long to hold one idea."""
    for i, cell in code_cells(notebook):
        lines = len(cell.source.strip().splitlines())
        if lines > MAX_CELL_LINES:
            yield f"cell {i}: {lines} lines; a code cell has at most {MAX_CELL_LINES}"


def check_results(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield faults of the recorded results: they load, and every claim of the notebook as committed holds.

    A recorded run on real data may have claims that fail: those are results, which the README shows.
    """
    makes_claims = any(re.search(r"\bcheck\(", cell.source) for _, cell in code_cells(notebook))
    if makes_claims and not (assets / "results.json").is_file():
        yield f"the notebook makes claims, but there is no {assets.name}/results.json"
    for file in sorted(assets.glob("results*.json")):
        try:
            results = claims.load(file)
        except ValueError as error:
            yield str(error)
            continue
        for name, claim in results.claims.items():
            if not claim["holds"] and file.name == "results.json":
                yield f"{assets.name}/{file.name}: the claim {name!r} does not hold (value {claim['value']})"


def check_references(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield pictures, attachments, figures, tables, headings and works that the prose names and that are not there."""
    try:
        known = bibliography.load()
    except ValueError as error:
        yield str(error)
        return
    for i, cell in enumerate(notebook.cells):
        links = bibliography.PAPER.findall(cell.source) if cell.cell_type == "markdown" else ()
        for url in links:
            if url not in known:
                yield f"cell {i}: {url} has no entry in {bibliography.path().name}"
    stems = [other.stem for other in layout.notebooks()]
    screen = Screen(Document(path, notebook), stems, path.parent)
    others = [Screen(Document(path, read(path)), stems, path.parent) for path in _linked_to(notebook, path)]
    try:
        chapter, *_ = linked([screen, *others])
    except ValueError as error:  # a formula that has no MathML, a manifest or a caption that is none
        yield str(error).removeprefix(f"{path.name}, ")
        return
    for fault in [*chapter.faults, *chapter.warnings]:
        if "not shown: " not in fault:
            yield fault.removeprefix(f"{path.name}, ")


def _linked_to(notebook: NotebookNode, path: Path) -> list[Path]:
    """Return the notebooks beside this one to whose figures and headings it refers."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    names = sorted(set(re.findall(r"\]\(([\w-]+\.ipynb)#", text)) - {path.name})
    return [other for name in names if (other := path.parent / name).is_file()]


_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s#]+)[^)\s]*\)")


def check_links(notebook: NotebookNode, path: Path, assets: Path) -> Iterator[str]:
    """Yield the relative links of the prose that lead to no file of the project; JupyterLab opens no folder."""
    root = path.resolve().parent.parent
    for i, cell in enumerate(notebook.cells):
        texts = [output.get("data", {}).get("text/markdown", "") for output in cell.get("outputs", ())]
        texts += [cell.source] if cell.cell_type == "markdown" else []
        for link in (link for text in texts for link in _LINK.findall(text)):
            target = (path.resolve().parent / unquote(link)).resolve()
            if not (target.is_file() and target.is_relative_to(root)):
                yield f"cell {i}: {link} is no file of the project"


Check = Callable[[NotebookNode, Path, Path], Iterator[str]]

HYGIENE: dict[str, Check] = {
    "executed": check_executed,
    "size": check_size,
    "widget state": check_no_widget_state,
    "outputs": check_outputs,
    "absolute paths": check_no_absolute_paths,
    "alt text": check_alt_text,
    "figures": check_figures,
    "figure texts": check_figure_texts,
    "figures shown": check_shown,
    "heading": check_heading,
    "parameters": check_parameters,
    "cell length": check_cell_length,
    "results": check_results,
    "references": check_references,
    "links": check_links,
}


def hygiene(path: Path, *, assets: Path | None = None, only: str | None = None) -> list[str]:
    """Return what is wrong with a stored notebook and its figures and results, one line per fault.

    Args:
        path: the notebook.
        assets: folder with its figures and results; `large-assets/<stem>` of the project where None.
        only: name of one check of `HYGIENE`; all where None.

    Raises:
        FileNotFoundError: there is no such notebook.
        ValueError: it is not a notebook.
        KeyError: `only` names no check.
    """
    if only is not None and only not in HYGIENE:
        raise KeyError(f"no hygiene check {only!r}; there are {', '.join(HYGIENE)}")
    notebook = read(path)
    folder = layout.root() / "large-assets" / path.stem if assets is None else assets
    checks = HYGIENE.values() if only is None else [HYGIENE[only]]
    return [f"{path.name}: {fault}" for check in checks for fault in check(notebook, path, folder)]


def main() -> int:
    """Print the faults of all committed notebooks; return 1 where there are some."""
    faults = [fault for path in layout.notebooks() for fault in hygiene(path)]
    print(*faults, sep="\n", end="\n" * bool(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
