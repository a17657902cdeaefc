import pytest
import torch
from torch import nn

from nbutils.ablation.types import AblationType
from nbutils.data.pairs import Pairs
from nbutils.graphs.residual import residual_graph
from nbutils.sites import Site
from studies.across.effects import edge_effects, squared_error, true_class_probability, unit_effects

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
PAIRS = Pairs(X, X.flip(0), torch.arange(12) % 2)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.block, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = self.embed(x)
        return self.head(h + self.block(h))


def test_measures_give_one_number_per_item():
    assert squared_error(X + 2, PAIRS).tolist() == pytest.approx([4.0] * 12)
    assert true_class_probability(torch.zeros(12, 2), PAIRS).tolist() == [0.5] * 12


@torch.no_grad()
def test_the_effect_of_a_unit_is_what_the_measure_gains_without_it():
    model = Net().eval()
    effects = unit_effects(model, [Site("block", 1), Site("embed", 0)], PAIRS, true_class_probability, batch_size=5)
    assert effects.changes.shape == (2, len(AblationType))
    assert effects.changes.index.tolist() == ["block:1", "embed:0"]
    assert effects.intact == pytest.approx(true_class_probability(model(X), PAIRS).mean().item())
    h = model.embed(X)
    written = model.block(h)
    for kind, stand_in in (
        ("zero", 0),
        ("resample", written.flip(0)[:, 1]),
        ("tokenwise mean, clean", written[:, 1].mean()),
    ):
        ablated = written.clone()
        ablated[:, 1] = stand_in
        after = true_class_probability(model.head(h + ablated), PAIRS).mean().item()
        assert effects.changes.at["block:1", kind] == pytest.approx(after - effects.intact, abs=1e-6)


def test_all_edges_of_a_source_are_the_source():
    model = Net().eval()
    graph = residual_graph(model, X, embedding="embed", branch="block", blocks=1, head="head")
    of_edges = edge_effects(model, graph, PAIRS, true_class_probability, batch_size=5)
    of_units = unit_effects(model, [Site("block", slice(0, 4))], PAIRS, true_class_probability, batch_size=5)
    assert of_edges.intact == pytest.approx(of_units.intact, abs=1e-7)
    # The block has one edge: to ablate it is to ablate the block.
    assert of_edges.changes.loc["m0 → logits", "zero"] == pytest.approx(of_units.changes["zero"].iloc[0], abs=1e-6)
    assert of_edges.changes.loc["embedding → m0", "zero"] != pytest.approx(of_units.changes["zero"].iloc[0], abs=1e-6)
