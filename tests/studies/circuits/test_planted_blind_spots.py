from dataclasses import replace

import pytest
import torch

from nbutils.ablation.optimal import Optimal
from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairLoader
from nbutils.graphs.scores import EdgeTask, evaluate
from studies.circuits.answers import answer_accuracy, answer_loss
from studies.circuits.graph import transformer_graph
from studies.circuits.planted import plant_alarm, plant_witnesses
from studies.circuits.sequences import reversal

POSITIONS = {"position → a0.0.q", "position → a0.0.k"}
TOKENS = {"token → a0.0.v", "a0.0 → logits"}
ALARM = {"token → a0.1.v", "a0.1 → logits"}


def lowered(model, prompts, kind, another=False):
    """Return the edges whose ablation, alone, lowers accuracy."""
    if another:
        order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(0))
        prompts = replace(prompts, corrupt=prompts.clean[order])
    graph = transformer_graph(model, prompts.clean)
    task = EdgeTask(model, graph, PairLoader(prompts, len(prompts)), kind, answer_accuracy)
    edges = len(graph.edges)
    whole, *accuracies = evaluate(task, torch.cat([torch.zeros(1, edges), torch.eye(edges)])).double().mean(1)
    assert whole == 1
    return {str(edge) for edge, one in zip(graph.edges, accuracies, strict=True) if one < 1 - 1e-9}


def test_an_alarm_is_seen_by_what_comes_from_twins_and_by_nothing_else():
    model, prompts = plant_alarm()
    alarmed = model(prompts.corrupt).argmax(-1)
    assert not alarmed.any()
    assert torch.equal(model(prompts.clean).argmax(-1), prompts.clean.flip(1))
    assert lowered(model, prompts, AblationType.ZERO) == POSITIONS | TOKENS
    assert lowered(model, prompts, Optimal(loss=answer_loss, steps=5)) == POSITIONS | TOKENS
    assert lowered(model, prompts, AblationType.TOKENWISE_MEAN_CLEAN) == TOKENS
    assert lowered(model, prompts, AblationType.TOKENWISE_MEAN_CORRUPT) == TOKENS | ALARM
    assert lowered(model, prompts, AblationType.RESAMPLE) == TOKENS | ALARM
    assert lowered(model, prompts, AblationType.RESAMPLE, another=True) == TOKENS


def test_of_two_witnesses_no_single_edge_is_missed_where_it_is_silenced():
    model, prompts = plant_witnesses(), reversal()
    assert torch.equal(model(prompts.clean).argmax(-1), prompts.clean.flip(1))
    for kind in AblationType:
        assert lowered(model, prompts, kind) == (TOKENS if kind is AblationType.RESAMPLE else set()), kind
    # A first head as loud as three is missed: the other does not outvote its mistakes.
    assert lowered(plant_witnesses(first=3.0), prompts, AblationType.ZERO) != set()


@pytest.mark.parametrize(("kind", "left"), [(AblationType.ZERO, 1), (AblationType.RESAMPLE, 0)], ids=str)
def test_one_witness_alone_is_sufficient_and_only_silence_shows_that_it_is_not_complete(kind, left):
    model, prompts = plant_witnesses(), reversal()
    graph = transformer_graph(model, prompts.clean)
    head = graph.mask(edge for edge in graph.edges if "a0.0" in str(edge))
    task = EdgeTask(model, graph, PairLoader(prompts, len(prompts)), kind, answer_accuracy)
    alone, without = evaluate(task, torch.stack([1 - head, head])).double().mean(1).tolist()
    assert alone == 1
    assert without == left
