"""Seeds to generators, and the settings of reproducible runs.

Every random draw of the project comes from a generator named by a seed and a *stream* (what the numbers are for).
Draws are therefore a function of their name, never of what was drawn before or of who else draws: member 7 of a
hundred-seed run sees the numbers it would see alone, and a resumed run needs no saved generator state.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_global = threading.RLock()  # whoever holds it may seed torch's global generator


def stream_seed(seed: int, *stream: str | int) -> int:
    """Return the 63-bit seed of a named stream.

    Args:
        seed: the experiment's seed, 0 or more.
        stream: what the numbers are for, e.g. `"batches", 3`.

    Raises:
        ValueError: `seed` or an integer of `stream` is negative.
    """
    import numpy as np

    words = [seed, *(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream)]
    if any(word < 0 for word in words):
        raise ValueError(f"seeds and stream numbers are 0 or more; got seed={seed}, stream={stream}")
    # The length goes in first: trailing zeros would otherwise not change the entropy pool.
    state = np.random.SeedSequence([len(words), *words]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """Return a CPU generator for a named stream of a seed (see `stream_seed`)."""
    import torch

    return torch.Generator().manual_seed(stream_seed(seed, *stream))


@contextmanager
def seeded(seed: int, *stream: str | int) -> Iterator[None]:
    """Seed torch's global generators, the processor's and CUDA's, inside the block, for code that takes no generator.

    They are restored after. All threads share them. So one of them at a time is inside a block; the others wait, and a
    thread may enter again. A thread that draws from them outside any block still disturbs one: give such draws a
    `generator`.
    """
    import torch

    with _global:
        state, first, cards = torch.get_rng_state(), torch.initial_seed(), _cards()
        try:
            torch.manual_seed(stream_seed(seed, *stream))
            yield
        finally:
            torch.set_rng_state(state)
            if cards:
                torch.cuda.set_rng_state_all(cards)
            else:  # nobody drew before: what the seed before this one gives, once CUDA is there
                torch.cuda.manual_seed_all(first)


def _cards() -> list[torch.Tensor]:
    """Return the states of CUDA's generators, without making CUDA start."""
    import torch

    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


@contextmanager
def kept() -> Iterator[None]:
    """Put torch's global generator back after the block, but not while another thread is in one that seeds it."""
    import torch

    with _global:
        state = torch.get_rng_state()
    try:
        yield
    finally:
        with _global:
            torch.set_rng_state(state)


def pin(threads: int = 1) -> None:
    """Make runs reproducible: in this process and those it starts, and from one x86-64 machine to another.

    Call it first, before any computation of torch: the libraries look once. One thread because two on operators of
    this size spend their time waiting for each other; processes use the cores (see `nbutils.training.fit`).

    Args:
        threads: threads for torch and for the matrix products of NumPy and SciPy, 1 or more. Two made a probe's fit
            on two cores ten times slower.
    """
    import torch
    from threadpoolctl import threadpool_limits

    if threads < 1:
        raise ValueError(f"threads must be 1 or more; got {threads}")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(threads))  # for the libraries that are loaded later
    threadpool_limits(threads)
    torch.set_num_threads(threads)
    # The same as `use_deterministic_algorithms(True)`, which also imports torch's compiler: seconds, for each process.
    torch.set_deterministic_debug_mode("error")
    # Would write NaN to every fresh buffer first. The module makes the attribute at run time, out of sight of checkers.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic matrix products need on CUDA
    torch.backends.cudnn.allow_tf32 = False  # convolutions in float32, not with the 10 bits that cuDNN takes by default
    pin_kernels()


def pin_kernels() -> None:
    """Choose the kernels of MKL, oneDNN and torch, in this process and those it starts.

    They pick theirs by processor, and round differently; training is chaotic, so a last bit can become another network.
    AVX2 is the newest branch that all current x86-64 machines have; a convolutional network trains about a quarter
    slower with it than with AVX-512. The libraries look once, at their first computation. What is set already stays.
    """
    os.environ.setdefault("MKL_CBWR", "AVX2")
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
    if _has_avx512():  # torch takes this variable at its word: on a processor without AVX2 it would crash
        os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")


def _has_avx512() -> bool:
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux: no platform the project supports there has AVX-512
        return False
