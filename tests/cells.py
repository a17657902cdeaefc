"""The code cells of a notebook in this process: with other parameters, and without what takes long."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from matplotlib import pyplot

import nbutils as nb

Change = Callable[[dict[str, Any]], None]


def execute(notebook: Path, parameters: Mapping[str, Any], after: Mapping[str, Change] | None = None) -> dict[str, Any]:
    """Execute a notebook's code cells and return their names.

    Figures are drawn once and thrown away, claims are not held to.

    Args:
        notebook: its path.
        parameters: in place of those of the cell tagged `parameters`.
        after: start of a cell's line -> what to change once a cell with such a line is executed.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    with mock.patch.multiple(nb, show=_draw, check=_ignore, create=True):
        for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
            if cell["cell_type"] != "code":
                continue
            source = "".join(cell["source"])
            exec(compile(source, f"{notebook.stem}, cell {number}", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", ()):
                names.update(parameters)
            for start, change in (after or {}).items():
                if any(line.startswith(start) for line in source.splitlines()):
                    change(names)
    return names


def _draw(figure: Any, *_: object, **__: object) -> None:
    drawn = figure() if callable(figure) else figure
    if hasattr(drawn, "canvas"):
        pyplot.close(drawn)


def _ignore(*_: object, **__: object) -> None:
    pass


@contextmanager
def strangers(device: torch.device) -> Iterator[list[str]]:
    """Give a list that networks are entered in that are called, inside the block, with tensors of another device."""
    found: list[str] = []
    call = torch.nn.Module.__call__

    def watched(module: torch.nn.Module, *arguments: Any, **keywords: Any) -> Any:
        tensors = [x for x in (*arguments, *keywords.values()) if isinstance(x, torch.Tensor)]
        if any(tensor.device != device for tensor in tensors):
            found.append(f"{type(module).__name__}: {[str(tensor.device) for tensor in tensors]}")
        return call(module, *arguments, **keywords)

    with mock.patch.object(torch.nn.Module, "__call__", watched):
        yield found
