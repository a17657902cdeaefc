"""The house: lock file, conda environment, the Makefile's set-up, the README, and what may be committed."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nbutils import layout

ROOT = layout.root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"torch": "pytorch"}  # where conda-forge's name is another one


def requirements() -> dict[str, Requirement]:
    """Return every dependency of the project, extras included, by canonical name."""
    lines = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    return {canonicalize_name(parsed.name): parsed for parsed in map(Requirement, lines)}


def lock_defects(text: str) -> list[str]:
    """Return what is wrong with a lock file: hosts, missing hashes, dependencies absent or out of bounds."""
    defects = []
    pins: dict[str, list[str]] = {}
    for entry in text.replace("\\\n", " ").splitlines():
        match = re.fullmatch(r"([\w.-]+)==(\S+)( ; .+?)?((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", entry)
        if match:
            pins.setdefault(canonicalize_name(match[1]), []).append(match[2])
        else:
            defects.append(f"not `name==version` with hashes: {entry[:60]}")
    for name, requirement in requirements().items():
        versions = pins.get(name, [])
        if not versions:
            defects.append(f"{name} is not pinned")
        defects += [f"{name}=={v} breaks {requirement}" for v in versions if not requirement.specifier.contains(v)]
    return defects


def test_lock_pins_every_dependency_with_hashes_and_names_no_host():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert lock_defects(lock) == []

    torch = re.search(r"^torch==\S+", lock, re.MULTILINE)[0]
    tampered = {
        "names a host": "--index-url https://example.org/simple\n" + lock,
        "a file of one machine": lock.replace(torch, "torch @ file:///wheels/torch.whl"),
        "out of bounds": lock.replace(torch, "torch==1.0"),
        "not pinned": lock.replace(torch, "torchless==1.0"),
        "no hash": lock.replace(f"{torch} \\\n", f"{torch}\n"),
    }
    assert [name for name, text in tampered.items() if not lock_defects(text)] == []


def conda_bounds(text: str) -> dict[str, str]:
    """Return name → bound of an environment file with its pip section, names and bounds as in pyproject."""
    conda, pip = [], []
    for entry in yaml.safe_load(text)["dependencies"]:
        if isinstance(entry, dict):
            pip += entry["pip"]
        else:
            conda.append(entry)
    pypi_names = {conda_name: name for name, conda_name in CONDA_NAMES.items()}
    bounds = {}
    for entry in [*conda, *(line for line in pip if not line.startswith("--"))]:
        name, bound = re.fullmatch(r"([\w.-]+)(.*)", entry).groups()
        bound = "=" + bound if re.match(r"=[^=]", bound) else bound
        bounds[canonicalize_name(pypi_names.get(name, name))] = bound
    return bounds


def test_conda_environment_has_the_same_dependencies_and_bounds():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    expected = {name: str(requirement.specifier) for name, requirement in requirements().items()}
    expected |= {"python": PROJECT["requires-python"], "pip": ""}
    assert conda_bounds(text) == expected

    assert conda_bounds(text.replace("pandas>=", "pandas>=9")) != expected
    assert conda_bounds(text.replace("  - tqdm", "  - tqdm-other")) != expected


def undeclared(*programs: str) -> set[str]:
    """Return the top-level packages that Python sources import and the project does not declare."""
    nodes = [node for program in programs for node in ast.walk(ast.parse(program))]
    names = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    names -= {*sys.stdlib_module_names, "nbutils", "studies"}
    declared, sold_by = set(requirements()), packages_distributions()
    return {name for name in names if not declared & set(map(canonicalize_name, sold_by.get(name, [])))}


def test_every_imported_package_is_declared():
    folders = ("nbutils", "notebooks/studies", "tests")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    own = {path.stem for path in sources if path.is_relative_to(ROOT / "tests")} | {
        "tests",
        "own_helpers",
        "held_helpers",
    }
    programs = [path.read_text(encoding="utf-8") for path in sources]
    notebooks = [json.loads(path.read_text(encoding="utf-8")) for path in layout.notebooks()]
    cells = [cell for notebook in notebooks for cell in notebook["cells"] if cell["cell_type"] == "code"]
    programs += ["".join(cell["source"]) for cell in cells]
    assert undeclared(*programs) - own == set()

    assert undeclared("import networkx, json", "from PIL.Image import open") == {"networkx"}


HOMES = ["root/a", "work/main", "home/anna", "Users/anna"]
HOSTS = [
    "pypi" + ".org",
    "python" + "hosted.org",
    "download.pytorch" + ".org",
]  # whole, they would find themselves
PRIVATE = re.compile(
    r"(?<![\w.~/-])/(?:(?:root|work)/\w|(?:home|Users)/(?!me\b|you\b)\w)"  # /home/me stands for anyone's
    rf"|{'|'.join(map(re.escape, HOSTS))}"
)


def private_lines(path: Path) -> list[str]:
    """Return the lines of a text file that name a folder of one machine or the host of a package index."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:  # pictures
        return []
    return [f"{path.name}:{number}: {line[:80]}" for number, line in enumerate(lines, 1) if PRIVATE.search(line)]


def test_no_committed_file_names_a_machine_or_an_index(tmp_path):
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    paths = [ROOT / name for name in listing.split("\0") if name]
    assert len(paths) > 20
    assert [line for path in paths if path.is_file() for line in private_lines(path)] == []

    sample = tmp_path / "sample.txt"
    for folder in HOMES:
        sample.write_text(f"saved to /{folder}/figure.png\n", encoding="utf-8")
        assert private_lines(sample), folder
    for host in HOSTS:
        sample.write_text(f"--index-url https://{host}/simple\n", encoding="utf-8")
        assert private_lines(sample), host


# Stands in for an interpreter: answers what the Makefile asks, logs what it is told to do, installs nothing.
STAND_IN = """#!/bin/sh
case "$*" in
*version_info*) echo "$STAND_IN_VERSION"; exit ;;
*ensurepip*) exit "$STAND_IN_NO_VENV" ;;
*"print(1)"*) echo 1; exit ;;
"-m venv --clear .venv")
    rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/uv ;;
esac
echo "$@" >> log
[ "$*" != "$STAND_IN_FAILS" ]
"""


@pytest.fixture
def make(tmp_path):
    """Return a function that runs `make` in a copy of the house (in a folder whose name has a space)."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    house = tmp_path / "a house"
    house.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, house)
    stand_in = tmp_path / "python stand-in"
    stand_in.write_text(STAND_IN, encoding="utf-8")
    stand_in.chmod(0o755)

    def run(*arguments: str, version: str = "3.12", no_venv: int = 0, fails: str = "nothing"):
        # `make test` runs this test: its flags and variables must not reach the make under test.
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "PYTHON"))}
        answers = {"STAND_IN_VERSION": version, "STAND_IN_NO_VENV": str(no_venv), "STAND_IN_FAILS": fails}
        log = house / "log"
        log.unlink(missing_ok=True)
        done = subprocess.run(
            ["make", f"PYTHON={stand_in}", "MIN_DISK_GB=0", *arguments],
            cwd=house,
            env=kept | answers,
            capture_output=True,
            text=True,
            timeout=60,
        )
        done.log = log.read_text(encoding="utf-8") if log.exists() else ""
        return done

    run.house = house
    return run


def error_line(done: subprocess.CompletedProcess) -> str:
    """Return the one line that says what is wrong; fail when there is more or less than one."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not re.match(r"make(\[\d+\])?: \*\*\*", line)]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.10"])
def test_setup_refuses_an_old_python_by_its_version(make, version):
    line = error_line(make("setup", version=version))
    assert f"found Python {version}" in line
    assert "need 3.11" in line
    assert not (make.house / ".venv").exists()


@pytest.mark.parametrize("version", ["3.11", "3.13", "3.20", "4.0"])
def test_setup_accepts_newer_pythons(make, version):
    assert make("setup", version=version).returncode == 0


def test_setup_says_what_is_missing(make):
    assert "no venv module" in error_line(make("setup", no_venv=1))
    assert "found no 'no-such-python'" in error_line(make("setup", "PYTHON=no-such-python"))
    line = error_line(make("setup", "MIN_DISK_GB=987654321"))
    assert "GB free on this disk, need about 987654321" in line
    assert not (make.house / ".venv").exists()


def test_setup_installs_from_hashes_once_and_again_when_the_lock_changes(make):
    first = make("setup")
    assert first.returncode == 0, first.stderr
    assert "--require-hashes -r requirements.lock" in first.log
    assert make("setup").log == ""

    (make.house / "requirements.lock").write_text("other==1\n", encoding="utf-8")
    assert "--require-hashes -r requirements.lock" in make("setup").log


def test_setup_rebuilds_a_broken_or_half_made_environment(make):
    install = "pip install --python .venv/bin/python -q --require-hashes -r requirements.lock"
    assert "could not install requirements.lock" in error_line(make("setup", fails=install))
    leftover = make.house / ".venv" / "leftover"
    leftover.touch()
    assert "-m venv --clear .venv" in make("setup").log
    assert not leftover.exists()

    (make.house / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    assert "-m venv --clear .venv" in make("setup").log
    assert make("setup").log == ""


def test_another_interpreter_makes_another_environment(make):
    assert "-m venv" in make("setup", version="3.12").log
    assert "-m venv" in make("setup", version="3.13").log
    assert make("setup", version="3.13").log == ""


def dead_links(text: str, folder: Path) -> list[str]:
    """Return the links of a Markdown text to files that are not there."""
    links = re.findall(r"\]\(([^)#\s]+)", text)
    return [link for link in links if ":" not in link and not (folder / link).exists()]


def test_links_to_files_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md"):
        assert dead_links((ROOT / name).read_text(encoding="utf-8"), ROOT) == [], name
    for path in layout.notebooks():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        assert dead_links(text, path.parent) == [], path.name
    assert dead_links("[a](nbutils) [b](no/such.py) [c](https://a.org) [d](#e)", ROOT) == ["no/such.py"]
