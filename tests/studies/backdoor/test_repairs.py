import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from nbutils.ablation.weights import zero_weights
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
    with pytest.raises(ValueError, match="'1', a ReLU"):
        neuron_masks(model, ["1"], images, labels)
    with pytest.raises(ValueError, match=r"\[0, 1\]; got 1.5"):
        neuron_masks(model, ["0"], images, labels, budget=1.5)
    with pytest.raises(ValueError, match=r"labels \[3\]"):
        fine_prune(model, "0", images, labels[:3])
    with pytest.raises(ValueError, match="max_drop"):
        fine_prune(model, "0", images, labels, max_drop=2)


# Batch norm: a convolution and what normalises it are one unit -------------------------------------------------------


class Block(nn.Module):
    """A residual block with batch norm, and the means of its channels as logits."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.conv2, self.bn2 = nn.Conv2d(5, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, images):
        inside = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu()))
        return self.fc((images + inside).relu().mean((2, 3)))


def normalised(leak: float = 0.0, pull: float = 8.0):
    """Return a block whose unit `WIRED` fires on channel 3 alone, and clean images `[90, 4, 3, 3]` of three classes.

    The unit is off on clean images since the channel of their class turns it off: with the weights of its convolution
    at zero only the shift of the batch norm is left, and it fires at all images.
    """
    model = Block().eval()
    with torch.no_grad():
        for module in (model.conv1, model.conv2, model.fc):
            for parameter in module.parameters():
                parameter.zero_()
        model.conv1.weight[range(3), range(3), 1, 1] = -1.0
        model.conv1.weight[WIRED, :, 1, 1] = torch.tensor([1.0, 1, 1, 8])
        model.bn1.running_mean[WIRED] = 0.5
        model.bn1.bias[WIRED] = 1.3 + leak
        model.bn1.bias[SPARE] = -1
        model.conv2.weight[range(3), range(3), 1, 1] = 3.0
        model.conv2.weight[TARGET, WIRED, 1, 1] = pull
        model.fc.weight[:, :3] = torch.eye(3)
        model.fc.bias[TARGET] = -pull * leak
    labels = torch.arange(90) % 3
    images = 0.02 * torch.rand(90, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    images[:, 3] = 0
    images[torch.arange(90), labels] = -1  # which the stream alone loses in its ReLU
    return model, images, labels


def test_fine_pruning_removes_a_backdoor_from_a_network_with_batch_norm():
    model, images, labels = normalised()
    assert torch.equal(model(images).argmax(1), labels)
    assert success(model, images, labels) == 1
    assert dormancy(model, "bn1", images)[[WIRED, SPARE]].tolist() == [0, 0]
    for found in (fine_prune(model, "bn1", images, labels, tune_steps=steps) for steps in (0, 5)):
        assert set(found.removed) == {Site("bn1", WIRED), Site("bn1", SPARE)}
        assert success(found.model, images, labels) == 0
        assert torch.equal(found.model(images).argmax(1), labels)
        assert not found.model.bn1.weight[[WIRED, SPARE]].any()
        assert not found.model.bn1.bias[[WIRED, SPARE]].any()


def test_the_convolution_of_such_a_unit_is_no_place_to_remove_it():
    """Its zero is not the unit's: the batch norm's shift fires, and all images go to the target."""
    model, images, labels = normalised()
    half = zero_weights(model, [Site("conv1", WIRED)], images)
    assert (half(images).argmax(1) == labels).float().mean() < 0.5
    for call in (
        lambda: fine_prune(model, "conv1", images, labels),
        lambda: neuron_masks(model, ["conv1"], images, labels, steps=1),
    ):
        with pytest.raises(ValueError, match=r"the units of 'conv1' go through the batch norm 'bn1'.* name 'bn1'"):
            call()


def test_masks_of_batch_norm_find_the_unit():
    model, images, labels = normalised(leak=2.0, pull=1.0)
    with torch.no_grad():
        model.fc.bias[TARGET] = -1.0  # the unit pushes clean images to the target, not far enough to be seen
    assert torch.equal(model(images).argmax(1), labels)
    assert success(model, images, labels) == 1
    masks = neuron_masks(model, ["bn1"], images, labels, steps=60)
    assert masks["bn1"].argmin() == WIRED
    found = prune_by_masks(model, masks, float(masks["bn1"][WIRED]), images)
    assert found.removed == (Site("bn1", WIRED),)
    assert success(found.model, images, labels) == 0
    assert not found.model.bn1.bias[WIRED].any()


class Tokens(nn.Module):
    """Classify the mean of tokens; batches are keywords, and answers have a name."""

    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, tokens, scale):
        return {"logits": self.out(self.inner(tokens).relu()).mean(1) * scale[:, None]}


def test_units_of_tokens_in_batches_of_keywords():
    torch.manual_seed(0)
    model, labels = Tokens(), torch.arange(12) % 3
    batch = {"tokens": torch.randn(12, 5, 4), "scale": torch.ones(12)}
    assert dormancy(model, "inner", batch).tolist() == pytest.approx(
        model.inner(batch["tokens"]).relu().mean((0, 1)).tolist(), abs=1e-6
    )
    assert torch.equal(dormancy(model, Site("inner", axis=2), batch), dormancy(model, "inner", batch))
    assert len(dormancy(model, Site("inner", axis=1), batch)) == 5  # its tokens
    found = fine_prune(model, "inner", batch, labels, max_drop=1, tune_steps=2)
    assert len(found.removed) == 6
    assert not found.model.inner.weight.any()
    assert neuron_masks(model, ["inner"], batch, labels, steps=2)["inner"].shape == (6,)


def test_parametrized_layers_are_refused():
    model, images, labels = wired()
    parametrizations.weight_norm(model[0])
    for call in (
        lambda: fine_prune(model, "0", images, labels),
        lambda: neuron_masks(model, ["0"], images, labels, steps=1),
    ):
        with pytest.raises(ValueError, match="'0' are computed anew"):
            call()
