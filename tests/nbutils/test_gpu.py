"""What only a real GPU can show: its own rounding, random numbers, memory, kernels, and models of any kind on it."""

from __future__ import annotations

import copy
import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pandas as pd
import pytest
import test_families
import torch
from agreement import ByHand
from any_models import Fn, spread
from interrupted import Interrupted
from test_any_model import CASES, captured, check, drawn, prepared, shape_at
from torch import Tensor, nn
from torch.testing import assert_close

import nbutils as nb
from nbutils import devices, seeding
from nbutils.graphs.scores import magnitude_scores
from nbutils.sweeps.engines import EngineWarning
from nbutils.training.objective import Objective, cross_entropy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic products need; read once
CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
Kind = nb.AblationType


@contextmanager
def products(tf32):
    """Have products and convolutions in float32 take all bits, or ten."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(autouse=True)
def exact():
    """Have convolutions take all bits, as `nbutils.seeding.pin` does."""
    with products(False):
        yield


def perceptron(drop=0.0):
    torch.manual_seed(0)
    parts = [nn.Linear(12, 32), nn.ReLU(), nn.Dropout(drop), nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 5)]
    return spread(nn.Sequential(*parts))


def convolutions():
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()]
    return spread(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))).eval()


def second(output, _batch):
    return output[:, 1].float()


def hooks_of(model):
    return [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in model.modules()]


def by_hand(model, module, unit, x):
    """Return the answer with a unit on axis 1 set to 0 by a plain hook."""

    def put(_module, _inputs, output):
        output = output.clone()
        output[:, unit] = 0
        return output

    handle = model.get_submodule(module).register_forward_hook(put)
    with torch.no_grad():
        found = model(x)
    handle.remove()
    return found


def means(model, module, units, x):
    return torch.tensor([second(by_hand(model, module, unit, x), None).mean().item() for unit in range(units)]).double()


def same(found, expected, rtol=1e-6, atol=1e-8):
    if isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            same(one, other, rtol, atol)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, rtol=rtol, atol=atol)
    else:
        assert_close(found.cpu(), expected.cpu(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_any_model_on_a_card_answers_as_with_hooks_by_hand(name):
    case, model, clean, corrupt = prepared.__wrapped__(name)  # its own: what is kept stays on the processor
    model.to(CARD)
    clean, corrupt = devices.moved(clean, CARD), devices.moved(corrupt, CARD)
    case = replace(case, close=max(case.close, 2e-5))
    hand = ByHand(case, model, clean, corrupt)
    random = torch.cuda.get_rng_state(CARD)
    for place in case.places:
        with torch.backends.cudnn.flags(enabled=False, allow_tf32=False):  # its LSTMs have no gradient in eval mode
            captured(case, place, model, hand)
        for draw in drawn(case, place, shape_at(hand, place), 0):
            check(draw, hand, model)
    assert torch.equal(torch.cuda.get_rng_state(CARD), random)


def transformer(name, device):
    model, *inputs = test_families.made(getattr(test_families, name))
    model, (clean, corrupt) = model.to(device), devices.moved(inputs, device)
    return model, clean, corrupt, nb.PairLoader(nb.Pairs(clean, corrupt, torch.zeros(4)), 3)


def edges_of(name, device):
    model, clean, _, pairs = transformer(name, device)
    graph = nb.residual_graph(model, clean)
    found = []
    for kind in (Kind.RESAMPLE, Kind.ZERO, Kind.TOKENWISE_MEAN_CORRUPT):
        task = nb.EdgeTask(model, graph, pairs, kind, test_families.first_seven)
        with nb.patch_edges(model, graph, graph.edges[::3], task.values[0]), torch.no_grad():
            found.append(model(**next(iter(pairs)).clean).logits)
        found += [nb.exact_scores(task), nb.attribution_scores(task), magnitude_scores(task)]
        found.append(nb.integrated_gradients(task, steps=3))
    return found


@pytest.mark.parametrize("name", ["gpt2", "llama", "parallel", "bert", "vit"])
def test_edges_are_those_of_the_processor(name):
    single = {"rtol": 0, "atol": 2e-5} if name in ("llama", "parallel") else {}  # they turn by angles in float32
    same(edges_of(name, CARD), edges_of(name, CPU), **single)


def units_of(name, device):
    model, clean, corrupt, pairs = transformer(name, device)
    layers = [n for n, _ in model.named_modules() if n.endswith(("mlp.c_fc", "intermediate.dense", "mlp.fc1"))]
    some = [nb.Site(layers[0], 1), nb.Site(layers[1], [0, 4])]
    found = []
    for kind in (Kind.ZERO, Kind.TOKENWISE_MEAN_CLEAN, Kind.RESAMPLE):
        reference = None if kind is not Kind.RESAMPLE else lambda batch: batch.corrupt
        options = {"output": "logits", "reference": reference}
        found.append(nb.sweep(model, layers, pairs, test_families.first_seven, kind, **options))
        found.append(nb.attribute(model, layers, pairs, test_families.first_seven, kind, **options))
        found.append(nb.measure(model, pairs, test_families.first_seven, some, kind, **options))
        values = nb.gather(model, some, kind, pairs if kind.needs == "dataset" else [corrupt])
        with torch.no_grad(), nb.edit(model, nb.edits(some, values)):
            found.append(model(**clean).logits)
    with torch.no_grad():
        found += [made(**clean).logits for made in (nb.prune(model, some, clean), nb.zero_weights(model, some))]
    return found


@pytest.mark.parametrize("name", ["gpt2", "bert", "vit"])
def test_units_are_those_of_the_processor(name):
    same(units_of(name, CARD), units_of(name, CPU))


def test_seeding_leaves_the_random_numbers_of_the_card():
    torch.cuda.manual_seed(5)
    expected = torch.rand(4, device=CARD)
    model, x = perceptron(drop=0.5).to(CARD).train(), torch.randn(8, 12, device=CARD)

    def unchanged():
        with nb.unchanged(model):
            model(x)

    for work in (
        lambda: nb.Ensemble(lambda: nn.Linear(2, 3), [0, 1]),
        lambda: nb.Ensemble(lambda: nn.Linear(2, 3), [0, 1], device=CARD),
        lambda: nb.sweep(model, "0", [x], second),
        lambda: nb.attribute(model, "0", [x], second, method="random"),
        unchanged,
    ):
        torch.cuda.manual_seed(5)
        work()
        assert torch.equal(torch.rand(4, device=CARD), expected)
    torch.cuda.manual_seed(5)
    with seeding.seeded(3, "weights"):
        first = torch.rand(4, device=CARD)
    assert torch.equal(torch.rand(4, device=CARD), expected)
    with seeding.seeded(3, "weights"):
        assert torch.equal(torch.rand(4, device=CARD), first)


@dataclass(frozen=True)
class Waves:
    block: int = 5

    def draw(self, seed: int, block: int) -> dict[str, Tensor]:
        return {"x": torch.randn(self.block, 16, 12, generator=seeding.generator(seed, "x", block))}

    def batch(self, drawn: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        x = drawn["x"].to(dtype)
        return {"input": x, "target": (x[..., 0] > 0).long() + 2 * (x[..., 1] > 0).long()}


def small_convolutions():
    return nn.Sequential(nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 8, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5))


TIMELINE = nb.Timeline(nb.Dopesheet.from_text("STEP,lr\n0,0.01\n40,0.003\n"))


def trained(seeds, path=None, timeline=TIMELINE, build=perceptron, **options):
    objective = Objective((), cross_entropy, "loss")
    ensemble = nb.Ensemble(build, seeds, device=CARD)
    return nb.fit(ensemble, Waves(), objective, timeline, checkpoint=path, every=3, **options)


@pytest.fixture
def repeatable():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("build", [perceptron, small_convolutions])
def test_a_resumed_run_is_the_uninterrupted_one(build, repeatable, tmp_path):
    whole, again = (trained([0, 1], build=build) for _ in range(2))
    assert torch.equal(whole.ensemble.flat, again.ensemble.flat)
    with pytest.raises(KeyboardInterrupt):
        trained([0, 1], tmp_path / "run", Interrupted(TIMELINE, at=17), build)
    resumed = trained([0, 1], tmp_path / "run", build=build)
    assert torch.equal(whole.ensemble.flat, resumed.ensemble.flat)
    same(resumed.history, whole.history, 0, 0)


def test_members_do_not_depend_on_each_other(repeatable):
    alone, among = trained([2]).ensemble, trained([0, 1, 2]).ensemble
    same([tensor[2] for tensor in among.state().values()], [tensor[0] for tensor in alone.state().values()])


def test_other_processes_train_on_the_card():
    here, there = trained([0, 1]).ensemble, trained([0, 1], executor="loky", workers=2).ensemble
    assert there.flat.device == CARD
    same(list(there.state().values()), list(here.state().values()))


def answers(model, x):
    return {"sum": model[0].weight.sum(), "out": model(x).detach()}


def test_results_belong_to_content_not_to_a_device(tmp_path):
    model, x = perceptron().eval(), torch.randn(4, 12)
    for device in (CARD, CPU):
        nb.run(answers, [{"model": copy.deepcopy(model).to(device), "x": x.to(device)}], tmp_path / "here")
    assert len(list((tmp_path / "here").glob("*.json"))) == 1
    frame = nb.run(answers, [{"model": model.to(CARD), "x": x.to(CARD)}], tmp_path / "there", executor="loky")
    assert frame.error.isna().all(), frame.error.tolist()


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize(("make", "shape", "width"), [(convolutions, (3, 17, 17), 16), (perceptron, (12,), 32)])
def test_shorter_products_are_no_fault_of_an_engine(make, shape, width, tf32):
    model, x = make().to(CARD).eval(), torch.randn(64, *shape, device=CARD)
    with products(tf32):
        frame = nb.sweep(model, "0", [x], second)
        expected = means(model, "0", width, x)
    assert_close(torch.tensor(frame.value.to_numpy()), expected, rtol=0, atol=3e-3 if tf32 else 1e-5)


def residual():
    torch.manual_seed(0)
    blocks = nn.ModuleList([nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)) for _ in range(4)])

    def forward(self, x):
        h = self.embed(x)
        for block in self.blocks:
            h = h + block(h)
        return self.out_ln(h)

    return Fn(forward, embed=nn.Linear(12, 64), blocks=blocks, out_ln=nn.LayerNorm(64)).eval()


@pytest.mark.parametrize("tf32", [False, True])
def test_graphs_of_shorter_products(tf32):
    model, x, found = residual(), torch.randn(16, 12), []
    for device in (CARD, CPU):
        model, here = model.to(device), x.to(device)
        with products(tf32):
            graph = nb.residual_graph(model, here, embedding="embed", blocks=4)
            pairs = nb.PairLoader(nb.Pairs(here, here.flip(0), torch.zeros(16)), 8)
            found.append(nb.exact_scores(nb.EdgeTask(model, graph, pairs, Kind.RESAMPLE, second)))
    same(*found, 0, 5e-3 if tf32 else 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cast", [True, False])
def test_short_numbers(cast, dtype):
    model, x = perceptron().to(CARD).eval(), torch.randn(8, 12, device=CARD)
    if not cast:
        model, x = model.to(dtype), x.to(dtype)
    with torch.autocast("cuda", dtype, enabled=cast):
        frame = nb.sweep(model, ["0", "3"], [x], second)
        expected = torch.cat([means(model, "0", 32, x), means(model, "3", 24, x)])
        with nb.capture(model, "0") as seen:
            model(x)
        assert seen["0"].dtype == dtype
        values = nb.gather(model, ["3"], Kind.TOKENWISE_MEAN_CLEAN, nb.PairLoader(nb.Pairs(x, x, torch.zeros(8)), 4))
        with torch.no_grad(), nb.edit(model, nb.edits(["3"], values)):
            model(x)
    assert_close(torch.tensor(frame.value.to_numpy()), expected, rtol=0, atol=3e-2)


def test_a_model_compiled_for_the_card_is_met():
    model, x = perceptron().to(CARD).eval(), torch.randn(8, 12, device=CARD)
    compiled = torch.compile(model)
    with torch.no_grad():
        intact = compiled(x)
        with nb.edit(compiled, {"_orig_mod.0": torch.zeros_like}):
            assert_close(compiled(x), by_hand(model, "0", slice(None), x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EngineWarning)
        frame = nb.sweep(compiled, "_orig_mod.0", [x], second)
    assert_close(torch.tensor(frame.value.to_numpy()), means(model, "0", 32, x), rtol=0, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(compiled(x), intact)


def test_a_wrapper_for_one_card():
    model, x = perceptron().to(CARD).eval(), torch.randn(8, 12, device=CARD)
    parallel = nn.DataParallel(model, device_ids=[0])
    for inputs in (x, x.cpu()):  # it moves its inputs
        with torch.no_grad(), nb.edit(parallel, {nb.Site("module.0", 3): torch.zeros_like}):
            assert_close(parallel(inputs), by_hand(model, "0", 3, x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EngineWarning)
        found = nb.sweep(parallel, {"first": "module.0"}, [x], second)
    same(found, nb.sweep(model, {"first": "0"}, [x], second), 1e-4, 1e-5)


def test_another_stream_and_pinned_inputs():
    model, x = perceptron().to(CARD).eval(), torch.randn(4096, 12).pin_memory()
    expected = nb.sweep(model, "0", [x.to(CARD)], second)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), nb.capture(model, "3") as seen:
        moved = x.to(CARD, non_blocking=True)
        found = nb.sweep(model, "0", [moved], second)
        model(moved)
        kept = seen["3"].detach().to("cpu", non_blocking=True)
    stream.synchronize()
    same(found, expected, 1e-5)
    assert_close(kept, copy.deepcopy(model).cpu()[:4](x), rtol=1e-3, atol=1e-4)


def test_a_batch_on_another_device_is_one_clear_error():
    model, x = perceptron().to(CARD), torch.randn(8, 12)
    before = hooks_of(model)
    pairs = nb.PairLoader(nb.Pairs(x, x.flip(0), torch.zeros(8)), 4)
    for work in (
        lambda: nb.sweep(model, "0", [x], second),
        lambda: nb.measure(model, [x], second),
        lambda: nb.attribute(model, "0", [x], second),
        lambda: nb.gather(model, ["0"], Kind.TOKENWISE_MEAN_CLEAN, pairs),
        lambda: nb.src_ablations(model, ["0"], x, Kind.RESAMPLE),
        lambda: nb.prune(model, [nb.Site("0", 1)], x),
    ):
        with pytest.raises((RuntimeError, ValueError), match="same device"):
            work()
        assert hooks_of(model) == before


def test_values_from_the_processor_stand_in_on_the_card():
    model, x = perceptron().eval(), torch.randn(8, 12)
    pairs = nb.PairLoader(nb.Pairs(x, x.flip(0), torch.zeros(8)), 4)
    sites = [nb.Site("0", 1), nb.Site("0", 5), nb.Site("3", 2)]
    for kind in (Kind.TOKENWISE_MEAN_CLEAN, Kind.MEAN, Kind.RESAMPLE):
        dataset = kind.needs == "dataset"
        values = nb.gather(model.cpu(), sites, kind, pairs if dataset else [x.flip(0)])
        rows = nb.src_ablations(model, sites[:2], pairs if dataset else x.flip(0), kind)
        for places, given in ((sites, values), (sites[:2], rows)):
            found = []
            for device in (CARD, CPU):
                with torch.no_grad(), nb.edit(model.to(device), nb.edits(places, given)):
                    found.append(model(x.to(device)))
            same(*found, 1e-4, 1e-5)
    metrics = {"a": nb.accuracy(), "l": nb.cross_entropy(), "d": nb.divergence(), "o": nb.logit_difference()}
    y = torch.arange(8) % 5  # labels may stay where they are
    swept = [
        nb.sweep(model.to(device), "0", [(x.to(device), y)], metrics, inputs=lambda batch: batch[0])
        for device in (CARD, CPU)
    ]
    same(*swept, 1e-4, 1e-5)


def test_what_has_no_repeatable_kernel_is_refused_where_runs_must_repeat(repeatable):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)).to(CARD)
    x, before = torch.randn(4, 3, 9, 9, device=CARD), hooks_of(model)
    nb.sweep(model, "0", [x], second)
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        nb.attribute(model, "0", [x], second)
    assert hooks_of(model) == before


def test_unchanged_brings_a_model_back_to_the_card():
    model = convolutions().to(CARD)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with nb.unchanged(model, weights=True):
        model.half().cpu().train()
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert tensor.device == CARD, name
        assert torch.equal(tensor, before[name]), name


def test_too_little_memory_is_one_error_and_leaves_the_model():
    parts = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model, x = nn.Sequential(*parts).to(CARD).train(), torch.randn(64, 3, 256, 256, device=CARD)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = hooks_of(model)
    total = torch.cuda.get_device_properties(CARD).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(CARD) + 700 * 2**20) / total, CARD)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            nb.sweep(model, ["0"], [x], second, memory=2**40)
        assert hooks_of(model) == before
        found = nb.sweep(model, {"one": nb.Site("0", 3), "two": nb.Site("0", [4, 5])}, [x], second, memory=4 * 10**8)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CARD)
    model.eval()
    expected = torch.cat([second(by_hand(model, "0", 3, part), None) for part in x.split(8)]).mean().item()
    assert found.n.iloc[0] == 64
    assert found.value.iloc[0] == pytest.approx(expected, abs=1e-5)


def test_memory_of_a_sweep_is_bounded():
    parts = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*parts, nn.Linear(32 * 64 * 64, 5)).to(CARD).eval()
    x = torch.randn(256, 3, 64, 64, device=CARD)
    for memory in (200_000_000, 1_000_000_000, None):
        bound = devices.room(CARD) if memory is None else memory
        torch.cuda.reset_peak_memory_stats(CARD)
        start = torch.cuda.memory_allocated(CARD)
        nb.sweep(model, "0", [x], second, memory=memory)
        assert torch.cuda.memory_allocated(CARD) - start < 2**20
        assert torch.cuda.max_memory_allocated(CARD) - start < bound
        assert 500_000_000 <= devices.room(CARD) <= 8_000_000_000
