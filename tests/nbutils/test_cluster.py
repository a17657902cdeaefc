"""The same call on a cluster: a real scheduler, two worker processes, and one of them killed."""

from __future__ import annotations

import os
import signal
import threading
import time

import pandas as pd
import pytest
import torch

from nbutils import runs, seeding
from nbutils.data import arrays

distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    import dask

    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "temporary-directory": str(tmp_path_factory.mktemp("dask")),
        "distributed.comm.timeouts.connect": "120s",  # a busy machine starts workers slowly
    }
    with dask.config.set(settings):
        cluster = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs="ERROR"
        )
        with cluster, distributed.Client(cluster) as client:
            client.wait_for_workers(2, timeout=180)
            yield client


def stored(store):
    return len(list(store.glob("*.json")))


def test_a_seed_sweep_survives_a_killed_worker(client, tmp_path):
    def train(seed, steps):
        from nbutils.seeding import generator  # in the worker, where nothing is imported yet

        draw = generator(seed, "data")
        x = torch.randn(64, 3, generator=draw)
        y = x @ torch.randn(3, 1, generator=draw)
        weight = torch.zeros(3, 1, requires_grad=True)
        for _ in range(steps):
            loss = ((x @ weight - y) ** 2).mean()
            (slope,) = torch.autograd.grad(loss, weight)
            weight = (weight - 0.1 * slope).detach().requires_grad_()
        time.sleep(0.2)  # so that tasks are under way when the worker dies
        return {"loss": loss, "weight": weight.detach()}

    sweep = [{"seed": seed, "steps": 20} for seed in range(12)]
    store = tmp_path / "store"
    workers = client.run(os.getpid)
    killed = []

    def kill_half_way():
        while stored(store) < 6:
            time.sleep(0.01)
        killed.append((next(iter(workers.values())), stored(store)))
        os.kill(killed[0][0], signal.SIGKILL)

    killer = threading.Thread(target=kill_half_way)
    killer.start()
    table = runs.run(train, sweep, store, executor=client.get_executor())
    killer.join()
    assert killed[0][1] < 12  # it was half-way
    assert table.error.isna().all()
    client.wait_for_workers(2, timeout=180)
    assert killed[0][0] not in client.run(os.getpid).values()

    threads = torch.get_num_threads()
    seeding.pin()
    try:  # to the last bit what this process computes
        pd.testing.assert_frame_equal(runs.run(train, sweep, tmp_path / "here"), table, check_exact=True)
        for configuration in sweep[::5]:
            here, there = (
                runs.results(train, [configuration], folder)[0]["weight"] for folder in (tmp_path / "here", store)
            )
            assert torch.equal(here, there)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


def test_a_task_that_always_kills_its_worker_is_reported_and_the_others_are_kept(client, tmp_path):
    def task(seed):
        if seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"square": seed * seed}

    sweep = [{"seed": seed} for seed in range(5)]
    store = tmp_path / "store"
    executor = client.get_executor()
    table = runs.run(task, sweep, store, executor=executor)
    assert table.error[2].startswith("KilledWorker: ")
    others = [row for row in sweep if row["seed"] != 2]
    for _ in range(3):  # a task that stood in line behind the killer may share its fate; the next call computes it
        client.wait_for_workers(2, timeout=180)
        table = runs.run(task, others, store, executor=executor)
        if table.error.isna().all():
            break
    assert table.square.tolist() == [0, 1, 9, 16]
    assert table.error.isna().all()


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
