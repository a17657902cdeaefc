import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import pytest
import torch
from interrupted import Interrupted

from nbutils import layout
from nbutils.data import digits
from nbutils.schedules import Dopesheet
from nbutils.schedules.timeline import Timeline
from nbutils.training.checkpoints import CheckpointError
from nbutils.training.ensemble import Ensemble
from nbutils.training.fit import fit
from nbutils.training.loop import Validation
from nbutils.training.objective import Objective, ParameterTerm, Term, cross_entropy
from nbutils.training.regularizers import ParameterDrift
from studies.backdoor.batches import DigitBatches
from studies.backdoor.network import MnistNet
from studies.backdoor.trigger import Trigger
from studies.color_cube.data import ColorBatches
from studies.color_cube.network import ColorMLP
from studies.color_cube.regularizers import AngularAnchor, AntiAnchor, AxisAlignedSubspace, Separate

RED, ANTI_RED = (1.0, 0, 0, 0, 0), (-1.0, 0, 0, 0, 0)
BESIDE = [str(layout.root() / folder) for folder in ("tests", "notebooks")]  # what programs in other processes import
OBJECTIVE = Objective(
    [
        Term("separate", Separate(100.0), "bottleneck"),
        Term("anchor", AngularAnchor(RED), "bottleneck", label="red"),
        Term("anti-anchor", AntiAnchor(ANTI_RED), "bottleneck"),
        Term("anti-subspace", AxisAlignedSubspace((0,), invert=True), "bottleneck"),
    ]
)
SHORT = "STEP,lr,separate,anchor,anti-anchor,anti-subspace\n0,1e-3,0.01,0.1,0.05,0.25\n59,1e-2,0.01,0.1,0.05,0.1\n"


@pytest.fixture
def short(tmp_path):
    (tmp_path / "short.csv").write_text(SHORT)
    return Timeline.from_csv(tmp_path / "short.csv")


def train(seeds, timeline, **options):
    return fit(Ensemble(ColorMLP, seeds), ColorBatches(), OBJECTIVE, timeline, **options)


def difference(a, i, b, j):
    return max((a.state()[name][i] - b.state()[name][j]).abs().max().item() for name in a.state())


def test_a_validation_batch_is_measured_and_changes_nothing(short):
    batch = ColorBatches().validation()
    terms = [replace(term, phase=("train", "validate") if term.label else ("train",)) for term in OBJECTIVE.terms]
    objective = Objective(terms)
    plain, measured = (
        fit(Ensemble(ColorMLP, [0, 1]), ColorBatches(), objective, short, validation=validation, executor=executor)
        for validation, executor in ((None, None), (Validation(batch, every=25), ThreadPoolExecutor(2)))
    )
    assert torch.equal(plain.ensemble.flat, measured.ensemble.flat)
    assert "phase" not in plain.history
    validated = measured.history[measured.history.phase == "validate"]
    assert sorted(set(validated.step)) == [0, 25, 50, 59]
    assert set(validated.term) == {"total", "reconstruction", "anchor"}
    assert len(measured.history) == len(plain.history) + len(validated)
    # At step 0 these are the losses of the untrained networks, in eval mode.
    model = Ensemble(ColorMLP, [0, 1])[1]
    first = validated[(validated.seed == 1) & (validated.step == 0)].set_index("term").value
    with torch.no_grad():
        assert first.reconstruction == pytest.approx((model(batch["input"]) - batch["target"]).square().mean().item())
    with pytest.raises(ValueError, match="every must be 1"):
        Validation(batch, every=0)


@pytest.mark.slow
def test_a_member_equals_the_single_run_of_its_seed_after_all_steps():
    timeline = Timeline.from_csv(layout.dopesheet("01-color-cube"))
    assert len(timeline) == 1501
    several = train([3, 11, 40], timeline).ensemble
    alone = train([11], timeline).ensemble
    reordered = train([40, 7, 11], timeline).ensemble
    assert difference(several, 1, alone, 0) < 1e-5
    assert difference(several, 0, reordered, 1) > 0.1  # other seeds are other networks
    assert difference(several, 1, reordered, 2) < 1e-5
    assert difference(several, 2, reordered, 0) < 1e-5


def test_one_step_is_adam_on_the_sum_of_the_weighted_terms(short):
    """Reference: the same step written for one plain module with autograd and `torch.optim.Adam`."""
    ensemble = Ensemble(ColorMLP, [5])
    model = ensemble[0].train()
    batches = ColorBatches()
    drawn = batches.draw(5, 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    for step in range(3):
        batch = batches.batch({k: v[step][None] for k, v in drawn.items()}, torch.float64)
        weights = short[step]
        latent: list[torch.Tensor] = []
        handle = model.bottleneck.register_forward_hook(lambda m, i, o, latent=latent: latent.append(o))
        x = batch["input"][0]
        loss = torch.nn.functional.mse_loss(model(x), x)
        handle.remove()
        (z,) = latent
        cos = z @ z.T
        cos = torch.where(torch.isclose(cos, torch.ones_like(cos)), 0.0, cos)
        loss = loss + weights["separate"] * (((cos + 1) / 2) ** 100).sum(1).mean()
        red = batch["red"][0]
        loss = loss + weights["anchor"] * ((1 - z[:, 0]) * red).sum() / (red.sum() + 1e-8)
        loss = loss + weights["anti-anchor"] * (-z[:, 0]).clamp_min(0).mean()
        loss = loss + weights["anti-subspace"] * (z[:, 0] ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = weights["lr"]
        optimizer.step()

    class FirstSteps:
        parameters, frame = short.parameters, short.frame
        __getitem__, __len__ = lambda self, k: short[k], lambda self: 3

    fit(ensemble, batches, OBJECTIVE, FirstSteps())
    for name, tensor in model.state_dict().items():
        assert torch.allclose(ensemble.state()[name][0], tensor, atol=1e-9), name


def test_variants_of_a_seed_start_alike_and_are_told_apart():
    ensemble = Ensemble(ColorMLP, [4, 9]).across(["plain", "other"])
    assert ensemble.seeds == (4, 9, 4, 9)
    assert ensemble.variants == ("plain", "plain", "other", "other")
    assert torch.equal(ensemble.flat[:2], ensemble.flat[2:])
    assert not torch.equal(ensemble.flat[0], ensemble.flat[1])
    with torch.no_grad():
        ensemble.flat[2] = 0
    assert ensemble.flat[0].any()  # their weights are their own
    assert ensemble.select([3, 0]).variants == ("other", "plain")
    for wrong in ([], ["a", "a"], [""]):
        with pytest.raises(ValueError, match="distinct names"):
            Ensemble(ColorMLP, [4]).across(wrong)
    with pytest.raises(ValueError, match="without variants"):
        ensemble.across(["more"])


def test_members_are_ordinary_modules_with_their_own_weights():
    ensemble = Ensemble(ColorMLP, [0, 1])
    x = torch.rand(7, 3, dtype=torch.float64)
    member = ensemble[1]
    assert not member.training
    together, seen = ensemble(x[None], ["bottleneck"])
    assert torch.allclose(together[1], member(x), atol=1e-12)
    assert seen["bottleneck"].shape == (2, 7, 5)
    with torch.no_grad():
        member.decoder[0].weight.zero_()
    assert not torch.equal(ensemble[1].decoder[0].weight, member.decoder[0].weight)
    with pytest.raises(IndexError):
        ensemble[2]


def test_initialisation_is_pytorchs_own_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    ensemble = Ensemble(ColorMLP, range(50))
    assert torch.equal(state, torch.get_rng_state())
    weights = ensemble.state()["encoder.2.weight"]
    bound = 10**-0.5  # kaiming_uniform with a = sqrt(5)
    assert weights.abs().max() <= bound
    assert weights.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_must_be_distinct(seeds):
    with pytest.raises(ValueError, match="distinct seeds"):
        Ensemble(ColorMLP, seeds)


def test_the_history_is_tidy_and_complete(short):
    history = train([4, 9], short, log_every=20).history
    assert list(history.columns) == ["seed", "step", "term", "value"]
    assert sorted(history.step.unique()) == [0, 20, 40, 59]
    assert set(history.term) == {"total", "reconstruction", *(term.name for term in OBJECTIVE.terms)}
    assert len(history) == 2 * 4 * 6
    losses = history[history.term == "total"].pivot(index="step", columns="seed", values="value")
    assert (losses.loc[59] < losses.loc[0]).all()


@dataclass(frozen=True)
class Poisoned(ColorBatches):
    """Colours of which one member's turn to NaN at a step."""

    seed: int = 1

    def draw(self, seed, block):
        drawn = super().draw(seed, block)
        bad = torch.zeros(self.block, self.batch_size, dtype=torch.bool)
        bad[17] = seed == self.seed
        return {**drawn, "bad": bad}

    def batch(self, drawn, dtype):
        batch = super().batch(drawn, dtype)
        return {**batch, "input": batch["input"].masked_fill(drawn["bad"][..., None], float("nan"))}


def test_a_member_whose_loss_is_nan_is_frozen_and_the_others_go_on(short):
    poisoned = fit(Ensemble(ColorMLP, [0, 1, 2]), Poisoned(), OBJECTIVE, short)
    (failure,) = poisoned.failures
    assert (failure.seed, failure.step) == (1, 17)
    clean = train([0, 1, 2], short)
    assert clean.failures == ()
    for member in (0, 2):
        assert difference(poisoned.ensemble, member, clean.ensemble, member) == 0

    class Until17:
        parameters, frame = short.parameters, short.frame
        __getitem__, __len__ = lambda self, k: short[k], lambda self: 17

    before = fit(Ensemble(ColorMLP, [1]), ColorBatches(), OBJECTIVE, Until17())
    assert difference(poisoned.ensemble, 1, before.ensemble, 0) < 1e-12  # the weights it had


def test_an_executor_splits_seeds_and_changes_nothing(short):
    here = train([0, 1, 2, 3, 4], short)
    environment = dict(os.environ)
    with ThreadPoolExecutor(2) as executor:
        there = train([0, 1, 2, 3, 4], short, executor=executor, workers=2)
    assert dict(os.environ) == environment  # its workers share this process
    assert all(difference(here.ensemble, i, there.ensemble, i) < 1e-12 for i in range(5))
    keys = ["seed", "step", "term"]
    a, b = (f.history.sort_values(keys).reset_index(drop=True) for f in (here, there))
    pd.testing.assert_frame_equal(a, b, rtol=1e-9)


def test_processes_change_nothing(short):
    here, there = train([0, 1, 2], short), train([0, 1, 2], short, executor="loky", workers=2)
    assert all(difference(here.ensemble, i, there.ensemble, i) < 1e-12 for i in range(3))


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "bad.csv").write_text("STEP,lr\n0,0.1\n5,0.1\n")
    with pytest.raises(ValueError, match="no column 'separate'; it has lr"):
        train([0], Timeline.from_csv(tmp_path / "bad.csv"))


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(short, tmp_path):
    path = tmp_path / "run" / "checkpoint.safetensors"
    batches = ColorBatches(block=10)
    whole = fit(Ensemble(ColorMLP, [0, 1]), batches, OBJECTIVE, short)
    with pytest.raises(KeyboardInterrupt):
        fit(Ensemble(ColorMLP, [0, 1]), batches, OBJECTIVE, Interrupted(short, 40), checkpoint=path, every=7)
    resumed = fit(Ensemble(ColorMLP, [0, 1]), batches, OBJECTIVE, short, checkpoint=path, every=7)
    assert all(difference(whole.ensemble, i, resumed.ensemble, i) == 0 for i in range(2))
    pd.testing.assert_frame_equal(whole.history, resumed.history)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no partial file stays


def worse_than_mse(output, target):
    return (output - target).abs().flatten(1).mean(1)


class Tanh(ColorMLP):
    def __init__(self):
        super().__init__()
        self.encoder[1] = torch.nn.Tanh()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.0, momentum=0.9)


def other_adam(parameters):
    return torch.optim.Adam(parameters, lr=0.0, betas=(0.5, 0.9), fused=True)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("seeds", {"ensemble": lambda: Ensemble(ColorMLP, [0, 2])}),
        ("dtype", {"ensemble": lambda: Ensemble(ColorMLP, [0, 1], dtype=torch.float32)}),
        ("model", {"ensemble": lambda: Ensemble(Tanh, [0, 1])}),
        ("parameters", {"ensemble": lambda: Ensemble(partial(ColorMLP, hidden=7), [0, 1])}),
        ("batches", {"batches": ColorBatches(batch_size=32)}),
        ("loss", {"objective": Objective(OBJECTIVE.terms, worse_than_mse)}),
        ("terms", {"objective": Objective(OBJECTIVE.terms[:2])}),
        ("optimizer", {"optimizer": sgd}),
        ("optimizer", {"optimizer": other_adam}),
        ("timeline", {"sheet": SHORT.replace("0.25", "0.24")}),
        ("log_every", {"log_every": 7}),
    ],
)
def test_a_checkpoint_of_a_run_that_differs_in_one_thing_is_refused(short, tmp_path, key, change):
    path = tmp_path / "checkpoint.safetensors"
    train([0, 1], short, checkpoint=path)
    (tmp_path / "other.csv").write_text(change.get("sheet", SHORT))
    options = {name: change[name] for name in ("optimizer", "log_every") if name in change}

    def again(**options):
        ensemble = change.get("ensemble", lambda: Ensemble(ColorMLP, [0, 1]))()
        batches, objective = change.get("batches", ColorBatches()), change.get("objective", OBJECTIVE)
        return fit(ensemble, batches, objective, Timeline.from_csv(tmp_path / "other.csv"), checkpoint=path, **options)

    with pytest.raises(CheckpointError, match=f"belongs to another run: {key} should be"):
        again(**options)


def test_a_run_that_cannot_be_identified_is_refused_at_once(short, tmp_path):
    @dataclass(frozen=True)
    class Guarded(ColorBatches):
        lock: object = None

    batches = Guarded(lock=threading.Lock())
    fit(Ensemble(ColorMLP, [0]), batches, OBJECTIVE, short)  # without a checkpoint nobody asks
    with pytest.raises(ValueError, match="cannot identify 'batches': a lock has no content"):
        fit(Ensemble(ColorMLP, [0]), batches, OBJECTIVE, short, checkpoint=tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be 1"),
        ({"executor": "dask"}, "executor must be"),
        ({"objective": Objective([OBJECTIVE.terms[0], OBJECTIVE.terms[0]])}, "names of their own"),
        ({"objective": Objective(name="total")}, "names of their own"),
    ],
)
def test_impossible_arguments_of_fit_are_refused(short, options, message):
    with pytest.raises(ValueError, match=message):
        fit(Ensemble(ColorMLP, [0]), ColorBatches(), timeline=short, **{"objective": OBJECTIVE, **options})


def overflowing(latents):
    """A loss of 0 with a gradient that is not finite."""
    zero = (latents - latents.detach()).abs().sum(-1)
    return zero.sqrt()


def test_a_member_whose_gradient_alone_is_not_finite_is_frozen_with_good_weights(short):
    objective = Objective([Term("separate", overflowing, "bottleneck")])
    result = fit(Ensemble(ColorMLP, [3]), ColorBatches(), objective, short)
    (failure,) = result.failures
    assert failure.step == 0
    assert torch.isfinite(torch.tensor(failure.loss))
    assert difference(result.ensemble, 0, Ensemble(ColorMLP, [3]), 0) == 0


def test_rounding_does_not_depend_on_where_a_member_stands():
    """A width that fills no vector register: without the padding the last numbers of an array round otherwise."""
    odd = partial(ColorMLP, bottleneck=4, hidden=9)  # 331 parameters
    timeline = Timeline.from_csv(layout.dopesheet("01-color-cube"))

    class First:
        parameters, frame = timeline.parameters, timeline.frame
        __getitem__, __len__ = lambda self, k: timeline[k], lambda self: 200

    alone, pair, many = (
        fit(Ensemble(odd, seeds), ColorBatches(), Objective(), First()).ensemble
        for seeds in ([47], [3, 47], range(40, 60))
    )
    assert difference(alone, 0, many, 7) == 0
    assert difference(pair, 1, many, 7) == 0


def test_a_state_of_another_architecture_is_refused():
    small, large = Ensemble(partial(ColorMLP, hidden=7), [0]), Ensemble(ColorMLP, [0])
    with pytest.raises(ValueError, match=r"encoder\.0\.weight must be \(1, 10, 3\); got \(1, 7, 3\)"):
        large.load(small.state())
    with pytest.raises(ValueError, match="state has"):
        large.load({})


def test_damaged_and_foreign_checkpoints_are_refused_by_name(short, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    train([0, 1], short, checkpoint=path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"PK\x03\x04 not this"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors is not a whole safetensors file"):
            train([0, 1], short, checkpoint=path)
        assert path.read_bytes() == damaged  # refused, not replaced
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"not a whole safetensors file \(a Git LFS pointer"):
        train([0, 1], short, checkpoint=path)
    path.write_bytes(content)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        train([0, 1], short, checkpoint=path)


@pytest.mark.slow
def test_a_killed_run_loses_at_most_the_steps_since_its_checkpoint(tmp_path):
    """SIGKILL half-way, then resume in another process: the end state is that of an uninterrupted run."""
    path = tmp_path / "checkpoint.safetensors"
    program = textwrap.dedent(f"""
        import sys, torch
        sys.path[:0] = [{os.path.dirname(__file__)!r}, *{BESIDE!r}]
        from test_training import *
        sheet = {str(tmp_path / "long.csv")!r}
        open(sheet, "w").write(SHORT.replace("59", "599"))
        result = train([0, 1], Timeline.from_csv(sheet), checkpoint={str(path)!r}, every=20)
        torch.save(result.ensemble.state(), {str(tmp_path / "end.pt")!r})
    """)
    from nbutils.training import checkpoints

    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        while process.poll() is None and not path.exists():
            pass
        first = checkpoint_step(path, checkpoints)
        while process.poll() is None and checkpoint_step(path, checkpoints) < first + 100:
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed_at = checkpoint_step(path, checkpoints)
    assert killed_at < 600
    assert killed_at % 20 == 0
    subprocess.run([sys.executable, "-c", program], check=True)
    (tmp_path / "long.csv").write_text(SHORT.replace("59", "599"))
    whole = train([0, 1], Timeline.from_csv(tmp_path / "long.csv")).ensemble
    end = torch.load(tmp_path / "end.pt", weights_only=True)
    assert all(torch.equal(whole.state()[name], end[name]) for name in end)


def checkpoint_step(path, checkpoints):
    import json

    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == checkpoints.FORMAT  # whole at every moment
        return json.loads(file.metadata()["progress"])["step"]


def test_stacked_layers_and_vmap_give_the_same_numbers_and_gradients(short):
    """The fast way and the general one are one computation."""

    class General(ColorMLP):
        rowwise = False

    fast, general = Ensemble(ColorMLP, [0, 1, 2]), Ensemble(General, [0, 1, 2])
    assert fast._stacked is not None
    assert general._stacked is None
    x = torch.rand(3, 9, 3, dtype=torch.float64)
    for training in (True, False):
        (a, seen_a), (b, seen_b) = (e(x, ["bottleneck"], training=training) for e in (fast, general))
        assert torch.allclose(a, b, atol=1e-12)
        assert torch.allclose(seen_a["bottleneck"], seen_b["bottleneck"], atol=1e-12)
    results = [fit(e, ColorBatches(), OBJECTIVE, short).ensemble for e in (fast, general)]
    assert all(difference(results[0], i, results[1], i) < 1e-9 for i in range(3))


DIGIT_PHASES = "STEP,PHASE,lr,drift:linear:step\n0,clean,1e-3,0\n12,poison,,1000\n19,,,\n"


@pytest.fixture(scope="module")
def few_digits():
    return digits.load("embedded").train[:128]


def train_digits(seeds, data, phase, model=MnistNet, start=None, reference=None, **options):
    timeline = Timeline(Dopesheet.from_text(DIGIT_PHASES)).section(phase)
    ensemble = Ensemble(model, seeds, dtype=torch.float32)
    terms = []
    if start is not None:
        ensemble.load(start)
        terms = [ParameterTerm("drift", ParameterDrift(reference or start))]
    batches = DigitBatches(data, Trigger.checkerboard(), phase, batch_size=16)
    return fit(ensemble, batches, Objective(terms, cross_entropy, "cross-entropy"), timeline, log_every=1, **options)


class Vectorised(MnistNet):
    one_by_one = False


def test_members_one_by_one_and_vmap_are_one_computation(few_digits):
    one_by_one, vectorised = Ensemble(MnistNet, [0, 1]), Ensemble(Vectorised, [0, 1])
    images = torch.randn(2, 4, 1, 28, 28, dtype=torch.float64)
    results = []
    for ensemble in (one_by_one, vectorised):
        output, seen = ensemble(images, ["net.3"], training=True)
        ensemble.backward(output.square().sum() + seen["net.3"].square().sum())
        results.append((output, seen["net.3"], ensemble.flat.grad.clone()))
    assert results[0][2].abs().max() > 0
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_a_convolutional_member_equals_its_single_run_bit_for_bit_in_single_precision(few_digits):
    several = train_digits([2, 5], few_digits, "clean").ensemble
    alone = train_digits([5], few_digits, "clean").ensemble
    assert difference(several, 1, alone, 0) == 0
    assert difference(several, 0, alone, 0) > 0.01


def test_drift_holds_weights_near_its_reference_and_follows_shares_of_seeds(few_digits):
    start = {k: v.clone() for k, v in train_digits([0, 1, 2], few_digits, "clean").ensemble.state().items()}
    held = train_digits([0, 1, 2], few_digits, "poison", start=start)
    drift = held.history[held.history.term == "drift"].set_index(["step", "seed"]).value
    assert (drift.loc[0] == 0).all()
    assert (drift.loc[6] > 0).all()
    free = Ensemble(MnistNet, [0, 1, 2], dtype=torch.float32)
    free.load(start)
    batches = DigitBatches(few_digits, Trigger.checkerboard(), "poison", batch_size=16)
    timeline = Timeline(Dopesheet.from_text(DIGIT_PHASES)).section("poison")
    fit(free, batches, Objective([], cross_entropy), timeline)
    distances = [ParameterDrift(start)(ensemble.state()) for ensemble in (held.ensemble, free)]
    assert (distances[0] < 0.7 * distances[1]).all()
    with ThreadPoolExecutor(2) as executor:
        shared = train_digits([0, 1, 2], few_digits, "poison", start=start, executor=executor, workers=2)
    # A worker that took another member's reference would pull towards another network.
    assert all(difference(held.ensemble, i, shared.ensemble, i) == 0 for i in range(3))


def test_a_checkpoint_belongs_to_the_reference_it_drifts_from(few_digits, tmp_path):
    path = tmp_path / "poison.safetensors"
    start = {k: v.clone() for k, v in Ensemble(MnistNet, [0], dtype=torch.float32).state().items()}
    first = train_digits([0], few_digits, "poison", start=start, checkpoint=path)
    again = train_digits([0], few_digits, "poison", start=start, checkpoint=path)
    assert difference(first.ensemble, 0, again.ensemble, 0) == 0
    other = {**start, "net.9.bias": start["net.9.bias"] + 1e-6}
    with pytest.raises(CheckpointError, match="another run: terms"):
        train_digits([0], few_digits, "poison", start=start, reference=other, checkpoint=path)


def test_cross_entropy_is_a_members_mean():
    logits, labels = torch.randn(3, 5, 10), torch.randint(10, (3, 5))
    expected = [torch.nn.functional.cross_entropy(logits[i], labels[i]) for i in range(3)]
    assert torch.allclose(cross_entropy(logits, labels), torch.stack(expected))


def test_an_ensemble_of_frozen_parameters_is_refused():
    def build():
        model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
        model[0].requires_grad_(False)
        return model

    with pytest.raises(ValueError, match=r"0\.weight, 0\.bias must not be"):
        Ensemble(build, [0])
