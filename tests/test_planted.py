import pytest
import torch

from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairLoader
from nbutils.graphs.scores import EdgeTask, evaluate
from nbutils.hooks import capture
from studies.circuits.faithfulness import answer_accuracy_of
from studies.circuits.graph import transformer_graph
from studies.circuits.planted import plant_reversal
from studies.circuits.sequences import reversal

REVERSAL = reversal()
MATTERS = {"position → a0.0.q", "position → a0.0.k", "token → a0.0.v", "a0.0 → logits"}
MEAN_MATTERS = {"token → a0.0.v", "a0.0 → logits"}


@pytest.mark.parametrize("batch_size", [243, 100])
@pytest.mark.parametrize("kind", list(AblationType), ids=str)
def test_the_planted_reversal_loses_just_the_edges_and_the_accuracy_derived_for_each_type(kind, batch_size):
    if batch_size < 243 and kind.name.startswith("BATCH"):
        pytest.skip("derived for a batch of all inputs")
    model, loader = plant_reversal(), PairLoader(REVERSAL, batch_size)
    graph = transformer_graph(model, REVERSAL.clean)
    task = EdgeTask(model, graph, loader, kind, answer_accuracy_of)
    masks = torch.cat([torch.zeros(1, 9), torch.eye(9)])
    clean, *ablated = evaluate(task, masks).double().mean(1).tolist()
    assert clean == 1
    uniform = kind in (AblationType.ZERO, AblationType.BATCH_ALL_TOK_MEAN)  # of attention, without positions
    lost = 0 if kind is AblationType.RESAMPLE else 1 / 3
    expected = {
        "position → a0.0.q": 5 / 9 if uniform else 1,
        "position → a0.0.k": 5 / 9 if uniform else 1,
        "token → a0.0.v": lost,
        "a0.0 → logits": lost,
    }
    for edge, accuracy in zip(graph.edges, ablated, strict=True):
        assert accuracy == pytest.approx(expected.get(str(edge), 1), abs=1e-6), edge
    matter = {str(edge) for edge, accuracy in zip(graph.edges, ablated, strict=True) if accuracy < 1}
    assert matter == (MATTERS if uniform else MEAN_MATTERS)
    assert {"token → logits", "position → logits"}.isdisjoint(matter)


@torch.no_grad()
def test_the_planted_reversal_reverses_other_lengths_and_attends_to_the_mirror():
    prompts = reversal(4, 6, count=50)
    model = plant_reversal(4, 6)
    with capture(model, "blocks.0.attention.pattern") as seen:
        answers = model(prompts.clean).argmax(-1)
    assert torch.equal(answers, prompts.clean.flip(1))
    assert torch.allclose(seen["blocks.0.attention.pattern"][:, 0], torch.eye(4).flip(1).expand(50, 4, 4), atol=1e-10)
    assert not torch.equal(plant_reversal(4, 6, sharpness=0.1)(prompts.clean).argmax(-1), prompts.clean.flip(1))
