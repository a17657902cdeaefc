"""How well prompts are answered: metrics that `nbutils.graphs.scores` takes, one number per prompt.

They take logits `[..., items, length, vocabulary]` and the batch of `items` prompts, and give `[..., items]`: the mean
over the positions of each prompt's answers.
"""

from __future__ import annotations

from torch import Tensor

from nbutils.data.pairs import PairBatch
from studies.circuits.sequences import Prompts


def answer_accuracy(logits: Tensor, batch: PairBatch[Prompts]) -> Tensor:
    """Return the share of answers, in [0, 1], whose largest logit is at a right token. It has no gradient."""
    at_answers = batch.pairs.at_answers(logits)
    chosen = at_answers.argmax(-1, keepdim=True)
    right = batch.pairs.right.expand_as(at_answers)
    return right.gather(-1, chosen).to(logits.dtype).squeeze(-1).mean(-1)


def answer_loss(logits: Tensor, batch: PairBatch[Prompts]) -> Tensor:
    """Return the mean cross-entropy of the right tokens, in nats: what an optimal constant keeps small.

    It is the divergence from a model that answers rightly and surely.
    """
    at_answers, right = batch.pairs.at_answers(logits).log_softmax(-1), batch.pairs.right
    return -(at_answers * right).sum(-1).mean(-1)


def logit_difference(logits: Tensor, batch: PairBatch[Prompts]) -> Tensor:
    """Return the mean logit of the right tokens less that of the wrong ones, unbounded.

    Raises:
        ValueError: an answer without a wrong token.
    """
    at_answers, right, wrong = batch.pairs.at_answers(logits), batch.pairs.right, batch.pairs.wrong
    if not wrong.any(-1).all():
        raise ValueError("a logit difference needs a wrong token for every answer")
    of_right, of_wrong = ((at_answers * tokens).sum(-1) / tokens.sum(-1) for tokens in (right, wrong))
    return (of_right - of_wrong).mean(-1)
