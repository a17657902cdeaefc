"""What is read of a network on planted features: the hospital until it is erased, the label all along."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studies.shortcut.planted import plant_features
from studies.shortcut.pooled import Pool
from studies.shortcut.probes import three_sets
from studies.shortcut.readings import read_pools, retrained


def test_probes_read_the_hospital_until_it_is_erased_and_the_label_all_along():
    planted = plant_features(1500, rho=0.0, channels=64, block=12)
    whole = Pool(planted.features, planted.tumour, {"hospital": planted.hospital, "slide": planted.slide})
    sets = three_sets(planted.slide, planted.hospital, planted.tumour)
    parts = [whole[torch.as_tensor(part)] for part in (sets.ranking, sets.fitting, sets.evaluation)]
    rankings = {"stain first": torch.tensor([*planted.stain, *set(range(64)) - {*planted.stain}])}
    found = read_pools(parts, rankings, (0, 12), kind="hospital")

    value = found["probes"].set_index(["target", "k", "probe"]).value
    assert value["hospital", 0, "fixed"] == value["hospital", 0, "refitted"] > 0.95
    assert value["hospital", 12, "refitted"] < 0.6  # the block is all that knows the hospital
    assert found["ceilings"]["hospital"] < 0.7
    assert found["ceilings"]["tumour"] == pytest.approx(value["tumour", 0, "refitted"], abs=0.03)
    assert {name: len(floor) for name, floor in found["floors"].items()} == {"hospital": 10, "tumour": 10}
    assert np.mean(found["floors"]["tumour"]) == pytest.approx(0.5, abs=0.1)


def test_a_last_layer_trained_on_balanced_items_no_longer_leans_on_the_stain():
    balanced, unseen = plant_features(1500, rho=0.0), plant_features(600, hospitals=(3,), seed=1)
    items = Pool(unseen.features, unseen.tumour)
    with torch.no_grad():
        before = (balanced.head(items.features).argmax(1) == items.labels).double().mean().item()
    again = retrained(Pool(balanced.features, balanced.tumour), items)
    assert before < 0.6 < 0.9 < again["accuracy"]
    leaning = plant_features(1500, rho=0.9)
    assert retrained(Pool(leaning.features, leaning.tumour), items)["accuracy"] < again["accuracy"]
