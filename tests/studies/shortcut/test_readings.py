"""What is read of a network on planted features: the hospital until it is erased, the label all along."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studies.shortcut.erasure import fit_eraser
from studies.shortcut.planted import plant_features
from studies.shortcut.pooled import Pool
from studies.shortcut.probes import three_sets
from studies.shortcut.readings import read_pools


def test_erasure_takes_the_hospital_from_probes_and_its_share_from_the_head():
    planted = plant_features(1500, rho=0.0, channels=64, block=12)
    whole = Pool(planted.features, planted.tumour, {"hospital": planted.hospital, "slide": planted.slide})
    sets = three_sets(planted.slide, planted.hospital, planted.tumour)
    parts = [whole[torch.as_tensor(part)] for part in (sets.ranking, sets.fitting, sets.evaluation)]
    rankings = {"stain first": torch.tensor([*planted.stain, *set(range(64)) - {*planted.stain}])}
    found = read_pools(planted.head, parts, {"known": parts[2]}, rankings, (0, 12), kind="hospital")

    value = found["probes"].set_index(["target", "k", "probe"]).value
    assert value["hospital", 0, "fixed"] == value["hospital", 0, "refitted"] > 0.95
    assert value["hospital", 12, "refitted"] < 0.6  # the block is all that knows the hospital
    assert found["ceilings"]["hospital"] < 0.7
    assert found["ceilings"]["tumour"] == pytest.approx(value["tumour", 0, "refitted"], abs=0.03)
    assert {name: len(floor) for name, floor in found["floors"].items()} == {"hospital": 10, "tumour": 10}
    assert np.mean(found["floors"]["tumour"]) == pytest.approx(0.5, abs=0.1)

    eraser = fit_eraser(parts[1].features, parts[1].groups["hospital"])
    with torch.no_grad():
        answers = planted.head(torch.as_tensor(eraser(parts[2].features)).float()).argmax(1)
        before = (planted.head(parts[2].features).argmax(1) == parts[2].labels).float().mean()
    assert found["erased"]["known"] == pytest.approx((answers == parts[2].labels).float().mean().item())
    assert abs(found["erased"]["known"] - before) > 0.05
