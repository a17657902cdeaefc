import math

import pytest
import torch

from studies.color_cube.directions import difference_of_means, random_directions


def test_difference_of_means_finds_a_planted_direction_and_the_mean_does_not():
    z = torch.randn(4000, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    label = (torch.rand(4000, generator=torch.Generator().manual_seed(5)) < 0.3).double()
    planted = torch.tensor([0.6, 0, 0.8, 0, 0], dtype=torch.float64)
    z = z + 2 * label[:, None] * planted + torch.tensor([3.0, 0, 0, 0, 0])
    assert (difference_of_means(z, label) @ planted).item() > 0.99
    assert (z.mean(0) / z.mean(0).norm() @ planted).item() < 0.9
    with pytest.raises(ValueError, match="with and without"):
        difference_of_means(z, torch.zeros(4000, dtype=torch.float64))


def test_random_directions_are_uniform_on_the_sphere():
    v = random_directions(4000, 5, seed=0)
    assert torch.allclose(v.norm(dim=1), torch.ones(4000, dtype=v.dtype))
    assert v.mean(0).norm().item() < 4 / math.sqrt(4000)
    assert torch.equal(v, random_directions(4000, 5, seed=0))
