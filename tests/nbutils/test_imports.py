"""What importing costs, and which module may import which."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nbutils import layout

HEAVY = ("torch", "pandas", "matplotlib", "numpy")
LIGHT_MODULES = ("nbutils", "nbutils.claims", "nbutils.layout", "nbutils.progress")


def heavy_after(statement: str) -> list[str]:
    """Return which heavy packages a fresh interpreter holds after a statement."""
    program = f"import sys\n{statement}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return done.stdout.split()


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_light_modules_import_nothing_heavy(module):
    assert heavy_after(f"import {module}") == []


def test_the_check_sees_heavy_imports():
    assert heavy_after("import pandas") == ["pandas", "numpy"]


def test_importing_the_package_takes_under_100_ms():
    def seconds(statement: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - start

    # The fastest of several: other work on the machine only ever adds time.
    times = [(seconds("pass"), seconds("import nbutils"), seconds("import numpy")) for _ in range(5)]
    bare, ours, numpy = map(min, zip(*times, strict=True))
    assert ours - bare < 0.1
    assert numpy - bare > ours - bare


@pytest.fixture
def lint(tmp_path):
    """Return a function that lints the import order of a copy of the package, and the copy's folder."""
    root = layout.root()
    shutil.copytree(root / "nbutils", tmp_path / "nbutils", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    command = Path(sys.executable).with_name("lint-imports")

    def run() -> subprocess.CompletedProcess:
        return subprocess.run([command, "--no-cache"], cwd=tmp_path, capture_output=True, text=True)

    run.package = tmp_path / "nbutils"
    return run


def test_import_order_holds_and_an_upward_import_breaks_it(lint):
    done = lint()
    assert done.returncode == 0, done.stdout + done.stderr

    claims = lint.package / "claims.py"
    claims.write_text(claims.read_text(encoding="utf-8") + "\nimport nbutils.metrics\n", encoding="utf-8")
    done = lint()
    assert done.returncode != 0
    assert "nbutils.claims -> nbutils.metrics" in done.stdout


def test_a_module_without_a_floor_breaks_the_contract(lint):
    (lint.package / "attic.py").write_text("", encoding="utf-8")
    done = lint()
    assert done.returncode != 0
    assert "attic" in done.stdout + done.stderr
