"""Execute notebooks: `run` a copy with other parameters, `update` the committed one in its place.

Parameters follow papermill's convention: one code cell is tagged `parameters`, and a cell with the given
values is injected below it. The kernel is always the interpreter that runs this module, whatever kernels the
machine has registered. It starts in the notebook's folder, so that relative links work, and writes figures
and results where `NBUTILS_OUT` says. papermill injects the parameters; nbclient executes, because papermill's
engine takes no environment for the kernel, adds cells to a copy that failed, and does not write it atomically.
"""

from __future__ import annotations

import ast
import asyncio
import atexit
import difflib
import hashlib
import json
import os
import re
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from nbutils import atomic, claims, layout, progress
from nbutils.notebook.document import WIDGET_VIEW, code_cells, read, tags

PARAMETERS_TAG = "parameters"  # papermill's name
INJECTED_TAG = "injected-parameters"  # papermill's name
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
        error: the exception's name and first line.
        copy: the partially executed copy.
    """

    def __init__(self, notebook: Path, cell: int, source: str, error: str, copy: Path) -> None:
        first = source.strip().splitlines()[0][:72] if source.strip() else "before the first cell"
        super().__init__(f"{notebook.name}, code cell {cell} ({first}): {error}")
        self.notebook, self.cell, self.error, self.copy = notebook, cell, error, copy


def parameter_names(notebook: Path) -> list[str]:
    """Return the names assigned in the cell tagged `parameters`, in order; none where there is no such cell.

    Raises:
        ValueError: the file is not a notebook, or the cell is not valid Python.
    """
    # papermill's inspection reads lines: it misses `A = B = 1`, takes text for code, and passes what does not parse.
    source = next((cell.source for _, cell in code_cells(read(notebook)) if PARAMETERS_TAG in tags(cell)), "")
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"{notebook.name}: the parameters cell is not valid Python: {error}") from None
    targets = [s.targets if isinstance(s, ast.Assign) else [getattr(s, "target", None)] for s in statements]
    names = [target.id for group in targets for target in group if isinstance(target, ast.Name)]
    return list(dict.fromkeys(names))


def check_parameters(notebook: Path, names: Iterable[str]) -> None:
    """Raise one ValueError that names the notebook, each unknown parameter, and the nearest known ones."""
    known = parameter_names(notebook)
    unknown = [name for name in names if name not in known]
    if unknown:
        near = [match for name in unknown for match in difflib.get_close_matches(name.upper(), known, cutoff=0.5)]
        hint = ", ".join(dict.fromkeys(near or known)) or "none at all"
        raise ValueError(f"{notebook.name} has no parameter {', '.join(unknown)}; it has {hint}")


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
    copy = out / notebook.name
    _forget(out / notebook.stem)

    content = read(notebook)
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if parameters:
        content = _inject(content, parameters)

    environment = os.environ | {layout.OUT_VARIABLE: str(out), progress.SILENT_VARIABLE: "1"}
    client = _Client(content, resources={"metadata": {"path": str(notebook.parent)}})
    try:
        with progress.bar(len(code_cells(content)), notebook.stem) as bar:
            client.on_cell_executed = lambda **_: bar.update()
            client.execute_interruptibly(environment)
    except (CellExecutionError, RuntimeError, AssertionError) as error:
        # AssertionError: nbclient trips over a kernel that never started.
        number, source = client.position()
        raise CellFailure(notebook, number, source, _one_line(error), copy) from None
    finally:
        atexit.unregister(client._cleanup_kernel)  # nbclient forgets to where the kernel did not start
        atomic.write(copy, nbformat.writes(content) + "\n")
    return copy


def update(notebook: Path) -> list[str]:
    """Execute a notebook with its defaults and put the result, normalised, in its place.

    Everything is made in `build/update/` first and moved when the last cell has succeeded, so a failing
    notebook leaves the committed notebook, figures and results as they were. Figures that the manifest listed
    before and lists no longer are removed.

    Returns:
        One line for every claim and metric that changed, old → new.

    Raises:
        CellFailure: a cell raised or the kernel died; the partial copy stays in `build/update/`.
    """
    staging = layout.root() / "build" / "update"
    made, kept = staging / notebook.stem, layout.root() / "large-assets" / notebook.stem
    shutil.rmtree(made, ignore_errors=True)
    copy = run(notebook, staging)
    content = read(copy)
    normalise(content, {str(staging): "large-assets"})

    changes = _changes(_results(kept), _results(made))
    _forget(kept)
    for file in sorted(path for path in made.rglob("*") if path.is_file()):
        atomic.write(kept / file.relative_to(made), file.read_bytes())
    atomic.write(notebook, nbformat.writes(content) + "\n")  # last: it refers to the others
    shutil.rmtree(made, ignore_errors=True)
    copy.unlink()
    return changes


def normalise(notebook: NotebookNode, names: Mapping[str, str] | None = None) -> None:
    """Remove in place what differs between two equal runs or two machines.

    Widget state, timing and other tools' metadata, injected parameters and interpreter versions go; execution
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
        for i, output in enumerate(cell.outputs):
            cell.outputs[i] = output = nbformat.from_dict(_shortened(output, shorten))
            if output.output_type == "execute_result":
                output.execution_count = count
            if WIDGET_VIEW in output.get("data", {}):
                output.data[WIDGET_VIEW]["model_id"] = f"{cell.id}-{i}"  # kernels draw it at random


class _ThisPython(KernelSpecManager):
    """Knows one kernel, whatever its name: the running interpreter."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        from ipykernel.kernelspec import get_kernel_dict

        return KernelSpec(resource_dir="", **get_kernel_dict())


class _Client(NotebookClient):
    """Runs this interpreter as the kernel and knows which cell it is in."""

    def __init__(self, content: NotebookNode, **options: Any) -> None:
        super().__init__(
            content,
            timeout=None,  # a full run takes hours
            store_widget_state=False,
            record_timing=False,
            coalesce_streams=True,
            # Errors of cells arrive as outputs; the kernel's own log would only disturb the terminal.
            extra_arguments=["--log-level=CRITICAL"],
            **options,
        )
        self.running = -1
        self.on_cell_execute = self._enter

    def create_kernel_manager(self) -> AsyncKernelManager:
        self.km = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=_ThisPython())
        return self.km

    def execute_interruptibly(self, environment: Mapping[str, str]) -> None:
        """Execute all cells; an interrupt ends the kernel and is raised as such.

        In the main thread nbclient would take SIGINT for itself and report a dead kernel.
        """
        with ThreadPoolExecutor(1) as thread:
            done = thread.submit(lambda: asyncio.run(self.async_execute(env=environment)))
            try:
                done.result()
            except KeyboardInterrupt:
                kernel = self.km.provisioner if self.km else None
                if isinstance(kernel, LocalProvisioner) and kernel.pgid:
                    os.killpg(kernel.pgid, signal.SIGKILL)  # with the worker processes it may have started
                elif isinstance(kernel, LocalProvisioner) and kernel.process:
                    kernel.process.kill()
                raise

    def position(self) -> tuple[int, str]:
        """Return number and source of the cell last entered; an injected one has the number before it."""
        if self.running < 0:
            return 0, ""
        entered = [cell for i, cell in code_cells(self.nb) if i <= self.running]
        return sum(INJECTED_TAG not in tags(cell) for cell in entered), entered[-1].source

    def _enter(self, cell: NotebookNode, cell_index: int) -> None:
        self.running = cell_index


def _inject(notebook: NotebookNode, parameters: Mapping[str, Any]) -> NotebookNode:
    from papermill.parameterize import parameterize_notebook

    notebook.metadata.setdefault("papermill", {})  # expected, as are the tags, by what is called below
    for cell in notebook.cells:
        cell.metadata.setdefault("tags", [])
    # papermill writes a tuple as text, but a list as a list.
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in parameters.items()}
    return parameterize_notebook(notebook, plain, kernel_name="python3", language="python")


def _one_line(error: Exception) -> str:
    if isinstance(error, CellExecutionError):
        text = f"{error.ename}: {error.evalue}"
    else:
        text = f"the kernel died ({error or type(error).__name__}); a common cause is too little memory"
    return text.strip().splitlines()[0]


def _forget(assets: Path) -> None:
    """Remove what a run writes under known names: results, and the figures the manifest lists."""
    manifest = assets / "manifest.json"
    if manifest.exists():
        try:
            entries = json.loads(manifest.read_text(encoding="utf-8")).values()
            files = [entry[look]["file"] for entry in entries for look in ("light", "dark")]
        except (ValueError, KeyError, TypeError, AttributeError):
            files = []  # an unreadable manifest says nothing about files; it is replaced all the same
        for file in files:
            (assets / Path(file).name).unlink(missing_ok=True)
    for name in ("manifest.json", "results.json"):
        (assets / name).unlink(missing_ok=True)


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
    patterns = [(re.compile(r"\S*ipykernel_\d+[/\\]\d+\.py"), "<cell>")]  # warnings name the cell's temporary file
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
