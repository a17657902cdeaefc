"""Bars are silent where nobody watches."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

from nbutils import bars, processes, progress


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


def slow_work():
    """Advance three bars as a worker does."""
    assert list(progress.bar("abc", "letters")) == ["a", "b", "c"]
    with progress.bar(4, "steps") as bar:
        bar.set_postfix_str("unseen")
        bar.update(4)
    list(progress.bar([1], "in a callback", show=False))
    return progress.is_told()


def test_a_worker_tells_its_bars_to_who_waits(monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "silent", lambda: False)
    notes = progress.Notes()
    assert notes.read() == {}
    assert processes._work(notes.of("task"), slow_work)
    assert notes.of("task") != notes.of("other")
    assert notes.read() == {"task": ("steps", 0, 4)}  # its first word; the next one would come half a second later
    notes.of("task").write_text("")  # the moment before a next word is written
    assert notes.read() == {"task": ("steps", 0, 4)}
    monkeypatch.setattr(progress, "silent", lambda: True)
    assert progress.Notes().of("task") is None
    assert not processes._work(None, slow_work)
    assert bars.noted(tmp_path / "none") is None
    (tmp_path / "half").write_text("steps\t1")
    assert bars.noted(tmp_path / "half") is None


def test_a_clock_goes_on_between_two_steps(monkeypatch):
    monkeypatch.setattr(bars, "PERIOD", 0.01)
    shown, asked = [], []
    monkeypatch.setattr(bars.Bar, "display", lambda self, msg=None, pos=None: shown.append(self.n))
    with bars.Bar(total=3, desc="steps", asks=asked.append) as bar:
        bar.update()
        while len(asked) < 3:
            time.sleep(0.01)
    assert len(shown) > 3
    time.sleep(0.03)
    count = len(shown)
    time.sleep(0.05)
    assert len(shown) == count  # it ends with the bar
