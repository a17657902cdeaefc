"""Credit rules against plain autograd with the credit substituted, through the one training loop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from interrupted import Interrupted

from nbutils.data.labelled import LabelledImages
from nbutils.schedules import Dopesheet, Timeline
from nbutils.training.checkpoints import CheckpointError
from nbutils.training.fit import adam, fit
from nbutils.training.objective import Objective, Term, cross_entropy
from studies.credit import regimes as rules
from studies.credit.batches import ImageBatches
from studies.credit.feedback import feedback_matrices, fixed_network, with_feedback
from studies.credit.loss import OBJECTIVE
from studies.credit.network import ResidualMLP
from studies.credit.regimes import CreditRule, Regime, study

WIDTH, CLASSES, BLOCKS = 16, 5, 3
REGIMES = [
    Regime("BP", "backpropagation"),
    Regime("FA", "feedback"),
    Regime("DFA"),
    Regime("DFA, penalised", penalty=1.0),
    Regime("DFA, penalised ×3", penalty=3.0),
    Regime("frozen", blocks=False),
    Regime("frozen, BP", "backpropagation", blocks=False),
    Regime("BP, penalised", "backpropagation", penalty=1.0),
]
TIMELINE = Timeline(Dopesheet.from_text("STEP,lr,penalty\n0,0.01,0.2\n39,,\n"))


def build():
    return ResidualMLP(12, WIDTH, CLASSES, BLOCKS)


@pytest.fixture(scope="module")
def images():
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, 12, generator=draw)
    labels = torch.arange(200) % CLASSES
    features = centres[labels] + 0.5 * torch.randn(200, 12, generator=draw)
    return LabelledImages(features.view(-1, 1, 3, 4), labels, "embedded digits")


def one_step(images, regimes=REGIMES, seeds=(3, 8), dtype=torch.float64):
    """Return ensemble, batch, and the gradients the rule writes, by name."""
    ensemble, rule = study(build, seeds, regimes, dtype=dtype)
    batches = ImageBatches(images, batch_size=20)
    drawn = torch.stack([batches.draw(seed, 0)["index"][0] for seed in ensemble.seeds])
    batch = batches.batch({"index": drawn}, dtype)
    totals, values = rule.bind(ensemble, OBJECTIVE)(batch, {"lr": 0.0, "penalty": 0.2})
    return ensemble, batch, {name: tensor.clone() for name, tensor in ensemble.gradients.items()}, totals, values


def member(ensemble, name, seed=8):
    return [*zip(ensemble.variants, ensemble.seeds, strict=True)].index((name, seed))


def gradients(model, loss):
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True))


@pytest.mark.parametrize(("name", "weight"), [("BP", 0.0), ("BP, penalised", 0.2)])
def test_backpropagation_equals_plain_autograd(images, name, weight):
    ensemble, batch, found, totals, values = one_step(images)
    i = member(ensemble, name)
    model = ensemble[i]
    logits, hidden = model(batch["input"][i], return_hidden=True)
    norms = sum(h.square().mean() for h in hidden)
    loss = F.cross_entropy(logits, batch["target"][i]) + weight * norms
    for parameter, gradient in gradients(model, loss).items():
        assert torch.allclose(found[parameter][i], gradient, atol=1e-12), parameter
    assert totals[i].item() == pytest.approx(loss.item())
    assert values["hidden norm"][i].item() == pytest.approx(norms.item())


@pytest.mark.parametrize(("name", "weight"), [("DFA", 0.0), ("DFA, penalised", 0.2), ("DFA, penalised ×3", 0.6)])
def test_direct_feedback_equals_autograd_with_the_credit_substituted(images, name, weight):
    """Reference: a loss ⟨credit, output⟩ for each block alone, its input and the credit held fixed."""
    ensemble, batch, found, _, _ = one_step(images)
    i = member(ensemble, name)
    model, x, y = ensemble[i], batch["input"][i], batch["target"][i]
    feedback = feedback_matrices(8, build).double()
    logits, hidden = model(x, return_hidden=True)
    error = (logits.softmax(1) - F.one_hot(y, CLASSES)).detach() / len(y)
    hidden = [h.detach() for h in hidden]
    local = (model.embed(x) * (error @ feedback[0].T)).sum() + weight * model.embed(x).square().mean()
    for layer, block in enumerate(model.blocks):
        out = hidden[layer] + block(hidden[layer])
        local = local + (out * (error @ feedback[layer].T)).sum() + weight * out.square().mean()
    local = local + F.cross_entropy(model.out_head(model.out_ln(hidden[-1])), y)
    for parameter, gradient in gradients(model, local).items():
        assert torch.allclose(found[parameter][i], gradient, atol=1e-12), parameter
    true = gradients(model, F.cross_entropy(model(x), y))
    assert not torch.allclose(found["blocks.1.1.weight"][i], true["blocks.1.1.weight"], atol=1e-4)


def test_feedback_alignment_goes_back_through_the_fixed_network(images):
    ensemble, batch, found, _, _ = one_step(images)
    i = member(ensemble, "FA")
    x, y = batch["input"][i], batch["target"][i]
    twin = with_feedback(ensemble[i], fixed_network(8, build).double())
    assert torch.allclose(twin(x), ensemble[i](x))
    assert torch.equal(twin.float()(x.float()), ensemble[i].float()(x.float()))
    twin.double()
    # The credit at each hidden state, by autograd on the twin; then each block alone.
    logits, hidden = twin(x, return_hidden=True)
    credits = torch.autograd.grad(F.cross_entropy(logits, y), hidden)
    layer = 1
    out = twin.blocks[layer](hidden[layer].detach())
    (down,) = torch.autograd.grad(out, twin.blocks[layer][3].weight, credits[layer + 1])
    assert torch.allclose(found[f"blocks.{layer}.3.weight"][i], down, atol=1e-12)
    assert torch.allclose(found["embed.weight"][i], credits[0].T @ x, atol=1e-12)


def test_feedback_alignment_through_each_members_own_weights_is_backpropagation(images, monkeypatch):
    own, _ = study(build, [3, 8], [Regime("FA", "feedback")], dtype=torch.float64)
    monkeypatch.setattr(rules, "fixed_network", lambda seed, _build: own[own.seeds.index(seed)])
    _, _, fed, _, _ = one_step(images, [Regime("FA", "feedback")])
    _, _, true, _, _ = one_step(images, [Regime("BP", "backpropagation")])
    for name, gradient in true.items():
        assert torch.allclose(fed[name], gradient, atol=1e-12), name


def test_frozen_blocks_do_not_move_and_the_rest_learns(images):
    ensemble, rule = study(build, [0, 1], REGIMES)
    before = {name: tensor.clone() for name, tensor in ensemble.state().items()}
    result = fit(ensemble, ImageBatches(images, batch_size=20), OBJECTIVE, TIMELINE, rule=rule, log_every=1)
    moved = {name: (tensor - before[name]).flatten(1).abs().amax(1) for name, tensor in ensemble.state().items()}
    frozen = torch.tensor([variant.startswith("frozen") for variant in ensemble.variants])
    for name, distance in moved.items():
        assert torch.equal(distance > 0, ~frozen if name.startswith("blocks") else torch.ones_like(frozen)), name
    history = result.history[result.history.term == "cross-entropy"]
    table = history.pivot_table(index="step", columns="variant", values="value")
    assert (table.loc[30:].mean() < 0.6 * table.loc[:2].mean()).all()
    norms = result.history[(result.history.term == "hidden norm") & (result.history.step == 39)]
    by_variant = norms.groupby("variant").value.mean()
    assert by_variant["DFA, penalised ×3"] < by_variant["DFA, penalised"] < by_variant["DFA"]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_members_equal_single_runs_whatever_runs_beside_them(images, dtype, tolerance):
    batches = ImageBatches(images, batch_size=20)

    def trained(seeds, regimes, **options):
        ensemble, rule = study(build, seeds, regimes, dtype=dtype)
        fit(ensemble, batches, OBJECTIVE, TIMELINE, rule=rule, **options)
        return ensemble

    several = trained([0, 4, 7, 5, 6], REGIMES)
    for regime in REGIMES:
        alone = trained([7], [regime])
        i = member(several, regime.name, 7)
        for name, tensor in alone.state().items():
            assert (several.state()[name][i] - tensor[0]).abs().max() < tolerance, (regime.name, name)
    assert (several.flat[member(several, "DFA", 7)] - several.flat[member(several, "DFA", 4)]).abs().max() > 0.1
    with ThreadPoolExecutor(2) as pool:
        spread = trained([0, 4, 7, 5, 6], REGIMES, executor=pool, workers=3)
    assert (spread.flat - several.flat).abs().max() < tolerance


def test_the_first_part_of_a_run_is_a_run(images):
    batches = ImageBatches(images, batch_size=20)
    whole, rule = study(build, [2], REGIMES)
    part, _ = study(build, [2], REGIMES)
    fit(part, batches, OBJECTIVE, TIMELINE.first(10), rule=rule)
    seen = []

    def spy(parameters):
        optimizer = adam(parameters)
        optimizer.register_step_post_hook(lambda *_: seen.append(parameters[0].detach().clone()))
        return optimizer

    fit(whole, batches, OBJECTIVE, TIMELINE, rule=rule, optimizer=spy)
    assert torch.equal(seen[9], part.flat.detach())
    assert len(seen) == 40


def test_a_killed_run_resumes_and_another_regime_is_another_run(images, tmp_path):
    batches, path = ImageBatches(images, batch_size=20), tmp_path / "run"
    whole, rule = study(build, [0, 1], REGIMES)
    fit(whole, batches, OBJECTIVE, TIMELINE, rule=rule)

    killed, _ = study(build, [0, 1], REGIMES)
    with pytest.raises(KeyboardInterrupt):
        fit(killed, batches, OBJECTIVE, Interrupted(TIMELINE, 25), rule=rule, checkpoint=path, every=10)
    resumed, _ = study(build, [0, 1], REGIMES)
    result = fit(resumed, batches, OBJECTIVE, TIMELINE, rule=rule, checkpoint=path, every=10)
    assert torch.equal(resumed.flat, whole.flat)
    assert set(result.history.columns) == {"seed", "variant", "step", "term", "value"}
    others = [Regime(r.name, r.credit, r.penalty + 0.5, r.blocks) for r in REGIMES]
    again, rule = study(build, [0, 1], others)
    with pytest.raises(CheckpointError, match="rule should be"):
        fit(again, batches, OBJECTIVE, TIMELINE, rule=rule, checkpoint=path)


def test_a_member_that_overflows_leaves_alone(images):
    seeds, regimes = [0, 1], [Regime("DFA"), Regime("BP", "backpropagation")]
    ensemble, rule = study(build, seeds, regimes)
    reference, _ = study(build, seeds, regimes)
    with torch.no_grad():
        ensemble.flat[2] = torch.inf  # BP, seed 0
    batches = ImageBatches(images, batch_size=20)
    result = fit(ensemble, batches, OBJECTIVE, TIMELINE, rule=rule)
    fit(reference, batches, OBJECTIVE, TIMELINE, rule=rule)
    assert [(f.seed, f.variant, f.step) for f in result.failures] == [(0, "BP", 0)]
    others = torch.tensor([0, 1, 3])
    assert torch.equal(ensemble.flat[others], reference.flat[others])


def test_what_cannot_be_meant_is_refused(images):
    with pytest.raises(ValueError, match="credit must be one of 'backpropagation'"):
        Regime("x", "backprop")
    with pytest.raises(ValueError, match="penalty must be 0 or more; got -1"):
        Regime("x", penalty=-1)
    with pytest.raises(ValueError, match="distinct names"):
        study(build, [0], [Regime("x"), Regime("x", penalty=1.0)])
    ensemble, rule = study(build, [0, 1], [Regime("x", penalty=1.0)])
    with pytest.raises(ValueError, match="one regime per member, 2; got 1"):
        CreditRule(rule.regimes[:1]).bind(ensemble, OBJECTIVE)
    with pytest.raises(ValueError, match="no terms but its own penalty; got 'extra'"):
        rule.bind(ensemble, Objective([Term("extra", torch.sum, "embed")], cross_entropy))
    sheet = Timeline(Dopesheet.from_text("STEP,lr\n0,0.01\n9,\n"))
    with pytest.raises(ValueError, match="no column 'penalty'; it has lr"):
        fit(ensemble, ImageBatches(images, 20), OBJECTIVE, sheet, rule=rule)
