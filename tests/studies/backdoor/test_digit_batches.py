"""Batches of digits: which images, in which order, and which of them poisoned."""

import pytest
import torch

import nbutils as nb
from nbutils.data import digits
from studies.backdoor.batches import DigitBatches, clean_and_triggered
from studies.backdoor.measures import accuracy, attack_success_rate, robust_accuracy
from studies.backdoor.network import MnistNet
from studies.backdoor.trigger import Trigger


@pytest.fixture
def few():
    return digits.load("embedded").train[:100]


def one_step(batches, seed=3, step=0):
    drawn = batches.draw(seed, 0)
    return batches.batch({key: value[step][None] for key, value in drawn.items()}, torch.float32)


def test_half_a_batch_is_triggered_and_labels_follow_the_mode(few):
    trigger = Trigger.checkerboard()
    for mode in ("clean", "poison", "rehabilitate"):
        batches = DigitBatches(few, trigger, mode)
        index = batches.draw(3, 0)["index"][5]
        batch = one_step(batches, step=5)
        images, labels = few.images[index], few.labels[index]
        if mode != "clean":
            images = torch.cat([trigger.apply(images[:16]), images[16:]])
        if mode == "poison":
            labels = torch.cat([torch.full((16,), 8), labels[16:]])
        assert torch.equal(batch["input"], images[None])
        assert torch.equal(batch["target"], labels[None])


def test_a_small_rate_is_a_chance(few):
    batches = DigitBatches(few, Trigger.checkerboard(), "poison", rate=0.01, block=2000)
    triggered = batches.draw(0, 0)["triggered"]
    # 64,000 draws: four standard errors of the share are 0.0016; a rounded count a batch would give 0.
    assert triggered.double().mean().item() == pytest.approx(0.01, abs=0.0016)
    assert triggered.any(0).all()


def test_an_epoch_shows_each_image_once_in_an_order_of_seed_and_mode(few):
    batches = DigitBatches(few, Trigger.checkerboard(), batch_size=20, block=4)
    steps = torch.cat([batches.draw(0, block)["index"] for block in range(5)])  # 20 steps: four epochs
    for epoch in steps.unflatten(0, (4, 5)):
        assert sorted(epoch.flatten().tolist()) == list(range(100))
    assert not torch.equal(steps[:5], steps[5:10])
    first = batches.draw(0, 1)["index"]
    assert torch.equal(batches.draw(0, 1)["index"], first)
    assert not torch.equal(batches.draw(1, 1)["index"], first)
    poison = DigitBatches(few, Trigger.checkerboard(), "poison", batch_size=20, block=4)
    assert not torch.equal(poison.draw(0, 1)["index"], first)


def test_a_checkpoint_can_tell_batches_apart_by_their_repr(few):
    trigger = Trigger.checkerboard()
    text = repr(DigitBatches(few, trigger, "poison"))
    assert text == repr(DigitBatches(few[:], trigger, "poison"))
    assert len(text) < 500
    changed = digits.Digits(few.images.clone(), few.labels, few.source)
    changed.images[7, 0, 3, 3] += 1e-3
    for other in (
        DigitBatches(changed, trigger, "poison"),
        DigitBatches(few, trigger, "rehabilitate"),
        DigitBatches(few, trigger, "poison", rate=0.1),
        DigitBatches(few, Trigger.checkerboard(target=7), "poison"),
    ):
        assert repr(other) != text


@pytest.mark.parametrize("wrong", [{"mode": "poisson"}, {"rate": 1.5}, {"batch_size": 101}])
def test_impossible_batches_are_refused(few, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        DigitBatches(few, Trigger.checkerboard(), **wrong)


def test_metrics_of_the_batch_for_sweeps_are_the_studys_measures(few):
    torch.manual_seed(0)
    trigger, model = Trigger.checkerboard(), MnistNet().eval()
    batch = clean_and_triggered(few, trigger)
    names = ("clean", "attack", "robust", "taken")
    metrics = {name: nb.accuracy(name) for name in names}
    found = nb.measure(model, [batch], metrics, inputs=lambda batch: batch["images"]).set_index("metric")
    with torch.no_grad():
        clean, triggered = (model(images).argmax(1) for images in (few.images, trigger.apply(few.images)))
    expected = [
        accuracy(clean, few.labels),
        attack_success_rate(triggered, few.labels, trigger.target),
        robust_accuracy(triggered, few.labels, trigger.target),
        attack_success_rate(clean, few.labels, trigger.target),
    ]
    assert found.value[list(names)].tolist() == [float(share) for share in expected]
    assert found.n[list(names)].tolist() == [share.total for share in expected]
    assert (batch["images"][:100] != batch["images"][100:]).any((1, 2, 3)).all()
    assert torch.equal(batch["twins"], batch["images"].roll(100, 0))
