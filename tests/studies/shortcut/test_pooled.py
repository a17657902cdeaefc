"""Ablating pooled channels by one matrix product: the same answers as running the network again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbutils.ablation.edits import edits
from nbutils.ablation.types import AblationType
from nbutils.ablation.values import gather
from nbutils.hooks import edit
from nbutils.seeding import generator
from nbutils.sites import Site
from studies.shortcut import pooled
from studies.shortcut.networks import NarrowTileNet
from studies.shortcut.pooled import ABLATIONS, Pool, matched_masks, random_masks, rankings, replacement, sweep, top


def pool(count=60, channels=24, classes=2, seed=0, shift=0.0):
    rng = generator(seed, "test pool")
    features = torch.randn(count, channels, generator=rng).relu() + shift
    slides = torch.randint(3, (count,), generator=rng)
    return Pool(features, torch.randint(classes, (count,), generator=rng), {"slide": slides})


def head(channels=24, classes=2, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(channels, classes)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_logits_and_accuracies_are_those_of_the_head_run_again_for_every_draw(ablation, classes):
    items, reference, layer = pool(classes=classes), pool(80, classes=classes, seed=1), head(classes=classes)
    orders = {"shortcut": torch.randperm(24, generator=generator(1, "order"))}
    options = {"ks": (0, 3, 10, 24), "draws": 7, "ablations": (ablation,), "seed": 5}
    frame = sweep(layer, {"id": items}, reference, orders, **options)
    assert list(frame.columns) == ["control", "ablation", "k", "draw", "set", "measure", "value", "n"]
    values = replacement(ablation, items, reference, 5)
    strength = pooled.strength(layer, reference)
    for k in options["ks"]:
        times = 7 if k else 1
        masks = {
            "shortcut": top(orders["shortcut"], k)[None],
            "random": random_masks(24, k, times, generator(5, "random", k)),
            "matched random": matched_masks(
                top(orders["shortcut"], k), strength, times, generator(5, "matched random", k)
            ),
        }
        for control, some in masks.items():
            rows = frame[(frame.control == control) & (frame.k == k)]
            assert sorted(rows.draw.unique()) == list(range(len(some)))
            for draw, mask in enumerate(some):
                assert mask.sum() == k
                again = layer(pooled.replace_channels(items.features, mask, values)).detach()
                assert torch.allclose(pooled.logits(layer, items, values, mask[None])[0], again, atol=1e-5)
                right = again.argmax(1) == items.labels
                found = rows[rows.draw == draw].set_index("measure")
                assert found.value["accuracy"] == pytest.approx(right.double().mean().item())
                for slide in range(3):
                    here = items.groups["slide"] == slide
                    assert found.value[f"slide={slide}"] == pytest.approx(right[here].double().mean().item())
                    assert found.n[f"slide={slide}"] == here.sum()
    assert frame[frame.measure == "accuracy"].value.nunique() > 3  # accuracies do move


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_it_is_the_shared_ablation_of_the_whole_network(ablation):
    torch.manual_seed(0)
    model = NarrowTileNet().eval()
    images, others = torch.rand(6, 3, 24, 24), torch.rand(9, 3, 24, 24)
    with torch.no_grad():
        items = Pool(model.pooled(images), torch.arange(6) % 2)
        reference = Pool(model.pooled(others), torch.arange(9) % 2)
        mask = top(torch.arange(512).flip(0), 200)
        found = pooled.logits(model.fc, items, replacement(ablation, items, reference, 3), mask[None])[0]
        kind = ABLATIONS[ablation]
        if kind is AblationType.RESAMPLE:
            others = others[pooled.twins(items, reference, same_label=ablation == "same-label resample", seed=3)]
        sites = [Site("avgpool", unit) for unit in mask.nonzero()[:, 0].tolist()]
        with edit(model, edits(sites, gather(model, ["avgpool"], kind, [others]))):
            expected = model(images)
        assert torch.allclose(found, expected, atol=1e-5)
        assert not torch.allclose(model(images), expected, atol=1e-3)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_nothing_ablated_is_the_unmodified_head_to_the_last_bit(ablation):
    items, layer = pool(501, 512), head(512)
    values = replacement(ablation, items, pool(100, 512, seed=1))
    with torch.no_grad():
        unmodified = layer(items.features)
    none = torch.zeros(3, 512, dtype=torch.bool)
    assert all(torch.equal(one, unmodified) for one in pooled.logits(layer, items, values, none))
    none[1, 0] = True
    assert not torch.equal(pooled.logits(layer, items, values, none)[1], unmodified)
    orders = {"shortcut": torch.arange(512), "other": torch.arange(512).flip(0)}
    frame = sweep(layer, {"id": items}, items, orders, ks=(0, 4), draws=3, ablations=(ablation,))
    start = frame[(frame.k == 0) & (frame.measure == "accuracy")]
    assert sorted(start.control) == ["matched random", "other", "random", "shortcut"]
    assert {*start.value} == {(unmodified.argmax(1) == items.labels).double().mean().item()}


def test_replacements_come_from_the_reference():
    items, reference = pool(), pool(80, seed=1, shift=10.0)
    assert not replacement("zero", items, reference).any()
    mean = replacement("mean", items, reference)
    assert torch.allclose(mean[0], reference.features.mean(0))
    donors = {}
    for ablation in ("resample", "same-label resample"):
        values = replacement(ablation, items, reference, 3)
        # Each row is one whole row of the reference: the channels of one tile.
        same = (values[:, None] == reference.features[None]).all(-1)
        assert same.any(1).all()
        donors[ablation] = reference.labels[same.int().argmax(1)]
    assert torch.equal(donors["same-label resample"], items.labels)
    assert 0.2 < (donors["resample"] != items.labels).double().mean() < 0.8
    one = reference[reference.labels == 0]
    with pytest.raises(ValueError, match="no item of label 1"):
        replacement("same-label resample", items, one)
    with pytest.raises(ValueError, match="median"):
        replacement("median", items, reference)


def test_random_masks_are_uniform_and_matched_ones_keep_each_stratum():
    strength = torch.rand(64, generator=generator(0, "strength"))
    order = strength.argsort(descending=True)
    chosen = top(order, 12)  # the strongest
    uniform = random_masks(64, 12, 4000, generator(1, "uniform"))
    matched = matched_masks(chosen, strength, 4000, generator(1, "matched"), strata=8)
    for masks in (uniform, matched):
        assert (masks.sum(1) == 12).all()
        assert len({row.numpy().tobytes() for row in masks}) > 50
    assert torch.allclose(uniform.float().mean(0), torch.tensor(12 / 64), atol=0.03)
    # Strata of 8: the strongest is taken whole, of the next one half, each channel of it equally often.
    often = matched.float().mean(0)
    assert (often[order[:8]] == 1).all()
    assert torch.allclose(often[order[8:16]], torch.tensor(0.5), atol=0.04)
    assert (often[order[16:]] == 0).all()
    means = torch.stack([(masks * strength).sum(1).mean() / 12 for masks in (uniform, matched)])
    target = strength[chosen].mean()
    assert (means[1] - target).abs() < 0.03 < (means[0] - target).abs()


def test_rankings_put_the_most_aligned_first_and_ties_in_order():
    layer = head(4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 5.0, 0.0, 2.0], [1.0, 0.0, 0.0, -2.0]]))
    found = rankings(torch.tensor([0.0, 2.0, 2.0, 3.0]), torch.tensor([4.0, 3.0, 2.0, 1.0]), layer)
    assert {name: order.tolist() for name, order in found.items()} == {
        "shortcut": [3, 1, 2, 0],
        "morphology": [0, 1, 2, 3],
        "head weight": [1, 3, 0, 2],  # what is added to both logits counts nothing: channel 0 is last with 2
        "least aligned": [0, 1, 2, 3],
    }
    assert "morphology" not in rankings(torch.rand(4), None, layer)


def test_a_sweep_is_a_function_of_its_seed_and_not_of_how_it_is_cut(monkeypatch):
    items, reference, layer = pool(), pool(80, seed=1), head()
    orders = {"shortcut": torch.arange(24)}
    one = sweep(layer, {"id": items}, reference, orders, ks=(0, 5), draws=9)
    monkeypatch.setattr(pooled, "_ELEMENTS", 100)
    assert sweep(layer, {"id": items}, reference, orders, ks=(0, 5), draws=9).equals(one)
    assert not sweep(layer, {"id": items}, reference, orders, ks=(0, 5), draws=9, seed=1).equals(one)
    alone = sweep(layer, {"id": items}, reference, orders, ks=(5,), draws=9, ablations=("mean",))
    kept = one[(one.k == 5) & (one.ablation == "mean")].value
    assert alone.value.tolist() == kept.tolist()


def test_arguments_that_do_not_fit_are_named():
    items, layer, order = pool(), head(), torch.arange(24)
    for change, message in [
        ({"ks": (0, 25)}, "from 0 to 24"),
        ({"ks": (4, 4)}, "different"),
        ({"draws": 0}, "draws"),
        ({"rankings": {"shortcut": torch.zeros(24, dtype=torch.long)}}, "each of the 24 channels once"),
        ({"rankings": {"shortcut": order, "random": order}}, "'random' is drawn"),
        ({"sets": {"ood": pool(channels=25)}}, "'ood' has 25"),
    ]:
        arguments = {"head": layer, "sets": {"id": items}, "reference": items, "rankings": {"shortcut": order}}
        with pytest.raises(ValueError, match=message):
            sweep(**(arguments | {"ks": (0, 4), "draws": 2} | change))
    with pytest.raises(KeyError, match="no ranking 'hospital' to match; there are shortcut"):
        sweep(layer, {"id": items}, items, {"shortcut": order}, ks=(0, 4), match="hospital")
    for labels in (items.labels[1:], items.labels.float()):
        with pytest.raises(ValueError, match="labels must be 60 integers"):
            Pool(items.features, labels)
