"""A backdoor wired by hand ends with any of its units, and with no other."""

import pytest
import torch

from nbutils.ablation.edits import edits
from nbutils.data import digits
from nbutils.hooks import edit
from nbutils.schedules import Dopesheet, Timeline
from nbutils.seeding import generator
from nbutils.sites import Site
from nbutils.training.ensemble import Ensemble
from nbutils.training.fit import fit
from nbutils.training.objective import Objective, cross_entropy
from studies.backdoor.batches import DigitBatches
from studies.backdoor.measures import accuracy, attack_success_rate
from studies.backdoor.network import LAYERS, MnistNet
from studies.backdoor.planted import plant_backdoor, plant_redundant_backdoor
from studies.backdoor.trigger import Trigger


@pytest.fixture(scope="module")
def digits_and_net():
    """Return embedded digits, the trigger, and a clean network trained for a few seconds."""
    splits, trigger = digits.load("embedded"), Trigger.checkerboard()
    sheet = Timeline(Dopesheet.from_text("STEP,lr\n0,2e-3\n249,5e-4\n"))
    ensemble = Ensemble(MnistNet, [0], dtype=torch.float32)
    fit(ensemble, DigitBatches(splits.train, trigger), Objective(loss=cross_entropy), sheet)
    return splits, trigger, ensemble[0]


@torch.no_grad()
def accuracies(model, splits, trigger):
    """Return the clean accuracy, and the attack success rate."""
    images, labels = splits.report.images, splits.report.labels
    clean, triggered = (model(x).argmax(1) for x in (images, trigger.apply(images)))
    success = attack_success_rate(triggered, labels, trigger.target)
    return {"clean": float(accuracy(clean, labels)), "triggered": float(success)}


def accuracies_without(layer, unit, model, splits, trigger):
    with edit(model, edits([Site(LAYERS[layer], unit)])):
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


def test_a_redundant_backdoor_ends_with_one_unit_of_every_chain_and_not_before(digits_and_net):
    splits, trigger, net = digits_and_net
    before = accuracies(net, splits, trigger)
    model, wired = plant_redundant_backdoor(net, trigger, splits.selection.images[:30], 4)
    assert len({unit for chain in wired for unit in chain.items()}) == 12
    assert accuracies(model, splits, trigger)["triggered"] >= 0.99
    assert accuracies(model, splits, trigger)["clean"] >= before["clean"] - 0.03
    layers = ("conv1", "conv2", "conv2", "fc1")  # one unit of each chain, in whichever layer
    cut = [Site(LAYERS[layer], chain[layer]) for layer, chain in zip(layers, wired, strict=True)]
    for spared in range(4):
        with edit(model, edits([site for place, site in enumerate(cut) if place != spared])):
            assert accuracies(model, splits, trigger)["triggered"] >= 0.99
    with edit(model, edits(cut)):
        assert accuracies(model, splits, trigger)["triggered"] < 0.05


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
