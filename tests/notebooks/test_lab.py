"""JupyterLab as `make lab` starts it: what was only read is saved as it was, and what it needs is there."""

from __future__ import annotations

import asyncio
import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from jupyterlab_server.config import get_federated_extensions
from nbformat.v4 import new_code_cell, new_notebook, new_output

from nbutils import bars, layout
from nbutils.notebook import lab
from nbutils.notebook.document import LIVE, PLOTLY, WIDGET_VIEW


def as_lab_sends(value: Any) -> Any:
    """Return JSON as a browser has it: a whole number has no point, a plotly figure has a picture beside it."""
    if isinstance(value, dict):
        plain = {key: as_lab_sends(item) for key, item in value.items()}
        return plain | {"image/png": "drawn here"} if PLOTLY in plain and "data" in plain[PLOTLY] else plain
    if isinstance(value, list):
        return [as_lab_sends(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_and_saved(path: Path, folder: Path, *, kept: bool) -> bytes:
    """Return the file after Lab has opened and saved a copy of it."""
    file = Path(shutil.copy(path, folder))
    manager = (lab.Contents if kept else lab.AsyncLargeFileManager)(root_dir=str(folder))
    model = asyncio.run(manager.get(file.name))
    model["content"] = as_lab_sends(json.loads(json.dumps(model["content"])))
    model["content"]["metadata"]["language_info"] = copy.deepcopy(lab.IPythonKernel.language_info)
    asyncio.run(manager.save(model, file.name))
    return file.read_bytes()


@pytest.mark.parametrize("path", layout.notebooks(), ids=lambda path: path.stem)
def test_a_notebook_that_was_only_read_is_saved_as_it_was(path, tmp_path):
    assert read_and_saved(path, tmp_path, kept=True) == path.read_bytes()


def test_jupyters_own_files_would_change_it(tmp_path):
    path = layout.notebooks()[0]
    assert read_and_saved(path, tmp_path, kept=False) != path.read_bytes()


def test_an_opened_notebook_says_already_what_the_kernel_will(tmp_path):
    path = layout.notebooks()[0]
    shutil.copy(path, tmp_path)
    model = asyncio.run(lab.Contents(root_dir=str(tmp_path)).get(path.name))
    assert model["content"]["metadata"]["language_info"]["version"] == sys.version.split()[0]
    assert b"version" not in path.read_bytes().split(b'"language_info"')[1]


def test_what_was_run_is_saved_without_its_bars():
    old = new_output("stream", text="1.5")
    stored = new_notebook(cells=[new_code_cell("x", outputs=[old], id="a")])
    bar = new_output("display_data", data={"text/plain": "50%"}, metadata=bars.MARK)
    over = new_output("display_data", data={}, metadata=bars.MARK)
    sent = json.loads(json.dumps(stored))
    table = new_output("display_data", data={"text/plain": "1"})
    sent["cells"][0]["outputs"] = [bar, over, new_output("stream", text="2.5"), table]
    lab.keep(sent, stored)
    assert sent["cells"][0]["outputs"] == [new_output("stream", text="2.5"), table]
    lab.keep(sent, None)  # a new file
    assert len(sent["cells"][0]["outputs"]) == 2


def test_a_live_figure_is_saved_as_its_picture():
    view = {"model_id": "of a kernel that will have ended"}
    live = new_output("display_data", data={LIVE: {"figure": "a"}, WIDGET_VIEW: view, "image/png": "drawn"})
    slider = new_output("display_data", data={WIDGET_VIEW: view})  # it has no picture
    content = new_notebook(cells=[new_code_cell("x", outputs=[live, slider])])
    lab.keep(content, None)
    assert [[*output["data"]] for output in content["cells"][0]["outputs"]] == [[LIVE, "image/png"], [WIDGET_VIEW]]


def test_lab_knows_this_interpreter_alone_and_the_figures_extension():
    kernels = lab.Kernels().get_all_specs()
    assert [*kernels] == ["python3"]
    assert kernels["python3"]["spec"]["argv"][0] == sys.executable
    options = dict(option.removeprefix("--").split("=", 1) for option in lab.options())
    assert Path(options["ServerApp.root_dir"], options["LabApp.default_url"].removeprefix("/lab/tree/")).is_file()
    extension = get_federated_extensions([options["LabApp.extra_labextensions_path"]])["nbutils"]
    script = Path(extension["ext_path"], extension["jupyterlab"]["_build"]["load"])
    assert f"_JUPYTERLAB.{extension['name']} =" in script.read_text()
