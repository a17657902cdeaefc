import numpy as np
import pytest
import torch
from torch import nn

from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairLoader, Pairs
from nbutils.graphs.faithfulness import circuit_curve, circuit_model_distance, circuit_performance_ratio
from nbutils.graphs.residual import residual_graph
from nbutils.graphs.scores import exact_scores
from nbutils.graphs.task import EdgeTask


class Sum(nn.Module):
    """The answer is linear in what each edge carries: three numbers, each doubled on its own way."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Identity(), nn.Identity()
        self.blocks = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(2))
        for i, block in enumerate(self.blocks):
            nn.init.zeros_(block.weight)
            block.weight.data[i, 2] = float(i + 1)

    def forward(self, x):
        stream = self.embed(x)
        for block in self.blocks:
            stream = stream + block(stream)
        return self.head(stream)


def test_the_curve_of_a_model_in_which_edges_add_up():
    model, x = Sum().double(), torch.eye(3).double()[[2, 2]]
    graph = residual_graph(model, x, embedding="embed", branch="blocks.{}", blocks=2, head="head")
    pairs = PairLoader(Pairs(x, 0 * x, torch.zeros(2)), 2)
    task = EdgeTask(model, graph, pairs, AblationType.ZERO, lambda out, _: out[:, 0] + 2 * out[:, 1])
    scores = exact_scores(task)
    effects = dict(zip(map(str, graph.edges), scores.tolist(), strict=True))
    assert effects["embedding → m0"] == effects["m0 → logits"] == pytest.approx(-1)
    assert effects["embedding → m1"] == effects["m1 → logits"] == pytest.approx(-4)
    curve = circuit_curve(task, scores, [0, 2 / len(scores), 4 / len(scores), 1])
    assert curve.faithfulness.tolist() == pytest.approx([0, 0.8, 1, 1])
    assert curve.without.tolist() == pytest.approx([1, 0.2, 0, 0])  # 4 of 5, and the rest
    with pytest.raises(ValueError, match=r"shares of the edges lie in \[0, 1\]"):
        circuit_curve(task, scores, [2])
    flat = EdgeTask(model, graph, pairs, AblationType.ZERO, lambda out, _: 0 * out[:, 0])
    with pytest.raises(ValueError, match="nothing to keep"):
        circuit_curve(flat, scores)


def test_areas_of_curves_that_are_known():
    assert circuit_performance_ratio([0, 1], [0, 1]) == pytest.approx(0.5)
    assert circuit_model_distance([0, 1], [0, 1]) == pytest.approx(0.5)
    assert circuit_performance_ratio([0.5, 1], [1, 1]) == pytest.approx(1)
    assert circuit_model_distance([0.5, 1], [1, 1]) == 0
    # Half below and half above 1: the ratio cannot tell it from a perfect circuit, the distance can.
    assert circuit_performance_ratio([0, 1], [0, 2]) == pytest.approx(1)
    assert circuit_model_distance([0, 1], [0, 2]) == pytest.approx(0.5)
    x = np.linspace(0, 1, 1001)
    assert circuit_model_distance(x, 1 + np.sin(2 * np.pi * x)) == pytest.approx(2 / np.pi, abs=1e-4)
    for shares, values, told in (([0, 0.5], [0, 1], "the last 1"), ([1], [np.nan], "finite"), ([1, 1], [0, 1], "incr")):
        with pytest.raises(ValueError, match=told):
            circuit_performance_ratio(shares, values)
