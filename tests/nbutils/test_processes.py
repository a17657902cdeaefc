"""The shared workers: one thread each, started early, and kept when they hold a lot."""

from __future__ import annotations

import os
import sys
import time

import loky
import pytest
from packaging.version import Version

from nbutils.processes import pool, warm_up


def facts(module):
    import torch

    return os.getpid(), torch.get_num_threads(), os.environ["OPENBLAS_NUM_THREADS"], module in sys.modules


def test_workers_have_one_thread_and_what_they_were_to_import(monkeypatch):
    pool(2).shutdown(wait=True)  # those of other tests
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name)  # else they would have one thread because this process has
    warm_up(2, "studies.shortcut.stains")
    found = [pool(2).submit(facts, "studies.shortcut.stains").result() for _ in range(4)]
    assert {row[1:] for row in found} == {(1, "1", True)}
    assert os.getpid() not in {row[0] for row in found}
    other = pool(2).submit(facts, "studies.credit.images").result()
    assert not other[3]  # nothing asked for that


def hold(megabytes):
    global held
    held = bytearray(megabytes * 10**6)
    return os.getpid()


@pytest.mark.skipif(Version(loky.__version__) < Version("3.7"), reason="loky 3.7 is the first to be told")
def test_a_worker_that_holds_much_is_not_replaced():
    pool(1).shutdown(wait=True)
    first = pool(1).submit(hold, 1).result()
    grown = pool(1).submit(hold, 500).result()
    time.sleep(1.1)  # the executor looks once a second
    pool(1).submit(hold, 500).result()
    assert pool(1).submit(os.getpid).result() == first == grown


def test_one_worker_is_the_caller_and_needs_no_process():
    pool(2).shutdown(wait=True)
    before = _children()
    warm_up(1)
    assert _children() == before


def _children():
    import psutil

    return {child.pid for child in psutil.Process().children(recursive=True)}
