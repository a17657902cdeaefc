import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.data.pairs import Pairs
from nbutils.sites import Site
from studies.across.cases import Case, Layer, cross_entropy
from studies.across.certificates import certificates, joint_scores, worst_kept
from studies.across.doses import bend, dose_response
from studies.across.predictors import class_spread, league
from studies.across.standins import departure, rank_agreement, spread_of, unit_effects, unit_values


def test_a_departure_follows_from_the_covariance():
    torch.manual_seed(0)
    mixing = torch.tensor([[1.0, 0, 0], [0.9, 0.3, 0], [0, 0, 2]], dtype=torch.float64)
    data = torch.randn(50_000, 3, dtype=torch.float64) @ mixing.T
    data = data - data.mean(0)
    covariance = data.T @ data / len(data)
    inflated = covariance.diagonal() * torch.linalg.inv(covariance).diagonal()
    spread = spread_of(data, ridge=0.0)
    at_mean = departure(data, torch.zeros(1, 3, dtype=torch.float64), spread)
    assert at_mean.tolist() == pytest.approx(((1 + inflated) / 3).tolist(), rel=1e-6)
    # Another item's activation varies as well: further away, and most where units depend on each other.
    other = departure(data, data.roll(1, 0), spread)
    assert other.tolist() == pytest.approx(((1 + 2 * inflated) / 3).tolist(), rel=0.05)
    assert departure(data, data, spread).tolist() == pytest.approx([1, 1, 1])


def test_a_linear_map_does_not_change_a_departure():
    torch.manual_seed(1)
    data, turn = torch.randn(200, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    replaced = data.clone()
    replaced[:, 1] = 2.0

    def distance(x, moved):
        mean, precision = spread_of(x, ridge=0.0)
        return (((moved - mean) @ precision) * (moved - mean)).sum(1).mean()

    assert distance(data @ turn, replaced @ turn).item() == pytest.approx(distance(data, replaced).item(), rel=1e-6)


def test_ties_count_neither_for_nor_against():
    effects = pd.DataFrame({"a": [0.0, 0.0, 1.0, -2.0], "optimal": [0.1, 0.2, 0.3, 0.4]})
    row = rank_agreement(effects).loc["a"]
    assert row.tied == pytest.approx(1 / 6)
    assert row.tau == pytest.approx(5 / np.sqrt(5 * 6))
    assert row.zeros == 0.5


def make():
    """A linear classifier of six inputs, of which unit 5 reads nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), nn.Linear(6, 3, bias=False)).eval()
    with torch.no_grad():
        model[1].weight[:, 5] = 0
    x = torch.rand(20, 6)
    pairs = Pairs(x, x.flip(0), model(x).argmax(1))
    layer = Layer(Site("0", axis=1), torch.ones(6), torch.zeros(6))
    return Case("plain", model, pairs, cross_entropy, (layer,), torch.arange(40) < 20, pairs, batch_size=7)


KINDS = [nb.AblationType.ZERO, nb.AblationType.RESAMPLE]


def test_whole_circuits_keep_all_and_none_nothing():
    case = make()
    effects = unit_effects(case, KINDS, {})
    assert effects.xs(5, level="unit").abs().to_numpy().max() == pytest.approx(0, abs=1e-6)
    values = {kind.value: unit_values(case, kind) for kind in KINDS}
    found = certificates(case, effects, values, shares=(0.0, 5 / 6, 1.0))
    kept = found.groupby("share").kept
    assert kept.max().tolist() == pytest.approx([0, 1, 1], abs=1e-5)  # without the unread unit nothing is missing
    assert kept.min()[1.0] == pytest.approx(1, abs=1e-5)
    assert worst_kept(found).le(1).all()
    assert joint_scores(effects, ["zero", "resample"]).tolist() == [
        max(pair) for pair in effects.abs().rank(pct=True).to_numpy().tolist()
    ]


def test_doses_end_at_the_effect_of_ablation():
    case = make()
    effects = unit_effects(case, KINDS, {})
    values = {kind.value: unit_values(case, kind) for kind in KINDS}
    found = dose_response(case, effects, values, strongest=2)
    for (kind, unit), group in found.groupby(["stand_in", "unit"]):
        assert group.effect.iloc[0] == pytest.approx(0, abs=1e-7)
        assert group.effect.iloc[-1] == pytest.approx(effects[kind].iloc[unit], abs=1e-6)
    straight = found.assign(share=found.dose)
    assert bend(straight).abs().max() == 0
    assert bend(straight.assign(share=found.dose**2)).max() < 0


def test_a_league_compares_within_layers():
    index = pd.MultiIndex.from_tuples([("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2)])
    index.names = ["layer", "unit"]
    effect = pd.Series([1.0, 2, -3, 10, 20, 30], index=index)
    predicted = pd.DataFrame({"right": [100, 200, 300, 1, 2, 3], "half": [1, 2, 3, 3, 2, 1], "none": [1.0] * 6})
    assert league(predicted, effect).tolist() == pytest.approx([1, 0, 0])


def test_class_means_count_alike():
    assert class_spread([[0.0], [0.0], [0.0], [2.0]], [0, 0, 0, 1]).tolist() == [1.0]
