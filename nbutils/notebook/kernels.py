"""The kernel of a notebook: this interpreter, in an environment that says nothing of the user's own settings."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from nbclient import NotebookClient
from nbformat import NotebookNode

from nbutils import layout, progress
from nbutils.notebook import endings
from nbutils.notebook.document import code_cells, tags
from nbutils.notebook.parameters import TAG

INJECTED_TAG = f"injected-{TAG}"  # papermill's name
# What a user may have set for terminals and scripts, and what would change outputs.
_OWN = (
    *("MPLBACKEND", "MATPLOTLIBRC", "PLOTLY_RENDERER", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE"),
    *("PY_COLORS", "PYTHON_COLORS", "COLUMNS", "LINES", "LANG", "LANGUAGE", "PYTHONSTARTUP", "PYTHONOPTIMIZE"),
    *("PYTHONDEVMODE", "PYTHONWARNDEFAULTENCODING", "PYTHONPROFILEIMPORTTIME", "PYTHONVERBOSE", "PYTHONASYNCIODEBUG"),
    *("TORCH_LOGS", "MKL_VERBOSE"),
    *("PYTHONWARNINGS", "PYTHONINSPECT", "PYTHONIOENCODING", "IPYTHONDIR", "JPY_SESSION_NAME"),
)
_PATHS = ("NBUTILS_DATA", "PYTHONPATH")  # relative to the caller's folder; the kernel starts in another


def resolved(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment whose paths are absolute, so that they mean the same in every folder."""
    changed = dict(environment)
    for name in _PATHS:
        if changed.get(name):
            parts = changed[name].split(os.pathsep) if name == "PYTHONPATH" else [changed[name]]
            changed[name] = os.pathsep.join(str(layout.expanded(part).absolute()) for part in parts)
    return changed


@contextmanager
def environment(notebook: Path, out: Path) -> Iterator[dict[str, str]]:
    """Give the environment of a notebook's kernel: the caller's, without settings for IPython, matplotlib, terminals.

    Args:
        notebook: the notebook, whose stem alone may be written under.
        out: folder for figures and results.
    """
    with TemporaryDirectory(prefix="nbutils-ipython-") as profile:
        kept = {name: value for name, value in resolved(os.environ).items() if name not in _OWN}
        kept = {name: value for name, value in kept.items() if not name.startswith("LC_")}
        found = find_spec("matplotlib")
        if found and found.submodule_search_locations:  # matplotlib's own defaults, not those of the user's folder
            kept["MATPLOTLIBRC"] = str(Path(found.submodule_search_locations[0]) / "mpl-data" / "matplotlibrc")
        ours = {layout.OUT_VARIABLE: str(out), layout.STEM_VARIABLE: notebook.stem, progress.SILENT_VARIABLE: "1"}
        yield kept | ours | {"IPYTHONDIR": profile, "PYTHONUTF8": "1", "LC_ALL": "C.UTF-8"}


class ThisPython(KernelSpecManager):
    """Knows one kernel, whatever its name: the running interpreter."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return how the running interpreter is started as a kernel."""
        from ipykernel.kernelspec import get_kernel_dict

        return KernelSpec(resource_dir="", **get_kernel_dict())


class Client(NotebookClient):
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
        """Return a manager that knows this interpreter only."""
        self.km = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisPython())
        return self.km

    def execute_interruptibly(self, environment: Mapping[str, str]) -> None:
        """Execute all cells; an interrupt ends the kernel with its workers and is raised as such.

        In the main thread nbclient would take SIGINT for itself and report a dead kernel.
        """
        with ThreadPoolExecutor(1) as thread:
            done = thread.submit(lambda: asyncio.run(self.async_execute(env=environment)))
            try:
                done.result()
            except KeyboardInterrupt:
                while not done.done():  # the kernel may be about to start
                    self._kill()
                    wait([done], timeout=0.2)
                raise

    def _kill(self) -> None:
        kernel = self.km.provisioner if self.km else None
        if not isinstance(kernel, LocalProvisioner) or not kernel.process:
            return
        endings.kill(endings.descendants(kernel.process.pid))
        with suppress(ProcessLookupError):
            if kernel.pgid:
                os.killpg(kernel.pgid, signal.SIGKILL)  # with the worker processes it may have started
            else:
                kernel.process.kill()

    def position(self) -> tuple[int, str]:
        """Return number and source of the cell last entered; an injected one has the number before it."""
        if self.running < 0:
            return 0, ""
        entered = [cell for i, cell in code_cells(self.nb) if i <= self.running]
        return sum(INJECTED_TAG not in tags(cell) for cell in entered), entered[-1].source

    def _enter(self, cell: NotebookNode, cell_index: int) -> None:
        self.running = cell_index
