"""Replacing pooled channels by one matrix product is the ablation of the whole network."""

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
from studies.shortcut.controls import top
from studies.shortcut.networks import NarrowTileNet
from studies.shortcut.pooled import ABLATIONS, Pool, replacement


def pool(count=60, channels=24, classes=2, seed=0, shift=0.0):
    rng = generator(seed, "test pool")
    features = torch.randn(count, channels, generator=rng).relu() + shift
    slides = torch.randint(3, (count,), generator=rng)
    return Pool(features, torch.randint(classes, (count,), generator=rng), {"slide": slides})


def head(channels=24, classes=2, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(channels, classes)


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


def test_labels_and_groups_are_integers_of_the_items():
    items = pool()
    for labels in (items.labels[1:], items.labels.float()):
        with pytest.raises(ValueError, match="labels must be 60 integers"):
            Pool(items.features, labels)
    with pytest.raises(ValueError, match="N of 1 or more"):
        items[:0]
