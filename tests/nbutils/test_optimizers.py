"""The optimizers are PyTorch's, step for step, and leave its compiler where it is."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from nbutils.training import optimizers

CASES = {
    "Adam": {"lr": 0.1, "betas": (0.5, 0.9)},
    "SGD": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01},
}


def descend(kind, options, steps, state=None, start=None):
    torch.manual_seed(0)
    weight, aim = torch.nn.Parameter(torch.randn(7)), torch.randn(7)
    if start is not None:
        weight.data.copy_(start)
    optimizer = kind([weight], **options)
    if state is not None:
        optimizer.load_state_dict(state)
    for _ in range(steps):
        optimizer.zero_grad()
        ((weight - aim) ** 4).sum().backward()
        optimizer.step()
    return weight.detach(), optimizer


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_torch_also_from_a_saved_state(name):
    theirs, _ = descend(getattr(torch.optim, name), CASES[name], 10)
    half, optimizer = descend(getattr(optimizers, name), CASES[name], 5)
    ours, _ = descend(getattr(optimizers, name), CASES[name], 5, optimizer.state_dict(), half)
    assert torch.equal(ours, theirs)
    assert not torch.equal(half, theirs)  # five steps more do something


def test_step_hooks_are_called_and_a_step_leaves_grad_mode_as_it_was():
    calls = []
    _, optimizer = descend(optimizers.Adam, CASES["Adam"], 1)
    optimizer.register_step_post_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    optimizer.step()
    assert calls == [True]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("module", "imported"), [("nbutils.training.optimizers", False), ("torch.optim", True)])
def test_a_step_does_not_import_the_compiler_as_one_of_torch_would(module, imported):
    code = f"""
import sys, torch
from {module} import Adam
weight = torch.nn.Parameter(torch.ones(2)); weight.grad = torch.ones(2)
optimizer = Adam([weight]); optimizer.step(); optimizer.zero_grad(); optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer.strip() == str(imported)
