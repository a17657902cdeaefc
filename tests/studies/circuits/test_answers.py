import numpy as np
import pytest
import torch

from nbutils.data.pairs import PairBatch
from studies.circuits.answers import answer_accuracy, logit_difference
from studies.circuits.sequences import Prompts, induction

TOKENS = torch.zeros(2, 3, dtype=torch.int64)
LOGITS = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log()
RIGHT = torch.tensor([[True, False, False], [True, True, False]])


def batch(right, wrong, position=1):
    return PairBatch(0, Prompts(TOKENS, TOKENS, (position,), right[:, None], wrong[:, None]))


def test_metrics_on_a_case_small_enough_to_check_by_eye():
    logits = torch.zeros(2, 3, 3)
    logits[:, 1] = LOGITS
    asked = batch(RIGHT, ~RIGHT)
    assert answer_accuracy(logits, asked).tolist() == [1, 0]
    assert logit_difference(logits, asked).tolist() == pytest.approx([np.log(2), -np.log(8)])
    assert logit_difference(logits, batch(RIGHT, ~RIGHT, position=2)).tolist() == [0, 0]  # read where it is asked
    with pytest.raises(ValueError, match="needs a wrong token"):
        logit_difference(logits, batch(RIGHT, torch.zeros_like(RIGHT)))


@pytest.mark.parametrize("metric", [answer_accuracy, logit_difference])
def test_metrics_take_several_runs_at_once(metric):
    prompts = induction(9)
    asked, logits = PairBatch(0, prompts), torch.randn(4, 9, *prompts.right.shape[2:]).unsqueeze(2).repeat(1, 1, 14, 1)
    found = metric(logits, asked)
    assert found.shape == (4, 9)
    assert torch.equal(found[2], metric(logits[2], asked))
