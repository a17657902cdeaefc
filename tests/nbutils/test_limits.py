"""What the tests themselves may take: one thread, and a limited time."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import threadpoolctl
import torch

from nbutils import layout

COUNT = """
import numpy, scipy.linalg, torch, threadpoolctl
print(torch.get_num_threads(), *(pool["num_threads"] for pool in threadpoolctl.threadpool_info()))
"""

HANG = """
import pytest, threading
@pytest.mark.timeout(0.5)
def test_hang(): threading.Event().wait()
def test_next(): pass
"""


def test_a_test_has_one_thread_and_so_has_a_process_that_it_starts():
    assert np.ones(2) @ np.ones(2) == 2  # loads the BLAS
    pools = threadpoolctl.threadpool_info()
    assert pools
    assert {pool["num_threads"] for pool in pools} == {torch.get_num_threads()} == {1}
    child = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    assert set(child.stdout.split()) == {"1"}
    with threadpoolctl.threadpool_limits(2):  # the control: where there are two, they are seen
        assert 2 in {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}


def test_a_test_that_hangs_fails_and_the_next_one_runs(pytestconfig, tmp_path):
    assert float(pytestconfig.getini("timeout")) > 0
    (tmp_path / "test_hang.py").write_text(HANG)
    settings = ["-c", layout.root() / "pyproject.toml", "--rootdir", tmp_path, "-p", "no:cacheprovider"]
    done = subprocess.run([sys.executable, "-m", "pytest", *settings, tmp_path], capture_output=True, text=True)
    assert "Timeout (>0.5s)" in done.stdout
    assert "1 failed, 1 passed" in done.stdout
