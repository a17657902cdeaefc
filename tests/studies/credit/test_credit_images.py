"""Images in the layouts readers have them in; files one cannot trust."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from nbutils.data import sources
from studies.credit import images as natural_images

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def enter(folder, monkeypatch):
    """Make what lies in a folder the official files, as far as checksums go."""
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in NAMES}
    monkeypatch.setattr(natural_images, "_checksums", lambda: sums)


@pytest.fixture
def official(tmp_path, monkeypatch):
    """Write six official batches of 20 images, as Python 2 wrote them, pixel 0 counting them."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for place, name in enumerate(NAMES):
        pixels = draw.integers(0, 256, (20, 3072), dtype=np.uint8)
        pixels[:, 0] = np.arange(20 * place, 20 * place + 20)
        batch = {"batch_label": name, "labels": [i % 10 for i in range(20)], "data": pixels, "filenames": ["a.png"]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(b"")
    enter(folder, monkeypatch)
    return tmp_path


@pytest.fixture
def pictures(tmp_path):
    """Write an image folder of ten classes: 3 training and 2 test images each, red counting the classes."""
    for part, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(CLASSES):
            folder = tmp_path / "cifar10-lossless" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.full((32, 32, 3), (10 * label, i, 200), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:04}.png")
    return tmp_path


def pixels(images):
    """Undo the normalisation: uint8 `[N, 3, 32, 32]`."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (natural_images.MEAN, natural_images.STD))
    return ((images.images * std + mean) * 255).round().to(torch.uint8)


def test_the_official_batches_are_read_in_order(official):
    splits = natural_images.load("real", root=official)
    assert splits.source == splits.train.source == "cifar10"
    assert pixels(splits.train)[:, 0, 0, 0].tolist() == list(range(100))
    assert pixels(splits.test)[:, 0, 0, 0].tolist() == list(range(100, 120))
    assert splits.test.labels.tolist() == [i % 10 for i in range(20)]
    assert splits.train.images.dtype == torch.float32


def test_torchvision_reads_the_same_pixels(official, monkeypatch):
    from torchvision import transforms
    from torchvision.datasets import CIFAR10

    meta = official / "cifar-10-batches-py" / "batches.meta"
    meta.write_bytes(pickle.dumps({"label_names": CLASSES}, protocol=2))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashlib.md5(meta.read_bytes()).hexdigest()})
    look = transforms.Compose([transforms.ToTensor(), transforms.Normalize(natural_images.MEAN, natural_images.STD)])
    theirs = CIFAR10(official, train=False, transform=look)
    ours = natural_images.load("real", root=official).test
    for i, (image, label) in enumerate(theirs):
        assert torch.allclose(ours.images[i], image, atol=1e-6)
        assert ours.labels[i] == label


class Bomb:
    """A pickle of it writes a file when it is loaded as pickles usually are."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_batch_is_refused_and_not_run(official, monkeypatch):
    folder, witness = official / "cifar-10-batches-py", official / "executed"
    bomb = pickle.dumps({"data": Bomb(witness), "labels": [0]}, protocol=2)
    (folder / "data_batch_3").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"data_batch_3: expected the official file, md5 .*download=True"):
        natural_images.load("real", root=official)
    enter(folder, monkeypatch)  # even with the right checksum
    with pytest.raises(ValueError, match=r"data_batch_3 is no batch .*it wants .*open"):
        natural_images.load("real", root=official)
    assert not witness.exists()
    pickle.loads(bomb)["data"].close()
    assert witness.exists()  # the bomb is live


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (b"", "is no batch of CIFAR-10"),
        (pickle.dumps([1], protocol=2), "is no batch of CIFAR-10"),
        (pickle.dumps({"data": np.zeros((2, 9), np.uint8), "labels": [0, 1]}, 2), r"pixels \[N, 3072\].*\[2, 9\]"),
        (pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 1]}, 2), "found float64"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, 2), "N labels"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, 2), "labels 0 to 9; found 0 to 10"),
    ],
)
def test_a_damaged_batch_is_named(official, monkeypatch, batch, message):
    folder = official / "cifar-10-batches-py"
    (folder / "test_batch").write_bytes(batch)
    enter(folder, monkeypatch)
    with pytest.raises(ValueError, match=rf"test_batch.*{message}"):
        natural_images.load("auto", root=official)


def test_an_image_folder_is_read_in_an_order_that_mixes_classes(pictures):
    splits = natural_images.load("real", root=pictures)
    assert splits.source == "cifar10-lossless"
    for part, count in ((splits.train, 3), (splits.test, 2)):
        assert part.labels.bincount().tolist() == [count] * 10
        found = pixels(part)
        assert torch.equal(found[:, 0, 5, 5].long(), 10 * part.labels)
        assert (found[:, 2] == 200).all()
        assert part.labels.tolist() != sorted(part.labels.tolist())
    again = natural_images.load("real", form="cifar10-lossless", root=pictures)
    assert again.train.digest == splits.train.digest != splits.test.digest


def test_folders_of_other_classes_are_not_called_cifar(pictures):
    for part in ("train", "test"):
        folder = pictures / "cifar10-lossless" / part
        (folder / "truck").rename(folder / "unicorn")
    assert natural_images.load("real", root=pictures).source == natural_images.UNKNOWN


def test_a_damaged_image_is_named(pictures):
    path = pictures / "cifar10-lossless" / "test" / "frog" / "0001.png"
    whole = path.read_bytes()
    for content in (b"", whole[:60], b"no image"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"frog/0001\.png: \d+ bytes that are not a whole picture"):
            natural_images.load("real", root=pictures)
    Image.new("RGB", (28, 32)).save(path)
    with pytest.raises(ValueError, match=r"frog/0001\.png: expected 32×32 pixels, found 32×28"):
        natural_images.load("real", root=pictures)


def test_missing_parts_are_named_and_auto_falls_back_only_where_there_is_nothing(
    official, pictures, tmp_path, monkeypatch
):
    assert natural_images.load("auto", root=tmp_path).source == "cifar10"  # the official form comes first
    assert natural_images.load("auto", form="cifar10-lossless", root=tmp_path).source == "cifar10-lossless"
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_4 is missing"):
        natural_images.load("auto", root=tmp_path)
    folder = tmp_path / "cifar10-lossless" / "train" / "ship"
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar10-lossless: Found no valid file for the classes ship"):
        natural_images.load("real", form="cifar10-lossless", root=tmp_path)
    folder.rmdir()
    with pytest.raises(ValueError, match="the same 10 class folders in train and test"):
        natural_images.load("real", form="cifar10-lossless", root=tmp_path)
    nowhere = tmp_path / "nowhere"
    assert natural_images.load("auto", root=nowhere).source == "embedded digits"
    with pytest.raises(FileNotFoundError, match="no cifar10 and no cifar10-jpeg and no cifar10-lossless in"):
        natural_images.load("real", root=nowhere)
    monkeypatch.delenv(sources.DATA_VARIABLE, raising=False)
    with pytest.raises(FileNotFoundError, match=rf"\${sources.DATA_VARIABLE}"):
        natural_images.load("real")
    for arguments, message in (
        ({"data": "fake"}, "'embedded', 'real', 'auto'; got 'fake'"),
        ({"data": "real", "form": "cifar100"}, "'cifar10-lossless'; got 'cifar100'"),
        ({"data": "real", "download": True}, "a download needs a folder"),
        ({"data": "real", "form": "cifar10-jpeg", "root": nowhere, "download": True}, "only 'cifar10'"),
    ):
        with pytest.raises(ValueError, match=message):
            natural_images.load(**arguments)


def test_the_embedded_digits_stand_in():
    splits = natural_images.load()
    assert splits.train.features.shape == (1297, 784)
    assert splits.test.images.shape == (250, 1, 28, 28)
    assert splits.source == "embedded digits"


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.skipif(not sources.find("cifar10-lossless").found, reason=f"no CIFAR-10 under ${sources.DATA_VARIABLE}")
def test_genuine_images_have_the_published_mean():
    splits = natural_images.load("real", form="cifar10-lossless")
    assert (len(splits.train), len(splits.test)) == (4000, 1000)
    images = splits.train.images
    assert images.mean((0, 2, 3)).abs().max() < 0.03
    assert (images.std((0, 2, 3)) - 1).abs().max() < 0.03
