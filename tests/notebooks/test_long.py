"""A long line takes a time that grows with its length, whoever reads it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbutils.notebook import compare, hygiene
from nbutils.notebook.document import Document, read
from nbutils.notebook.screen import Screen

LENGTH = 100_000
PIECES = [
    "a",
    "1.",
    "$",
    "<a ",
    "<!--",
    "</p>",
    "\\begin{a}",
    "`a``",
    "data:image/png;base64,",
    "url(",
    "\x1b[",
    "/home/",
]


@pytest.mark.parametrize("piece", PIECES)
def test_a_line_is_read_in_linear_time(tmp_path: Path, piece: str) -> None:
    text = piece * (LENGTH // len(piece))
    path = tmp_path / "09-long.ipynb"
    outputs = [new_output("display_data", data={"text/html": text, "text/markdown": text, "text/plain": text})]
    outputs += [new_output("stream", name="stdout", text=text)]
    cells = [new_markdown_cell("# 09 · Long"), new_code_cell("x", execution_count=1, outputs=outputs)]
    notebook = new_notebook(cells=cells)
    nbformat.write(notebook, path)
    screen = Screen(Document(path, read(path)), [], tmp_path)

    start = time.process_time()
    assert compare.compare_text(text, text + "b", compare.Tolerance(), markup=True)
    for check in (hygiene.check_no_absolute_paths, hygiene.check_alt_text):
        list(check(notebook, path, tmp_path))
    for read_by in (screen.preformatted, screen.tidy, screen.markdown):
        with suppress(ValueError):  # a formula that is none
            assert isinstance(read_by(text), str)
    assert time.process_time() - start < 60  # quadratic, some of them would take minutes
