"""The command line: what it selects, what it prints, and its exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nbutils import __main__ as cli
from nbutils import claims, layout
from nbutils.data import sources
from nbutils.notebook import endings, execute, parameters, render


@pytest.fixture
def ran(monkeypatch):
    """Record what would be executed; `02-second` fails."""
    calls = []

    def run(notebook, out, parameters):
        calls.append((notebook.stem, out, parameters))
        copy = out / notebook.name
        if notebook.stem == "02-second":
            raise execute.CellFailure(notebook, 4, "fit()\nmore", "ValueError: no", copy)
        return copy

    monkeypatch.setattr(execute, "run", run)
    return calls


@pytest.fixture
def three(project, monkeypatch):
    monkeypatch.chdir(project.root)
    project.write("01-first", parameters='PROFILE = "quick"\nDATA = "embedded"\nN_SEEDS = 3')
    project.write("02-second", parameters='PROFILE = "quick"\nN_SEEDS = 3')
    project.write("03-third", "print(1)")
    return project


def test_a_failing_notebook_is_named_and_the_others_still_run(project, capfd):
    record = 'from nbutils import claims\nclaims.begin("02-good", profile="quick", source="none")'
    project.write("01-bad", "x = 1\n1 / 0")
    project.write("02-good", record, "claims.check('n', N, at_least=2)\n_ = claims.save()", parameters="N = 3")
    before = project.files()
    assert cli.main(["run"]) == 1
    printed = capfd.readouterr()
    bad, good = printed.out.splitlines()
    assert bad.startswith("01-bad ")
    assert bad.endswith("FAILED")
    assert good.startswith("02-good ")
    assert "claims: 1 held, 0 failed" in good
    assert not good.endswith("FAILED")
    expected = "nbutils: 01-bad.ipynb, code cell 1 (x = 1): ZeroDivisionError: division by zero"
    assert printed.err.splitlines() == [expected]
    assert project.files() == before
    assert (project.root / "build" / "run" / "02-good" / "results.json").exists()
    assert cli.main(["run", "2"]) == 0


def test_choices_reach_the_notebooks_that_have_them(three, ran, tmp_path):
    assert cli.main(["run", "--profile", "full", "--data", "auto", "--out", str(tmp_path / "x")]) == 1
    assert ran == [
        ("01-first", tmp_path / "x", {"PROFILE": "full", "DATA": "auto"}),
        ("02-second", tmp_path / "x", {"PROFILE": "full"}),
        ("03-third", tmp_path / "x", {}),
    ]


def test_every_selected_notebook_must_know_a_parameter_before_any_runs(three, ran, capsys):
    assert cli.main(["run", "-p", "N_SEEDS=8"]) == 2
    assert capsys.readouterr().err == "nbutils: 03-third.ipynb has no parameter N_SEEDS; it has none at all\n"
    assert ran == []
    assert cli.main(["run", "01-first", "-p", "N_SEEDS=8"]) == 0
    assert ran == [("01-first", three.root / "build" / "run", {"N_SEEDS": 8})]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("1e-3", 0.001),
        ("false", False),
        ("True", True),
        ("null", None),
        ("0,4,8", "0,4,8"),
        ("[0, 4]", [0, 4]),
        ("'8'", "8"),
        ("quick", "quick"),
        ("a=b", "a=b"),
        ("missing.csv", "missing.csv"),
    ],
)
def test_values_are_read_as_scalars(project, text, value):
    read = parameters.chosen(project.write("01-a", parameters="NAME = None"), {"NAME": text})["NAME"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "9"], "no notebook '9'; there are 01-first, 02-second, 03-third"),
        (["run", "-p", "N_SEEDS"], "-p takes NAME=VALUE, got 'N_SEEDS'"),
        (["run", "--out", ""], "expected a folder; got ''"),
        (["run", "--out", "~nobody-here/a"], "~nobody-here/a: there is no home folder ~nobody-here"),
        (["render", "--out", f"{__file__}/a"], f"{__file__} is a file; expected a folder"),
        (["update", "first"], "no notebook 'first'; there are 01-first, 02-second, 03-third"),
    ],
)
def test_a_user_s_mistake_is_one_line_and_exit_code_2(three, ran, capsys, arguments, message):
    assert cli.main(arguments) == 2
    assert capsys.readouterr() == ("", f"nbutils: {message}\n")


def test_list_states_title_runtime_and_recorded_claims(three, capsys, monkeypatch):
    monkeypatch.setattr(claims, "_results", None)
    claims.begin("01-first", profile="quick", source="none")
    claims.check("n", 1, at_least=0)
    claims.save()
    capsys.readouterr()
    path = three.root / "notebooks" / "01-first.ipynb"
    path.write_text(path.read_text().replace("# 01 · first", "# 01 · First\\n\\nQuick profile: about 90 s, 1 GB."))
    assert cli.main(["list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "01 · First   [quick: 90 s, claims: 1 held, 0 failed]",
        "02 · second   [no results recorded]",
        "03 · third   [no results recorded]",
    ]


def test_list_imports_nothing_heavy():
    def heavy(command):
        program = f"import sys; from nbutils.__main__ import main; main([{command!r}])\n"
        program += "print({'torch', 'nbclient'} & {*sys.modules})"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        return done.stdout.splitlines()[-1]

    assert heavy("list") == "set()"
    assert "torch" in heavy("doctor")


def test_doctor_says_what_is_there_and_where_it_looked(project, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(sources.DATA_VARIABLE, str(tmp_path))
    for name in ("train", "test"):
        (tmp_path / "cifar10-jpeg" / name).mkdir(parents=True)
    assert cli.main(["doctor"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert sys.executable in lines["python"]
    assert str(tmp_path) in lines["data"]
    assert f"found in {tmp_path / 'cifar10-jpeg'}" in lines["cifar10-jpeg"]
    assert f"not in {tmp_path / 'cifar10-lossless'}: no train, test" in lines["cifar10-lossless"]
    for name in ("torch", "torchvision", "numpy", "devices", "threads", "memory"):
        assert len(lines[name].split()) > 1
    assert lines["devices"].split()[1].rstrip(",") == "cpu"


@pytest.mark.parametrize(("codes", "expected"), [((0, 0), 0), ((1, 0), 1), ((0, 1), 1)])
def test_test_runs_both_suites_and_fails_if_either_does(three, monkeypatch, codes, expected):
    commands = []

    def run(command, folder, environment):
        commands.append(" ".join(command))
        return codes[len(commands) - 1]

    monkeypatch.setattr(endings, "supervised", run)
    assert cli.main(["test"]) == expected
    assert commands == [
        f"{sys.executable} -m pytest -n 2 --dist loadfile tests",
        f"{sys.executable} -m pytest -n 2 --dist loadscope --continue-on-collection-errors --nbval "
        "--nbval-current-env --nbval-cell-timeout 540 notebooks",
    ]


def test_render_passes_the_selection_on(three, monkeypatch, capsys):
    def render_all(notebooks, out, *, pdf):
        assert (out, pdf) == (three.root / "build" / "html", True)
        return [out / f"{path.stem}.html" for path in notebooks]

    monkeypatch.setattr(render, "render_all", render_all)
    assert cli.main(["render", "1", "3", "--pdf"]) == 0
    assert capsys.readouterr().out.splitlines() == ["build/html/01-first.html", "build/html/03-third.html"]


def test_update_prints_changes_and_goes_on_after_a_failure(three, monkeypatch, capsys):
    def update(notebook):
        if notebook.stem == "01-first":
            copy = layout.root() / "build" / "update" / notebook.name
            raise execute.CellFailure(notebook, 4, "fit()", "ValueError: no", copy)
        return ["claim   r   0.9 → 0.8"]

    monkeypatch.setattr(execute, "update", update)
    assert cli.main(["update", "01", "02"]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "02-second   no results recorded   1 changed",
        "  claim   r   0.9 → 0.8",
    ]
    assert printed.err == (
        "nbutils: 01-first.ipynb, code cell 4 (fit()): ValueError: no; "
        "nothing was changed, see build/update/01-first.ipynb\n"
    )
