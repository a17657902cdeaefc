import torch

from studies.circuits.controls import random_edges, strongest_edges, with_one_missing
from studies.circuits.graph import transformer_graph
from studies.circuits.planted import plant_reversal
from studies.circuits.sequences import reversal

GRAPH = transformer_graph(plant_reversal(), reversal().clean)


def test_controls_have_the_size_asked_for_and_are_drawn_by_scores_or_by_chance():
    scores = torch.tensor([0.0, -9.0, 0.1, 3.0, 0.0, 0.2, 0.0, 0.0, -1.0])
    assert strongest_edges(GRAPH, scores, 3) == [GRAPH.edges[i] for i in (1, 3, 8)]  # by size, not by sign
    drawn = [random_edges(GRAPH, 3, seed, draw) for seed in range(40) for draw in range(2)]
    assert all(len(set(one)) == 3 for one in drawn)
    assert {edge for one in drawn for edge in one} == set(GRAPH.edges)
    assert random_edges(GRAPH, 3, 0, 1) == drawn[1] != drawn[0]


def test_a_circuit_lacks_each_of_its_edges_once():
    circuit = list(GRAPH.edges[:4])
    lacking = [set(circuit) - set(one) for one in with_one_missing(circuit)]
    assert lacking == [{edge} for edge in circuit]
