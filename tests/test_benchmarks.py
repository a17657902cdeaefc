"""The benchmark runner: one table, and one broken benchmark does not cost the others theirs."""

from __future__ import annotations

import shutil
import subprocess
import sys

from nbutils import layout

ROW = {"name": "a / b", "ours": 0.01234, "reference": 1234.5, "ratio": 2.0, "unit": "ms", "note": "a note"}


def test_runner_prints_one_table_and_reports_what_failed(tmp_path):
    shutil.copy(layout.root() / "tests" / "benchmarks" / "__main__.py", tmp_path)
    (tmp_path / "bench_good.py").write_text(f"def measure():\n    return [{ROW!r}]\n", encoding="utf-8")

    def run(*names: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, tmp_path, *names], capture_output=True, text=True)

    done = run()
    assert done.returncode == 0, done.stderr
    assert "| a / b | 0.0123 | 1234      | 2     | ms   | a note |" in done.stdout

    (tmp_path / "bench_bad.py").write_text("def measure():\n    raise OSError('no room')\n", encoding="utf-8")
    done = run()
    assert done.returncode == 1
    assert "a note" in done.stdout
    assert "failed: bench_bad: OSError: no room" in done.stderr
    assert run("good").returncode == 0
    assert run("unheard_of").returncode == 2
