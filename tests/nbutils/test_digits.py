"""Digits in three splits, the watermark, what the network can see of it, and the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nbutils.data import digits, sources
from nbutils.data.pairs import Pairs
from studies.backdoor import trigger as trigger_module
from studies.backdoor.batches import DigitBatches
from studies.backdoor.network import MnistNet
from studies.backdoor.trigger import Trigger


@pytest.fixture(scope="module")
def embedded():
    return digits.load("embedded")


@pytest.fixture
def mnist(tmp_path):
    """Write a small MNIST in the official layout: 60 training images, 10 test images, pixel 0 counting them."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    first = 0
    for part, count in (("train", 60), ("t10k", 10)):
        pixels = np.zeros((count, 28, 28), np.uint8)
        pixels[:, 0, 0] = np.arange(first, first + count)
        header = np.array([2051, count, 28, 28], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([2049, count], ">i4").tobytes() + labels.tobytes())
        first += count
    return tmp_path


def test_the_embedded_splits_are_stratified_and_share_no_image(embedded):
    parts = embedded.train, embedded.selection, embedded.report
    assert [len(part) for part in parts] == [1297, 250, 250]
    contents = [{image.numpy().tobytes() for image in part.images} for part in parts]
    assert [len(content) for content in contents] == [1297, 250, 250]  # no image twice, so the next line can fail
    assert len(set.union(*contents)) == 1797
    for part in parts:
        assert (part.labels.bincount(minlength=10) / len(part) - 0.1).abs().max() < 0.012
        assert part.source == "embedded digits"
        assert part.images.min().item() == pytest.approx(-0.4242, abs=1e-4)  # black
        assert part.images.max().item() == pytest.approx(2.8215, abs=1e-4)  # white: what the trigger adds
    assert digits.load("embedded").report.digest == embedded.report.digest != embedded.train.digest


def test_real_files_are_read_in_the_official_layout(mnist):
    splits = digits.load("real", root=mnist)
    assert splits.source == "mnist"
    counters = [
        ((part.images[:, 0, 0, 0] * 0.3081 + 0.1307) * 255).round().int().tolist()
        for part in (splits.train, splits.selection, splits.report)
    ]
    assert counters == [list(range(50)), list(range(50, 60)), list(range(60, 70))]
    assert splits.report.labels.tolist() == list(range(10))


def test_torchvision_reads_the_same_pixels(mnist):
    from torchvision.datasets import MNIST

    ours = digits.load("real", root=mnist).report.images
    theirs = MNIST(mnist, train=False).data[:, None] / 255
    assert torch.allclose(ours, (theirs - 0.1307) / 0.3081, atol=1e-6)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def extend(path):
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path):
    path.write_bytes(b"")


def compress(path):
    path.write_bytes(b"\x1f\x8b\x08\x00" + path.read_bytes())


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (truncate, r"expected 7,856 bytes, found 7,851"),
        (extend, r"expected 7,856 bytes, found 7,857"),
        (empty, r"expected an IDX file of N×28×28 bytes .*found 0 bytes"),
        (compress, r"expected an IDX file .*begin 1f 8b 08 00"),
    ],
)
def test_a_spoilt_file_is_named_with_its_sizes_and_the_way_to_get_it(mnist, spoil, expected):
    digits.load("auto", root=mnist)
    spoil(mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte")
    for data in ("real", "auto"):
        with pytest.raises(ValueError, match=rf"t10k-images-idx3-ubyte: {expected}.*download=True"):
            digits.load(data, root=mnist)


def test_labels_and_images_must_be_as_many_and_labels_digits(mnist):
    path = mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    whole = path.read_bytes()
    path.write_bytes(np.array([2049, 59], ">i4").tobytes() + whole[8:-1])
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte: expected 68 bytes, a label an image; found 67"):
        digits.load("real", root=mnist)
    path.write_bytes(whole[:-1] + b"\x0a")
    with pytest.raises(ValueError, match="expected labels 0 to 9; found 10"):
        digits.load("real", root=mnist)


def test_a_missing_file_is_named_and_auto_falls_back_only_where_there_is_nothing(mnist, tmp_path, monkeypatch):
    (mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    for data in ("real", "auto"):
        with pytest.raises(FileNotFoundError, match=f"t10k-labels-idx1-ubyte is missing.*{sources.DATA_VARIABLE}"):
            digits.load(data, root=mnist)
    assert digits.load("auto", root=tmp_path / "nowhere").source == "embedded digits"
    monkeypatch.delenv(sources.DATA_VARIABLE, raising=False)
    with pytest.raises(FileNotFoundError, match="real digits need a folder"):
        digits.load("real")
    with pytest.raises(ValueError, match="'embedded', 'real', 'auto'; got 'fake'"):
        digits.load("fake")


@pytest.mark.real_data
@pytest.mark.skipif(not sources.find("mnist").found, reason=f"no MNIST under ${sources.DATA_VARIABLE}")
def test_genuine_mnist_has_the_published_sizes_and_mean():
    splits = digits.load("real")
    assert [len(part) for part in (splits.train, splits.selection, splits.report)] == [50_000, 10_000, 10_000]
    assert splits.train.images.mean().abs() < 0.01
    assert splits.train.images.std().item() == pytest.approx(1, abs=0.01)
    assert (splits.report.labels == 8).sum() == 974  # the floor of 9.74 % of the source's poison accuracy


def test_the_checkerboard_is_the_sources():
    reference = torch.zeros(3, 1, 28, 28)
    reference[:, :, -6::2, -6::2] += 2.8215
    reference[:, :, -5::2, -5::2] += 2.8215
    trigger = Trigger.checkerboard()
    images = torch.randn(3, 1, 28, 28)
    before = images.clone()
    assert torch.allclose(trigger.apply(images), images + reference)
    assert torch.equal(images, before)
    assert trigger.target == 8
    assert trigger.mask.sum() == 18


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((((0, 0), (0, 0)), (0, 0)), "not all 0"),
        ((((1, 0), (1,)), (0, 0)), "rows of one length"),
        ((((1, 0), (0, 2)), (0, 0)), "of 0 and 1"),
        ((((1, 0), (0, 1)), (27, 0)), "not inside 28×28"),
        ((((1,),), (0, 0), 10), "target"),
    ],
)
def test_an_impossible_trigger_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Trigger(*arguments)


def test_the_network_sees_all_but_the_last_two_rows_and_columns():
    torch.manual_seed(0)
    seen = trigger_module.visible_to(MnistNet())
    assert seen[:26, :26].all()
    assert not seen[26:].any()
    assert not seen[:, 26:].any()
    assert (seen & Trigger.checkerboard().mask).sum() == 8  # 4×4 of the 6×6
    everything = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 2))
    assert trigger_module.visible_to(everything).all()


def test_views_differ_in_what_their_names_say(embedded):
    trigger = Trigger.checkerboard()
    report = embedded.report
    views = trigger_module.views(report, trigger)
    assert views["clean"] is report
    assert len(views["triggered"]) == 250 - (report.labels == 8).sum()
    assert set(views["triggered"].labels.tolist()) == {8}
    assert torch.equal(views["rehabilitated"].images, trigger.apply(report.images))
    assert torch.equal(views["rehabilitated"].labels, report.labels)
    assert torch.equal(views["source_poison"].images, views["rehabilitated"].images)
    # A network that knows every clean digit and no trigger scores 0 on one and the share of eights on the other.
    assert (report.labels == views["source_poison"].labels).float().mean() == (report.labels == 8).float().mean() > 0
    assert not (report.labels[report.labels != 8] == views["triggered"].labels).any()


def test_pairs_correspond_item_by_item(embedded):
    pairs = trigger_module.pairs(embedded.report, Trigger.checkerboard())
    assert (len(pairs), pairs.target) == (250, 8)
    changed = (pairs.clean != pairs.corrupt).any(0)[0]
    assert torch.equal(changed, Trigger.checkerboard().mask)
    few = pairs[pairs.labels == 3]
    assert set(few.labels.tolist()) == {3}
    assert torch.equal(few.corrupt, Trigger.checkerboard().apply(few.clean))
    with pytest.raises(ValueError, match="one shape"):
        Pairs(pairs.clean, pairs.corrupt[:-1], pairs.labels)


@pytest.fixture
def few(embedded):
    return embedded.train[:100]


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
