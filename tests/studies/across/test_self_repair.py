import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.data.pairs import Pairs
from nbutils.sites import Site
from studies.across.cases import Case, Layer, cross_entropy
from studies.across.repair import margin, own_tokens, plant_backup, source_effects, together, unit_repair
from studies.circuits.graph import transformer_graph


def own_logit(logits, batch):
    return logits[:, -1].gather(1, batch.pairs.labels[:, None])[:, 0]


def first_head(share, kind):
    model, prompts = plant_backup(share), own_tokens()
    task = nb.EdgeTask(
        model, transformer_graph(model, prompts.clean), nb.PairLoader(prompts, len(prompts)), kind, own_logit
    )
    return source_effects(task)


def test_the_planted_network_says_its_own_tokens():
    prompts = own_tokens()
    assert torch.equal(plant_backup()(prompts.clean)[:, 1:].argmax(-1), prompts.clean[:, 1:])
    assert (prompts.clean[:, 1:] != prompts.corrupt[:, 1:]).all()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6])
def test_zeros_wake_the_backup_and_a_twin_does_not(share):
    zeros = first_head(share, nb.AblationType.ZERO).loc["a0.0"]
    assert zeros.tolist() == pytest.approx([-1, share - 1, share], abs=1e-6)
    twins = first_head(share, nb.AblationType.RESAMPLE).loc["a0.0"]
    assert twins.tolist() == pytest.approx([-1, -1, 0], abs=1e-6)
    means = first_head(share, nb.AblationType.TOKENWISE_MEAN_CLEAN).loc["a0.0"]
    assert means.tolist() == pytest.approx([-2 / 3, -2 / 3, 0], abs=1e-6)


def case(*between):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), *between, nn.Linear(6, 3)).eval()
    x = torch.rand(20, 6)
    pairs = Pairs(x, x.flip(0), torch.arange(20) % 3)
    layer = Layer(Site("0", axis=1), torch.ones(6), torch.zeros(6))
    return Case("plain", model, pairs, cross_entropy, (layer,), torch.arange(40) < 20, pairs)


def test_a_linear_rest_repairs_nothing_and_gates_can():
    linear = unit_repair(case(), nb.AblationType.ZERO)
    assert linear.total.tolist() == pytest.approx(linear.direct.tolist(), abs=1e-5)
    gated = unit_repair(case(nn.Linear(6, 6), nn.ReLU()), nb.AblationType.ZERO)
    assert gated.repaired.abs().max() > 1e-3


def test_margins_of_parts_add_up_and_losses_do_not():
    one = case()
    found = together(one, [one.layers[0].unit(0), one.layers[0].unit(1)])
    assert found.loc["margin", "together"] == pytest.approx(found.loc["margin", "alone"], abs=1e-6)
    assert found.loc["loss", "together"] != pytest.approx(found.loc["loss", "alone"], abs=1e-5)


def test_a_margin_does_not_know_what_all_logits_share():
    logits, pairs = torch.randn(20, 3), case().pairs
    assert torch.allclose(margin(logits + 7, pairs), margin(logits, pairs), atol=1e-5)
    assert not torch.allclose(margin(2 * logits, pairs), margin(logits, pairs))
