"""Planted credits have the cosine and the length that were asked for."""

from __future__ import annotations

import pytest
import torch

from studies.credit.alignment import cosine
from studies.credit.planted import plant_credit


def test_every_sample_has_the_planted_cosine_and_the_gradients_length():
    g = torch.randn(50, 8, dtype=torch.float64) * torch.logspace(-9, 3, 50)[:, None]
    for c in (-1.0, 0.0, 0.02, 1.0):
        planted = plant_credit(g, c)
        assert torch.allclose(cosine(planted, g), torch.full((50,), c, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(planted.norm(dim=1), g.norm(dim=1), rtol=1e-9)
    assert not torch.allclose(plant_credit(g, 0.5), plant_credit(g, 0.5, seed=1))
    with pytest.raises(ValueError, match=r"between -1 and 1; got 1\.5"):
        plant_credit(g, 1.5)
