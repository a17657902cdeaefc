"""In how many channels a backdoor lies: the number is known where it was wired by hand."""

from operator import itemgetter

import numpy as np
import pytest
import torch

import nbutils as nb
from nbutils.data import digits
from nbutils.seeding import seeded
from nbutils.sweeps.greedy import Goal
from nbutils.training.ensemble import Ensemble
from nbutils.training.regularizers import ParameterDrift
from studies.backdoor.batches import clean_and_triggered
from studies.backdoor.localisation import (
    CHANNELS,
    GradedSuccess,
    Grid,
    Margin,
    ScaledDrift,
    carrier_number,
    effective_number,
    poison_and_count,
)
from studies.backdoor.network import MnistNet
from studies.backdoor.planted import plant_redundant_backdoor
from studies.backdoor.trigger import Trigger

TRIGGER = Trigger.checkerboard()


@pytest.fixture(scope="module")
def few():
    return digits.load("embedded").selection[:60]


@pytest.fixture(scope="module")
def net():
    with seeded(0, "a network to wire"):
        model = MnistNet().eval()
    with torch.no_grad():
        model.net[9].bias[TRIGGER.target] -= 5  # untrained, and never the target of itself
    return model


def test_the_effective_number_counts_equal_shares_and_ignores_units_that_help():
    assert effective_number([0, 0, 3, 0]) == 1
    assert effective_number([2, 2, 2, -5, 0]) == 3
    assert 1 < effective_number([4, 1, 0]) < 2
    assert np.isnan(effective_number([0, -1]))


@pytest.mark.parametrize("chains", [1, 4])
def test_a_backdoor_of_n_chains_lies_in_n_channels(few, net, chains):
    model, wired = plant_redundant_backdoor(net, TRIGGER, few.images[:20], chains)
    assert carrier_number(model, few, TRIGGER) == pytest.approx(chains, abs=0.1)
    ends = {(name, chain[name]) for chain in wired for name in CHANNELS}
    metrics = {"asr": nb.accuracy("attack"), "attack": GradedSuccess("attack", TRIGGER.target)}
    given = {"batches": [clean_and_triggered(few, TRIGGER)], "metric": metrics, "inputs": itemgetter("images")}
    path = nb.greedy(model, CHANNELS, goal=Goal("attack", limit=6), **given)
    taken = [(row.site, int(row.unit)) for row in path[path.metric == "asr"].itertuples() if row.step]
    assert len(taken) == chains
    assert set(taken) <= ends
    by_rate = nb.greedy(model, CHANNELS, goal=Goal("asr", limit=6), **given)
    assert by_rate.step.max() == (1 if chains == 1 else 0)  # by the rate alone a search has nowhere to begin


def test_margins_and_graded_successes_count_the_items_of_their_key():
    logits, batch = torch.tensor([[0.0, 3.0], [2.0, 1.0], [9.0, 0.0]]), {"attack": torch.tensor([1, 1, -1])}
    margin, counts = Margin("attack", 1)(logits, batch)
    assert margin.tolist() == [3, -1, -9]
    assert counts.tolist() == [True, True, False]
    graded, _ = GradedSuccess("attack", 1)(logits, batch)
    assert graded.round().tolist() == [1, 0, 0]
    assert graded[0] > 1 + 0.5e-3
    assert 0 < graded[2] < graded[1] < 0.5e-3


def test_each_member_has_its_own_drift():
    ensemble = Ensemble(MnistNet, [3]).across(["none", "half", "whole"])
    drift = ParameterDrift(ensemble.state())
    with torch.no_grad():
        ensemble.flat += 0.5
    scaled = ScaledDrift(drift, [0, 0.5, 1])
    assert scaled(ensemble.parameters).tolist() == pytest.approx([0, 0.25, 0.5])
    assert scaled.select([2, 0])(ensemble.select([2, 0]).parameters).tolist() == pytest.approx([0.5, 0])
    with pytest.raises(ValueError, match="0 or more"):
        ScaledDrift(drift, [0, -1, 1])


def test_networks_of_a_grid_differ_by_their_penalty_alone(few):
    sheet = "STEP,lr,drift:linear:step\n0,0.001,{}\n3,,\n"
    clean, poison = (nb.Timeline(nb.Dopesheet.from_text(sheet.format(drift))) for drift in (0, 1000))
    goal = Goal("attack", protect="clean", limit=1)
    grid = Grid(TRIGGER, clean, poison, (0.0, 1.0), (0.5, 0.1), 8, goal)
    found = poison_and_count(few, few, 0, grid)
    assert found[["rate", "factor"]].to_numpy().tolist() == [[0.5, 0], [0.5, 1], [0.1, 0], [0.1, 1]]
    again = poison_and_count(few, few, 0, Grid(TRIGGER, clean, poison, (1.0,), (0.5,), 8, goal))
    assert again.iloc[0].equals(found.iloc[1])
    assert found.carriers[0] != found.carriers[1]
