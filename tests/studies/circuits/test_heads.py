import pandas as pd
import torch

from studies.circuits.heads import attention_patterns, describe_heads, sort_heads, textbook_circuit
from studies.circuits.sequences import induction
from studies.circuits.transformer import Transformer

PROMPTS = induction(30)


def small():
    torch.manual_seed(0)
    return Transformer(20, 14, layers=2, heads=3, width=12).double().eval()


@torch.no_grad()
def test_what_heads_add_to_the_logit_difference_is_what_ablating_them_takes_away():
    model = small()
    described = describe_heads(model, PROMPTS).set_index("head")
    assert described.index.tolist() == ["a0.0", "a0.1", "a0.2", "a1.0", "a1.1", "a1.2"]
    assert described["adds, logits"].isna().tolist() == [True] * 3 + [False] * 3
    reads = PROMPTS.right[:, 0].double() - PROMPTS.wrong[:, 0].double()
    whole = (model(PROMPTS.clean)[:, -1] * reads).sum(1).mean()
    model.blocks[1].attention.out[1] = 0
    without = (model(PROMPTS.clean)[:, -1] * reads).sum(1).mean()
    assert torch.isclose(whole - without, torch.tensor(described.at["a1.1", "adds, logits"], dtype=torch.float64))


@torch.no_grad()
def test_attention_is_read_at_the_place_before_and_at_the_answer():
    model = small()
    described = describe_heads(model, PROMPTS).set_index("head")
    pattern = attention_patterns(model, PROMPTS.clean)["a1.2"]
    assert torch.allclose(pattern.sum(-1), torch.ones((), dtype=torch.float64))
    tokens = PROMPTS.right[:, 0].int().argmax(1)
    answer = [row.tolist().index(token) for row, token in zip(PROMPTS.clean, tokens, strict=True)]
    to_answer = torch.stack([one[13, place] for one, place in zip(pattern, answer, strict=True)]).mean()
    before = torch.stack([pattern[:, i, i - 1] for i in range(1, 14)]).mean()
    assert torch.allclose(to_answer, torch.tensor(described.at["a1.2", "to the answer"], dtype=torch.float64))
    assert torch.allclose(before, torch.tensor(described.at["a1.2", "to the place before"], dtype=torch.float64))


@torch.no_grad()
def test_sorted_heads_are_in_order_and_the_network_is_the_same():
    model = small()
    before, unsorted = model(PROMPTS.clean), describe_heads(model, PROMPTS).set_index("head")
    sort_heads(model, PROMPTS)
    found = describe_heads(model, PROMPTS).set_index("head")
    assert torch.allclose(model(PROMPTS.clean), before, atol=1e-12)
    for layer, column in (("a0", "to the place before"), ("a1", "adds, logits")):
        names = [f"{layer}.{head}" for head in range(3)]
        assert found.loc[names, column].is_monotonic_decreasing
        assert sorted(found.loc[names, column].round(9)) == sorted(unsorted.loc[names, column].round(9))
    assert not found.equals(unsorted)


def test_the_textbooks_circuit_has_the_heads_that_attend_enough():
    heads = pd.DataFrame(
        {
            "head": ["a0.0", "a0.1", "a1.0", "a1.1"],
            "to the place before": [0.9, 0.2, 0.9, 0.0],
            "to the answer": [0.9, 0.0, 0.3, 0.8],
        }
    )
    assert set(textbook_circuit(heads, 0.5)) == {
        ("position", "a0.0.q"),
        ("position", "a0.0.k"),
        ("token", "a0.0.v"),
        ("a0.0", "a1.1.k"),
        ("token", "a1.1.q"),
        ("token", "a1.1.v"),
        ("a1.1", "logits"),
    }
    assert textbook_circuit(heads, 0.95) == []
