"""Other people's files and machines: no silent substitution, nothing lost, nothing mixed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from nbutils import __main__ as cli
from nbutils import atomic, claims, layout
from nbutils.notebook import document, endings, execute, kernels, locks, parameters, record, render

PARAMETERS = 'PROFILE = "quick"\nDATA = "embedded"\nA, B = 1, 0.5\nSEEDS = [42, 123]\nKS = "0,4"\nN_SEEDS = 3'
PARAMETERS += "\nCHECKPOINT = RUNS = PROCESSES = None"


@pytest.fixture
def study(project, monkeypatch, tmp_path):
    """A notebook, the caller in another folder, and a run that only records what it is told to."""
    project.ran = []
    project.source, project.profile = "mnist", "quick"
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def run(notebook, out, values):
        project.ran.append(values)
        monkeypatch.setattr(claims, "_results", None)
        claims.begin(notebook.stem, profile=project.profile, source=project.source)
        claims.save(out / notebook.stem / "results.json")
        return out / notebook.name

    monkeypatch.setattr(execute, "run", run)
    project.write("02-study", parameters=PARAMETERS)
    return project


# What was used


@pytest.mark.parametrize(
    ("asked", "source", "profile", "code", "said"),
    [
        ("real", "mnist", "quick", 0, ""),
        ("embedded", "embedded digits", "quick", 0, ""),
        ("auto", "mnist", "quick", 0, ""),
        ("auto", "embedded digits", "quick", 0, "DATA is 'auto', and the data are EMBEDDED DIGITS, not real ones"),
        ("real", "embedded digits", "quick", 1, "DATA is 'real', and the data are EMBEDDED DIGITS, not real ones"),
        ("real", "mnist", "full", 1, "PROFILE is 'quick', and the record says 'full'"),
    ],
)
def test_a_run_says_what_it_used_and_never_takes_embedded_data_for_real(
    study, capsys, tmp_path, asked, source, profile, code, said
):
    study.source, study.profile = source, profile
    assert cli.main(["run", "--data", asked, "--out", str(tmp_path / "out")]) == code
    printed = capsys.readouterr()
    assert f"data: {source}, profile {profile}, device cpu" in printed.out
    assert said in printed.err
    assert bool(said) is bool(printed.err)
    assert ("FAILED" in printed.out) is bool(code)
    assert ("error" in json.loads((tmp_path / "out" / "02-study" / "run.json").read_text())) is bool(code)


def test_a_run_that_ended_early_is_not_recorded(study, tmp_path, capsys):
    study.source = "mnist"
    out = tmp_path / "out"
    assert cli.main(["run", "--data", "real", "--out", str(out)]) == 0
    note = "python -m nbutils run 02", "2000-01-01", 1.0
    record.note_run(out / "02-study", *note, error="ValueError: no")
    assert cli.main(["record", "--source", str(out)]) == 2
    assert "the run ended early, by ValueError: no" in capsys.readouterr().err
    record.note_run(out / "02-study", *note, error="ClaimError: n = 1   expected ≥ 2")  # a result
    assert cli.main(["record", "--source", str(out)]) == 0


def test_a_choice_that_a_notebook_does_not_know_is_not_passed_over_in_silence(study, capsys):
    study.write("03-plain", "pass")
    assert cli.main(["run", "03", "--data", "real"]) == 0
    assert capsys.readouterr().err == "nbutils: 03-plain.ipynb has no DATA: --data real changes nothing of it\n"


def test_a_folder_that_is_written_to_is_refused_by_name_until_its_writer_is_gone(study, tmp_path, capsys):
    out = tmp_path / "out"
    program = "import sys, time; from pathlib import Path; from nbutils.notebook import locks\n"
    program += "with locks.locked(Path(sys.argv[1]), 'run 07'):\n    print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program, str(out)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        for command in (["run", "--out", str(out)],):
            assert cli.main(command) == 2
            assert capsys.readouterr().err == (
                f"nbutils: {out} is being written by another run (process {other.pid}: run 07); "
                "wait for it, or give another --out\n"
            )
        assert study.ran == []
        other.kill()
    assert cli.main(["run", "--out", str(out)]) == 0  # nobody holds a dead process's lock
    assert not (out / locks.NAME).exists()


def test_a_copied_notebook_does_not_write_the_results_of_the_other(project, tmp_path, monkeypatch):
    begin = 'from nbutils import claims\nclaims.begin("01-first", profile="quick", source="none")\nclaims.save()'
    copied = project.write("02-copy", begin)
    monkeypatch.setenv(layout.STEM_VARIABLE, "02-copy")
    with pytest.raises(ValueError, match=r"02-copy\.ipynb would write the results of '01-first'"):
        claims.begin("01-first", profile="quick", source="none")
    monkeypatch.delenv(layout.STEM_VARIABLE)
    with pytest.raises(execute.CellFailure, match="write STEM = '02-copy'"):
        execute.run(copied, tmp_path / "out")
    assert not (tmp_path / "out" / "01-first").exists()
    monkeypatch.setenv("JPY_SESSION_NAME", "/somewhere/03-other.ipynb")  # Jupyter's word
    with pytest.raises(ValueError, match=r"03-other\.ipynb would write"):
        claims.begin("01-first", profile="quick", source="none")
    monkeypatch.setenv("JPY_SESSION_NAME", "/somewhere/Untitled.ipynb")
    claims.begin("01-first", profile="quick", source="none")


def test_a_copy_that_ended_early_is_not_rendered_with_the_results_of_another_run(project, tmp_path, monkeypatch):
    notebook = project.write("01-first", "pass")
    monkeypatch.setattr(claims, "_results", None)
    claims.begin("01-first", profile="quick", source="none")
    claims.check("n", 1, at_least=0)
    claims.save()
    copy = tmp_path / notebook.name
    copy.write_bytes(notebook.read_bytes())
    record.note_run(tmp_path / "01-first", "run", "2000-01-01", 1, error="ValueError: no")
    assert document.Document(notebook, document.read(notebook)).claims == "1 of 1 stored results reproduced."
    assert document.Document(copy, document.read(copy)).claims == "No recorded claims."


# Paths and parameters


def test_paths_start_where_the_caller_is(study, tmp_path, capsys):
    here = Path.cwd()
    (here / "nets").mkdir()
    (here / "quick").mkdir()  # no path: PROFILE is text
    values = ["-p", "CHECKPOINT=nets", "-p", "RUNS=kept", "-p", "PROFILE=quick", "--out", "out"]
    assert cli.main(["run", *values]) == 0
    paths = {"CHECKPOINT": str(here / "nets"), "RUNS": str(here / "kept")}
    assert study.ran == [paths | {"PROFILE": "quick"}]
    assert (here / "out" / "02-study" / "results.json").exists()
    assert json.loads((here / "out" / "02-study" / "run.json").read_text())["command"] == (
        "python -m nbutils run 02 -p CHECKPOINT=nets --profile quick"
    )
    assert cli.main(["run", "-p", "A=1", "-p", "A=2"]) == 2
    assert capsys.readouterr().err.endswith("A is given twice, as 1 and as 2\n")
    assert cli.main(["run", "-p", "CHECKPOINT=none.pt"]) == 2
    assert f"CHECKPOINT is no file or folder: {here / 'none.pt'}" in capsys.readouterr().err
    assert len(study.ran) == 1


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("A=3", 3),
        ("B=2", 2),
        ("SEEDS=[7]", [7]),
        ("SEEDS=7,8", [7, 8]),
        ("KS=8", "8"),
        ("KS=0,8", "0,8"),
        ("DATA=real", "real"),
        ("A=x", "A is a whole number like 1; got 'x'"),
        ("A=1.5", "A is a whole number like 1; got 1.5"),
        ("A=true", "A is a whole number like 1; got True"),
        ("A=null", "A is a whole number like 1; got None"),
        ("B=x", "B is a number like 0.5; got 'x'"),
        ("SEEDS=42", "SEEDS is a list like [42, 123]; got 42"),
        ("SEEDS=a,b", "SEEDS is a list like [42, 123]; got ['a', 'b']"),
        ("KS=[0, 4]", "KS is text like '0,4'; got [0, 4]"),
        ("DATA=fake", "DATA is one of 'embedded', 'real', 'auto'; got 'fake'"),
        ("PROCESSES=2", 2),
        ("N_SEEDS=2", 2),
        ("N_SEEDS=0", "N_SEEDS is a whole number of 1 or more; got 0"),
        ("PROCESSES=two", "PROCESSES is a whole number of 1 or more, or None; got 'two'"),
        ("C=3", "has no parameter C; it has"),
    ],
)
def test_parameters_are_checked_against_the_defaults_before_a_kernel_starts(study, capsys, given, value):
    name = given.partition("=")[0]
    refused = isinstance(value, str) and name in value
    assert cli.main(["run", "-p", given]) == (2 if refused else 0)
    if refused:
        assert value in capsys.readouterr().err
        assert study.ran == []
    else:
        assert study.ran == [{name: value}]


def test_the_check_of_parameters_loads_neither_torch_nor_a_kernel(study):
    program = "import sys; from nbutils.__main__ import main; from nbutils import layout; from pathlib import Path\n"
    program += f"layout.root = lambda: Path({str(study.root)!r})\n"
    program += (
        "code = main(['run', '-p', 'SEEDS=42']); print(code, {'torch', 'nbclient', 'papermill'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "2 set()\n", done.stderr


def test_names_come_from_any_assignment(project):
    source = "%matplotlib inline\nA, (B, *C) = 1, (2, 3)\nD = E = 2 * 60\nF: int = -1\nG = len('x')\nif A:\n    H = 1"
    known = parameters.defaults(project.write("01-a", parameters=source))
    assert list(known) == ["A", "B", "C", "D", "E", "F", "G"]
    assert (known["A"], known["D"], known["E"], known["F"]) == (1, 120, 120, -1)
    assert known["C"] is known["G"] is parameters.UNKNOWN


# Bad notebooks

SOUND = nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 02 · Sound")]))
BAD = {
    "conflict": (SOUND.replace(' "cells"', '<<<<<<< HEAD\n "cells"', 1), "line 2 is a conflict marker"),
    "mark": ("\ufeff" + SOUND, "it begins with a byte order mark"),
    "empty": ("", "the file is empty"),
    "cut": (SOUND[: len(SOUND) // 2], "no JSON: "),
    "list": ("[]", "is not a notebook"),
}


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_notebook_is_one_line_and_the_others_go_on(project, monkeypatch, capsys, bad):
    text, reason = BAD[bad]
    project.write("01-good", "pass")
    project.write("03-good", "pass")
    path = project.root / "notebooks" / "02-bad.ipynb"
    path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(project.root)
    assert cli.main(["list"]) == 1
    printed = capsys.readouterr()
    assert [line[:2] for line in printed.out.splitlines()] == ["01", "03"]
    (line,) = printed.err.splitlines()
    assert line.startswith(f"nbutils: {path} is not a notebook")
    assert reason in line
    assert cli.main(["render"]) == 1
    printed = capsys.readouterr()
    assert printed.out.split() == ["build/html/index.html", "build/html/01-good.html", "build/html/03-good.html"]
    assert printed.err.splitlines() == [line]


def test_a_notebook_of_an_older_format_is_read_as_any_other(project, capsys):
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"metadata": {}, "cells": []}]}
    cell = {"cell_type": "code", "language": "python", "metadata": {}, "collapsed": False, "outputs": []}
    heading = {"cell_type": "heading", "level": 1, "metadata": {}, "source": ["02 · Old"]}
    old["worksheets"][0]["cells"] = [heading, cell | {"input": ["1 + 1"], "prompt_number": 1}]
    path = project.root / "notebooks" / "02-old.ipynb"
    path.write_text(json.dumps(old))
    assert cli.main(["list"]) == 0
    assert capsys.readouterr() == ("02 · Old   [no results recorded]\n", "")
    assert cli.main(["render"]) == 0


def test_a_picture_attached_to_the_first_cell_is_its_description_in_the_index(project, capsys):
    cell = nbformat.v4.new_markdown_cell(
        "# 01 · ![A dot](attachment:dot.png) First\n\nSee ![the plot](attachment:dot.png)."
    )
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    cell.attachments = {"dot.png": {"image/png": dot}}
    path = project.root / "notebooks" / "01-first.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert cli.main(["list"]) == cli.main(["render"]) == 0
    assert "See the plot." in (project.root / "build" / "html" / "index.html").read_text()
    assert dot in (project.root / "build" / "html" / "01-first.html").read_text()


def test_render_takes_the_executed_copies_that_are_there(project, tmp_path, monkeypatch, capsys):
    project.write("01-first", "pass")
    second = project.write("02-second", "pass")
    (tmp_path / "02-second.ipynb").write_bytes(second.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert cli.main(["render", "--source", ".", "--out", "html"]) == 0
    assert capsys.readouterr().out.split() == ["html/index.html", "html/02-second.html"]
    assert cli.main(["render", "1", "--source", "."]) == 2
    assert "01-first.ipynb is not there; run the notebook with --out . first" in capsys.readouterr().err


# Exits

SLEEP = """import os, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), worker.pid, flush=True)
open("started", "w").close()
time.sleep(600)"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_kernel_and_workers_and_keeps_the_partial_copy(project, tmp_path, name):
    project.write("01-long", "print('early')", SLEEP)
    program = "import sys; from nbutils.__main__ import main; from nbutils import layout; from pathlib import Path\n"
    program += f"layout.root = lambda: Path({str(project.root)!r})\nsys.exit(main(['run', '--out', {str(tmp_path)!r}]))"
    started = project.root / "notebooks" / "started"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as process:
        while not started.exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.3)  # what was printed travels
        process.send_signal(getattr(signal, name))
        said = process.communicate()[1]
    assert process.returncode == 128 + getattr(signal, name)
    assert said == f"nbutils: ended by {name}\n"
    early, late = (cell.outputs for cell in document.read(tmp_path / "01-long.ipynb").cells[1:])
    assert early[0].text == "early\n"
    assert all(gone(int(pid)) for pid in late[0].text.split())
    assert not (tmp_path / locks.NAME).exists()


def test_a_command_that_is_ended_takes_its_descendants_along(tmp_path):
    started = tmp_path / "started"
    program = (
        "import subprocess, sys, time\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    )
    program += f" start_new_session=True)\nopen({str(started)!r}, 'w').write(str(child.pid))\ntime.sleep(600)"

    def end():
        while not started.exists() or not started.read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(endings.Ended, match="SIGTERM"), endings.by_signal():
        threading.Thread(target=end).start()
        endings.supervised([sys.executable, "-c", program], tmp_path, os.environ)
    assert gone(int(started.read_text()))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def gone(pid: int) -> bool:
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with endings.by_signal():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_full_disk_names_the_file_and_the_others_go_on(project, tmp_path, monkeypatch, capsys):
    first, second = project.write("01-first", "pass"), project.write("02-second", "pass")
    made = tmp_path / "01-first"
    atomic.write(made / "results.json", "old results")
    atomic.write(tmp_path / first.name, "old copy")

    def results_of(client, variables):
        path = Path(variables[layout.OUT_VARIABLE], variables[layout.STEM_VARIABLE], "results.json")
        return atomic.write(path, "new results")

    monkeypatch.setattr(kernels.Client, "execute_interruptibly", results_of)
    write = Path.write_bytes

    def full(path, content):
        if path.name.startswith(f".{first.name}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as the system does: without a name
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert cli.main(["run", "--out", str(tmp_path)]) == 1
    assert f"No space left on device: '{tmp_path / first.name}'" in capsys.readouterr().err
    assert (tmp_path / first.name).read_text() == "old copy"
    assert (made / "results.json").read_text() == "old results"
    assert (tmp_path / second.name).exists()


@pytest.mark.parametrize("arguments", [["list"], ["--help"]])
def test_a_closed_pipe_is_quiet(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "nbutils", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode in (0, 141)
    assert done.stderr == ""


def staged(folder: Path, look: str) -> None:
    """Write the results and figures of a run, all of one look."""
    figures = {name: f"{look} {name}" for name in ("a", "b", *(["gone"] if look == "old" else []))}
    for name, content in figures.items():
        atomic.write(folder / f"{name}.png", content)
    picture = {name: {"file": f"{name}.png", "sha256": look} for name in figures}
    entries = {name: {"alt": name, "light": picture[name], "dark": picture[name]} for name in figures}
    atomic.write(folder / "manifest.json", json.dumps(entries))
    result = {"stem": "01-a", "profile": "full", "source": "mnist", "versions": {}, "claims": {}, "metrics": {}}
    atomic.write(folder / "results.json", json.dumps(result | {"source": f"{look} mnist"}))
    record.note_run(folder, look, "2000-01-01", 1)


def committed(project) -> dict[str, bytes]:
    return {name: content for name, content in project.files().items() if not Path(name).name.startswith(".")}


@pytest.mark.parametrize("how", ["killed", "raised"])
@pytest.mark.parametrize("command", ["update", "record"])
def test_what_is_cut_off_at_any_file_leaves_each_old_or_new(project, tmp_path, monkeypatch, command, how):
    notebook = project.write("01-a", "pass")
    kept = project.root / "large-assets" / "01-a"

    def run(path, out):
        staged(out / path.stem, "new")
        return atomic.write(out / path.name, nbformat.writes(document.read(path)))

    def act():
        if command == "update":
            execute.update(notebook)
        else:
            record.record(notebook, tmp_path / "source")

    monkeypatch.setattr(execute, "run", run)
    staged(tmp_path / "source" / "01-a", "old")
    staged(kept, "old")
    record.record(notebook, tmp_path / "source")
    staged(tmp_path / "source" / "01-a", "new")
    replace = os.replace
    calls = [0]
    before = committed(project)

    def cut(partial, path):
        if project.root / "build" not in Path(path).parents:
            calls[0] += 1
            if calls[0] == cut.at and how == "killed":
                os._exit(9)
            if calls[0] == cut.at:
                raise OSError(errno.ENOSPC, "full", str(path))
        replace(partial, path)

    monkeypatch.setattr(os, "replace", cut)
    states, at = [], 0
    while True:
        at, cut.at, calls[0] = at + 1, at + 1, 0
        child = os.fork() if how == "killed" else 0
        if child == 0:
            code = 0
            try:
                act()
            except OSError:
                code = 1
            if how == "killed":
                os._exit(code)
        else:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        states.append(committed(project))
        if code == 0:
            break
    after = states.pop()
    assert len(states) >= 4
    folder = f"large-assets/01-a/{'' if command == 'update' else 'real/'}"
    assert all(after[folder + name] != before[folder + name] for name in ("a.png", "manifest.json"))
    assert folder + "gone.png" not in after
    assert not [path for path in project.root.rglob(".*") if path.is_file()]  # nothing of the killed is left
    for state in states:
        assert state.keys() == before.keys()
        assert all(state[name] in (before[name], after.get(name)) for name in state)
        if how == "raised":
            assert state == before


# The user's machine


def test_the_user_s_settings_do_not_reach_a_notebook(project, tmp_path, monkeypatch):
    for folder in ("home/.ipython/profile_default/startup", "ipython/profile_default/startup", "here/data"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("home/.ipython", "ipython"):
        (tmp_path / name / "profile_default" / "startup" / "00.py").write_text("print = None\n")
    (tmp_path / "startup.py").write_text("N = 99\n")
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 17\n")
    user = {"HOME": "home", "IPYTHONDIR": "ipython", "PYTHONSTARTUP": "startup.py", "MATPLOTLIBRC": "matplotlibrc"}
    for name, path in user.items():
        monkeypatch.setenv(name, str(tmp_path / path))
    others = {"MPLBACKEND": "pdf", "NO_COLOR": "1", "LC_ALL": "C", "COLUMNS": "20", "NBUTILS_DATA": "data"}
    others |= {"PYTHONDEVMODE": "1", "PYTHONWARNDEFAULTENCODING": "1", "PYTHONPROFILEIMPORTTIME": "1"}
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path / "here")
    cell = (
        "import os, matplotlib\nprint(matplotlib.get_backend(), matplotlib.rcParams['lines.linewidth'], 'N' in dir())\n"
    )
    cell += "print([os.environ.get(name) for name in ('NO_COLOR', 'COLUMNS', 'NBUTILS_DATA')])\n"
    cell += "open('umlaut.txt', 'w').write('ä')\nprint(open('umlaut.txt', 'rb').read())"
    copy = execute.run(project.write("01-a", cell), tmp_path / "out")
    (output,) = document.read(copy).cells[1].outputs
    printed = output.text.splitlines()
    assert printed[0].split()[0].endswith("inline")
    assert printed[0].split()[1:] == ["1.5", "False"]
    assert printed[1] == str([None, None, str(tmp_path / "here" / "data")])
    assert printed[2] == str("ä".encode())


def test_an_error_s_whole_text_arrives_without_colours(project, tmp_path):
    raising = "class Foreign(Exception):\n    pass\nraise Foreign('\\x1b[31mfirst\\x1b[0m\\nsecond')"
    with pytest.raises(execute.CellFailure) as failure:
        execute.run(project.write("01-a", raising), tmp_path)
    assert str(failure.value) == "01-a.ipynb, code cell 1 (class Foreign(Exception):): Foreign: first\nsecond"


def test_other_programs_files_are_no_notebooks_and_no_figures(project, capsys):
    path = project.write("01-a", "pass")
    (path.parent / "._01-a.ipynb").write_bytes(b"\0\5\26\7")
    checkpoints = path.parent / ".ipynb_checkpoints"
    checkpoints.mkdir()
    (checkpoints / "01-a-checkpoint.ipynb").write_text("{")
    assert cli.main(["list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert render.render_all(layout.notebooks(), project.root / "build")
