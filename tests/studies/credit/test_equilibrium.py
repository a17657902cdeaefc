"""Push and pull on a state: balanced where they were planted so, and nowhere else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from studies.credit.equilibrium import balance, block_balance, slope_parts
from studies.credit.feedback import feedback_matrices
from studies.credit.network import ResidualMLP

STRENGTH, WIDTH = 0.02, 32
DRAW = torch.Generator().manual_seed(0)


def planted(strength=STRENGTH):
    """Return what a block added, the state behind it, and credits that its penalty balances in every sample."""
    before, credits = (torch.randn(300, WIDTH, generator=DRAW, dtype=torch.float64) for _ in range(2))
    after = -WIDTH / (2 * strength) * credits
    return after - before, after, credits


def test_balance_is_one_where_push_and_pull_cancel_and_says_by_how_much_they_do_not():
    added, after, credits = planted()
    assert balance(added, after, credits, STRENGTH)["ratio"] == pytest.approx(1, abs=1e-12)
    assert balance(added, after, credits, STRENGTH / 3)["ratio"] == pytest.approx(3)
    assert balance(added, after, 5 * credits, STRENGTH)["ratio"] == pytest.approx(5)
    others = credits[torch.randperm(len(credits), generator=DRAW)]
    assert abs(balance(added, after, others, STRENGTH)["ratio"]) < 0.2  # credits of other samples push nowhere
    with pytest.raises(ValueError, match="above 0; got 0"):
        balance(added, after, credits, 0)


def test_length_follows_from_push_penalty_and_ratio():
    torch.manual_seed(3)
    model, x, y = ResidualMLP(20, WIDTH, 10, 3), torch.randn(50, 20), torch.randint(10, (50,))
    feedback = feedback_matrices(3, lambda: ResidualMLP(20, WIDTH, 10, 3))
    found = block_balance(model, feedback, x, y, STRENGTH)
    expected = found["push"] * WIDTH / (2 * STRENGTH * found["ratio"])
    assert found["length"] == pytest.approx(expected, rel=1e-12)


def test_the_slope_is_minus_one_and_two_terms_exactly():
    strength = np.array([0.01, 0.01, 0.1, 1.0])
    push, ratio = np.array([1.0, 1.2, 0.7, 2.0]), np.array([3.0, 2.0, 1.1, 0.9])
    table = pd.DataFrame({"strength": strength, "push": push, "ratio": ratio, "length": push / (strength * ratio)})
    parts = slope_parts(table)
    assert parts["length"] == pytest.approx(-1 + parts["push"] - parts["ratio"], abs=1e-12)
    balanced = table.assign(push=1.0, ratio=1.0, length=1 / strength)
    assert slope_parts(balanced)["length"] == pytest.approx(-1)
    with pytest.raises(ValueError, match="below 0"):
        slope_parts(table.assign(push=-push))
