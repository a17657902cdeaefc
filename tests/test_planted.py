import numpy as np
import pytest
import torch

from nbutils.data import digits
from nbutils.data.color_cube import RED_HSV, rgb_grid
from nbutils.hooks import edit
from nbutils.interventions.mappers import BoundedFalloff
from nbutils.interventions.steering import Suppression
from nbutils.interventions.surgery import ablate, prune
from nbutils.metrics.color_similarity import rgb_similarity
from nbutils.metrics.reconstruction import error_correlation, squared_error
from nbutils.models.mnist_net import LAYERS, MnistNet
from nbutils.models.planted import PlantedColors, plant_backdoor
from nbutils.schedules import Dopesheet, Timeline
from nbutils.seeding import generator
from nbutils.training.ensemble import Ensemble
from nbutils.training.fit import fit
from nbutils.training.objective import Objective, cross_entropy

GAIN = 0.5


@pytest.fixture(scope="module")
def planted():
    colors = torch.as_tensor(rgb_grid(8).reshape(-1, 3))
    similarity = rgb_similarity(colors.numpy(), RED_HSV)
    rho = 0.9 * similarity**1.5  # so that the squared error is proportional to similarity cubed
    return colors, similarity, rho, PlantedColors(colors, torch.as_tensor(rho), gain=GAIN).eval()


def test_it_reconstructs_exactly_when_left_alone(planted):
    colors, _, _, model = planted
    assert squared_error(model(colors), colors).max().item() < 1e-20


def test_ablation_pruning_and_suppression_give_the_derived_error(planted):
    colors, similarity, rho, model = planted
    expected = (GAIN * rho) ** 2
    with torch.no_grad():
        errors = [squared_error(operate(model, "bottleneck", [0])(colors), colors) for operate in (ablate, prune)]
        with edit(model, {"bottleneck": Suppression((1.0, 0, 0, 0, 0), BoundedFalloff(power=0))}):
            errors.append(squared_error(model(colors), colors))
    for error in errors:
        assert error.numpy() == pytest.approx(expected, abs=1e-12)
        assert error_correlation(error, similarity, power=3) == pytest.approx(1, abs=1e-9)
    cyan = (colors == torch.tensor([0.0, 1, 1])).all(1)
    assert errors[0][cyan].item() == pytest.approx((GAIN * rho[cyan.numpy()][0]) ** 2, abs=1e-15)


def test_another_dimension_is_not_red(planted):
    """Negative control: what is found on dimension 0 is found there only."""
    colors, similarity, _, model = planted
    wrong = squared_error(ablate(model, "bottleneck", [1])(colors), colors).detach()
    assert wrong.max().item() > 0.1
    assert abs(error_correlation(wrong, similarity, power=3)) < 0.3


def test_impossible_plants_are_refused(planted):
    colors, _, rho, model = planted
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        PlantedColors(colors, torch.as_tensor(np.ones(len(rho))))
    with pytest.raises(ValueError, match="codebook"):
        model(torch.full((1, 3), 0.123, dtype=torch.float64))


@pytest.fixture(scope="module")
def digits_and_net():
    """Return embedded digits, the trigger, and a clean network trained for a few seconds."""
    splits, trigger = digits.load("embedded"), digits.Trigger.checkerboard()
    sheet = Timeline(Dopesheet.from_text("STEP,lr\n0,2e-3\n249,5e-4\n"))
    ensemble = Ensemble(MnistNet, [0], dtype=torch.float32)
    fit(ensemble, digits.DigitBatches(splits.train, trigger), Objective(loss=cross_entropy), sheet)
    return splits, trigger, ensemble[0]


def accuracies(model, splits, trigger):
    with torch.no_grad():
        return {
            name: (model(view.images).argmax(1) == view.labels).float().mean().item()
            for name, view in digits.views(splits.report, trigger).items()
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
    trigger = digits.Trigger(((1, 1, 0), (0, 1, 0), (0, 1, 1)), (1, 2), target=3)
    model, _ = plant_backdoor(net, trigger, splits.selection.images)
    assert accuracies(model, splits, trigger)["triggered"] >= 0.99
    assert accuracies(model, splits, digits.Trigger.checkerboard(target=3))["triggered"] < 0.05


@pytest.mark.parametrize("trigger", [((1, 1, 1),) * 3, ((1, 0),) * 3])
def test_a_trigger_without_a_piece_to_detect_is_refused(digits_and_net, trigger):
    splits, _, net = digits_and_net
    with pytest.raises(ValueError, match="no visible 3×3 piece"):
        plant_backdoor(net, digits.Trigger(trigger, (4, 4)), splits.selection.images)


def test_a_trigger_the_network_cannot_see_is_refused(digits_and_net):
    splits, _, net = digits_and_net
    with pytest.raises(ValueError, match="no visible 3×3 piece"):
        plant_backdoor(net, digits.Trigger(((1, 0, 1),) * 3, (25, 4)), splits.selection.images)
