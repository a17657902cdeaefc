"""Execute notebooks: `run` a copy with other parameters, `update` the committed one in its place.

Parameters follow papermill's convention: one code cell is tagged `parameters`, and a cell with the given
values is injected below it. The kernel is always the interpreter that runs this module, whatever kernels the
machine has registered. It starts in the notebook's folder, so that relative links work, and writes figures
and results where `NBUTILS_OUT` says. papermill injects the parameters; nbclient executes, because papermill's
engine takes no environment for the kernel, adds cells to a copy that failed, and does not write it atomically.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from nbutils import atomic, claims, layout, progress
from nbutils.notebook.document import LIVE, WIDGET_VIEW, code_cells, read, tags, unstyled
from nbutils.notebook.kernels import INJECTED_TAG, Client, environment
from nbutils.notebook.locks import locked
from nbutils.notebook.parameters import check_parameters
from nbutils.notebook.record import RUN
from nbutils.plotting.manifests import files_of

KEPT_CELL_METADATA = {"tags", "jupyter", "nbutils"}  # "nbutils" holds a cell's own tolerance
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    # Without the version, so that every supported Python writes the same bytes.
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}


class CellFailure(RuntimeError):
    """A cell raised, or the kernel died in it.

    Attributes:
        notebook: the notebook's path.
        cell: which code cell, counted from 1 in the notebook as committed; 0 where the kernel did not start.
        error: the exception's name and text.
        copy: the partially executed copy.
    """

    def __init__(self, notebook: Path, cell: int, source: str, error: str, copy: Path) -> None:
        first = source.strip().splitlines()[0][:72] if source.strip() else "before the first cell"
        super().__init__(f"{notebook.name}, code cell {cell} ({first}): {error}")
        self.notebook, self.cell, self.error, self.copy = notebook, cell, error, copy


def run(notebook: Path, out: Path, parameters: Mapping[str, Any] | None = None) -> Path:
    """Execute a copy of a notebook from a fresh kernel.

    The copy goes to `<out>/<stem>.ipynb`, whether it succeeds or not; figures and `results.json` go to
    `<out>/<stem>/`. Figures and results of an earlier run are removed first; other files there stay.

    Args:
        notebook: the committed notebook; it is only read.
        out: the folder to write to, made where it is missing.
        parameters: values for names of the `parameters` cell: numbers, text, truth values, None, lists.

    Returns:
        The path of the executed copy.

    Raises:
        CellFailure: a cell raised or the kernel died.
        ValueError: an unknown parameter, or an `out` in which committed files live.
    """
    notebook, out = notebook.resolve(), out.resolve()
    if out in (notebook.parent, layout.root() / "large-assets"):
        raise ValueError(f"{out} holds committed files; choose another folder, or update the notebook")
    parameters = dict(parameters or {})
    check_parameters(notebook, parameters)
    content = read(notebook)
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if parameters:
        content = _inject(content, parameters)

    copy = out / notebook.name
    with locked(out, f"run {notebook.stem}"), _old_put_by(copy), environment(notebook, out) as variables:
        client = Client(content, resources={"metadata": {"path": str(notebook.parent)}})
        try:
            with progress.bar(len(code_cells(content)), notebook.stem) as bar:
                client.on_cell_executed = lambda **_: bar.update()
                client.execute_interruptibly(variables)
        except (CellExecutionError, RuntimeError, AssertionError) as error:
            # AssertionError: nbclient trips over a kernel that never started.
            number, source = client.position()
            raise CellFailure(notebook, number, source, _text(error), copy) from None
        finally:
            atexit.unregister(client._cleanup_kernel)  # nbclient forgets to where the kernel did not start
            atomic.write(copy, nbformat.writes(content) + "\n")
    return copy


@contextmanager
def _old_put_by(copy: Path) -> Iterator[None]:
    """Put the copy, figures and results of an earlier run by, and back where the copy of this one cannot be written."""
    made, by = copy.with_suffix(""), copy.with_name(f".{copy.stem}.before")
    shutil.rmtree(by, ignore_errors=True)
    for file in _known_files(made):
        if file.is_file():
            (by / "made").mkdir(parents=True, exist_ok=True)
            os.replace(file, by / "made" / file.name)
    before = copy.stat() if copy.exists() else None
    try:
        yield
    finally:
        replaced = copy.exists() and (before is None or not os.path.samestat(before, copy.stat()))
        if not replaced and by.exists():
            for file in _known_files(made):
                file.unlink(missing_ok=True)
            for file in (by / "made").iterdir():
                os.replace(file, made / file.name)
        shutil.rmtree(by, ignore_errors=True)


def update(notebook: Path) -> list[str]:
    """Execute a notebook with its defaults and put the result, normalised, in its place.

    Everything is made in `build/update/` first and moved when the last cell has succeeded, so a failing
    notebook leaves the committed notebook, figures and results as they were. So does a full disk; a process that is
    killed leaves each file old or new. Figures that the manifest listed before and lists no longer are removed.

    Returns:
        One line for every claim and metric that changed, old → new, and for what a cell wrote to stderr.

    Raises:
        CellFailure: a cell raised or the kernel died; the partial copy stays in `build/update/`.
        ValueError: another update runs.
    """
    staging = layout.root() / "build" / "update"
    made, kept = staging / notebook.stem, layout.root() / "large-assets" / notebook.stem
    with locked(staging, f"update {notebook.stem}"):
        shutil.rmtree(made, ignore_errors=True)
        copy = run(notebook, staging)
        content = read(copy)
        warnings = _stderr(content)
        normalise(content, {str(staging): "large-assets"})

        changes = _changes(_results(kept), _results(made)) + warnings
        files = {file.relative_to(made) for file in made.rglob("*") if file.is_file() and not _hidden(file, made)}
        listed = made / "manifest.json"  # last: it lists the others
        contents = {kept / file: (made / file).read_bytes() for file in sorted(files) if made / file != listed}
        contents[notebook] = (nbformat.writes(content) + "\n").encode()
        if listed.is_file():
            contents[kept / listed.name] = listed.read_bytes()
        atomic.swap(contents, [file for file in _known_files(kept) if file not in contents])
        shutil.rmtree(made, ignore_errors=True)
        copy.unlink()
    return changes


def _stderr(notebook: NotebookNode) -> list[str]:
    """Return the first line that each cell wrote to stderr."""
    found = [(i, output) for i, cell in code_cells(notebook) for output in cell.outputs if _is_stderr(output)]
    return [
        f"stderr   cell {i}   {output.text.strip().splitlines()[0][:100]}" for i, output in found if output.text.strip()
    ]


def _is_stderr(output: NotebookNode) -> bool:
    return output.output_type == "stream" and output.name == "stderr"


def _hidden(file: Path, above: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(above).parts)


def normalise(notebook: NotebookNode, names: Mapping[str, str] | None = None) -> None:
    """Remove in place what differs between two equal runs or two machines.

    Widget state, timing and other tools' metadata, injected parameters, interpreter versions and stderr go; execution
    counts become 1..N; cell ids follow from the content; absolute paths lose their start.

    Args:
        notebook: an executed notebook, format 4.
        names: absolute folders and what to call them, besides the project, Python and home.
    """
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    kept = {key: value for key, value in notebook.metadata.items() if key == "nbutils"}  # its row of the README
    notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA | kept)
    notebook.cells = [cell for cell in notebook.cells if INJECTED_TAG not in tags(cell)]
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in KEPT_CELL_METADATA})
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        if cell.cell_type == "code":
            cell.execution_count = None

    shorten = _shortener(names or {})
    for count, (_, cell) in enumerate(code_cells(notebook), start=1):
        cell.execution_count = count
        cell.outputs = [output for output in cell.outputs if not _is_stderr(output)]
        for i, output in enumerate(cell.outputs):
            cell.outputs[i] = output = nbformat.from_dict(_shortened(output, shorten))
            if output.output_type == "execute_result":
                output.execution_count = count
            if LIVE in output.get("data", {}):  # without a kernel it is the picture that is to be seen
                output.data.pop(WIDGET_VIEW, None)
            if WIDGET_VIEW in output.get("data", {}):
                output.data[WIDGET_VIEW]["model_id"] = f"{cell.id}-{i}"  # kernels draw it at random


def _inject(notebook: NotebookNode, parameters: Mapping[str, Any]) -> NotebookNode:
    from papermill.parameterize import parameterize_notebook

    notebook.metadata.setdefault("papermill", {})  # expected, as are the tags, by what is called below
    for cell in notebook.cells:
        cell.metadata.setdefault("tags", [])
    # papermill writes a tuple as text, but a list as a list.
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in parameters.items()}
    return parameterize_notebook(notebook, plain, kernel_name="python3", language="python")


def _text(error: Exception) -> str:
    """Return the whole of an error's text, without the colours of terminals."""
    if isinstance(error, CellExecutionError):
        text = f"{error.ename}: {error.evalue}"
    else:
        text = f"the kernel died ({error or type(error).__name__}); a common cause is too little memory"
    return unstyled(text).strip()


def _known_files(assets: Path) -> list[Path]:
    """Return what a run writes under known names: results, how they came about, figures and their manifest."""
    manifest = assets / "manifest.json"
    files: list[str] = []
    if manifest.exists():
        try:
            entries = json.loads(manifest.read_text(encoding="utf-8")).values()
            files = [Path(entry[key]["file"]).name for entry in entries for key in files_of(entry)]
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            files = []  # an unreadable manifest says nothing about files; it is replaced all the same
    return [assets / name for name in [*filter(None, files), "manifest.json", "results.json", RUN]]


def _results(assets: Path) -> claims.Results | None:
    try:
        return claims.load(assets / "results.json")
    except (FileNotFoundError, ValueError):
        return None  # nothing that could be compared with; update writes a sound one


def _changes(old: claims.Results | None, new: claims.Results | None) -> list[str]:
    def number(value: float | None) -> str:
        return "not finite" if value is None else f"{value:g}"

    def shown(results: claims.Results | None) -> dict[tuple[str, str], str]:
        if results is None:
            return {}
        verdicts = {k: f"{number(c['value'])}{'' if c['holds'] else ' (fails)'}" for k, c in results.claims.items()}
        kinds = {"claim": verdicts, "metric": {name: number(value) for name, value in results.metrics.items()}}
        kinds["hypothesis"] = {k: claims.VERDICTS[h["holds"]] for k, h in results.hypotheses.items()}
        return {(kind, name): text for kind, texts in kinds.items() for name, text in texts.items()}

    before, after = shown(old), shown(new)
    changed = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    changed.sort(key=lambda key: key[0])  # claims first
    return [f"{k}   {name}   {before.get((k, name), 'none')} → {after.get((k, name), 'none')}" for k, name in changed]


def _shortener(names: Mapping[str, str]) -> list[tuple[re.Pattern[str], str]]:
    """Return patterns for absolute paths and what replaces them, longest folder first."""
    folders = {
        str(Path.home()): "~",
        sys.base_prefix: "<python>",
        sys.prefix: "<python>",
        str(layout.root()): ".",
        **names,
    }
    # Warnings name the cell's temporary file. A word is looked through once, from its start: some have no end.
    patterns = [(re.compile(r"(?<!\S)\S*ipykernel_\d+[/\\]\d+\.py"), "<cell>")]
    for folder in sorted((f for f in folders if len(f) > 1), key=len, reverse=True):
        patterns.append((re.compile(rf"(?<![\w.]){re.escape(folder)}(?=[/\\]|\b)"), folders[folder]))
    return patterns


def _shortened(value: Any, patterns: list[tuple[re.Pattern[str], str]]) -> Any:
    """Return a JSON value with its paths shortened; pictures and packed arrays are left as they are."""
    if isinstance(value, str):
        for pattern, name in patterns:
            value = pattern.sub(name.replace("\\", r"\\"), value)
        return value
    if isinstance(value, Mapping):
        packed = ("bdata", "image/png", "image/jpeg")
        return {key: item if key in packed else _shortened(item, patterns) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item, patterns) for item in value]
    return value
