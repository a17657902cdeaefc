"""Features on disk: read again while weights and images are the same, and never otherwise."""

from __future__ import annotations

import copy

import pytest
import torch

from studies.shortcut import features
from studies.shortcut.features import cached, extract
from studies.shortcut.networks import NarrowTileNet


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return NarrowTileNet().train()


@pytest.fixture(scope="module")
def images():
    return torch.randint(256, (20, 3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def computed(monkeypatch):
    """Return a list that grows with each computation."""
    calls = []

    def counted(*arguments, **options):
        calls.append(options["precision"])
        return extract(*arguments, **options)

    monkeypatch.setattr(features, "extract", counted)
    return calls


def test_features_are_the_networks_in_eval_mode_and_leave_it_as_it_was(model, images):
    before = copy.deepcopy(model.state_dict())
    found = extract(model, images, batch_size=7)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    expected = copy.deepcopy(model).eval().pooled(images)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, model.pooled(images), atol=1e-2)  # as in training mode
    model.load_state_dict(before)
    found.requires_grad_()  # an ordinary tensor, not one of inference mode
    rough = extract(model, images, precision="bfloat16")
    assert 0 < (rough - expected).abs().max() / expected.max() < 0.05
    with pytest.raises(ValueError, match="float16"):
        extract(model, images, precision="float16")


def test_what_was_computed_is_read_again(model, images, tmp_path, computed):
    first = cached(model, images, tmp_path / "new")
    assert torch.equal(cached(model, images, tmp_path / "new"), first)
    assert len(computed) == 1


def test_other_weights_images_or_precision_never_read_it(model, images, tmp_path, computed):
    cached(model, images, tmp_path)
    trained = copy.deepcopy(model)
    with torch.no_grad():
        trained.stem[0].weight[0, 0, 0, 0] += 1e-3
    assert torch.equal(cached(trained, images, tmp_path), extract(trained, images))
    moved = copy.deepcopy(model)
    moved.stem[1].running_mean[0] += 1e-3  # statistics belong to a checkpoint
    cached(moved, images, tmp_path)
    other = images.clone()
    other[3, 0, 0, 0] ^= 1
    cached(model, other, tmp_path)
    cached(model, images, tmp_path, precision="bfloat16")
    assert computed == ["float32"] * 4 + ["bfloat16"]
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "another file"])
def test_a_damaged_file_is_computed_again_and_a_line_says_so(model, images, tmp_path, computed, damage, capsys):
    expected = cached(model, images, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = bytearray(path.read_bytes())
    if damage == "one bit":
        whole[-100] ^= 1
    shorter = {"truncated": whole[:-10], "one bit": whole, "empty": b"", "another file": b"features"}[damage]
    path.write_bytes(shorter)
    assert torch.equal(cached(model, images, tmp_path), expected)
    said = capsys.readouterr().err
    assert f"{path} is damaged" in said
    assert said.count("\n") == 1
    assert len(computed) == 2
    assert torch.equal(cached(model, images, tmp_path), expected)
    assert len(computed) == 2


def test_images_may_be_decoded_slice_by_slice_under_a_name(model, images, tmp_path):
    class Lazy:
        def __len__(self):
            return len(images)

        def __getitem__(self, items):
            return images[items]

    with pytest.raises(ValueError, match="data="):
        cached(model, Lazy(), tmp_path)
    assert torch.equal(cached(model, Lazy(), tmp_path, data="tiles 1"), extract(model, images))
