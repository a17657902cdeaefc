"""A file is written whole or not at all."""

from __future__ import annotations

import os

import pytest

from nbutils import atomic


def test_write_makes_folders_and_leaves_only_the_file(tmp_path):
    path = atomic.write(tmp_path / "a" / "b.txt", "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    assert os.listdir(path.parent) == ["b.txt"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = atomic.write(tmp_path / "b.txt", "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        atomic.write(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["b.txt"]
