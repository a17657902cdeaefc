"""Push and pull on a state: balanced where they were planted so, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studies.credit.equilibrium import balance, block_balance
from studies.credit.feedback import feedback_matrices
from studies.credit.network import ResidualMLP
from studies.credit.slopes import log_slope

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
    of_length, of_push, of_ratio = (log_slope(strength, y).slope for y in (push / (strength * ratio), push, ratio))
    assert of_length == pytest.approx(-1 + of_push - of_ratio, abs=1e-12)
    assert abs(of_length + 1) > 0.1  # at equilibrium under a push that does not depend on λ it would be −1
