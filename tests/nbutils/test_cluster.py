"""The same call on a cluster: the README's, a scheduler and two worker processes, and one of them killed."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from nbutils import layout, runs, seeding
from nbutils.data import arrays

distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`")

README = (layout.root() / "README.md").read_text(encoding="utf-8")
CLUSTER = re.search(r"Client\((LocalCluster\(.*\))\)", README)[1]

pytestmark = pytest.mark.slow


@pytest.fixture
def client(request, tmp_path):
    """Start the README's cluster; the parameter is how many workers a task may kill before it is given up."""
    import dask

    settings = {
        "distributed.scheduler.allowed-failures": getattr(request, "param", 0),
        "temporary-directory": str(tmp_path / "dask"),
        "distributed.comm.timeouts.connect": "10 minutes",  # on a busy machine only the limit of the test counts
    }
    with dask.config.set(settings):
        cluster = eval(CLUSTER, {"LocalCluster": distributed.LocalCluster})
        with cluster, distributed.Client(cluster) as client:
            client.wait_for_workers(2)
            yield client


@pytest.mark.parametrize("client", [1], indirect=True)
def test_a_seed_sweep_survives_a_killed_worker(client, tmp_path):
    def train(seed, steps, killed):
        from nbutils.seeding import generator  # in the worker, where nothing is imported yet

        while seed >= 6 and not Path(killed).exists():
            time.sleep(0.01)  # so that tasks are under way when the worker dies
        draw = generator(seed, "data")
        x = torch.randn(64, 3, generator=draw)
        y = x @ torch.randn(3, 1, generator=draw)
        weight = torch.zeros(3, 1, requires_grad=True)
        for _ in range(steps):
            loss = ((x @ weight - y) ** 2).mean()
            (slope,) = torch.autograd.grad(loss, weight)
            weight = (weight - 0.1 * slope).detach().requires_grad_()
        return {"loss": loss, "weight": weight.detach()}

    killed = tmp_path / "killed"
    sweep = [{"seed": seed, "steps": 20, "killed": str(killed)} for seed in range(12)]
    store = tmp_path / "store"
    victim = next(iter(client.run(os.getpid).values()))

    def kill_half_way():
        while len(list(store.glob("*.json"))) < 6:
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        killed.touch()

    threading.Thread(target=kill_half_way, daemon=True).start()
    table = runs.run(train, sweep, store, executor=client.get_executor())
    assert killed.exists()
    assert table.error.isna().all()
    assert victim not in client.run(os.getpid).values()

    seeding.pin()
    try:  # to the last bit what this process computes
        pd.testing.assert_frame_equal(runs.run(train, sweep, tmp_path / "here"), table, check_exact=True)
        for configuration in sweep[::5]:
            here, there = (
                runs.results(train, [configuration], folder)[0]["weight"] for folder in (tmp_path / "here", store)
            )
            assert torch.equal(here, there)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_task_that_kills_its_worker_is_reported_and_the_others_are_kept(client, tmp_path):
    def task(seed):
        if seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"square": seed * seed}

    sweep = [{"seed": seed} for seed in range(5)]
    executor = client.get_executor()
    table = runs.run(task, sweep, tmp_path / "store", executor=executor)
    assert table.error[2].startswith("KilledWorker: ")
    # A task that stood in line behind the killer shares its fate; the next call computes it, on the other worker.
    others = runs.run(task, [row for row in sweep if row["seed"] != 2], tmp_path / "store", executor=executor)
    assert others.square.tolist() == [0, 1, 9, 16]
    assert others.error.isna().all()


def test_large_arrays_are_read_by_key_and_do_not_travel(client, tmp_path):
    features = torch.randn(1_000_000, generator=seeding.generator(0, "features"))
    folder = tmp_path / "features"
    key = arrays.put(folder, {"x": features})

    def task(part, key, folder):
        from nbutils.data import arrays

        return {"sum": arrays.get(folder, key)["x"][part::4].sum()}

    sweep = [{"part": part, "key": key, "folder": str(folder)} for part in range(4)]
    table = runs.run(task, sweep, tmp_path / "store", executor=client.get_executor())
    assert table["sum"].tolist() == pytest.approx([features[part::4].sum().item() for part in range(4)], rel=1e-4)
    assert len(distributed.protocol.pickle.dumps((task, sweep))) < 5_000  # of 4 MB

    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]  # nobody else reaches the cluster
    sockets = [socket for process in processes for socket in process.net_connections("inet")]
    assert {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
