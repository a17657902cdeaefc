"""Channel-Lipschitz pruning removes what could amplify far more than the rest, and nothing else."""

import pytest
import torch
from torch import nn

from nbutils.sites import Site
from studies.backdoor.lipschitz import channel_lipschitz, prune_by_lipschitz


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 20, 3))


def test_the_bound_is_the_largest_singular_value_of_a_channels_kernel(model):
    kernel = model[2].weight[5].detach().flatten(1).double()  # (inputs, places)
    assert channel_lipschitz(model, "2")[5].item() == pytest.approx(torch.linalg.svdvals(kernel)[0].item())
    with torch.no_grad():
        model[2].weight[5] *= 3
    assert channel_lipschitz(model, "2")[5].item() == pytest.approx(3 * torch.linalg.svdvals(kernel)[0].item())


def test_a_channel_that_could_amplify_goes_and_others_stay(model):
    before = model[0].weight.detach().clone()
    assert prune_by_lipschitz(model, ["0", "2"]).removed == ()
    with torch.no_grad():
        model[0].weight[7] *= 20
    found = prune_by_lipschitz(model, ["0", "2"])
    assert found.removed == (Site("0", 7),)
    assert not found.model[0].weight[7].any()
    assert found.model[0].bias[7] == 0
    kept = [unit for unit in range(24) if unit != 7]
    assert torch.equal(found.model[0].weight[kept], before[kept])
    assert model[0].weight[7].any()
