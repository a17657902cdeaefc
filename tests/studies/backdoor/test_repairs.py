import pytest
import torch
from torch import nn

from nbutils.sites import Site
from studies.backdoor.repairs import dormancy, fine_prune, neuron_masks, prune_by_masks

TARGET, WIRED, SPARE = 2, 3, 4


def wired(leak: float = 0.0):
    """Return a network of three classes, one unit each, with a unit that fires on input 3 alone; and clean data.

    `leak` is what the wired unit answers on clean images; the target's bias makes up for it.
    """
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[0].weight[:3, :3] = torch.eye(3)
        model[0].weight[WIRED, 3] = 4
        model[0].bias[WIRED] = leak
        model[2].weight[:, :3] = 4 * torch.eye(3)
        model[2].weight[TARGET, WIRED] = 8
        model[2].bias[TARGET] = -8 * leak
    labels = torch.arange(90) % 3
    images = 0.1 * torch.rand(90, 4, generator=torch.Generator().manual_seed(0))
    images[:, 3] = 0
    images[torch.arange(90), labels] = 1
    return model, images, labels


def success(model, images, labels):
    triggered = images[labels != TARGET].clone()
    triggered[:, 3] = 1
    return (model(triggered).argmax(1) == TARGET).float().mean().item()


def test_fine_pruning_removes_dormant_units_only_and_with_them_the_backdoor():
    model, images, labels = wired()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert success(model, images, labels) == 1
    found = fine_prune(model, "0", images, labels)
    assert set(found.removed) == {Site("0", WIRED), Site("0", SPARE)}
    assert success(found.model, images, labels) == 0
    assert torch.equal(found.model(images).argmax(1), labels)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_fine_pruning_misses_a_backdoor_that_clean_images_rouse():
    model, images, labels = wired(leak=2.0)
    assert dormancy(model, "0", images)[WIRED] == pytest.approx(2)
    found = fine_prune(model, "0", images, labels)
    assert Site("0", WIRED) not in found.removed
    assert success(found.model, images, labels) == 1


def test_fine_tuning_holds_removed_units_at_zero_and_repeats_by_seed():
    model, images, labels = wired()
    first, again = (fine_prune(model, "0", images, labels, tune_steps=20) for _ in range(2))
    untuned = fine_prune(model, "0", images, labels)
    assert not torch.equal(first.model[2].weight, untuned.model[2].weight)
    assert torch.equal(first.model[2].weight, again.model[2].weight)
    for unit in (WIRED, SPARE):
        assert not first.model[0].weight[unit].any()
        assert first.model[0].bias[unit] == 0


def test_dormancy_is_the_mean_rectified_activation():
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        model[0].bias.zero_()
    images = torch.tensor([[1.0, -3.0], [2.0, 0.0]]).view(2, 1, 1, 2)
    assert dormancy(model, "0", images).tolist() == [0.75, 0.75]  # (1 + 2)/4 and 3/4; not rectified: 0 and 0


def test_neuron_masks_fall_for_the_sensitive_unit_alone():
    """The wired unit is open on clean images and pushes them to the target, not far enough to be seen in answers."""
    model, images, labels = wired(leak=2.0)
    with torch.no_grad():
        model[2].bias[TARGET] = 0
        model[2].weight[TARGET, WIRED] = 1
    assert torch.equal(model(images).argmax(1), labels)
    assert success(model, images, labels) == 1
    masks = neuron_masks(model, ["0"], images, labels, steps=100)
    assert masks["0"][WIRED] < 0.1
    assert masks["0"][:3].min() > 0.5
    found = prune_by_masks(model, masks)
    assert found.removed == (Site("0", WIRED),)
    assert success(found.model, images, labels) == 0
    assert torch.equal(found.model(images).argmax(1), labels)

    with torch.no_grad():  # the same unit, unread
        model[2].weight[TARGET, WIRED] = 0
    unread = neuron_masks(model, ["0"], images, labels, steps=100)
    assert unread["0"][WIRED] == 1
    assert prune_by_masks(model, unread).removed == ()


def test_masks_repeat_by_seed_and_leave_the_model_alone():
    model, images, labels = wired(leak=1.0)
    state = torch.get_rng_state()
    first, again, other = (neuron_masks(model, ["0"], images, labels, steps=5, seed=s)["0"] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_repairs_say_what_they_cannot_do():
    model, images, labels = wired()
    with pytest.raises(KeyError, match="nearest"):
        neuron_masks(model, ["zero"], images, labels)
    with pytest.raises(ValueError, match="'1' is a ReLU"):
        neuron_masks(model, ["1"], images, labels)
    with pytest.raises(ValueError, match=r"\[0, 1\]; got 1.5"):
        neuron_masks(model, ["0"], images, labels, budget=1.5)
    with pytest.raises(ValueError, match=r"labels \[3\]"):
        fine_prune(model, "0", images, labels[:3])
    with pytest.raises(ValueError, match="max_drop"):
        fine_prune(model, "0", images, labels, max_drop=2)
