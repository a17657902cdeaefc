"""What replaces pooled channels, and that replacing them after the pool is the ablation of the whole network."""

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
from studies.shortcut.controls import channel_sets, top
from studies.shortcut.networks import NarrowTileNet
from studies.shortcut.pooled import Pool, mean_ablated, twins
from studies.shortcut.sweeps import mean_of, measured


def pool(count=60, channels=24, classes=2, seed=0, shift=0.0):
    rng = generator(seed, "test pool")
    features = torch.randn(count, channels, generator=rng).relu() + shift
    slides = torch.randint(3, (count,), generator=rng)
    return Pool(features, torch.randint(classes, (count,), generator=rng), {"slide": slides})


def head(channels=24, classes=2, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(channels, classes)


ABLATIONS = {
    "zero": lambda reference: (AblationType.ZERO, None),
    "mean": mean_of,
    "resample": lambda reference: (AblationType.RESAMPLE, twins(reference, seed=3)),
    "same-label resample": lambda reference: (AblationType.RESAMPLE, twins(reference, same_label=True, seed=3)),
}


def answers(layer, items, masks, ablation):
    """Return the logits that metrics are given: of the unmodified head, then of every mask."""
    seen = []

    def metric(output, batch):
        assert batch is items
        seen.append(output.clone())
        return output[:, 0]

    measured(layer, items, channel_sets("test", masks), {"logit": metric}, ablation)
    return seen


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_it_is_the_shared_ablation_of_the_whole_network(ablation):
    torch.manual_seed(0)
    model = NarrowTileNet().eval()
    images, others = torch.rand(6, 3, 24, 24), torch.rand(9, 3, 24, 24)
    with torch.no_grad():
        items = Pool(model.pooled(images), torch.arange(6) % 2)
        reference = Pool(model.pooled(others), torch.arange(9) % 2)
        mask = top(torch.arange(512).flip(0), 200)
        kind, source = ABLATIONS[ablation](reference)
        found = answers(model.fc, items, mask[None], (kind, source))[1]
        if kind is AblationType.RESAMPLE:
            same = (source(items)[:, None] == reference.features[None]).all(-1)
            others = others[same.int().argmax(1)]
        sites = [Site("avgpool", unit) for unit in mask.nonzero()[:, 0].tolist()]
        with edit(model, edits(sites, gather(model, ["avgpool"], kind, [others]))):
            expected = model(images)
        assert torch.allclose(found, expected, atol=1e-5)
        assert not torch.allclose(model(images), expected, atol=1e-3)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_nothing_ablated_is_the_unmodified_head_to_the_last_bit(ablation):
    items, layer = pool(501, 512), head(512)
    with torch.no_grad():
        unmodified = layer(items.features)
    none = torch.zeros(1, 512, dtype=torch.bool)
    chosen = ABLATIONS[ablation](pool(100, 512, seed=1))
    assert all(torch.equal(one, unmodified) for one in answers(layer, items, none, chosen))
    none[0, 0] = True
    assert not torch.equal(answers(layer, items, none, chosen)[1], unmodified)


def test_replacements_come_from_the_reference():
    items, reference = pool(), pool(80, seed=1, shift=10.0)
    mask = top(torch.arange(24), 5)
    found = mean_ablated(items.features, mask.nonzero()[:, 0], reference)
    assert torch.allclose(found, torch.where(mask, reference.features.mean(0), items.features))
    assert torch.equal(found[:, ~mask], items.features[:, ~mask])
    donors = []
    for same_label in (False, True):
        values = twins(reference, same_label=same_label, seed=3)(items)
        # Each row is one whole row of the reference: the channels of one tile.
        same = (values[:, None] == reference.features[None]).all(-1)
        assert same.any(1).all()
        donors.append(reference.labels[same.int().argmax(1)])
        assert torch.equal(values, twins(reference, same_label=same_label, seed=3)(items))
    assert torch.equal(donors[1], items.labels)
    assert 0.2 < (donors[0] != items.labels).double().mean() < 0.8
    one = reference[reference.labels == 0]
    with pytest.raises(ValueError, match="no item of label 1"):
        twins(one, same_label=True)(items)


def test_labels_and_groups_are_integers_of_the_items():
    items = pool()
    for labels in (items.labels[1:], items.labels.float()):
        with pytest.raises(ValueError, match="labels must be 60 integers"):
            Pool(items.features, labels)
    with pytest.raises(ValueError, match="N of 1 or more"):
        items[:0]
