"""Digits in three splits, from the package and from files."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from nbutils.data import digits, sources


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
    assert splits.source == splits.train.source == "unknown, in MNIST's layout"  # the checksums are not the published
    counters = [
        ((part.images[:, 0, 0, 0] * 0.3081 + 0.1307) * 255).round().int().tolist()
        for part in (splits.train, splits.selection, splits.report)
    ]
    assert counters == [list(range(50)), list(range(50, 60)), list(range(60, 70))]
    assert splits.report.labels.tolist() == list(range(10))


def test_only_files_with_the_published_checksums_are_called_mnist(mnist, monkeypatch):
    raw = mnist / "MNIST" / "raw"
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in raw.iterdir()}
    assert sums.keys() == digits._PUBLISHED.keys()
    monkeypatch.setattr(digits, "_PUBLISHED", sums)
    assert digits.load("auto", root=mnist).source == "mnist"
    labels = raw / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\0")
    assert digits.load("auto", root=mnist).report.source == digits.UNKNOWN


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
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte: expected 68 bytes, one label per image; found 67"):
        digits.load("real", root=mnist)
    path.write_bytes(whole[:-1] + b"\x0a")
    with pytest.raises(ValueError, match="expected labels 0 to 9; found 10"):
        digits.load("real", root=mnist)


def test_a_missing_file_is_named_and_auto_falls_back_only_where_there_is_nothing(mnist, tmp_path, monkeypatch):
    path = mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.rename(f"{path}.gz")
    with pytest.raises(FileNotFoundError, match=r"is missing \(t10k-labels-idx1-ubyte.gz is there: unpack it\)"):
        digits.load("auto", root=mnist)
    path.with_name(f"{path.name}.gz").unlink()
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
    assert splits.source == "mnist"
    assert [len(part) for part in (splits.train, splits.selection, splits.report)] == [50_000, 10_000, 10_000]
    assert splits.train.images.mean().abs() < 0.01
    assert splits.train.images.std().item() == pytest.approx(1, abs=0.01)
    assert (splits.report.labels == 8).sum() == 974  # the floor of 9.74 % of the source's poison accuracy
