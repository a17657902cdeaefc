"""JupyterLab on the project: links work, reading leaves git clean, dark figures in the dark, hints from the first cell.

`make lab` starts it. What Lab writes when it saves a notebook that was only read differs from what is stored: the
kernel's version of Python, `1` for `1.0`, a picture beside each plotly figure, bars that have ended. `Contents` hands
Lab what it would write, so that nothing is to be saved, and stores what was stored.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from nbformat import NotebookNode
from tornado.web import HTTPError

from nbutils import hints, layout
from nbutils.notebook.document import LIVE, PLOTLY, WIDGET_VIEW, is_bar

PICTURE = "image/png"  # of a plotly figure, drawn and added by the browser


class Contents(AsyncLargeFileManager):
    """Jupyter's files; a notebook that was only read is saved as it was."""

    async def get(self, path: str, content: bool = True, *args: Any, **options: Any) -> dict[str, Any]:
        """Return a file; a notebook says that it was run by this Python, as Lab will when the kernel has started."""
        model = await super().get(path, content, *args, **options)
        if content and model["type"] == "notebook":
            model["content"].metadata["language_info"] = NotebookNode(IPythonKernel.language_info)
        return model

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Save a file; of a notebook, what is the same as stored stays as stored."""
        if model.get("type") == "notebook" and model.get("content"):
            stored = None
            with suppress(HTTPError, OSError):  # there is none yet, or no notebook
                stored = (await super().get(path, type="notebook"))["content"]
            keep(model["content"], stored)
        return await super().save(model, path)


def keep(content: dict[str, Any], stored: Mapping[str, Any] | None) -> None:
    """Make in place of what Lab saves what the project stores.

    Bars that are over, and outputs that are emptied, go; so does a live figure's widget, which lives as long as its
    kernel: whoever opens the notebook later sees the picture. An output that equals the stored one, but for the form
    of numbers and the browser's picture of a plotly figure, becomes that one; so do the language's particulars.

    Args:
        content: a notebook of format 4, as Lab sends it.
        stored: the one in the file, or None.
    """
    before = {cell.get("id"): cell for cell in stored["cells"]} if stored else {}
    if stored and "language_info" in stored["metadata"]:
        content["metadata"]["language_info"] = stored["metadata"]["language_info"]
    for cell in content["cells"]:
        if cell["cell_type"] != "code":
            continue
        old = before.get(cell.get("id"), {}).get("outputs", [])
        cell["outputs"] = [output for output in cell["outputs"] if not is_bar(output)]
        for output in cell["outputs"]:
            if LIVE in output.get("data", {}):
                output["data"].pop(WIDGET_VIEW, None)
        for place, (new, kept) in enumerate(zip(cell["outputs"], old, strict=False)):
            if _drawn_by_hand(new) == _drawn_by_hand(kept):
                cell["outputs"][place] = kept


def _drawn_by_hand(output: Mapping[str, Any]) -> Any:
    """Return an output as plain data, without what the browser adds to a plotly figure."""
    plain = dict(output)
    if PLOTLY in output.get("data", {}):
        plain["data"] = {mime: value for mime, value in output["data"].items() if mime != PICTURE}
        plain["metadata"] = {mime: value for mime, value in output["metadata"].items() if mime != PICTURE}
    return plain


class Kernels(KernelSpecManager):
    """Knows one kernel, the interpreter that runs Lab, and has it print hints from the first cell on."""

    def find_kernel_specs(self) -> dict[str, str]:
        """Return the name and folder of the one kernel."""
        return {"python3": RESOURCES}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return how it is started, whatever the name: a stored one may be another machine's."""
        spec = get_kernel_dict()
        spec["argv"] = [*spec["argv"], f"--ext={hints.__name__}"]
        return KernelSpec(resource_dir=RESOURCES, **spec)


def options() -> list[str]:
    """Return the options of JupyterLab: it serves the project's root and opens the first notebook."""
    first = layout.notebooks()[0].relative_to(layout.root()).as_posix()
    return [
        f"--ServerApp.root_dir={layout.root()}",
        f"--LabApp.default_url=/lab/tree/{first}",
        f"--ServerApp.contents_manager_class={__name__}.{Contents.__name__}",
        f"--ServerApp.kernel_spec_manager_class={__name__}.{Kernels.__name__}",
        f"--LabApp.extra_labextensions_path={Path(__file__).parent / 'templates' / 'lab'}",
    ]


def main() -> None:
    """Start JupyterLab with these options, unless the command line says otherwise, and those of the command line."""
    from jupyterlab.labapp import LabApp

    given = {option.split("=")[0] for option in sys.argv[1:]}
    ours = [option for option in options() if option.split("=")[0] not in given]
    LabApp.launch_instance([*ours, *sys.argv[1:]])


if __name__ == "__main__":
    # By its own name: options name classes of it, and a module run as a script has another.
    from nbutils.notebook.lab import main as _main

    _main()
