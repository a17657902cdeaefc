"""Rankings beside random channels of their own strength: the planted shortcut is won back, chance is not."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from studies.shortcut.controls import Controls
from studies.shortcut.dose_response import area_under_k
from studies.shortcut.margins import margins
from studies.shortcut.planted import plant_features
from studies.shortcut.pooled import Pool
from studies.shortcut.recovery import OWN, differences, recoveries, twin_of
from studies.shortcut.sweeps import sweep

KS = (0, 2, 6, 12)


def tables(draws=40):
    planted = plant_features(900, rho=0.0, channels=96, block=18)
    unseen = plant_features(300, hospitals=(3,), channels=96, block=18, seed=1)
    items = Pool(unseen.features, unseen.tumour, {"slide": unseen.slide})
    reference = Pool(planted.features, planted.tumour)
    known = [*planted.shortcut, *(channel for channel in range(96) if channel not in planted.shortcut)]
    orders = {"shortcut": torch.tensor(known), "reversed": torch.tensor(known).flip(0)}
    alike = torch.ones(96)  # any channels are as strong as any
    found = recoveries(margins(planted.head, items, reference), unseen.slide, orders, alike, KS, draws=draws)
    return planted, items, reference, orders, found


def test_accuracies_are_those_of_the_sweep():
    planted, items, reference, orders, found = tables(draws=3)
    frame = sweep(planted.head, {"": items}, reference, Controls(orders, ks=KS, draws=1, match=None))
    by_sweep = frame[(frame.control == "shortcut") & (frame.measure == "accuracy")].set_index("k").value
    curve = found["curves"]
    curve = curve[(curve.control == "shortcut") & (curve.measure == "accuracy")].set_index("k")["mean"]
    assert curve.to_dict() == pytest.approx(by_sweep.to_dict())
    assert curve[12] - curve[0] > 0.3
    areas = found["areas"].set_index(["control", "measure", "draw"]).area
    assert areas["shortcut", "accuracy", OWN] == pytest.approx(area_under_k(KS, curve[[*KS]].to_numpy()))


def test_what_is_won_is_the_rankings_and_not_chance():
    *_, found = tables()
    areas = found["areas"][found["areas"].measure == "accuracy"].set_index(["control", "draw"]).area
    twins = areas.drop(OWN, level="draw").groupby("control")
    assert areas["shortcut", OWN] > twins.max()["shortcut"]
    assert areas["reversed", OWN] == pytest.approx(twins.mean()["reversed"], abs=0.02)
    slides = found["slides"].groupby("control")
    weighted = slides.apply(lambda table: (table.gap * table.n).sum() / table.n.sum())
    assert weighted["shortcut"] == pytest.approx(areas["shortcut", OWN] - twins.mean()["shortcut"])
    assert {twin_of("shortcut"), "random", "reversed"} <= {*found["curves"].control}


def test_the_area_under_differences_is_the_difference_of_areas():
    *_, found = tables(draws=5)
    curves = pd.concat([found["curves"].assign(seed=seed) for seed in (0, 1)])
    gaps = differences(curves, ("shortcut", "reversed"))
    own = gaps[(gaps.control == "shortcut") & (gaps.measure == "accuracy")]
    areas = found["areas"].query("control == 'shortcut' and measure == 'accuracy'").set_index("draw").area
    assert area_under_k(KS, own["mean"]) == pytest.approx(areas[OWN] - areas.drop(OWN).mean())
    assert (own["low"] == own["mean"]).all()  # two seeds that agree leave no interval
    curves.loc[(curves.seed == 1) & (curves.control == "shortcut"), "mean"] += 0.1
    apart = differences(curves, ("shortcut",))
    assert (apart["high"] > apart["mean"] + 0.1).all()  # Student's t of two seeds is wide
    assert differences(curves[curves.seed == 0], ("shortcut",))["low"].isna().all()
    with pytest.raises(KeyError, match="no curve of 'oracle' and its twin"):
        differences(curves, ("oracle",))
