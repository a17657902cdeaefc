"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from threadpoolctl import threadpool_limits

from nbutils import layout, seeding
from nbutils.plotting import theme

if TYPE_CHECKING:
    import torch

# Two threads on operators of this size wait for each other: one file took 83 seconds of CPU time instead of 7.
for library in ("OMP", "MKL", "OPENBLAS"):  # here, where they are loaded later, and in processes that tests start
    os.environ[f"{library}_NUM_THREADS"] = "1"
threadpool_limits(1)  # those that a plugin of pytest has loaded already
seeding.pin_kernels()  # must be done before the first computation


class Project:
    """An empty project folder to put tiny notebooks into."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("notebooks", "dopesheets", "large-assets"):
            (root / folder).mkdir()

    def write(self, stem: str, *cells: str, parameters: str | None = None) -> Path:
        """Write a notebook: a heading, the parameters cell where one is given, and code cells."""
        content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {stem[:2]} · {stem[3:]}")])
        if parameters is not None:
            content.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        content.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
        path = self.root / "notebooks" / f"{stem}.ipynb"
        nbformat.write(content, path)
        return path

    def files(self) -> dict[str, bytes]:
        """Return the content of every file that would be committed."""
        paths = (path for path in self.root.rglob("*") if path.is_file())
        found = {str(path.relative_to(self.root)): path.read_bytes() for path in paths}
        return {name: content for name, content in found.items() if not name.startswith("build/")}


@pytest.fixture(params=[theme.LIGHT, theme.DARK], ids=lambda look: look.name)
def look(request) -> Iterator[theme.Theme]:
    """Draw in one theme, then in the other."""
    with theme.use(request.param):
        yield request.param


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    """Make an empty project the one that `layout.root` finds."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.setattr(layout, "root", lambda: root)
    monkeypatch.delenv(layout.OUT_VARIABLE, raising=False)
    return Project(root)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start the machine's own Chromium."""
    import browsers

    pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with browsers.launched() as browser:
        yield browser


@pytest.fixture
def page(browser, page_file) -> Iterator[Any]:
    """Open the page of a live figure, `page_file`, which a module makes."""
    import live_pages

    with live_pages.opened(browser, page_file) as page:
        yield page


@pytest.fixture
def device() -> Iterator[torch.device]:
    """Give a GPU where there is one, else a stand-in whose tensors refuse the processor's."""
    import elsewhere
    import torch

    if torch.cuda.is_available():
        allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False  # as `seeding.pin` has it
        yield torch.device("cuda", 0)
        torch.backends.cudnn.allow_tf32 = allowed
    else:
        with elsewhere.device() as device:
            yield device
