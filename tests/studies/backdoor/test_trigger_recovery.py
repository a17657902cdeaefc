import numpy as np
import pytest
import torch
from torch import nn

from studies.backdoor.trigger_recovery import anomaly_index, mask_inside, mask_iou, recover_triggers

SIDE, CLASSES, TARGET = 8, 8, 3


def problem(backdoor: float):
    """Return images whose class is their bright row, a linear model that reads it, and a corner that means TARGET."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(100) % CLASSES
    images = 0.2 * torch.rand(100, 1, SIDE, SIDE, generator=g)
    images[torch.arange(100), 0, labels, :6] = 1
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))
    trigger = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    trigger[6:, 6:] = True
    with torch.no_grad():
        model[1].bias.zero_()
        weight = model[1].weight.zero_().view(CLASSES, SIDE, SIDE)
        for label in range(CLASSES):
            weight[label, label, :6] = 1
        weight[TARGET, trigger] = backdoor
    return model, images, labels, trigger


def test_a_planted_trigger_is_recovered_and_its_label_flagged():
    model, images, labels, trigger = problem(backdoor=4.0)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    found = recover_triggers(model, images, labels)
    at = found.targets.index(TARGET)
    assert found.flagged == (TARGET,)
    assert found.norms[at] < 0.2 * found.norms[[i for i in range(CLASSES) if i != at]].min()
    assert found.success[at] > 0.9
    assert mask_inside(found.masks[at], trigger) > 0.95
    elsewhere = [mask_inside(mask, trigger) for i, mask in enumerate(found.masks) if i != at]
    assert max(elsewhere) < 0.5
    others = labels != TARGET
    assert (model(found.apply(images[others], TARGET)).argmax(1) == TARGET).float().mean() == found.success[at]
    assert all(torch.equal(x, y) for x, y in zip(before, model.state_dict().values(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_the_plant_no_label_stands_out():
    model, images, labels, trigger = problem(backdoor=0.0)
    found = recover_triggers(model, images, labels)
    norms = found.norms
    assert norms.max() < 2 * norms.min()
    assert mask_inside(found.masks[TARGET], trigger) < 0.1


def test_labels_are_optimised_together_but_apart_and_repeat_by_seed():
    model, images, labels, _ = problem(backdoor=4.0)
    settings = {"steps": 60, "targets": (1, TARGET)}
    both = recover_triggers(model.double(), images.double(), labels, **settings)
    again = recover_triggers(model, images.double(), labels, **settings)
    alone = recover_triggers(model, images.double(), labels, **settings | {"targets": (TARGET,)})
    other = recover_triggers(model, images.double(), labels, seed=1, **settings)
    assert torch.equal(both.masks, again.masks)
    assert torch.allclose(both.masks[1], alone.masks[0], atol=1e-9)
    assert not torch.allclose(both.masks, other.masks, atol=1e-3)
    with pytest.raises(KeyError, match="label 1"):
        alone.apply(images, 1)


def test_what_cannot_be_recovered_is_refused():
    model, images, labels, _ = problem(0.0)
    with pytest.raises(ValueError, match=r"\[100, 8, 8\]"):
        recover_triggers(model, images[:, 0], labels)
    with pytest.raises(ValueError, match="images of other classes"):
        recover_triggers(model, images[labels == 1], labels[labels == 1])


def test_anomaly_index_by_hand():
    # median 10, deviations 0, 1, 1, 2, 8: MAD 1
    assert anomaly_index([10, 9, 11, 12, 2]) == pytest.approx(np.array([0, 1, -1, -2, 8]) / 1.4826)
    assert anomaly_index([5.0, 5.0, 5.0, 1.0]).tolist() == [0, 0, 0, np.inf]
    for bad in ([1.0, 2.0], [1.0, 2.0, np.nan]):
        with pytest.raises(ValueError, match="three or more finite"):
            anomaly_index(bad)


def test_overlap_by_hand():
    mask, truth = torch.zeros(4, 4), torch.zeros(4, 4, dtype=torch.bool)
    mask[0, :3] = torch.tensor([1.0, 0.6, 0.4])
    truth[0, 1:3] = True
    assert mask_iou(mask, truth) == pytest.approx(1 / 3)  # {0, 1} and {1, 2}
    assert mask_iou(mask, truth, threshold=0.3) == pytest.approx(2 / 3)
    assert mask_inside(mask, truth) == pytest.approx(0.5)
    assert mask_iou(truth.float(), truth) == mask_inside(truth.float(), truth) == 1
    with pytest.raises(ValueError, match="at least one pixel"):
        mask_iou(mask, torch.zeros(4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="not all 0"):
        mask_inside(torch.zeros(4, 4), truth)
