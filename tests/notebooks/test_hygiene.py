"""Every committed notebook is fit to be an oracle and a supplement; and each check catches what it is for."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbutils import bars, layout
from nbutils.notebook.document import PLOTLY
from nbutils.notebook.hygiene import HYGIENE, MAX_FIGURE_BYTES, MAX_NOTEBOOK_BYTES, MAX_PIXELS, hygiene

NOTEBOOKS = layout.notebooks()
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def test_the_first_notebook_is_there() -> None:
    assert "01-color-cube" in [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("check", HYGIENE)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_clean(path: Path, check: str) -> None:
    assert hygiene(path, only=check) == []


def test_no_asset_folder_is_without_its_notebook() -> None:
    folders = {path.name for path in (layout.root() / "large-assets").iterdir() if path.is_dir()}
    assert folders <= {path.stem for path in NOTEBOOKS}


@dataclass
class Example:
    """A small clean notebook with its figure and results, to be spoilt."""

    path: Path
    assets: Path
    notebook: NotebookNode

    def figure(self, name: str = "plot.png") -> Path:
        return self.assets / name

    def manifest(self) -> dict:
        return json.loads((self.assets / "manifest.json").read_text())


@pytest.fixture
def example(tmp_path: Path) -> Example:
    stem = "07-example"
    assets = tmp_path / "large-assets" / stem
    assets.mkdir(parents=True)
    entry = {"alt": "A dot", "caption": "A dot.", "cell": 2}
    for scheme, file in (("light", "plot.png"), ("dark", "plot.dark.png")):
        (assets / file).write_bytes(PIXEL)
        entry[scheme] = {"file": file, "sha256": hashlib.sha256(PIXEL).hexdigest(), "bytes": len(PIXEL)}
    (assets / "manifest.json").write_text(json.dumps({"plot": entry}))
    record = {"stem": stem, "profile": "quick", "source": "none", "versions": {}, "metrics": {}}
    record["claims"] = {"one": {"value": 1.0, "expect": 1.0, "atol": 0.1, "holds": True}}
    (assets / "results.json").write_text(json.dumps(record))

    picture = new_output("display_data", data={"image/png": base64.b64encode(PIXEL).decode()})
    picture.metadata = {"image/png": {"alt": "A dot"}}
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# 07 · An example\n\nIt holds."),
            new_code_cell("SEED = 0", execution_count=1, metadata={"tags": ["parameters"]}),
            new_code_cell("show(draw, 'plot', 'A dot')", execution_count=2, outputs=[picture]),
            new_code_cell(
                "check('one', 1, expect=1, atol=0.1)",
                execution_count=3,
                outputs=[new_output("stream", name="stdout", text="holds   one = 1   see https://example.org/home/\n")],
            ),
        ]
    )
    return Example(tmp_path / f"{stem}.ipynb", assets, notebook)


def faults(example: Example) -> list[str]:
    nbformat.write(example.notebook, example.path)
    return hygiene(example.path, assets=example.assets)


def test_a_clean_notebook_has_no_faults(example: Example) -> None:
    assert faults(example) == []


def output_of(example: Example) -> NotebookNode:
    return example.notebook.cells[3].outputs[0]


def spoil_claim(example: Example) -> None:
    file = example.assets / "results.json"
    file.write_text(file.read_text().replace("true", "false"))


def spoil_error(example: Example) -> None:
    error = new_output("error", ename="ValueError", evalue="bad", traceback=[])
    example.notebook.cells[3].outputs.append(error)


def large_figure(example: Example) -> None:
    content = bytes(MAX_FIGURE_BYTES)
    manifest = example.manifest()
    manifest["plot"]["light"]["sha256"] = hashlib.sha256(content).hexdigest()
    example.figure().write_bytes(content)
    (example.assets / "manifest.json").write_text(json.dumps(manifest))


def uncaptioned(example: Example) -> None:
    manifest = example.manifest()
    del manifest["plot"]["caption"]
    (example.assets / "manifest.json").write_text(json.dumps(manifest))


SPOILT: dict[str, tuple[Callable[[Example], object], str]] = {
    "a cell without a count": (
        lambda e: e.notebook.cells[2].update(execution_count=None),
        "cell 2: the stored cell was never executed",
    ),
    "cells executed out of order": (
        lambda e: e.notebook.cells[2].update(execution_count=5),
        "cell 2: expected execution count 2, got 5",
    ),
    "a stored error": (spoil_error, "cell 3: the stored output is an error: ValueError: bad"),
    "a large notebook": (
        lambda e: output_of(e).update(text="x" * MAX_NOTEBOOK_BYTES),
        "a notebook stays under 1,000,000",
    ),
    "stderr": (
        lambda e: e.notebook.cells[3].outputs.append(new_output("stream", name="stderr", text="a warning\n")),
        "cell 3: stderr is stored: 'a warning'",
    ),
    "a bar": (
        lambda e: e.notebook.cells[3].outputs.append(new_output("display_data", data={}, metadata=bars.MARK)),
        "cell 3: a progress bar is stored",
    ),
    "a link to nothing": (
        lambda e: e.notebook.cells[0].update(source="# 07 · A\n[a](../none.md#part)"),
        "cell 0: ../none.md is no file of the project",
    ),
    "a link to a folder": (
        lambda e: e.notebook.cells[0].update(source="# 07 · A\n[a](../large-assets) [b](https://example.org)"),
        "cell 0: ../large-assets is no file of the project",
    ),
    "widget state": (lambda e: e.notebook.metadata.update(widgets={}), "metadata.widgets"),
    "a path in an output": (
        lambda e: output_of(e).update(text="saved /tmp/x.png\n"),
        "cell 3: absolute path '/tmp/x.png",
    ),
    "a path in a source": (
        lambda e: e.notebook.cells[1].update(source='DATA = "/home/me/data"'),
        "cell 1: absolute path '/home/me/data",
    ),
    "a Windows path": (
        lambda e: e.notebook.cells[1].update(source=r'D = r"C:\data"'),
        r"absolute path 'C:\\data",
    ),
    "no alt text": (
        lambda e: e.notebook.cells[2].outputs[0].update(metadata={}),
        "cell 2: a figure has no alt text",
    ),
    "an HTML image without alt": (
        lambda e: e.notebook.cells[0].update(source='# 07 · A\n<img src="a.png" alt="">'),
        "cell 0: an image has no alt text",
    ),
    "a deleted figure": (lambda e: e.figure().unlink(), "figure plot: 07-example/plot.png is missing"),
    "a changed figure": (
        lambda e: e.figure("plot.dark.png").write_bytes(PIXEL + b"0"),
        "not the file that the manifest",
    ),
    "a large figure": (large_figure, "a figure stays under 300,000"),
    "a figure without a caption": (uncaptioned, "07-example.ipynb: figure plot: no caption"),
    "a wide figure": (
        lambda e: e.figure().write_bytes(PIXEL[:16] + (MAX_PIXELS + 1).to_bytes(4) + PIXEL[20:]),
        "figure plot: 1089 pixels wide; at most 1088 fit the page",
    ),
    "a figure that only scripts draw": (
        lambda e: e.notebook.cells[2].outputs[0].update(data={PLOTLY: {}}),
        "cell 2: a plotly figure has no picture",
    ),
    "a figure that is not listed": (
        lambda e: e.figure("other.svg").write_bytes(b"<svg/>"),
        "07-example/other.svg is not in the manifest",
    ),
    "no manifest": (lambda e: (e.assets / "manifest.json").unlink(), "manifest.json lists none"),
    "another number": (
        lambda e: e.notebook.cells[0].update(source="# 08 · An example"),
        "expected the first heading to be '# 07 · …', got '# 08 · An example'",
    ),
    "no parameters": (
        lambda e: e.notebook.cells[1].metadata.clear(),
        "expected one code cell tagged 'parameters', got 0",
    ),
    "a long cell": (lambda e: e.notebook.cells[1].update(source="A = 1\n" * 31), "cell 1: 31 lines"),
    "a claim that fails": (spoil_claim, "the claim 'one' does not hold (value 1.0)"),
    "results that are no JSON": (lambda e: (e.assets / "results.json").write_text("{"), "results.json"),
    "no results": (lambda e: (e.assets / "results.json").unlink(), "there is no 07-example/results.json"),
}


def test_a_recorded_run_may_have_claims_that_fail(example: Example) -> None:
    spoil_claim(example)
    results = example.assets / "results.json"
    example.assets.joinpath("results.real.json").write_text(results.read_text())
    assert len(faults(example)) == 1  # of results.json alone


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_spoilt_notebook_is_caught(example: Example, spoil: str) -> None:
    edit, expected = SPOILT[spoil]
    edit(example)
    found = faults(example)
    assert found
    assert all(fault.startswith("07-example.ipynb: ") for fault in found)
    assert any(expected in fault for fault in found), found
