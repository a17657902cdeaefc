"""What is finished stays finished, whatever happens to the rest."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from nbutils import layout, runs
from nbutils import results as stored
from nbutils.data import arrays as array_files

SCALE = 2


def helper(seed):
    return SCALE * seed


def measure(seed, log, plan="none"):
    with open(log, "a") as file:
        file.write(f"{seed} {plan}\n")
    if plan == "fail":
        raise RuntimeError(f"no luck with {seed}")
    return {"double": helper(seed), "half": np.float64(seed / 2), "name": f"s{seed}", "odd": bool(seed % 2)}


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    path.touch()
    return path


def calls(log):
    return log.read_text().splitlines()


def seeds(log, count, **more):
    return [{"seed": seed, "log": str(log), **more} for seed in range(count)]


def test_the_second_call_computes_nothing_and_returns_the_same_table(tmp_path, log):
    configurations = seeds(log, 4)
    first = runs.run(measure, configurations, tmp_path / "store")
    assert list(first.columns) == ["seed", "log", "double", "half", "name", "odd", "error"]
    assert first.double.tolist() == [0, 2, 4, 6]
    assert (first.half.dtype, first.odd.dtype) == (float, bool)
    assert first.error.isna().all()
    assert len(calls(log)) == 4

    again = runs.run(measure, configurations[::-1], tmp_path / "store")  # the rows follow the configurations
    pd.testing.assert_frame_equal(again[::-1].reset_index(drop=True), first)
    assert len(calls(log)) == 4
    runs.run(measure, seeds(log, 5), tmp_path / "store")
    assert calls(log)[4:] == ["4 none"]


def test_every_executor_gives_the_same_table(tmp_path, log):
    here = runs.run(measure, seeds(log, 6), tmp_path / "a")
    with ThreadPoolExecutor(2) as threads:
        pd.testing.assert_frame_equal(runs.run(measure, seeds(log, 6), tmp_path / "b", executor=threads), here)
    pd.testing.assert_frame_equal(runs.run(measure, seeds(log, 6), tmp_path / "c", executor="loky", workers=2), here)
    assert len(calls(log)) == 18
    with pytest.raises(ValueError, match="executor must be None, 'loky' or a PEP 3148 executor; got 'dask'"):
        runs.run(measure, [], tmp_path, executor="dask")


@pytest.mark.parametrize("executor", [None, "loky"])
def test_a_failure_is_a_row_the_others_go_on_and_the_next_call_tries_again(tmp_path, log, executor):
    configurations = seeds(log, 2) + seeds(log, 1, plan="fail")
    for _ in range(2):
        table = runs.run(measure, configurations, tmp_path / "store", executor=executor)
        assert table.error.tolist()[2] == "RuntimeError: no luck with 0"
        assert table.double.tolist()[:2] == [0, 2]
        assert pd.isna(table.double[2])
    assert sorted(calls(log)) == ["0 fail", "0 fail", "0 none", "1 none"]


def test_what_cannot_be_kept_is_a_failure_that_names_it(tmp_path):
    def wrong(kind):
        return {"list": {"a": [1]}, "no mapping": 3, "missing": pd.DataFrame({"b": [pd.NA]}), "name": {"error": 0}}[
            kind
        ]

    table = runs.run(wrong, [{"kind": kind} for kind in ("list", "no mapping", "missing", "name")], tmp_path)
    assert "'a' is a list" in table.error[0]
    assert "mapping or a DataFrame; got int" in table.error[1]
    assert "'b' is a NAType" in table.error[2]
    assert "another name" in table.error[3]


def test_an_array_that_no_file_holds_is_a_row_that_names_it(tmp_path):
    kinds = {"object": np.array([1, None]), "complex128": np.ones(2, complex), "<U2": np.array(["a", "bc"])}
    kinds |= {"float128|float80|longdouble": np.ones(2, np.longdouble), "masked": np.ma.array([1.0, 2.0], mask=[0, 1])}
    kinds |= {"datetime64": np.array(["2020-01-01"], "M8[D]"), "sparse": torch.eye(2).to_sparse()}
    kinds |= {"of complex128": torch.ones(2, dtype=torch.complex128), "float32": torch.ones(2, device="meta")}
    kinds |= {"'a', '<i4'": np.zeros(2, [("a", "i4")])}

    def wrong(seed):
        return {"kept": seed} if seed == 0 else {"kept": seed, "v": kinds[what]}

    for what in kinds:
        table = runs.run(wrong, [{"seed": 0}, {"seed": 1}], tmp_path)
        assert table.kept[0] == 0
        assert re.search(f"dense arrays of numbers, .*; 'v' is .*{what}", table.error[1]), table.error[1]


def test_tables_and_arrays_come_back(tmp_path):
    def history(seed):
        return pd.DataFrame({"step": [0, 1], "loss": [1 / 3, np.nan]}, index=[7, 9])

    def weights(seed):
        return {"loss": torch.tensor(0.5), "w": torch.full((2, 3), seed), "b": np.arange(seed)}

    table = runs.run(history, [{"seed": 3}, {"seed": 4}], tmp_path)
    assert table.seed.tolist() == [3, 3, 4, 4]
    assert table.loss.tolist()[::2] == [1 / 3, 1 / 3]  # to the last bit
    assert table.loss.isna().tolist() == [False, True] * 2

    assert list(runs.run(weights, [{"seed": 3}], tmp_path).columns) == ["seed", "loss", "error"]
    (kept,) = runs.results(weights, [{"seed": 3}], tmp_path)
    assert torch.equal(kept["w"], torch.full((2, 3), 3))
    assert kept["b"].tolist() == [0, 1, 2]


def test_results_come_back_as_they_were_returned(tmp_path):
    table = pd.DataFrame({"step": [0, 1], "loss": [1 / 3, 0.1], "name": ["a", None]})
    kinds = table.assign(step=table.step.astype("int32"), kind=pd.Categorical(["x", "y"], ["y", "x"], ordered=True))
    kinds = kinds.assign(unit=pd.array([3, None], "Int64"), layer=pd.array([None, "fc"], "string"))

    def mixed(seed):
        scores = {"by": {"hand": np.arange(3.0)}, "rank": 1}
        return {
            "loss": 0.5,
            "history": table,
            "w": torch.full((2, 3), seed),
            "left": None,
            "scores": scores,
            "kinds": kinds,
        }

    for _ in range(2):  # computed, then read
        first, second = runs.results(mixed, [{"seed": 3}, {"seed": 4}], tmp_path)
        assert list(first) == ["loss", "history", "w", "left", "scores", "kinds"]
        assert (first["loss"], first["left"]) == (0.5, None)
        pd.testing.assert_frame_equal(first["history"], table)
        pd.testing.assert_frame_equal(first["kinds"], kinds)
        assert torch.equal(second["w"], torch.full((2, 3), 4))
        assert isinstance(first["scores"]["by"]["hand"], np.ndarray)
        assert (first["scores"]["by"]["hand"].tolist(), first["scores"]["rank"]) == ([0, 1, 2], 1)
    assert list(runs.run(mixed, [{"seed": 3}], tmp_path).columns) == ["seed", "loss", "left", "scores/rank", "error"]
    (alone,) = runs.results(lambda: table, [{}], tmp_path)
    pd.testing.assert_frame_equal(alone, table)


def test_results_of_a_sweep_with_failures_raise_and_keep_the_others(tmp_path, log):
    some = seeds(log, 3)
    with pytest.raises(runs.RunError, match=r"1 of 4 failed, .* no luck with 9"):
        runs.results(measure, [*some, {"seed": 9, "log": str(log), "plan": "fail"}], tmp_path)
    before = len(calls(log))
    assert [found["double"] for found in runs.results(measure, some, tmp_path)] == [0, 2, 4]
    assert len(calls(log)) == before


@dataclass(frozen=True)
class Scale:
    by: torch.Tensor


def test_networks_arrays_and_dataclasses_count_by_their_content(tmp_path):
    ran = str(tmp_path / "ran")  # no list: what a function reads counts
    offset = {"of": torch.zeros(2)}

    def total(network, scale):
        with open(ran, "a") as file:
            file.write("1")
        return {"y": float(network(scale.by[None]).detach().sum() + offset["of"].sum())}

    def configuration(weight=1.0, by=2.0):
        network = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.constant_(network.weight, weight)
        return {"network": network, "scale": Scale(torch.full((2,), by))}

    def count():
        return os.path.getsize(ran) if os.path.exists(ran) else 0

    def times():
        before = count()
        table = runs.run(total, [configuration()], tmp_path / "store")
        assert list(table.columns) == ["y", "error"]  # arrays and networks are no part of a row
        return count() - before

    assert times() == 1
    assert times() == 0  # another network of the same weights, another tensor of the same values
    runs.run(total, [configuration(weight=1.5), configuration(by=3.0)], tmp_path / "store")
    assert count() == 3
    offset["of"] = torch.ones(2)  # read by the function, not given to it
    assert times() == 1
    layers = configuration() | {"network": torch.nn.Sequential(configuration()["network"], torch.nn.ReLU())}
    runs.run(total, [layers], tmp_path / "store")
    runs.run(
        total, [layers | {"network": torch.nn.Sequential(layers["network"][0], torch.nn.Tanh())}], tmp_path / "store"
    )
    assert count() == 6  # the same weights in another network


def compiled(text, **names):
    """Return the function `run` of a program, as if typed at a prompt."""
    exec(compile(textwrap.dedent(text), "<prompt>", "exec"), names)
    return names["run"]


def test_a_result_belongs_to_source_configuration_and_version(tmp_path, monkeypatch):
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("STEP,lr\n0,1\n")
    base = "CALLS = []\ndef part(x): return x + STEPS\ndef run(x, sheet): return {'y': [part(i) for i in [x]][0]}"

    def files(text=base, configuration=None, **names):
        function = compiled(text, **{"STEPS": 5, "__name__": "prompt"} | names)
        runs.run(function, [configuration or {"x": 1, "sheet": sheet}], tmp_path / "store")
        return len(list((tmp_path / "store").glob("*.json")))

    assert files() == files() == 1
    assert files(STEPS=6) == 2  # read by `part`, which `run` calls
    assert files(base.replace("x + STEPS", "x - STEPS")) == 3
    assert files(base.replace("[x]][0]", "[x]][-1]")) == 4
    assert files(configuration={"x": 2, "sheet": sheet}) == 5
    sheet.write_text("STEP,lr\n0,2\n")
    assert files() == 6
    moved = sheet.rename(tmp_path / "moved.csv")
    assert files(configuration={"x": 1, "sheet": moved}) == 6  # content counts, not place
    assert files(configuration={"x": 1, "sheet": moved}, UNREAD=1) == 6
    monkeypatch.setattr(runs, "__version__", "0.0.0")
    assert files(configuration={"x": 1, "sheet": moved}) == 7


def test_two_lambdas_on_a_line_are_two_functions(tmp_path):
    double, triple = (lambda x: {"y": 2 * x}), (lambda x: {"y": 3 * x})
    assert runs.run(double, [{"x": 1}], tmp_path).y[0] == 2
    assert runs.run(triple, [{"x": 1}], tmp_path).y[0] == 3


def test_what_cannot_be_told_apart_is_refused(tmp_path):
    for configuration, message in [
        ({"x": threading.Lock()}, "cannot identify 'x': a lock has no content to compare"),
        ({"x": {"y": 1, "z": (number for number in [1])}}, "'x': a generator"),
        ({"error": 1}, "'error' not among them"),
    ]:
        with pytest.raises(ValueError, match=message):
            runs.run(measure, [configuration], tmp_path)
    with pytest.raises(ValueError, match="made by `def`; got <built-in"):
        runs.run(len, [{}], tmp_path)


def test_a_damaged_file_is_computed_again_and_said(tmp_path, log, capsys):
    def run():
        return runs.run(with_array, seeds(log, 2), tmp_path / "store")

    def with_array(seed, log):
        return measure(seed, log) | {"x": np.arange(9.0) + seed}

    expected = run()
    assert len(list((tmp_path / "store").iterdir())) == 4
    capsys.readouterr()
    for name in sorted(path.name for path in (tmp_path / "store").iterdir()):
        path = tmp_path / "store" / name
        whole = path.read_bytes()
        draw = random.Random(0)
        spoilt = [b"", whole[: len(whole) // 2], whole[:-3] if name.endswith("json") else whole[:-1]]
        for _ in range(20):
            position = draw.randrange(len(whole) - 1)  # not the newline at the end
            spoilt.append(
                whole[:position] + bytes([whole[position] ^ (1 << draw.randrange(8))]) + whole[position + 1 :]
            )
        for content in spoilt:
            path.write_bytes(content)
            array_files._kept.cache_clear()
            before = len(calls(log))
            pd.testing.assert_frame_equal(run(), expected)
            if path.suffix == ".json" or content != whole:
                said = capsys.readouterr().err
                assert said.count("\n") == 1, (name, content)
                assert "is damaged" in said or "not a whole" in said or "not hold what" in said
                assert len(calls(log)) == before + 1
        path.unlink()
        array_files._kept.cache_clear()
        pd.testing.assert_frame_equal(run(), expected)
        capsys.readouterr()


def test_a_worker_that_dies_is_reported_and_the_rest_is_a_call_away(tmp_path):
    marker = tmp_path / "died"

    def sometimes(seed, marker):
        if seed == 3 and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"y": seed}

    configurations = [{"seed": seed, "marker": str(marker)} for seed in range(6)]
    first = runs.run(sometimes, configurations, tmp_path / "store", executor="loky", workers=1)
    assert first.error[3].startswith("TerminatedWorkerError: ")
    assert len(first) == 6
    second = runs.run(sometimes, configurations, tmp_path / "store", executor="loky", workers=1)
    assert second.y.tolist() == list(range(6))
    assert second.error.isna().all()


def test_a_task_that_always_kills_its_worker_takes_no_other_with_it(tmp_path):
    def task(seed):
        if seed == 2:
            time.sleep(0.2)  # another task is under way beside it
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)
        return {"square": seed * seed}

    table = runs.run(task, [{"seed": seed} for seed in range(7)], tmp_path, executor="loky", workers=2)
    assert table.error.notna().tolist() == [seed == 2 for seed in range(7)]
    assert table.error[2].startswith("TerminatedWorkerError: ")
    assert table.square.dropna().tolist() == [0, 1, 9, 16, 25, 36]


@pytest.mark.parametrize("executor", [None, "loky"])
def test_a_task_that_exits_is_a_row(tmp_path, executor):
    def leaving(seed):
        if seed == 1:
            sys.exit("no data")
        return {"y": seed}

    table = runs.run(leaving, [{"seed": seed} for seed in range(3)], tmp_path, executor=executor, workers=1)
    assert table.error.dropna().to_dict() == {1: "SystemExit: no data"}
    assert table.y.dropna().tolist() == [0, 2]


def test_a_result_that_cannot_be_kept_is_a_row(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    def plain(seed):
        return {"y": seed}

    monkeypatch.setattr(stored.atomic, "write", full)
    table = runs.run(plain, [{"seed": 1}, {"seed": 2}], tmp_path)
    assert table.error.tolist() == ["OSError: [Errno 28] No space left on device"] * 2
    monkeypatch.undo()
    assert runs.run(plain, [{"seed": 1}, {"seed": 2}], tmp_path).y.tolist() == [1, 2]


def test_arrays_of_any_strides_and_byte_orders_are_kept(tmp_path):
    arrays = {"reversed": np.arange(6)[::-1], "big": np.arange(3, dtype=">f4"), "columns": np.eye(3, 2, order="F")}
    arrays |= {"every other": np.arange(6)[::2], "unsigned": np.arange(3, dtype="uint16")}
    (kept,) = runs.results(lambda: arrays, [{}], tmp_path)
    for name, array in arrays.items():
        assert (kept[name].dtype, kept[name].tolist()) == (array.dtype, array.tolist())


# Each task writes a line when it starts and one when it ends; `O_APPEND` keeps lines of several processes whole.
PROGRAM = """
import os, sys, time
from nbutils import results as stored
from nbutils import runs

def note(log, line):
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(out, line.encode())
    os.close(out)

def task(i, log):
    note(log, f"start {i}\\n")
    time.sleep(0.03)
    note(log, f"end {i}\\n")
    return {"square": i * i}

if __name__ == "__main__":
    store, log, executor = sys.argv[1:]
    executor = None if executor == "none" else executor
    table = runs.run(task, [{"i": i, "log": log} for i in range(30)], store, executor=executor, workers=2)
    print("squares", *table.square)
"""


class Thirty:
    """A run of 30 tasks in a process of its own, to be killed and resumed."""

    def __init__(self, folder: Path, executor: str) -> None:
        self.program, self.store, self.log = folder / "program.py", folder / "store", folder / "log"
        self.program.write_text(PROGRAM)
        self.log.touch()
        self.command = [sys.executable, str(self.program), str(self.store), str(self.log), executor]
        self.environment = os.environ | {"PYTHONPATH": str(layout.root())}

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            self.command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def lines(self, word: str) -> list[int]:
        return [int(line.split()[1]) for line in self.log.read_text().splitlines() if line.startswith(word)]

    def stop(self, at: int, delay: float, how: signal.Signals) -> None:
        """Start, wait for the end of task number `at` and a little longer, and send a signal to the parent."""
        process = self.start()
        while len(self.lines("end")) < at and process.poll() is None:
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(how)
        process.wait(timeout=60)
        process.communicate(timeout=60)  # orphaned workers hold its pipes until they end, which takes seconds

    def finished(self) -> list[int]:
        """Return the tasks whose results are in the store, once orphaned workers have come to an end."""
        before = None
        while before != (before := self.log.read_text()):
            time.sleep(0.4)
        return self.stored()

    def stored(self) -> list[int]:
        """Return the tasks whose results are in the store; fail on a file that is half-written."""
        contents = [json.loads(path.read_text()) for path in self.store.glob("*.json")]
        return sorted(round(content["result"]["row"]["square"] ** 0.5) for content in contents)

    def resume(self, finished: list[int]) -> None:
        """Run to the end: nothing finished is computed again, and the table is complete."""
        self.log.write_text("")
        out, err = self.start().communicate(timeout=120)
        assert out.split()[1:] == [str(i * i) for i in range(30)], err
        assert sorted(self.lines("start")) == sorted(set(range(30)) - set(finished))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "at", "how"), [("none", 11, "SIGKILL"), ("loky", 17, "SIGKILL"), ("loky", 5, "SIGINT")]
)
def test_a_killed_run_goes_on_where_it_was(tmp_path, executor, at, how):
    for attempt in range(5):  # on a busy machine all tasks may have ended before the signal comes
        folder = tmp_path / str(attempt)
        folder.mkdir()
        run = Thirty(folder, executor)
        run.stop(at, random.Random(at).uniform(0, 0.03), signal.Signals[how])
        finished = run.finished()
        if len(finished) < 30:
            break
    assert at - 1 <= len(finished) < 30
    # Without workers, the moment between a task's last line and its file is lost with the parent.
    assert set(run.lines("end")) - set(finished) <= ({finished[-1] + 1} if executor == "none" else set())
    run.resume(finished)


def test_workers_end_with_the_process_that_started_them(tmp_path):
    psutil = pytest.importorskip("psutil")
    program = (
        "import os, sys, time\nfrom pathlib import Path\nfrom nbutils import runs\n"
        "def task(seed, folder):\n    (Path(folder) / str(os.getpid())).touch()\n    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    tasks = [{'seed': seed, 'folder': sys.argv[1]} for seed in range(5)]\n"
        "    runs.run(task, tasks, sys.argv[2], executor='loky', workers=2)\n"
    )
    (tmp_path / "program.py").write_text(program)
    seen = tmp_path / "seen"
    seen.mkdir()
    environment = os.environ | {"PYTHONPATH": str(layout.root())}
    command = [sys.executable, str(tmp_path / "program.py"), str(seen), str(tmp_path / "store")]
    parent = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while len(list(seen.iterdir())) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    workers = [psutil.Process(int(path.name)) for path in seen.iterdir()]
    parent.kill()
    parent.wait(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=60)  # they sleep ten times as long, and would idle longer
    assert not alive
    assert len(list(seen.iterdir())) == 2  # and began nothing else


def test_two_processes_share_a_store(tmp_path):
    run = Thirty(tmp_path, "none")
    both = [run.start(), run.start()]
    expected = [str(i * i) for i in range(30)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert out.split()[1:] == expected, err
    assert run.stored() == list(range(30))
    assert {path.suffix for path in run.store.iterdir()} == {".json"}  # and nothing partial


def test_a_function_of_a_notebook_cell_runs_in_processes_and_survives_a_restart(tmp_path):
    from nbclient import NotebookClient

    def execute(body, executor):
        cells = [
            "from nbutils import runs\nFACTOR = 3",
            f"def cell(seed):\n    open({str(tmp_path / 'log')!r}, 'a').write('x')\n    return {{'y': {body}}}",
            f"STORE = {str(tmp_path / 'store')!r}\nSEEDS = [{{'seed': seed}} for seed in range(3)]",
            f"t = runs.run(cell, SEEDS, STORE, executor={executor!r})\nprint(*t.y, *t.error.dropna())",
        ]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
        return notebook.cells[-1].outputs[0]["text"].strip()

    assert execute("FACTOR * seed", "loky") == execute("FACTOR * seed", None) == "0 3 6"  # a new kernel each
    assert len((tmp_path / "log").read_text()) == 3
    assert execute("FACTOR + seed", None) == "3 4 5"
    assert len((tmp_path / "log").read_text()) == 6


def test_an_interrupt_keeps_what_is_finished(tmp_path, log):
    def interrupted(seed, log):
        if seed == 2 and len(calls(Path(log))) < 3:
            measure(seed, log)
            raise KeyboardInterrupt
        return measure(seed, log)

    with pytest.raises(KeyboardInterrupt):
        runs.run(interrupted, seeds(log, 4), tmp_path / "store")
    assert runs.run(interrupted, seeds(log, 4), tmp_path / "store").double.tolist() == [0, 2, 4, 6]
    assert [line.split()[0] for line in calls(log)] == ["0", "1", "2", "2", "3"]


def test_equal_configurations_are_computed_once(tmp_path, log):
    table = runs.run(measure, seeds(log, 1) * 3, tmp_path / "store")
    assert len(table) == 3
    assert len(calls(log)) == 1
