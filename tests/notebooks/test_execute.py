"""Notebooks run as copies, fail by name, and are updated only when they succeed."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec

from nbutils import claims, layout
from nbutils.notebook import execute, kernels, parameters

PARAMETERS = 'PROFILE = "quick"\nN_SEEDS: int = 3  # of 100\nKS = [1, 2]\nif N_SEEDS:\n    hidden = 1'
BEGIN = 'from nbutils import claims\nclaims.begin("01-tiny", profile=PROFILE, source="none")'
CHECK = 'claims.check("seeds", N_SEEDS, at_least=2)\nclaims.metric(n=N_SEEDS)\n_ = claims.save()'
FIGURE = """import matplotlib.pyplot as plt
from nbutils.plotting import figures
def draw():
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot([1, N_SEEDS])
    return fig
figures.show(draw, "line", "a line <that> rises")"""

# What `show` leaves behind, without the seconds that drawing takes.
FILES = """import json
from nbutils import atomic
folder = claims.layout.assets("01-tiny")
entry = {look: {"file": atomic.write(folder / f"line.{look}.png", look).name} for look in ("light", "dark")}
_ = atomic.write(folder / "manifest.json", json.dumps({"line": entry}))"""


def outputs(path):
    """Return each code cell's outputs: stream text, or the data of a display."""
    cells = nbformat.read(path, as_version=4).cells
    return [[o.get("text") or o.get("data") for o in c.outputs] for c in cells if c.cell_type == "code"]


def test_run_executes_a_copy_with_parameters_in_this_interpreter(project, tmp_path, monkeypatch):
    # A machine whose "python3" kernel is something else.
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    where = "import os, sys\nprint(sys.executable, os.getcwd(), os.environ['NBUTILS_OUT'], N_SEEDS, KS)"
    notebook = project.write("01-tiny", BEGIN, where, FIGURE, CHECK, parameters=PARAMETERS)
    out = tmp_path / "out"
    (out / "01-tiny").mkdir(parents=True)
    (out / "01-tiny" / "old.png").touch()
    stale = {"old": {"light": {"file": "old.png"}, "dark": {"file": "../../project/notebooks/01-tiny.ipynb"}}}
    (out / "01-tiny" / "manifest.json").write_text(json.dumps(stale))
    before = project.files()

    copy = execute.run(notebook, out, {"N_SEEDS": 7, "KS": (4, 8)})

    assert project.files() == before
    assert copy == out / "01-tiny.ipynb"
    shown = outputs(copy)
    assert shown[3] == [f"{sys.executable} {notebook.parent} {out} 7 [4, 8]\n"]
    tags = [cell.metadata.get("tags") for cell in nbformat.read(copy, as_version=4).cells]
    assert tags.index(["injected-parameters"]) == tags.index(["parameters"]) + 1
    assert claims.load(out / "01-tiny" / "results.json").metrics == {"n": 7}
    assert sorted(path.name for path in (out / "01-tiny").iterdir()) == [
        "line.dark.png",
        "line.png",
        "manifest.json",
        "results.json",
    ]
    # What JupyterLab and nbconvert are given, and that a backend showed the figure only once.
    figure, description = shown[4]
    assert set(figure) == {"image/png", "text/plain"}
    assert figure["text/plain"] == "a line <that> rises"
    assert "a line &lt;that&gt; rises</details>" in description["text/html"]
    stored = nbformat.read(copy, as_version=4).cells[5].outputs[0].metadata
    assert stored["image/png"] == {"alt": "a line <that> rises", "width": 192}
    assert json.loads((out / "01-tiny" / "manifest.json").read_text())["line"]["cell"] == 5


def test_a_failing_cell_is_named_and_the_partial_copy_kept(project, tmp_path):
    notebook = project.write("01-tiny", BEGIN, "print('early')\n" + CHECK, "print('late')", parameters="N_SEEDS = 9")
    notebook.write_text(notebook.read_text().replace("profile=PROFILE", "profile='quick'"))
    with pytest.raises(execute.CellFailure) as failure:
        execute.run(notebook, tmp_path / "out", {"N_SEEDS": 1})
    assert str(failure.value) == ("01-tiny.ipynb, code cell 3 (print('early')): ClaimError: seeds = 1   expected ≥ 2")
    assert failure.value.copy == tmp_path / "out" / "01-tiny.ipynb"
    texts = outputs(failure.value.copy)
    assert texts[3][0].startswith("early\n")
    assert texts[4] == []
    assert claims.load(tmp_path / "out" / "01-tiny" / "results.json").claims["seeds"]["holds"] is False


def test_a_dead_kernel_is_a_failure_of_its_cell(project, tmp_path):
    notebook = project.write("01-tiny", "print('alive')", "import os\nos._exit(1)", "print('late')")
    with pytest.raises(execute.CellFailure, match=r"code cell 2 \(import os\): the kernel died"):
        execute.run(notebook, tmp_path / "out")
    assert outputs(tmp_path / "out" / "01-tiny.ipynb")[0] == ["alive\n"]


def test_a_kernel_that_does_not_start_is_a_failure_before_the_first_cell(project, tmp_path, monkeypatch):
    broken = KernelSpec(argv=[sys.executable, "-c", "", "{connection_file}"], language="python")
    monkeypatch.setattr(kernels.ThisPython, "get_kernel_spec", lambda *_: broken)
    notebook = project.write("01-tiny", "print('late')")
    with pytest.raises(execute.CellFailure, match=r"code cell 0 \(before the first cell\): the kernel died"):
        execute.run(notebook, tmp_path / "out")


def test_an_interrupt_stops_the_run_and_is_not_taken_for_a_failure(project, tmp_path):
    interrupt = "import os, signal, time\nos.kill(os.getppid(), signal.SIGINT)\ntime.sleep(60)"
    notebook = project.write("01-tiny", interrupt)
    # A process that a shell started in the background ignores interrupts.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            execute.run(notebook, tmp_path / "out")
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_unknown_parameters_are_refused_with_the_nearest_names(project, tmp_path):
    notebook = project.write("01-tiny", parameters=PARAMETERS)
    assert parameters.parameter_names(notebook) == ["PROFILE", "N_SEEDS", "KS"]
    with pytest.raises(ValueError, match=r"01-tiny\.ipynb has no parameter n_seed; it has N_SEEDS$"):
        execute.run(notebook, tmp_path / "out", {"n_seed": 8})
    with pytest.raises(ValueError, match=r"no parameter XYZ; it has PROFILE, N_SEEDS, KS$"):
        parameters.check_parameters(notebook, {"N_SEEDS": 1, "XYZ": 2})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["notebooks", "large-assets"])
def test_run_refuses_folders_with_committed_files(project, folder):
    notebook = project.write("01-tiny", "print(1)")
    before = project.files()
    with pytest.raises(ValueError, match="committed files"):
        execute.run(notebook, project.root / folder)
    assert project.files() == before


@pytest.mark.parametrize("text", ["not JSON", "[]", "null", "{}", '{"nbformat": 4, "cells": 3}', '{"nbformat": 4}'])
def test_a_file_that_is_not_a_notebook_is_named(project, tmp_path, text):
    path = project.root / "notebooks" / "01-tiny.ipynb"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"01-tiny\.ipynb is not a notebook"):
        execute.run(path, tmp_path / "out")


def test_update_replaces_everything_or_nothing(project):
    cells = [BEGIN, "print(claims.layout.assets('01-tiny'))", FILES, CHECK]
    notebook = project.write("01-tiny", *cells, parameters=PARAMETERS)
    assets = project.root / "large-assets" / "01-tiny"
    assets.mkdir()
    (assets / "results.real.json").write_text("{}")
    assert execute.update(notebook) == ["claim   seeds   none → 3", "metric   n   none → 3"]
    first = project.files()
    assert sorted(path.name for path in assets.iterdir()) == [
        "line.dark.png",
        "line.light.png",
        "manifest.json",
        "results.json",
        "results.real.json",
    ]
    assert outputs(notebook)[2] == ["large-assets/01-tiny\n"]

    text = notebook.read_text()
    notebook.write_text(text.replace("= 3  #", "= 1  #"))  # the claim needs 2
    broken = project.files()
    with pytest.raises(execute.CellFailure, match="ClaimError"):
        execute.update(notebook)
    assert project.files() == broken

    notebook.write_text(text)
    assert execute.update(notebook) == []
    assert project.files() == first  # two equal runs, equal bytes

    notebook.write_text(text.replace("= 3  #", "= 4  #").replace("line.{look}", "new.{look}"))
    assert execute.update(notebook) == ["claim   seeds   3 → 4", "metric   n   3 → 4"]
    assert not (assets / "line.light.png").exists()
    assert (assets / "new.light.png").exists()
    assert (assets / "results.real.json").read_text() == "{}"


def executed(*, home: str, python: str, process: int, model: str, value: float = 0.5) -> nbformat.NotebookNode:
    """Return a notebook as some machine would have left it."""
    v4 = nbformat.v4
    warning = f"/scratch/ipykernel_{process}/{process * 3}.py:1: UserWarning: slow\n"
    cell = v4.new_code_cell("show()", execution_count=process, metadata={"execution": {"start": str(process)}})
    cell.outputs = [
        v4.new_output("stream", name="stderr", text=f"{process} more on another machine"),
        v4.new_output("stream", name="stdout", text=warning),
        v4.new_output("execute_result", {"text/plain": f"{value} in {home}/data"}, execution_count=process),
        v4.new_output("display_data", {execute.WIDGET_VIEW: {"model_id": model}, "text/plain": "Slider"}),
    ]
    injected = v4.new_code_cell("N = 1", metadata={"tags": ["injected-parameters"]})
    tagged = v4.new_code_cell("N = 2", metadata={"tags": ["parameters"], "nbutils": {"rtol": 0.1}})
    blank = v4.new_code_cell("", execution_count=process)
    notebook = v4.new_notebook(cells=[tagged, injected, blank, cell, nbformat.from_dict(cell | {"id": "again"})])
    notebook.metadata = nbformat.from_dict(
        {
            "language_info": {"name": "python", "version": python},
            "kernelspec": {"name": python, "display_name": "venv"},
            "widgets": {"state": {model: {}}},
            "papermill": {"duration": process},
        }
    )
    return notebook


def normalised(monkeypatch, **machine) -> str:
    monkeypatch.setattr(Path, "home", lambda: Path(machine["home"]))
    notebook = executed(**machine)
    execute.normalise(notebook)
    nbformat.validate(notebook)
    return nbformat.writes(notebook)


def test_two_machines_normalise_to_the_same_bytes_but_two_results_do_not(project, monkeypatch):
    here = {"home": "/people/ann", "python": "3.11.7", "process": 41, "model": "a1"}
    there = {"home": "/staff/bob", "python": "3.13.1", "process": 9, "model": "b2"}
    text = normalised(monkeypatch, **here)
    assert text == normalised(monkeypatch, **there)
    assert text != normalised(monkeypatch, **here, value=0.6)

    notebook = nbformat.reads(text, as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, None, 2, 3]
    assert len({cell.id for cell in notebook.cells}) == 4
    assert notebook.cells[0].metadata == {"tags": ["parameters"], "nbutils": {"rtol": 0.1}}
    assert notebook.cells[2].outputs[1].data["text/plain"] == "0.5 in ~/data"
    assert notebook.cells[2].outputs[0].name == "stdout"  # no stderr
    assert notebook.cells[2].outputs[0].text == "<cell>:1: UserWarning: slow\n"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_cell_ids_follow_the_content_not_the_position(project):
    def ids(*sources):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        execute.normalise(notebook)
        return [cell.id for cell in notebook.cells]

    assert ids("new", "a", "b")[1:] == ids("a", "b")
    assert ids("a", "b") != ids("a", "c")


def test_only_folders_are_shortened(project, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/people/ann"))
    text = f"{layout.root()}/x {sys.prefix}/lib /people/ann/y https://site/people/ann /people/anna/z"
    output = nbformat.v4.new_output("stream", name="stdout", text=text)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    execute.normalise(notebook)
    shortened = notebook.cells[0].outputs[0].text
    assert re.fullmatch(r"\./x <python>/lib ~/y https://site/people/ann /people/anna/z", shortened)


def test_an_output_of_one_long_word_is_looked_through_once(project):
    word = "x" * 400_000  # two minutes where every place of it is a start
    output = nbformat.v4.new_output("stream", name="stdout", text=f"{word} {word}/ipykernel_1/2.py:3: slow")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    execute.normalise(notebook)
    assert notebook.cells[0].outputs[0].text == f"{word} <cell>:3: slow"
