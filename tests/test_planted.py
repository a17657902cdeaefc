import numpy as np
import pytest
import torch

from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairLoader
from nbutils.graphs.scores import EdgeTask, evaluate
from nbutils.hooks import capture
from studies.circuits.faithfulness import answer_accuracy_of
from studies.circuits.graph import transformer_graph
from studies.circuits.planted import plant_reversal
from studies.circuits.sequences import reversal
from studies.shortcut import pooled
from studies.shortcut.planted import plant_features
from studies.shortcut.probes import channel_scores, fit_probe, probe_accuracy, three_sets

REVERSAL = reversal()
MATTERS = {"position → a0.0.q", "position → a0.0.k", "token → a0.0.v", "a0.0 → logits"}
MEAN_MATTERS = {"token → a0.0.v", "a0.0 → logits"}


@pytest.mark.parametrize("batch_size", [243, 100])
@pytest.mark.parametrize("kind", list(AblationType), ids=str)
def test_the_planted_reversal_loses_just_the_edges_and_the_accuracy_derived_for_each_type(kind, batch_size):
    if batch_size < 243 and kind.name.startswith("BATCH"):
        pytest.skip("derived for a batch of all inputs")
    model, loader = plant_reversal(), PairLoader(REVERSAL, batch_size)
    graph = transformer_graph(model, REVERSAL.clean)
    task = EdgeTask(model, graph, loader, kind, answer_accuracy_of)
    masks = torch.cat([torch.zeros(1, 9), torch.eye(9)])
    clean, *ablated = evaluate(task, masks).double().mean(1).tolist()
    assert clean == 1
    uniform = kind in (AblationType.ZERO, AblationType.BATCH_ALL_TOK_MEAN)  # of attention, without positions
    lost = 0 if kind is AblationType.RESAMPLE else 1 / 3
    expected = {
        "position → a0.0.q": 5 / 9 if uniform else 1,
        "position → a0.0.k": 5 / 9 if uniform else 1,
        "token → a0.0.v": lost,
        "a0.0 → logits": lost,
    }
    for edge, accuracy in zip(graph.edges, ablated, strict=True):
        assert accuracy == pytest.approx(expected.get(str(edge), 1), abs=1e-6), edge
    matter = {str(edge) for edge, accuracy in zip(graph.edges, ablated, strict=True) if accuracy < 1}
    assert matter == (MATTERS if uniform else MEAN_MATTERS)
    assert {"token → logits", "position → logits"}.isdisjoint(matter)


@torch.no_grad()
def test_the_planted_reversal_reverses_other_lengths_and_attends_to_the_mirror():
    prompts = reversal(4, 6, count=50)
    model = plant_reversal(4, 6)
    with capture(model, "blocks.0.attention.pattern") as seen:
        answers = model(prompts.clean).argmax(-1)
    assert torch.equal(answers, prompts.clean.flip(1))
    assert torch.allclose(seen["blocks.0.attention.pattern"][:, 0], torch.eye(4).flip(1).expand(50, 4, 4), atol=1e-10)
    assert not torch.equal(plant_reversal(4, 6, sharpness=0.1)(prompts.clean).argmax(-1), prompts.clean.flip(1))


def found_and_effect(planted, unseen):
    """Return the channels that the method blames, and accuracies before and after their ablation."""
    sets = three_sets(planted.slide, planted.hospital, planted.tumour)
    features, hospital = planted.features.numpy(), planted.hospital.numpy()
    scores = channel_scores(fit_probe(features[sets.ranking], hospital[sets.ranking]))
    order = pooled.rankings(torch.as_tensor(scores), None, planted.head)["shortcut"]
    fitted = pooled.Pool(planted.features, planted.tumour)[torch.as_tensor(sets.fitting)]
    mask = pooled.top(order, len(planted.stain))
    mean = pooled.replacement("mean", fitted, fitted)
    items = pooled.Pool(unseen.features, unseen.tumour)
    logits = pooled.logits(planted.head, items, mean, torch.stack([mask & False, mask]))
    accuracies = (logits.argmax(-1) == unseen.tumour).float().mean(1).tolist()
    left = pooled.replace_channels(planted.features, mask, mean).numpy()
    probe = fit_probe(left[sets.fitting], hospital[sets.fitting])
    readable = probe_accuracy(probe, left[sets.evaluation], hospital[sets.evaluation]).value
    return {*order[: len(planted.stain)].tolist()}, accuracies, readable


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_the_stain_block_is_found_exactly_and_in_a_rotated_basis_not_at_all(rho):
    planted, unseen = plant_features(rho=rho), plant_features(1000, hospitals=(3,), seed=1)
    found, (before, after), readable = found_and_effect(planted, unseen)
    assert found == {*planted.stain}
    assert before < 0.6 < 0.95 < after
    assert readable < (0.9 if rho else 0.6)
    turned, turned_unseen = planted.rotated(), unseen.rotated()
    found, (same, still), readable = found_and_effect(turned, turned_unseen)
    assert len(found & {*planted.stain}) < 8  # 2 are there by chance
    assert same == pytest.approx(before, abs=0.002)  # it is the same network
    assert still < 0.6
    assert readable > 0.97


def test_rotation_changes_the_basis_and_nothing_else():
    planted = plant_features(200, channels=64, block=8)
    turned = planted.rotated(3)
    assert torch.allclose(turned.head(turned.features), planted.head(planted.features), atol=1e-5)
    assert torch.allclose(turned.features @ turned.features.T, planted.features @ planted.features.T, atol=1e-3)
    assert not torch.allclose(turned.features, planted.features, atol=0.1)
    assert not torch.allclose(planted.rotated(4).features, turned.features, atol=0.1)


def test_planted_features_have_the_correlation_asked_for():
    for rho in (-0.5, 0.0, 0.9):
        planted = plant_features(20_000, rho=rho, channels=8, block=2)
        found = np.corrcoef(planted.tumour.numpy(), (planted.hospital == 0).numpy())[0, 1]
        assert found == pytest.approx(rho, abs=0.03)
        assert not {*planted.stain} & {*planted.morphology}
    for arguments in ({"block": 33, "channels": 64}, {"hospitals": (4,)}, {"rho": 1.1}):
        with pytest.raises(ValueError, match=r"do not fit|hospitals are some"):
            plant_features(10, **arguments)
