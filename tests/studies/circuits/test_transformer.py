import functools

import pytest
import torch

from nbutils.hooks import capture
from nbutils.schedules.dopesheet import Dopesheet
from nbutils.schedules.timeline import Timeline
from nbutils.training.ensemble import Ensemble
from nbutils.training.fit import fit
from nbutils.training.objective import Objective
from studies.circuits.sequences import IGNORED, InductionBatches, induction
from studies.circuits.transformer import Transformer, answer_cross_entropy

OPTIONS = {
    "attention": {},
    "everything": {"mlp": 24, "norm": True, "heads": 3, "width": 12, "head_width": 5},
    "both ways": {"causal": False},
}


@pytest.fixture(params=OPTIONS)
def model(request):
    torch.manual_seed(0)
    return Transformer(11, 8, **OPTIONS[request.param]).eval()


def tokens(n=3, length=8):
    return torch.randint(11, (n, length), generator=torch.Generator().manual_seed(0))


def test_attention_equals_that_of_pytorch():
    torch.manual_seed(0)
    model = Transformer(11, 8, layers=1, heads=2, width=12).double()
    attention = model.blocks[0].attention
    x = torch.randn(3, 8, 12, dtype=torch.float64)
    q, k, v = (torch.einsum("bsd,hde->bhse", x, w) for w in (attention.query, attention.key, attention.value))
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(attention(x), torch.einsum("bhse,hed->bshd", mixed, attention.out), atol=1e-12)
    with capture(model, "blocks.0.attention.pattern") as seen:
        model(tokens())
    pattern = seen["blocks.0.attention.pattern"]
    assert torch.allclose(pattern.sum(-1), torch.ones((), dtype=torch.float64))
    assert (pattern.triu(1) == 0).all()


@torch.no_grad()
def test_a_position_sees_what_comes_before_it_and_not_what_comes_after(model):
    x = tokens()
    changed = x.clone()
    changed[:, 5] = (x[:, 5] + 1) % 11
    apart = (model(x) - model(changed)).abs().amax((0, 2))
    if model.blocks[0].attention.causal:
        assert torch.equal(model(x)[:, :5], model(changed)[:, :5])
    else:
        assert (apart[:5] > 1e-4).all()
    assert (apart[5:] > 1e-4).all()
    assert model(x[:, :6]).shape == (3, 6, 11)
    with pytest.raises(ValueError, match="up to 8 positions; got 9"):
        model(tokens(length=9))


@torch.no_grad()
def test_members_of_an_ensemble_are_single_models_stacked_or_in_turn():
    build = functools.partial(Transformer, 11, 8, mlp=16, norm=True)
    ensemble = Ensemble(build, [0, 1])
    x = torch.stack([tokens(), tokens().flip(0)])
    ours, _ = ensemble(x)
    for i in range(2):
        assert torch.allclose(ours[i], ensemble[i](x[i]), atol=1e-12)

    class Stacked(Transformer):
        one_by_one = False

    stacked = Ensemble(functools.partial(Stacked, 11, 8, mlp=16, norm=True), [0, 1])
    assert torch.allclose(stacked(x)[0], ours, atol=1e-12)
    assert not torch.allclose(ours[0], ours[1].flip(0), atol=1e-3)


def test_only_answers_count_in_the_loss():
    logits = torch.randn(2, 3, 5, 7, requires_grad=True)
    target = torch.randint(7, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    target[:, :, :3] = IGNORED
    target[1, 0, 3] = IGNORED
    losses = answer_cross_entropy(logits, target)
    for member in range(2):
        asked = target[member] != IGNORED
        mean = -logits[member][asked].log_softmax(-1).gather(1, target[member][asked][:, None]).mean()
        assert torch.allclose(losses[member], mean)
    losses.sum().backward()
    assert (logits.grad[target == IGNORED] == 0).all()
    assert (logits.grad[target != IGNORED] != 0).any()


@pytest.mark.slow
def test_induction_is_learnt_from_scratch():
    ensemble = Ensemble(functools.partial(Transformer, 12, 8), [0], dtype=torch.float32)
    sheet = Dopesheet.from_text("STEP,lr\n0,0.001\n40,0.01\n300,0.01\n399,0.0005\n")
    batches = InductionBatches(distinct=6, repeated=2, vocabulary=12, batch_size=48)
    prompts = induction(300, distinct=6, repeated=2, vocabulary=12)

    def accuracy():
        return prompts.right[:, 0].gather(1, ensemble[0](prompts.clean)[:, -1].argmax(1, keepdim=True)).float().mean()

    assert accuracy() < 0.3
    result = fit(ensemble, batches, Objective(loss=answer_cross_entropy, name="cross-entropy"), Timeline(sheet))
    assert not result.failures
    assert accuracy() > 0.95
