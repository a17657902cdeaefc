import pytest
import torch

from studies.circuits.sequences import IGNORED, InductionBatches, Prompts, induction, reversal


def tokens_of(answers):
    assert (answers.sum(-1) == 1).all()
    return answers.int().argmax(-1)


def test_reversal_asks_for_every_input_and_corrupts_every_token():
    prompts = reversal()
    assert prompts.clean.unique(dim=0).shape == (243, 5)
    assert torch.equal(tokens_of(prompts.right), prompts.clean.flip(1))
    assert torch.equal(tokens_of(prompts.wrong), prompts.corrupt.flip(1))
    assert (prompts.clean != prompts.corrupt).all()
    assert reversal(7, 4, 30).clean.shape == (30, 7)


def test_an_induction_answer_follows_from_the_prompt_alone_and_from_one_token_of_it():
    prompts = induction(300)
    for way, answers in ((prompts.clean, prompts.right), (prompts.corrupt, prompts.wrong)):
        last = way[:, -1:]
        place = (way[:, :10] == last).int().argmax(1)  # where the last token stood before
        assert torch.equal(way[torch.arange(300), place + 1], tokens_of(answers)[:, 0])
    changed = prompts.clean != prompts.corrupt
    assert (changed.sum(1) == 1).all()
    assert torch.equal(prompts.clean[changed], tokens_of(prompts.right)[:, 0])
    first = prompts.clean[:, :10].sort(1).values
    assert (first.diff(dim=1) > 0).all()  # distinct
    starts = (prompts.clean[:, :10] == prompts.clean[:, 10:11]).int().argmax(1)
    assert set(starts.tolist()) == set(range(6))  # no one place to attend to answers all prompts


@pytest.mark.parametrize("make", [lambda seed: reversal(4, 3, 50, seed), lambda seed: induction(50, seed=seed)])
def test_prompts_are_a_function_of_the_seed(make):
    one, same, other = make(3), make(3), make(4)
    assert torch.equal(one.clean, same.clean)
    assert torch.equal(one.corrupt, same.corrupt)
    assert not torch.equal(one.clean, other.clean)


def test_training_targets_are_the_next_tokens_of_the_second_part():
    batches = InductionBatches(batch_size=5, block=3)
    drawn = batches.draw(0, 0)
    assert not torch.equal(drawn["tokens"], batches.draw(0, 1)["tokens"])
    assert torch.equal(drawn["tokens"], batches.draw(0, 0)["tokens"])
    batch = batches.batch({"tokens": torch.stack([drawn["tokens"][0], batches.draw(1, 0)["tokens"][0]])}, torch.float32)
    assert batch["input"].shape == batch["target"].shape == (2, 5, 14)
    assert (batch["target"][..., :10] == IGNORED).all()
    assert torch.equal(batch["target"][..., 10:13], batch["input"][..., 11:])
    assert (batch["target"][..., 10:] >= 0).all()


def test_prompts_that_do_not_fit_are_refused():
    good = induction(4)
    some = good[torch.tensor([True, False, True, False])]
    assert len(some) == 2
    assert some.positions == good.positions
    with pytest.raises(ValueError, match="must be tokens"):
        Prompts(good.clean, good.corrupt[:3], good.positions, good.right, good.wrong)
    with pytest.raises(ValueError, match="lie in 0 to 13"):
        Prompts(good.clean, good.corrupt, (14,), good.right, good.wrong)
    with pytest.raises(ValueError, match="needs a right answer"):
        Prompts(good.clean, good.corrupt, good.positions, torch.zeros_like(good.right), good.wrong)
    with pytest.raises(ValueError, match="repeated < distinct < vocabulary"):
        induction(4, distinct=10, repeated=10)
    with pytest.raises(ValueError, match="vocabulary of 2"):
        reversal(3, 1)
