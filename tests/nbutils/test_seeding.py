import os
import subprocess
import sys

import pytest
import torch

from nbutils.seeding import generator, seeded, stream_seed


def test_streams_are_distinct_and_repeat():
    names = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (1, "a"), (0, "a", 0, 0)]
    assert len({stream_seed(*name) for name in names}) == len(names)
    first, again = (torch.rand(5, generator=generator(3, "a", 2)) for _ in range(2))
    assert torch.equal(first, again)


def test_seeded_puts_the_global_generator_back_after_an_exception():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    try:
        with seeded(5, "anything"):
            torch.rand(100)
            raise RuntimeError
    except RuntimeError:
        pass
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("started", [True, False])
def test_seeded_puts_the_generators_of_cuda_back(monkeypatch, started):
    cards = [torch.Generator().manual_seed(8), torch.Generator().manual_seed(9)]  # stand for those of two GPUs

    def seed_all(seed):
        for card in cards:
            card.manual_seed(seed)

    def set_all(states):
        for card, state in zip(cards, states, strict=True):
            card.set_state(state)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: started)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seed_all)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [card.get_state() for card in cards])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", set_all)
    torch.manual_seed(4)  # seeds them, too
    if started:
        torch.rand(3, generator=cards[0])  # drawn from before
    before = [card.get_state() for card in cards]
    with seeded(5, "anything"):
        first = [torch.rand(3, generator=card) for card in cards]
        assert torch.equal(*first)
    assert all(torch.equal(card.get_state(), state) for card, state in zip(cards, before, strict=True))
    with seeded(5, "anything"):
        assert torch.equal(torch.rand(3, generator=cards[1]), first[1])


def test_pin_sets_threads_kernels_and_determinism_for_this_process_and_its_children():
    program = (
        "import os, torch\nfrom nbutils import seeding\nseeding.pin(1)\n"
        "print(torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), os.environ['MKL_CBWR'],"
        " os.environ['ONEDNN_MAX_CPU_ISA'], torch.backends.cpu.get_cpu_capability())\n"
        "import scipy.linalg, threadpoolctl\n"  # a BLAS that was loaded before and one that was not
        "print(*{pool['num_threads'] for pool in threadpoolctl.threadpool_info()})"
    )
    chosen = ("MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
    environment = {
        name: value for name, value in os.environ.items() if name not in chosen and "_NUM_THREADS" not in name
    }
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    *settings, capability, pools = result.stdout.split()
    assert settings == ["1", "True", "AVX2", "AVX2"]
    assert capability != "AVX512"
    assert pools == "1"
