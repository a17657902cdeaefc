"""A cell that was run too early is told which cell sets the name it misses; the error stays as it is."""

import json
from types import SimpleNamespace

from nbutils import hints

CELLS = ["import os\nimport numpy as np", "%time 1", "x = 1  # one\ndef f(y):\n    z = y", "print(x)", "late = f(2)"]


def test_the_cell_is_the_last_above_that_sets_the_name_at_its_top():
    assert "code cell 3 (x = 1  # one). Run it and what is above" in hints.hint("x", CELLS, "print(x)")
    assert "code cell 1 (import numpy as np)" in hints.hint("np", CELLS, "print(x)")
    assert "code cell 3 (def f(y):)" in hints.hint("f", CELLS, "never saved")
    assert "code cell 5 (late = f(2)). That is below" in hints.hint("late", CELLS, "print(x)")
    assert hints.hint("z", CELLS, "print(x)") is None  # set within a function
    assert hints.hint("nowhere", CELLS, "print(x)") is None


def failed(source: str, error: BaseException | None) -> SimpleNamespace:
    return SimpleNamespace(error_in_exec=error, info=SimpleNamespace(raw_cell=source))


def test_only_a_missing_name_of_this_notebook_is_explained(tmp_path, monkeypatch, capsys):
    cells = [{"cell_type": "code", "source": source.splitlines(keepends=True)} for source in CELLS]
    (tmp_path / "09-x.ipynb").write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": []}, *cells]}))
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "09-x.ipynb"))
    missing = NameError("name 'x' is not defined", name="x")
    hints._look(failed("print(x)", missing))
    assert "code cell 3" in capsys.readouterr().out
    for other in (None, ValueError("x"), NameError("no name"), UnboundLocalError("x"), NameError("q", name="q")):
        hints._look(failed("print(x)", other))
    (tmp_path / "09-x.ipynb").write_text("{")
    hints._look(failed("print(x)", missing))
    assert capsys.readouterr().out == ""


def test_it_is_loaded_once():
    registered = []
    events = SimpleNamespace(register=lambda *what: registered.append(what))
    shell = SimpleNamespace(events=events)
    for _ in range(2):
        hints.load_ipython_extension(shell)
    assert registered == [("post_run_cell", hints._look)]
