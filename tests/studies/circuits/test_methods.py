import pandas as pd
import pytest
import torch

from nbutils.ablation.sources import src_ablations
from nbutils.data.pairs import PairBatch
from nbutils.graphs.patch import patch_edges
from studies.circuits.answers import logit_difference
from studies.circuits.graph import transformer_graph
from studies.circuits.methods import CHOICES, USUAL, faithfulness_by_method, ranges_of_choice
from studies.circuits.sequences import induction
from studies.circuits.transformer import Transformer

PROMPTS = induction(12)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = Transformer(20, 14, layers=2, heads=2, width=12).double().eval()
    return model, transformer_graph(model, PROMPTS.clean)


@pytest.fixture(scope="module")
def found(network):
    _, graph = network
    circuits = {"all": graph.edges, "none": [], "some": some(graph)}
    return faithfulness_by_method(*network, PROMPTS, circuits).set_index(["circuit", *CHOICES]).faithfulness


def test_a_method_informs_where_it_replaces_some_edges_and_not_others(network):
    every = faithfulness_by_method(*network, PROMPTS, {"some": some(network[1]), "all": network[1].edges})
    informs = every.groupby(["circuit", "granularity"]).informs.agg(["sum", "size"])
    assert informs.loc[("some", "edges")].tolist() == [64, 64]
    assert informs.loc["all"]["sum"].tolist() == [0, 0]
    # Every node has an edge to the logits: none is left to replace, and those of the circuit are all there are.
    assert informs.loc[("some", "nodes")].tolist() == [0, 64]


def some(graph):
    return [edge for edge in graph.edges if edge.destination == "logits" or edge.source == "token"]


def test_there_are_128_methods_and_the_ends_have_the_faithfulness_that_defines_them(found):
    assert found.groupby("circuit").size().to_dict() == {"all": 128, "none": 128, "some": 128}
    plain = found.xs(("heads and embeddings", "all"), level=("component", "positions"))
    assert plain["all"].to_numpy() == pytest.approx(1, abs=1e-9)
    assert plain["none"].to_numpy() == pytest.approx(0, abs=1e-9)
    assert (plain["some"] != plain["all"]).any()


@torch.no_grad()
@pytest.mark.parametrize("direction", CHOICES["direction"])
@pytest.mark.parametrize("asked", CHOICES["set"])
def test_a_circuit_is_kept_or_taken_away_in_a_clean_run_and_in_a_corrupt_one(network, found, direction, asked):
    """Kept: what is left of the way from nothing to the whole. Taken away: what is missing of it."""
    model, graph = network
    circuit = some(graph)
    noising = direction == "noising"
    ran, fed = (PROMPTS.clean, PROMPTS.corrupt) if noising else (PROMPTS.corrupt, PROMPTS.clean)
    values = src_ablations(model, graph.sites, fed, stack=True)

    def answer(edges):
        with patch_edges(model, graph, edges, values):
            return logit_difference(model(ran), PairBatch(0, PROMPTS)).mean()

    outside = set(graph.edges) - set(circuit)
    whole, nothing = (answer([]), answer(graph.edges)) if noising else (answer(graph.edges), answer([]))
    replaced = {
        ("noising", "sufficient"): outside,
        ("noising", "necessary"): circuit,
        ("denoising", "sufficient"): circuit,
        ("denoising", "necessary"): outside,
    }[direction, asked]
    kept = ((answer(replaced) - nothing) / (whole - nothing)).item()
    expected = kept if asked == "sufficient" else 1 - kept
    method = USUAL | {"direction": direction, "set": asked}
    assert found[("some", *(method[choice] for choice in CHOICES))] == pytest.approx(expected, abs=1e-9)


def test_a_range_varies_one_choice_and_holds_the_others():
    index = pd.MultiIndex.from_product(CHOICES.values(), names=list(CHOICES))
    values = pd.Series(0.0, index=index)
    values[index.get_level_values("value") == "zero"] = 1.0
    values[tuple(USUAL[choice] for choice in CHOICES)] = -2.0
    assert ranges_of_choice(values, "value") == {"from the usual method": 3.0, "median": 1.0, "largest": 3.0}
    assert ranges_of_choice(values, "set") == {"from the usual method": 2.0, "median": 0.0, "largest": 2.0}
