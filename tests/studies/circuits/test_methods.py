import pandas as pd
import pytest
import torch

from studies.circuits.graph import transformer_graph
from studies.circuits.methods import CHOICES, USUAL, faithfulness_by_method, ranges_of_choice
from studies.circuits.sequences import induction
from studies.circuits.transformer import Transformer


@pytest.fixture(scope="module")
def table():
    torch.manual_seed(0)
    model, prompts = Transformer(20, 14, layers=2, heads=2, width=12).double().eval(), induction(12)
    graph = transformer_graph(model, prompts.clean)
    some = [edge for edge in graph.edges if edge.destination == "logits" or edge.source == "token"]
    circuits = {"all": graph.edges, "none": [], "some": some}
    found = faithfulness_by_method(model, graph, prompts, circuits)
    return found.set_index(["circuit", *CHOICES]).faithfulness


def test_there_are_128_methods_and_the_ends_have_the_faithfulness_that_defines_them(table):
    assert table.groupby("circuit").size().to_dict() == {"all": 128, "none": 128, "some": 128}
    plain = table.xs(("heads and embeddings", "all"), level=("component", "positions"))
    assert plain["all"].to_numpy() == pytest.approx(1, abs=1e-9)
    assert plain["none"].to_numpy() == pytest.approx(0, abs=1e-9)
    assert (plain["some"] != plain["all"]).any()


def test_denoising_a_circuit_is_noising_the_rest(table):
    """Clean values in a corrupt run at all edges of a circuit: the same run as corrupt ones in a clean run elsewhere."""
    levels = ("granularity", "direction", "value", "positions", "set", "component")
    for asked in CHOICES["set"]:
        same = (asked, "heads and embeddings")
        noising = table["some"].xs(("edges", "noising", "resample", "all", *same), level=levels).item()
        denoising = table["some"].xs(("edges", "denoising", "resample", "all", *same), level=levels).item()
        assert noising != pytest.approx(0, abs=1e-3)
        assert denoising == pytest.approx(noising, abs=1e-9)


def test_a_range_varies_one_choice_and_holds_the_others():
    index = pd.MultiIndex.from_product(CHOICES.values(), names=list(CHOICES))
    values = pd.Series(0.0, index=index)
    values[index.get_level_values("value") == "zero"] = 1.0
    values[tuple(USUAL[choice] for choice in CHOICES)] = -2.0
    assert ranges_of_choice(values, "value") == {"from the usual method": 3.0, "median": 1.0, "largest": 3.0}
    assert ranges_of_choice(values, "set") == {"from the usual method": 2.0, "median": 0.0, "largest": 2.0}
