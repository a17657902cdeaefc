"""The networks for tiles: shapes, files of weights, and training as members of an ensemble."""

from __future__ import annotations

import pytest
import torch
import torchvision
from interrupted import Interrupted
from safetensors.torch import save_file
from torch import nn

from nbutils.data.weights import StateError
from nbutils.hooks import capture
from nbutils.schedules import Dopesheet, Timeline
from nbutils.training.ensemble import Ensemble
from nbutils.training.fit import fit
from nbutils.training.objective import Objective, cross_entropy
from studies.shortcut.batches import TileBatches
from studies.shortcut.networks import MEAN, STD, NarrowTileNet, TileResNet, load_tile_resnet

SHEET = Timeline(Dopesheet.from_text("STEP,lr\n0,3e-3\n7,1e-3\n"))


def tiles(count=96, size=24, seed=0):
    """Return noise, darker where the label is 1."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    noise = torch.randint(60, 250, (count, 3, size, size), generator=rng)
    return (noise - 50 * labels[:, None, None, None]).to(torch.uint8), labels


def train(seeds, batches=None, timeline=SHEET, dtype=torch.float32, **options):
    ensemble = Ensemble(NarrowTileNet, seeds, dtype=dtype)
    batches = batches or TileBatches(*tiles(), batch_size=16)
    return fit(ensemble, batches, Objective(loss=cross_entropy), timeline, **options)


@pytest.mark.parametrize("build", [TileResNet, NarrowTileNet])
def test_the_head_reads_512_pooled_channels_and_pixels_may_be_bytes(build):
    torch.manual_seed(0)
    model = build().eval()
    images, _ = tiles(5, 48)
    with torch.no_grad(), capture(model, "avgpool") as seen:
        logits = model(images)
        features = model.pooled(images)
    assert features.shape == (5, 512)
    assert torch.equal(seen["avgpool"].flatten(1), features)
    assert torch.equal(model.head(features), logits)
    assert torch.allclose(model(images.float() / 255), logits, atol=1e-5)
    assert not torch.allclose(model(images.float()), logits, atol=1e-2)  # 0 to 255 as floats is another picture


def test_resnet_is_torchvisions(tmp_path):
    """Weights that torchvision wrote give torchvision's logits on images normalised as it normalises them."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None, num_classes=2)
    theirs(torch.rand(8, 3, 48, 48))  # so that the statistics are not those of a new network
    theirs.eval()
    images = torch.rand(4, 3, 48, 48)
    with torch.no_grad():
        expected = theirs(torchvision.transforms.functional.normalize(images, MEAN, STD))
        for suffix, write in ((".pt", torch.save), (".safetensors", save_file)):
            write(theirs.state_dict(), tmp_path / f"net{suffix}")
            model = load_tile_resnet(tmp_path / f"net{suffix}")
            assert not model.training
            assert torch.allclose(model(images), expected, atol=1e-5)
        wrapped = {f"model.{name}": tensor for name, tensor in theirs.state_dict().items()}
        torch.save({"algorithm": wrapped, "epoch": 3}, tmp_path / "wilds.pt")
        assert torch.allclose(load_tile_resnet(tmp_path / "wilds.pt")(images), expected, atol=1e-5)
    assert expected.std() > 1e-3
    torch.save({"algorithm": wrapped | {"model.fc.weight": torch.zeros(1000, 512)}}, tmp_path / "wide.pt")
    with pytest.raises(StateError, match=r"wide\.pt: expected a head of 2 logits, normal and tumour; got 1000"):
        load_tile_resnet(tmp_path / "wide.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"fc.weight": torch.zeros(1000, 512)}), "a head of 2 logits, normal and tumour; got 1000"),
        (lambda s: s.update({"fc.weight": torch.zeros(1, 512)}), "a head of 2 logits, normal and tumour; got 1"),
        (lambda s: s.update({"fc.weight": torch.zeros(2, 64)}), r"'fc\.weight' must have shape \(2, 512\); got \("),
        (lambda s: s.pop("bn1.running_var"), r"expected a parameter 'bn1\.running_var' of shape \(64,\)"),
        (lambda s: s.update({"layer5.0.conv1.weight": torch.zeros(2)}), r"'layer5\.0\.conv1\.weight' is no parameter"),
        (
            lambda s: s.update({"bn1.running_mean": torch.full((64,), torch.inf)}),
            r"'bn1\.running_mean' must hold finite",
        ),
        (
            lambda s: s.update({"bn1.num_batches_tracked": torch.tensor(0.5)}),
            r"'bn1\.num_batches_tracked' must hold whole",
        ),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused_by_name(tmp_path, change, message):
    state = dict(torchvision.models.resnet18(weights=None, num_classes=2).state_dict())
    change(state)
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(StateError, match=rf"bad\.pt: .*{message}"):
        load_tile_resnet(tmp_path / "bad.pt")
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        load_tile_resnet(tmp_path / "none.pt")


def test_a_member_trains_as_it_would_alone_batch_statistics_included():
    together = train([3, 8]).ensemble.state()
    alone = train([8]).ensemble.state()
    moved = Ensemble(NarrowTileNet, [8], dtype=torch.float32).state()
    for name in together:
        assert torch.allclose(together[name][1].float(), alone[name][0].float(), atol=1e-5), name
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert not torch.allclose(moved[name][0].float(), alone[name][0].float(), atol=1e-5), name
    assert together["stem.1.num_batches_tracked"].tolist() == [8, 8]


def test_one_member_is_what_a_plain_loop_trains():
    """Reference: batch normalisation and Adam of one ordinary module."""
    batches = TileBatches(*tiles(), batch_size=16)
    drawn = batches.draw(3, 0)
    model = Ensemble(NarrowTileNet, [3])[0].train()
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(len(SHEET)):
        batch = batches.batch({key: value[step][None] for key, value in drawn.items()}, torch.float64)
        loss = nn.functional.cross_entropy(model(batch["input"][0]), batch["target"][0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = SHEET[step]["lr"]
        optimizer.step()
    trained = train([3], batches, dtype=torch.float64).ensemble.state()
    for name, tensor in model.state_dict().items():
        assert torch.allclose(trained[name][0].double(), tensor.double(), atol=1e-8), name


def test_training_learns_and_goes_on_from_a_checkpoint_with_its_statistics(tmp_path):
    path = tmp_path / "run.safetensors"
    timeline = Timeline(Dopesheet.from_text("STEP,lr\n0,3e-3\n23,1e-3\n"))
    whole = train([0], timeline=timeline).ensemble

    batches = TileBatches(*tiles(), batch_size=16, block=8)
    with pytest.raises(KeyboardInterrupt):
        train([0], batches, Interrupted(timeline, 16), checkpoint=path, every=8)
    again = train([0], batches, timeline, checkpoint=path, every=8)
    plain = train([0], batches, timeline)
    for name, tensor in plain.ensemble.state().items():
        assert torch.equal(again.ensemble.state()[name], tensor), name
    images, labels = tiles(seed=1)
    with torch.no_grad():
        assert (whole[0](images).argmax(1) == labels).float().mean() > 0.9


def test_a_failed_member_keeps_the_statistics_it_had():
    images, labels = tiles()

    class Failing(TileBatches):
        def batch(self, drawn, dtype):
            made = super().batch(drawn, dtype)
            bad = (drawn["seed"] == 1) & (drawn["step"] >= 3)
            made["input"][bad] = torch.nan
            return made

    short = Timeline(Dopesheet.from_text("STEP,lr\n0,3e-3\n2,3e-3\n"))
    before = train([1], TileBatches(images, labels, batch_size=16), short).ensemble.state()
    run = train(
        [0, 1], Failing(images, labels, batch_size=16), Timeline(Dopesheet.from_text("STEP,lr\n0,3e-3\n7,3e-3\n"))
    )
    assert [(failure.seed, failure.step) for failure in run.failures] == [(1, 3)]
    after = run.ensemble.state()
    for name, tensor in before.items():
        assert torch.allclose(after[name][1].float(), tensor[0].float(), atol=1e-5), name
        assert after[name][0].isfinite().all()
    assert after["stem.1.num_batches_tracked"].tolist() == [8, 3]
