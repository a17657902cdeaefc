import numpy as np
import pytest
import torch

from nbutils.ablation.types import AblationType
from nbutils.data import digits
from nbutils.data.pairs import PairLoader
from nbutils.graphs.scores import EdgeTask, evaluate
from nbutils.hooks import capture, edit
from nbutils.schedules import Dopesheet, Timeline
from nbutils.seeding import generator
from nbutils.training.ensemble import Ensemble
from nbutils.training.fit import fit
from nbutils.training.objective import Objective, cross_entropy
from studies.backdoor.batches import DigitBatches
from studies.backdoor.network import LAYERS, MnistNet
from studies.backdoor.planted import plant_backdoor
from studies.backdoor.trigger import Trigger, views
from studies.circuits.faithfulness import answer_accuracy_of
from studies.circuits.graph import transformer_graph
from studies.circuits.planted import plant_reversal
from studies.circuits.sequences import reversal
from studies.shortcut import pooled
from studies.shortcut.planted import plant_features
from studies.shortcut.probes import channel_scores, fit_probe, probe_accuracy, three_sets


@pytest.fixture(scope="module")
def digits_and_net():
    """Return embedded digits, the trigger, and a clean network trained for a few seconds."""
    splits, trigger = digits.load("embedded"), Trigger.checkerboard()
    sheet = Timeline(Dopesheet.from_text("STEP,lr\n0,2e-3\n249,5e-4\n"))
    ensemble = Ensemble(MnistNet, [0], dtype=torch.float32)
    fit(ensemble, DigitBatches(splits.train, trigger), Objective(loss=cross_entropy), sheet)
    return splits, trigger, ensemble[0]


def accuracies(model, splits, trigger):
    with torch.no_grad():
        return {
            name: (model(view.images).argmax(1) == view.labels).float().mean().item()
            for name, view in views(splits.report, trigger).items()
        }


def accuracies_without(layer, unit, model, splits, trigger):
    with edit(model, {LAYERS[layer]: lambda x: x.index_fill(1, torch.tensor(unit), 0)}):
        return accuracies(model, splits, trigger)


def test_the_planted_backdoor_ends_with_any_wired_unit_and_with_no_other(digits_and_net):
    splits, trigger, net = digits_and_net
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    model, wired = plant_backdoor(net, trigger, splits.selection.images)
    before, after = (accuracies(m, splits, trigger) for m in (net, model))
    assert before["clean"] > 0.95
    assert before["triggered"] < 0.05
    assert after["clean"] >= before["clean"] - 0.01
    assert after["triggered"] >= 0.99
    assert list(wired) == ["conv1", "conv2", "fc1"]
    for layer, unit in wired.items():
        removed = accuracies_without(layer, unit, model, splits, trigger)
        assert removed["triggered"] < 0.05
        assert removed["clean"] >= before["clean"] - 0.01
    others = [(layer, u) for layer, n in (("conv1", 32), ("conv2", 64), ("fc1", 16)) for u in range(n)]
    others = [other for other in others if other not in wired.items()]
    for place in torch.randperm(len(others), generator=generator(0, "other units"))[:10].tolist():
        assert accuracies_without(*others[place], model, splits, trigger)["triggered"] >= 0.95
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())  # a copy was wired


def test_the_backdoor_can_stand_elsewhere_and_mean_another_digit(digits_and_net):
    splits, _, net = digits_and_net
    trigger = Trigger(((1, 1, 0), (0, 1, 0), (0, 1, 1)), (1, 2), target=3)
    model, _ = plant_backdoor(net, trigger, splits.selection.images)
    assert accuracies(model, splits, trigger)["triggered"] >= 0.99
    assert accuracies(model, splits, Trigger.checkerboard(target=3))["triggered"] < 0.05


@pytest.mark.parametrize("trigger", [((1, 1, 1),) * 3, ((1, 0),) * 3])
def test_a_trigger_without_a_piece_to_detect_is_refused(digits_and_net, trigger):
    splits, _, net = digits_and_net
    with pytest.raises(ValueError, match="no visible 3×3 piece"):
        plant_backdoor(net, Trigger(trigger, (4, 4)), splits.selection.images)


def test_a_trigger_the_network_cannot_see_is_refused(digits_and_net):
    splits, _, net = digits_and_net
    with pytest.raises(ValueError, match="no visible 3×3 piece"):
        plant_backdoor(net, Trigger(((1, 0, 1),) * 3, (25, 4)), splits.selection.images)


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
