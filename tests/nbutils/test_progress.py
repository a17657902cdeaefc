"""Bars are silent where nobody watches."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from nbutils import progress


def pretend_terminal(monkeypatch, **streams):
    """Pretend to be a person's terminal, outside pytest, whose capture replaces streams before each call."""
    monkeypatch.delenv("PYTEST_VERSION", raising=False)
    monkeypatch.delenv(progress.SILENT_VARIABLE, raising=False)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, SimpleNamespace(isatty=lambda name=name: streams.get(name, True)))


def test_a_terminal_shows_bars_until_asked_not_to(monkeypatch):
    pretend_terminal(monkeypatch)
    assert not progress.silent()
    monkeypatch.setenv(progress.SILENT_VARIABLE, "1")
    assert progress.silent()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_redirected_stream_silences_bars_except_in_a_notebook(monkeypatch, stream):
    pretend_terminal(monkeypatch, **{stream: False})
    assert progress.silent()
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    assert not progress.silent()


def test_pytest_and_nbval_silence_bars(monkeypatch):
    pretend_terminal(monkeypatch)
    assert not progress.silent()
    monkeypatch.setenv("PYTEST_VERSION", "8")  # pytest sets it, and nbval's kernels inherit it
    assert progress.silent()


def test_a_silent_bar_still_counts(capsys):
    assert list(progress.bar([1, 2], "items")) == [1, 2]
    with progress.bar(3, "steps") as bar:
        bar.update()
        assert bar.total == 3
    assert capsys.readouterr() == ("", "")
