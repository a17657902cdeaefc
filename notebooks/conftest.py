"""Make `pytest --nbval` compare as `nbutils.notebook.compare` does, in kernels that leave no files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from nbutils.notebook import compare, document, kernels


class NotebookCell(IPyNbCell):
    """A code cell: executed by nbval, compared by the project."""

    def runtest(self) -> None:
        """Execute the cell, compare its outputs, and fail where the stored cell is no reference."""
        if document.SKIPPED_TAG in document.tags(self.cell):
            pytest.skip(f"tagged {document.SKIPPED_TAG}")
        fault = compare.stored_fault(self.cell)
        if not (fault and self.options["skip"]):  # a skipped cell must have been executed all the same
            super().runtest()
        if fault:
            self.raise_cell_error(fault)

    def compare_outputs(self, test: list[Any], ref: list[Any], skip_compare: Any = None) -> bool:
        """Return whether the computed outputs agree with the stored ones, and say where they do not."""
        why = compare.compare_outputs(ref, test, compare.Tolerance.of(self.cell))
        self.comparison_traceback = [] if why is None else [f"cell {self.cell_num}, {why}"]
        return why is None


class NotebookFile(IPyNbFile):
    """A notebook: its kernel is that of `run`, and writes figures and results to a temporary folder."""

    def setup(self) -> None:
        """Start the kernel; only the kernel sees the changed environment."""
        self.rooms = ExitStack()
        folder = self.rooms.enter_context(tempfile.TemporaryDirectory(prefix="nbval-"))
        variables = self.rooms.enter_context(kernels.environment(self.path, Path(folder)))
        with pytest.MonkeyPatch.context() as patch:
            for name in os.environ.keys() - variables.keys():
                patch.delenv(name)
            for name, value in variables.items():
                patch.setenv(name, value)
            try:
                super().setup()
            except RuntimeError:  # two kernels that start together can pick the same port, and one dies
                super().setup()
        # IPython looks for a `;` that ends a cell in its history.
        send = self.kernel.kc.execute
        self.kernel.kc.execute = lambda code, **options: send(code, **options | {"store_history": True})

    def teardown(self) -> None:
        """Stop the kernel and remove its folders."""
        super().teardown()
        self.rooms.close()

    def collect(self) -> Iterator[NotebookCell]:
        """Yield the code cells."""
        content = document.read(self.path)  # as for every command: what is no notebook is named, with the reason
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nbformat, "read", lambda *_, **__: content)
            cells = list(super().collect())
        for cell in cells:
            yield NotebookCell.from_parent(
                self, name=cell.name, cell_num=cell.cell_num, cell=cell.cell, options=cell.options
            )


def pytest_configure(config: pytest.Config) -> None:
    """Run kernels in the interpreter that runs pytest unless one is named: a stored name may be another's."""
    if config.option.nbval_kernel_name is None:
        config.option.nbval_current_env = True


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Iterator[None]:
    """Put the project's notebook collector in the place of nbval's."""
    collected = yield
    if file_path.name.startswith("."):  # an editor's or a system's own, as `._01-color-cube.ipynb`
        return [node for node in collected if type(node) is not IPyNbFile]
    return [
        NotebookFile.from_parent(node.parent, path=node.path) if type(node) is IPyNbFile else node for node in collected
    ]
