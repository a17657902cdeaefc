"""A small network and its signals, for tests of measures of credit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from studies.credit.audit import Signals, signals
from studies.credit.loss import LossFrom, loss_from
from studies.credit.network import ResidualMLP, cast


@pytest.fixture(scope="session")
def model() -> ResidualMLP:
    """Return an untrained network of 20 inputs, width 32, ten classes and three blocks."""
    torch.manual_seed(0)
    return ResidualMLP(20, 32, 10, 3)


@pytest.fixture(scope="session")
def states(model) -> Signals:
    """Return its signals for 400 samples."""
    draw = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(400, 20, generator=draw), torch.randint(10, (400,), generator=draw)
    return signals(model, inputs, labels)


@pytest.fixture(scope="session")
def losses(model, states) -> Callable[..., LossFrom]:
    """Return the function from a layer and a dtype to the loss that follows from its states."""
    return lambda layer, dtype=torch.float64: loss_from(cast(model, dtype), layer, states.labels)
