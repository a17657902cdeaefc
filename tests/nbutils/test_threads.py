"""Two threads at a time: what each gets is what it would get alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import matplotlib
import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils import atomic, seeding
from nbutils.plotting import theme
from nbutils.seeding import generator, seeded

TIMES = 60


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def mixed(*alone: Callable[[], bool], times: int = TIMES) -> int:
    """Run each function many times in a thread of its own, beside the others; count how often one is not right."""
    together = threading.Barrier(len(alone), timeout=60)
    wrong: list[object] = []

    def work(function: Callable[[], bool]) -> None:
        together.wait()
        for _ in range(times):
            try:
                if not function():
                    wrong.append(function)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(function,)) for function in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(wrong)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def test_seeded_blocks_draw_what_they_would_alone() -> None:
    def draws(seed: int) -> torch.Tensor:
        with seeded(seed, "x"):
            return torch.stack([torch.rand(3) for _ in range(20)])

    expected = {seed: draws(seed) for seed in (1, 2)}
    state = torch.get_rng_state()
    assert mixed(*(lambda s=seed: torch.equal(draws(s), expected[s]) for seed in (1, 2))) == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_two_threads_without_a_lock_would_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "_global", nullcontext())
    inside, drawn = threading.Event(), threading.Event()

    def enter() -> None:
        with seeded(2, "x"):
            inside.set()
            drawn.wait(timeout=60)

    state = torch.get_rng_state()
    other = threading.Thread(target=enter)
    with seeded(1, "x"):
        other.start()
        inside.wait(timeout=60)
        found = torch.rand(3)
        drawn.set()
        other.join()
    torch.set_rng_state(state)
    assert torch.equal(found, torch.rand(3, generator=generator(2, "x")))  # and not of seed 1


def test_ensembles_start_from_the_weights_of_their_seeds() -> None:
    expected = {seed: nb.Ensemble(network, [seed]).flat.detach().clone() for seed in (1, 2)}
    same = (lambda s=seed: torch.equal(nb.Ensemble(network, [s]).flat, expected[s]) for seed in (1, 2))
    assert mixed(*same) == 0


def test_themes_are_of_the_block() -> None:
    def within(look: theme.Theme) -> bool:
        with theme.use(look):
            return matplotlib.rcParams["figure.facecolor"] == look.paper and theme.current() is look

    assert mixed(lambda: within(theme.LIGHT), lambda: within(theme.DARK), times=10) == 0
    assert theme.current() is theme.LIGHT


def test_captures_of_one_model_are_of_the_thread() -> None:
    model = network()

    def within(value: float) -> bool:
        x = torch.full((2, 3), value)
        with nb.capture(model, "0") as seen:
            model(x)
        return torch.allclose(seen["0"], model[0](x))

    assert mixed(lambda: within(1.0), lambda: within(-1.0)) == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_edits_of_two_models_stay_apart() -> None:
    def within(model: nn.Sequential, value: float) -> bool:
        with nb.edit(model, {"1": lambda tensor: torch.full_like(tensor, value)}):
            after = model(torch.ones(2, 3))
        return torch.equal(after, model[2](torch.full((2, 4), value)))

    one, two = network(), network()
    assert mixed(lambda: within(one, 1.0), lambda: within(two, -1.0)) == 0


def test_edits_of_one_model_come_and_go_while_another_thread_runs_it() -> None:
    model = network()
    edited = model[2](torch.ones(2, 4))

    def within() -> bool:
        with nb.edit(model, {"1": torch.ones_like}):
            return torch.equal(model(torch.zeros(2, 3)), edited)

    assert mixed(within, within, times=300) == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_unchanged_puts_no_numbers_back_into_a_seeded_block() -> None:
    model = network()

    def draws() -> torch.Tensor:
        with seeded(1, "x"):
            return torch.stack([torch.rand(3) for _ in range(20)])

    def measured() -> bool:
        with nb.unchanged(model):
            return not model.eval().training

    expected = draws()
    assert mixed(lambda: torch.equal(draws(), expected), measured, times=300) == 0


def test_training_under_the_capture_of_another_thread_is_as_alone() -> None:
    x = torch.randn(8, 3, generator=generator(0, "x"))

    def trained(model: nn.Module, steps: int = 5) -> torch.Tensor:
        start = [parameter.detach().clone() for parameter in model.parameters()]
        for _ in range(steps):
            gradients = torch.autograd.grad(model(x).square().mean(), list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
        after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), start, strict=True):
                parameter.copy_(value)
        return after

    model = network()
    expected = trained(model)
    shape = (5, 4)

    def captured() -> bool:
        with nb.capture(model, "0", nb.Site("2", 1)) as seen:
            model(torch.ones(5, 3))
        return seen["0"].shape == shape

    assert mixed(lambda: torch.equal(trained(model), expected), captured) == 0


def test_a_file_is_one_of_those_written(tmp_path) -> None:
    path = tmp_path / "x.txt"

    def write(letter: str) -> bool:
        atomic.write(path, letter * 100_000)
        content = path.read_text()
        return content in ("a" * 100_000, "b" * 100_000)

    assert mixed(lambda: write("a"), lambda: write("b")) == 0
    assert list(tmp_path.iterdir()) == [path]
