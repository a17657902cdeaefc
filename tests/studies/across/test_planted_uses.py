import pytest
import torch

import nbutils as nb
from nbutils.sites import Site
from studies.across.planted import MOVED, SEES, USES, Shift, blind, plant_reading, plant_uses
from studies.across.predictors import predictions, spearman


@pytest.fixture(scope="module")
def uses():
    return plant_uses()


def effects(uses, kind):
    model, pairs = uses
    units = {unit: Site("units", i, 2) for i, unit in enumerate(USES)}
    swept = nb.sweep(model, units, nb.PairLoader(pairs, len(pairs)), Shift(), kind)
    return dict(zip(USES, swept.value, strict=True))


OPTIMAL = nb.Optimal(loss="squared", steps=40, rate=0.3)


@pytest.mark.parametrize("kind", [*nb.AblationType, nb.AblationType.MEAN, OPTIMAL], ids=lambda kind: kind.value)
def test_each_stand_in_sees_what_it_changes(uses, kind):
    assert {unit for unit, moved in effects(uses, kind).items() if moved > 1e-9} == set(SEES[kind.value])


def test_no_single_stand_in_sees_all_and_no_pair_sees_a_backup(uses):
    assert all(blind((kind, kind)) - {"either", "or"} for kind in SEES)
    assert blind(("zero", "resample")) == {"either", "or"}
    model, pairs = uses
    without = pairs.clean.clone()
    without[..., 5:7] = 0
    assert not torch.equal(model(without), model(pairs.clean))


def test_the_pattern_times_the_weight_ranks_a_linear_read_out_and_a_probe_does_not():
    case = plant_reading()
    metric = nb.sweep(case.model, dict(enumerate(case.sites)), case.loader, case.metric, nb.AblationType.RESAMPLE)
    intact = nb.measure(case.model, case.loader, case.metric).value.item()
    assert (metric.value - intact).tolist() == pytest.approx(MOVED, abs=1e-9)
    read = predictions(case, nb.AblationType.RESAMPLE)
    for name in ("pattern × weight", "gradient × change", "integrated gradients"):
        assert spearman(read[name], MOVED) == pytest.approx(1)
    assert spearman(read["probe coefficient"], MOVED) < 0.5
    assert spearman(read["magnitude"], MOVED) < 0.5
