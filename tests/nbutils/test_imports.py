"""What importing costs, and which module may import which."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nbutils import layout

HEAVY = {"torch", "pandas", "matplotlib", "numpy"}
LIGHT_MODULES = ("nbutils", "nbutils.claims", "nbutils.layout", "nbutils.progress")


def brought_by(statement: str) -> set[str]:
    """Return the modules that a statement brings into a fresh interpreter."""
    program = f"import sys\nbefore = set(sys.modules)\n{statement}\nprint(*{{*sys.modules}} - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return set(done.stdout.split())


def test_light_modules_bring_nothing_heavy_and_the_package_itself_next_to_nothing():
    for module in LIGHT_MODULES:
        assert not brought_by(f"import {module}") & HEAVY, module
    assert len(brought_by("import nbutils")) < 20
    control = brought_by("import pandas")
    assert control >= {"pandas", "numpy"}
    assert len(control) > 100


@pytest.fixture
def lint(tmp_path):
    """Return a function that lints the import order of a copy of the package, and the copy's folder."""
    root = layout.root()
    for package in (root / "nbutils", root / "notebooks" / "studies"):
        shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
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
    claims.write_text(claims.read_text(encoding="utf-8") + "\nimport nbutils.training\n", encoding="utf-8")
    done = lint()
    assert done.returncode != 0
    assert "nbutils.claims -> nbutils.training" in done.stdout


def test_a_module_without_a_floor_breaks_the_contract(lint):
    (lint.package / "attic.py").write_text("", encoding="utf-8")
    done = lint()
    assert done.returncode != 0
    assert "attic" in done.stdout + done.stderr
