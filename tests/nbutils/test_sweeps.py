import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import nbutils as nb
from nbutils.ablation.edits import edits
from nbutils.ablation.types import AblationType
from nbutils.ablation.values import gather
from nbutils.ablation.weights import zero_weights
from nbutils.data.pairs import PairLoader, Pairs
from nbutils.hooks import edit
from nbutils.sites import Site
from nbutils.sweeps import driver
from nbutils.sweeps.chains import Chain
from nbutils.sweeps.engines import Engines, EngineWarning
from nbutils.sweeps.greedy import Goal, greedy
from nbutils.sweeps.hooked import Hooked
from nbutils.sweeps.metrics import accuracy, cross_entropy
from nbutils.sweeps.pooled import Pooled
from nbutils.sweeps.replay import Replay
from nbutils.sweeps.steps import read
from nbutils.sweeps.units import measure, sweep

LAYERS = {"conv1": "0", "conv2": "3", "fc1": "7", "fc2": "9"}
CLASSES = 10
FIRST = itemgetter(0)


def mnist_net():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1600, 16), nn.ReLU(), nn.Linear(16, 10)),
    ).eval()
    with torch.no_grad():  # untrained, but no class wins everywhere
        model[9].bias -= model(images(100, seed=11)).mean(0)
    return model


def irregular_net():
    """Everything the fast path reads that the network above does not have."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Sequential(
            nn.Conv2d(1, 5, 3, stride=2, padding=1), nn.Identity(), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)
        ),
        nn.Sequential(nn.Conv2d(5, 6, (3, 2), padding=(1, 0), bias=False), nn.ReLU()),
        nn.Conv2d(6, 4, 2, dilation=2),
        *(nn.MaxPool2d((1, 2)), nn.Dropout(0.5), nn.Flatten()),
        nn.Linear(4 * 4 * 1, 10, bias=False),
    ).eval()


class Residual(nn.Module):
    """A model that is no chain: a skip, a function between modules, writing in place, units on the last axis."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.first, self.norm, self.side = nn.Linear(28, 12), nn.LayerNorm(12), nn.Linear(28, 12)
        self.block = nn.Sequential(nn.Linear(12, 12), nn.ReLU(inplace=True), nn.Linear(12, 12))
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        rows = x.flatten(1, 2)
        x = self.first(rows)  # [items, 28 positions, 12]
        y = self.norm(x)
        x += self.block(y)  # also changes what `first` put out
        x += self.side(rows)  # after the block, and not from it
        return self.head(x.relu_().mean(1))


class PooledNet(nn.Module):
    """Pooling and a linear head after a map that a function changes: no chain."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.avgpool, self.fc = nn.Conv2d(1, 9, 5, stride=3), nn.AdaptiveAvgPool2d(2), nn.Linear(36, 10)

    def forward(self, x):
        return self.fc(self.avgpool(self.conv(x).tanh()).flatten(1))


def images(n=12, seed=3):
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def labels(n=12):
    return torch.randint(CLASSES, (n,), generator=torch.Generator().manual_seed(4))


def logit(output, batch):
    """A metric that shows any difference."""
    return output @ torch.linspace(-1, 2, output.shape[-1])


@pytest.fixture
def used(monkeypatch):
    """The engines that sweeps chose: module -> class."""
    found = {}
    original = Engines.__init__

    def spy(self, *arguments, **options):
        original(self, *arguments, **options)
        found.update({place.module: type(engine) for place, engine in self.of.items()})

    monkeypatch.setattr(Engines, "__init__", spy)
    return found


@torch.no_grad()
def by_hand(model, x, site, ablation, source, fixed=()):
    """The metric with one site replaced: one full hooked forward, with a value from `gather`."""
    places = [site, *fixed]
    values = gather(model, [one.whole for one in places], ablation, [source])
    with edit(model, edits(places, values)):
        return logit(model(x), None).double().mean().item()


TYPES = [AblationType.ZERO, AblationType.RESAMPLE, AblationType.BATCH_ALL_TOK_MEAN, AblationType.TOKENWISE_MEAN_CLEAN]
CASES = {
    "chain": (mnist_net, [Site("0"), Site("3"), Site("7"), Site("9")], Chain),
    "irregular chain": (irregular_net, [Site("0.0"), Site("1.0"), Site("2"), Site("6")], Chain),
    "replay": (
        Residual,
        [Site("first", axis=-1), Site("block.0", axis=2), Site("block", axis=1), Site("head")],
        Replay,
    ),
    "inputs": (Residual, [Site("block", axis=-1, part="input"), Site("norm", [1, 4, 5]), Site("side", 3)], Replay),
    "pool": (PooledNet, [Site("avgpool"), Site("avgpool", [0, 4, 8], 1)], Pooled),
    "head": (PooledNet, [Site("fc", part="input"), Site("fc", slice(3, 9), part="input")], Pooled),
    "answers": (PooledNet, [Site("", axis=1)], Hooked),
}


@pytest.mark.parametrize("ablation", TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pinned", [False, True])
def test_every_engine_agrees_with_one_full_forward_per_row(used, case, ablation, pinned):
    build, sites, engine = CASES[case]
    model, x, twin = build().eval(), images(), images(seed=5)
    fixed = {mnist_net: [Site("0", 1), Site("3", (2, 4))], irregular_net: [Site("0.0", 1)], Residual: [Site("norm", 3)]}
    gone = fixed.get(build, [Site("conv", 2)]) if pinned else []
    reference = [twin] if ablation.needs == "dataset" else None if ablation.needs == "nothing" else lambda batch: twin
    frame = sweep(model, dict(enumerate(sites)), [x], logit, ablation, reference=reference, ablated=gone)
    assert set(used.values()) == {engine}
    base = logit(model(x), None).mean().item()
    moved = 0.0
    for label, site in enumerate(sites):
        rows = frame[frame.site == label]
        units = range(len(rows)) if site.unit is None else [site.unit]
        assert len(rows) == len(units)
        for unit, value in [*zip(units, rows.value, strict=True)][:: max(1, len(rows) // 8)]:
            one = Site(site.module, unit, site.axis, part=site.part)
            if any(other.module == one.module and {*other.indices} & {*one.indices} for other in gone):
                continue  # gone anyway; `edits` refuses a unit twice
            expected = by_hand(model, x, one, ablation, twin, gone)
            assert value == pytest.approx(expected, abs=2e-5)
            moved = max(moved, abs(expected - base))
    assert moved > 1e-3  # far above the tolerance: an engine that replaced nothing would show


def test_what_all_logits_share_is_spared_for_metrics_that_do_not_see_it_and_for_no_others(used):
    model, x, y = PooledNet().eval(), images(), labels()
    sites, replaced = {unit: Site("avgpool", [unit, 8], 1) for unit in range(4)}, {}

    def first(output, batch):
        return output[:, 0]

    for unit, site in sites.items():
        with torch.no_grad(), edit(model, edits([site])):
            replaced[unit] = model(x)
    metrics = {"loss": cross_entropy(lambda batch: y), "first": first}
    for some in (["loss"], ["first"], ["loss", "first"]):
        frame = sweep(model, sites, [x], {name: metrics[name] for name in some})
        assert used == {"avgpool": Pooled}
        found = frame.pivot(index="site", columns="metric", values="value")
        for unit, answer in replaced.items():
            expected = {"loss": nn.functional.cross_entropy(answer, y).item(), "first": answer[:, 0].mean().item()}
            assert found.loc[unit].to_dict() == pytest.approx({name: expected[name] for name in some}, abs=1e-5)
    first.of_differences = True  # a lie, which shows that it was spared
    wrong = sweep(model, sites, [x], first)
    assert wrong.value.nunique() == 1


def test_replay_runs_only_what_depends_on_the_site(used):
    model, x, calls = Residual().eval(), images(4), []
    model.first.forward = lambda x, forward=model.first.forward: calls.append("first") or forward(x)
    model.side.forward = lambda x, forward=model.side.forward: calls.append("side") or forward(x)
    sweep(model, Site("block.0", axis=-1), [x], logit)
    before = len(calls)
    sweep(model, {unit: Site("block.0", unit) for unit in range(6)}, [x], logit)
    assert used["block.0"] is Replay
    assert len(calls) - before == before  # as often for 6 units as for 12
    assert calls.count("side") == calls.count("first")


class Functional(nn.Sequential):
    def forward(self, x):
        return super().forward(x).relu()


class Doubling(nn.Sequential):
    def forward(self, x):
        for module in self:
            x = module(x).mul_(2)  # the same object, other numbers
        return x


class Twice(nn.Sequential):
    def forward(self, x):
        return self[1](self[1](self[0](x).relu()))


class Flatter(nn.Sequential):
    """In place between the pool and the head: the head reads a view of the pool's output, with other numbers."""

    def forward(self, x):
        pooled = self[1](self[0](x))
        pooled.relu_()
        return self[2](pooled.flatten(1))


@pytest.mark.parametrize("kind", [Functional, Doubling, Twice])
def test_a_model_that_does_more_than_its_modules_is_not_read_as_a_chain(kind):
    torch.manual_seed(0)
    model = kind(nn.Linear(6, 8), nn.Linear(8, 8)).eval()
    assert read(model, torch.randn(1, 6)) is None
    assert read(nn.Sequential(*model), torch.randn(1, 6)) is not None


def test_a_pool_written_into_is_not_taken_for_one(used):
    torch.manual_seed(0)
    model, x = Flatter(nn.Conv2d(1, 4, 5), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)).eval(), images(5)
    frame = sweep(model, "1", [x], logit, AblationType.RESAMPLE, reference=lambda batch: images(5, 9))
    assert used["1"] is Replay
    for unit in range(4):
        expected = by_hand(model, x, Site("1", unit), AblationType.RESAMPLE, images(5, 9))
        assert frame.value[unit] == pytest.approx(expected, abs=1e-6)


class Functionally(nn.Module):
    """Runs a layer through its weights, not by calling it, once `odd` is set: as a fused path does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        hidden = self.a(x) if self.passes % 5 else x @ self.a.weight.T + self.a.bias
        return self.c(self.b(hidden.relu()).relu())


class Remembering(nn.Module):
    """A layer that reads what another left behind: it is called with the same tensor and answers otherwise."""

    class Late(nn.Module):
        def forward(self, x):
            return x + self.left[0]

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.late, self.c = nn.Linear(4, 6), self.Late(), nn.Linear(6, 3)
        self.stem = nn.Linear(4, 6)

    def forward(self, x):
        stem = self.stem(x)
        self.late.left = [self.a(x).tanh()]
        return self.c(self.late(stem).relu())


@pytest.mark.parametrize(("build", "site"), [(Functionally, "b"), (Remembering, "a")])
def test_an_engine_that_errs_gives_way_with_a_warning_that_names_the_place(build, site):
    model, x = build().eval(), torch.randn(9, 4)
    with pytest.warns(EngineWarning, match=f"the output of '{site}': the engine Replay is not used, because"):
        frame = sweep(model, site, [x, x + 1], logit)
    for unit in range(6):
        expected = sum(by_hand(model, y, Site(site, unit), AblationType.ZERO, x) for y in (x, x + 1)) / 2
        assert frame.value[unit] == pytest.approx(expected, abs=1e-5)


def test_hooks_of_others_are_met_and_reported():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), torch.randn(9, 4)
    plain = sweep(model, "0", [x], logit)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineWarning)
        sweep(Residual().eval(), "norm", [images(3)], logit)  # no chain, and nothing to report
    handle = model[0].register_forward_hook(lambda module, arguments, output: output * 3 + 1)
    with pytest.warns(EngineWarning, match="hooks are left on '0'"):
        hooked = sweep(model, "0", [x], logit)
    for unit in range(6):
        expected = by_hand(model, x, Site("0", unit), AblationType.ZERO, x)
        assert hooked.value[unit] == pytest.approx(expected, abs=1e-6)
    handle.remove()
    assert not hooked.value.equals(plain.value)
    model[2].forward = lambda x, forward=model[2].forward: 2 * forward(x)
    with pytest.warns(EngineWarning, match="forward of '2' was replaced"):
        doubled = sweep(model, "0", [x], logit)
    assert doubled.value.to_numpy() == pytest.approx(2 * plain.value.to_numpy(), rel=1e-5)


def test_fused_and_compiled_models_are_run_module_by_module():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(6, 7, 16)

    def value(output, batch):
        return output.flatten(1)[:, :16].sum(1)

    for place in ("layers.0.norm1", "layers.0.linear1", "layers.1.self_attn"):
        frame = sweep(model, place, [x], value)
        for unit in (0, 9):
            with torch.no_grad(), edit(model, {Site(place, unit): torch.zeros_like}):
                assert frame.value[unit] == pytest.approx(value(model(x), None).mean().item(), abs=1e-5)
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(30, 6)
    compiled = torch.compile(plain, backend="eager")
    with torch.no_grad():
        compiled(x)
    with pytest.warns(EngineWarning, match="the model is compiled"):
        found = sweep(compiled, "_orig_mod.0", [x], logit)
    assert found.value.to_numpy() == pytest.approx(sweep(plain, "0", [x], logit).value.to_numpy(), abs=1e-6)


# What is measured --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", TYPES[:2] + TYPES[3:], ids=lambda kind: kind.name)
def test_sweep_counts_as_a_full_forward_does(ablation):
    model, x, y, twins = mnist_net(), images(50, seed=7), labels(50), images(50, seed=6)
    batches = [(x[:33], y[:33], twins[:33]), (x[33:], y[33:], twins[33:])]
    metrics = {
        "robust": nb.accuracy(),
        "asr": nb.accuracy(lambda batch: torch.where(batch[1] == 8, -1, 8)),
        "loss": nb.cross_entropy(),
    }
    options = {"ablation": ablation, "inputs": FIRST}
    if ablation.needs != "nothing":
        options["reference"] = [twins] if ablation.needs == "dataset" else itemgetter(2)
    frame = sweep(model, LAYERS, batches, metrics, **options)
    assert list(frame.columns) == ["site", "unit", "metric", "value", "n"]
    assert len(frame) == 122 * 3
    assert frame.site.unique().tolist() == list(LAYERS)
    assert frame.unit[frame.site == "fc1"].tolist() == [unit for unit in range(16) for _ in range(3)]
    assert set(frame.n[frame.metric == "asr"]) == {int((y != 8).sum())}
    assert set(frame.n[frame.metric != "asr"]) == {50}
    values = gather(model, ["3"], ablation, [twins])
    for unit in range(64):
        with torch.no_grad(), edit(model, edits([Site("3", unit)], values)):
            logits = model(x)
        hit = frame[(frame.site == "conv2") & (frame.unit == unit)].set_index("metric").value
        assert hit["robust"] == pytest.approx((logits.argmax(1) == y).double().mean().item())
        assert hit["asr"] == pytest.approx((logits.argmax(1)[y != 8] == 8).double().mean().item())
        assert hit["loss"] == pytest.approx(nn.functional.cross_entropy(logits, y).item(), rel=1e-5)
        if unit == 5:
            alone = measure(model, batches, metrics, [Site("3", 5)], **options).set_index("metric").value
            assert alone.to_dict() == pytest.approx(hit.to_dict(), rel=1e-5)
    assert frame[frame.site == "fc2"].value.nunique() > 5  # the metrics do move


def test_pairs_bring_their_twins_and_a_shuffling_loader_is_gone_through_once():
    model, x, twins, y = mnist_net(), images(20), images(20, 5), labels(20)
    loader = PairLoader(Pairs(x, twins, y), 7)
    given = sweep(model, "7", loader, logit, AblationType.RESAMPLE)
    for unit in (0, 9):
        expected = by_hand(model, x, Site("7", unit), AblationType.RESAMPLE, twins)
        assert given.value[unit] == pytest.approx(expected, abs=1e-5)
    mean = sweep(model, "7", loader, logit, AblationType.TOKENWISE_MEAN_CORRUPT)
    expected = by_hand(model, x, Site("7", 3), AblationType.TOKENWISE_MEAN_CLEAN, twins)
    assert mean.value[3] == pytest.approx(expected, abs=1e-5)
    dataset = TensorDataset(x, twins, y)
    torch.manual_seed(0)
    shuffled = DataLoader(dataset, 7, shuffle=True)
    options = {"inputs": FIRST, "reference": itemgetter(1)}
    found = sweep(model, "7", shuffled, logit, AblationType.RESAMPLE, **options)
    assert found.value.to_numpy() == pytest.approx(given.value.to_numpy(), abs=1e-5)
    own = sweep(model, "7", shuffled, nb.accuracy(itemgetter(2)), inputs=FIRST)
    assert own.value.equals(sweep(model, "7", [(x, y)], nb.accuracy(), inputs=FIRST).value)
    assert sweep(model, "7", iter([x]), logit).value.equals(sweep(model, "7", [x], logit).value)
    with pytest.raises(ValueError, match="gone through once"):
        sweep(model, "7", iter([x]), logit, AblationType.TOKENWISE_MEAN_CLEAN)


class Median(AblationType):
    """A type of a user's own."""

    def reduce(self, output, site, where=None):
        return output.median(0, keepdim=True).values


def test_a_type_of_ones_own_and_means_over_what_counts():
    model, x = Residual().eval(), images(6)
    frame = sweep(model, "norm", [x], logit, Median())
    with torch.no_grad(), nb.capture(model, "norm") as seen:
        model(x)
        with edit(model, {Site("norm", 2): lambda part: seen["norm"][..., 2].median(0).values.expand_as(part)}):
            assert frame.value[2] == pytest.approx(logit(model(x), None).mean().item(), abs=1e-6)
    mask = torch.ones(6, 28, dtype=torch.bool)
    mask[:, 20:] = False
    kind = AblationType.BATCH_ALL_TOK_MEAN
    values = gather(model, ["norm"], kind, [x], where=lambda batch: mask)
    with torch.no_grad(), edit(model, edits([Site("norm", 2)], values)):
        expected = logit(model(x), None).mean().item()
    assert sweep(model, "norm", [x], logit, kind, where=lambda batch: mask).value[2] == pytest.approx(expected)
    assert sweep(model, "norm", [x], logit, kind).value[2] != pytest.approx(expected)


class Named(nn.Module):
    """Keywords in, several tensors out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x, scale):
        states, (hidden, _) = self.lstm(x)
        return {"hidden": hidden, "logits": self.head(states[:, -1]) * scale[:, None]}


def test_keywords_items_of_tuples_and_answers_by_name():
    model, x, scale = Named().eval(), torch.randn(5, 6, 4), torch.rand(5)
    batch = {"x": x, "scale": scale}
    frame = sweep(model, {"states": Site("lstm", item=0), ("a", 2): Site("lstm", [1, 2], item=0)}, [batch], logit)
    assert frame.site.tolist() == ["states"] * 5 + [("a", 2)]
    assert frame.unit.tolist() == [0, 1, 2, 3, 4, "1, 2"]
    with torch.no_grad(), edit(model, {Site("lstm", [1, 2], item=0): torch.zeros_like}):
        assert frame.value[5] == pytest.approx(logit(model(**batch)["logits"], None).mean().item())
    with pytest.raises(TypeError, match="tensors at 'hidden', 'logits'"):
        sweep(model, Site("lstm", item=0), [batch], logit, output="nothing")
    with pytest.raises(ValueError, match="axis 0 must be the items"):
        sweep(model, Site("lstm", item=0), [batch], logit, output="hidden")


def test_units_ablated_throughout_are_as_if_their_weights_were_zero():
    model, batches = mnist_net(), [(images(60), labels(60))]
    gone = [Site("0", 4), Site("3", 9), Site("7", 2)]
    one = sweep(model, LAYERS, batches, nb.accuracy(), ablated=gone, inputs=FIRST)
    other = sweep(zero_weights(model, gone), LAYERS, batches, nb.accuracy(), inputs=FIRST)
    assert one.equals(other)
    assert not one.equals(sweep(model, LAYERS, batches, nb.accuracy(), inputs=FIRST))


@pytest.mark.parametrize("build", [mnist_net, Residual])
def test_the_model_is_left_as_it_was_also_when_a_metric_fails(build):
    model = build().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    place = "9" if build is mnist_net else "norm"

    def failing(output, batch):
        assert not any(vars(module).get("forward") for module in model.modules())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        sweep(model, [place], [images()], failing)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with torch.inference_mode():
        assert len(sweep(model, [place], [images()], logit)) >= 10


def test_a_metric_may_run_and_sweep_the_model_but_another_thread_may_not():
    model, x = Residual().eval(), images(4)
    expected = sweep(model, "norm", [x], logit).value[0]

    def inside(output, batch):
        assert sweep(model, Site("norm", 0), [x], logit).value[0] == expected
        with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="another thread sweeps this model"):
            pool.submit(sweep, model, "norm", [x], logit).result()
        return output[:, 0] - model(batch)[:, 0]

    assert sweep(model, Site("norm", 0), [x], inside).value[0] != 0
    assert sweep(model, "norm", [x], logit).value[0] == expected


def test_batches_of_several_lengths():
    model, x = Residual().eval(), images(6)
    lengths = [x, x[:, :, :19], x[:4, :, :19]]
    with torch.no_grad(), edit(model, {Site("norm", 5): torch.zeros_like}):
        expected = torch.cat([logit(model(batch), None) for batch in lengths]).mean().item()
    assert sweep(model, "norm", lengths, logit).value[5] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="19 units in this batch and 28 in the first"):
        sweep(model, Site("norm", axis=1), lengths, logit)


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operations made and that are still there, and their peak."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in args if isinstance(tensor, torch.Tensor)}
        for tensor in out if isinstance(out, list | tuple) else [out]:
            meta = isinstance(tensor, torch.Tensor) and tensor.device.type == "meta"
            if (
                isinstance(tensor, torch.Tensor)
                and not meta
                and tensor.untyped_storage()._cdata not in self.seen | given
            ):
                storage = tensor.untyped_storage()
                self.seen.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())
        return out

    def forget(self, key, size):
        self.seen.discard(key)
        self.now -= size


@pytest.mark.parametrize(
    ("build", "path", "memory"),
    [(mnist_net, "3", 5_000_000), (Residual, "norm", 300_000), (PooledNet, "avgpool", 300_000)],
)
def test_memory_is_bounded(build, path, memory):
    model, x, twins = build().eval(), images(24), images(24, seed=5)
    found = {}
    for bound in (memory, 100 * memory):
        with Live() as live:
            before = live.now
            options = {"reference": lambda batch: twins, "memory": bound}
            frame = sweep(model, [path], [x], accuracy(lambda batch: labels(24)), AblationType.RESAMPLE, **options)
        found[bound] = live.peak - before, frame
        assert live.peak > before
    assert found[memory][0] <= memory
    assert build is PooledNet or memory < found[100 * memory][0]  # and the bound is what keeps it there
    assert found[memory][1].equals(found[100 * memory][1])
    with pytest.raises(ValueError, match="memory=100 bytes"):
        sweep(model, [path], [x], logit, memory=100)


def test_answers_that_do_not_fit_at_once_are_taken_a_few_rows_at_a_time(monkeypatch):
    model, x, passes = mnist_net(), images(40).repeat(60, 1, 1, 1), []
    original = driver._Batch.answers
    monkeypatch.setattr(driver._Batch, "answers", lambda self, rows: passes.append(len(rows)) or original(self, rows))
    whole = sweep(model, ["7", "9"], [x], logit)
    parted = sweep(model, ["7", "9"], [x], logit, memory=2_600_000)
    assert passes == [26, 13, 13]
    assert parted.value.to_numpy() == pytest.approx(whole.value.to_numpy(), abs=1e-5)


# Search --------------------------------------------------------------------------------------------------------------


def test_greedy_finds_the_units_that_carry_a_metric_and_stops():
    """Class 0 wins through units 2 and 5: the first carries most items, the second the rest."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(8))
        model[0].bias.zero_()
        model[2].weight.zero_()
        model[2].weight[0, [2, 5]] = 1.0
        model[2].bias.copy_(torch.tensor([0.0, 0.5]))
    x = torch.zeros(100, 8)
    x[:70, 2], x[70:, 5], x[:, 7] = 1, 1, 1
    metrics = {name: accuracy(lambda batch, c=c: torch.full((100,), c)) for c, name in enumerate(("first", "other"))}
    path = greedy(model, {"hidden": "0"}, [x], metrics, Goal("first"))
    steps = path[path.metric == "first"]
    assert steps.value.tolist() == pytest.approx([1.0, 0.3, 0.0])
    assert steps.unit.tolist()[1:] == [2, 5]
    assert steps.site.isna().tolist() == [True, False, False]
    assert path[path.metric == "other"].value.tolist() == pytest.approx([0.0, 0.7, 1.0])
    assert greedy(model, {"hidden": "0"}, [x], metrics, Goal("first", drop=0.6)).step.max() == 1
    assert greedy(model, {"hidden": "0"}, [x], metrics, Goal("first", limit=1)).step.max() == 1
    assert greedy(model, {"hidden": "0"}, [x], metrics, Goal("other")).step.max() == 0  # it is 0 already
    groups = {("pair", 1): Site("0", [2, 5]), ("rest", 0): Site("0", [0, 1])}
    assert greedy(model, groups, [x], metrics, Goal("first")).unit.tolist()[2:] == ["2, 5", "2, 5"]


def test_greedy_passes_over_units_that_would_take_a_protected_metric_too_far_down():
    """Unit 0 carries the backdoor and the task, units 1 and 2 half of the backdoor each and nothing else."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
        model[2].bias.copy_(torch.tensor([0.0, 0.5]))
    task, attack = torch.zeros(20, 3), torch.zeros(20, 3)
    task[:, 0] = 1
    attack[:10, [0, 1]] = torch.tensor([0.3, 0.3])  # each alone is too weak
    attack[10:, [0, 2]] = torch.tensor([0.3, 0.3])
    batches = [("task", task), ("attack", attack)]
    # Each metric counts the items of its own batch.
    metrics = {
        name: accuracy(lambda batch, name=name: torch.zeros(20, dtype=int) - (batch[0] != name) * 1)
        for name in ("task", "attack")
    }
    options = {"inputs": itemgetter(1)}
    alone = greedy(model, {"hidden": "0"}, batches, metrics, Goal("attack"), **options)
    assert alone.unit.tolist()[2:] == [0, 0]
    assert alone.value.tolist() == [1, 1, 0, 0]
    careful = greedy(model, {"hidden": "0"}, batches, metrics, Goal("attack", protect="task"), **options)
    assert careful[careful.metric == "attack"].unit.tolist()[1:] == [1, 2]
    assert careful[careful.metric == "attack"].value.tolist() == [1, 0.5, 0]
    assert careful[careful.metric == "task"].value.tolist() == [1, 1, 1]


# What is refused -----------------------------------------------------------------------------------------------------


def test_arguments_that_do_not_fit_are_named():
    model, x, y = mnist_net(), images(), labels()
    cases = [
        (KeyError, "nearest", {"sites": ["conv1"]}),
        (ValueError, "at least one site", {"sites": []}),
        (ValueError, "there twice", {"sites": ["0", "0"]}),
        (ValueError, "units 0 to 31", {"sites": Site("0", 32)}),
        (ValueError, "units 0 to 27 on axis 3", {"sites": Site("0", 28, axis=3, part="input")}),
        (ValueError, "no batches", {"batches": []}),
        (TypeError, r"write \[batch\]", {"batches": x}),
        (ValueError, "needs 1 item or more", {"batches": [x[:0]]}),
        (ValueError, "share axis 0", {"batches": [{"x": x, "y": y[:3]}]}),
        (TypeError, "itemgetter", {"batches": [(x, y)]}),
        (ValueError, "one number per item", {"metric": lambda output, batch: output}),
        (TypeError, "a tensor of one number", {"metric": lambda output, batch: 1.0}),
        (TypeError, "a metric is a callable", {"metric": {}}),
        (ValueError, "corrupt inputs", {"ablation": AblationType.RESAMPLE}),
        (ValueError, "a source per item", {"ablation": AblationType.RESAMPLE, "reference": lambda batch: batch[:5]}),
        (ValueError, "reference is a callable", {"ablation": AblationType.RESAMPLE, "reference": [x]}),
        (KeyError, "no labels at 'z'", {"metric": accuracy("z"), "batches": [{"input": x}]}),
        (ValueError, "a label is 10", {"metric": accuracy(lambda batch: y + 10 - y)}),
        (ValueError, "no item counts", {"metric": accuracy(lambda batch: y - y - 1)}),
        (ValueError, "labels are integers", {"metric": accuracy(lambda batch: y.float())}),
    ]
    for error, message, changed in cases:
        with pytest.raises(error, match=message):
            sweep(**{"model": model, "sites": ["7"], "batches": [x], "metric": logit, **changed})
    with pytest.raises(ValueError, match="must run once in a forward pass"):
        sweep(Twice(nn.Linear(6, 8), nn.Linear(8, 8)), "1", [torch.randn(3, 6)], logit)
    with pytest.raises(KeyError, match="no metric 'asr'; there are logit"):
        greedy(model, ["0"], [x], logit, Goal("asr"))
    with pytest.raises(KeyError, match="no metric 'clean'; there are logit"):
        greedy(model, ["0"], [x], logit, Goal("logit", protect="clean"))
    with pytest.raises(ValueError, match=r"drop must lie in \(0, 1\]"):
        Goal("logit", drop=2)


def test_metrics_of_logits():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, torch.nan], [1.0, 1.0, 0.0]])
    batch = {"labels": torch.tensor([0, 1, -1])}
    values, counts = accuracy()(logits, batch)
    assert values.isnan().tolist() == [False, True, False]  # never counted as class 0
    assert counts.tolist() == [True, True, False]
    frame = measure(nn.Identity(), [logits], accuracy(lambda _: batch["labels"]))
    assert frame.value.isna().all()
    one = torch.tensor([[0.3], [-0.2], [0.1]])
    right = torch.tensor([1, 1, 0])
    for binary in (one, one[:, 0]):
        assert accuracy(lambda _: right)(binary, None)[0].tolist() == [1, 0, 0]
        loss = nb.cross_entropy(lambda _: right)(binary, None)[0]
        expected = nn.functional.binary_cross_entropy_with_logits(one[:, 0], right.float(), reduction="none")
        torch.testing.assert_close(loss, expected)
    with pytest.raises(ValueError, match="a label is 2"):
        accuracy(lambda _: right * 2)(one, None)
    with pytest.raises(ValueError, match="position="):
        accuracy(lambda _: right)(torch.zeros(3, 5, 4), None)
    many = torch.randn(3, 5, 4)
    assert torch.equal(
        nb.logit_difference(lambda _: right, -1)(many, None)[0],
        nb.logit_difference(lambda _: right)(many[:, -1], None)[0],
    )
    p, q = many.softmax(-1), (2 * many).softmax(-1)
    divergence = (p * (p.log() - q.log())).sum(-1)
    torch.testing.assert_close(nb.divergence()(2 * many, None, many), divergence.mean(1))
    torch.testing.assert_close(nb.divergence(-1)(2 * many, None, many), divergence[:, -1])


class EarlyExit(nn.Module):
    """Answers early where it is sure, as a whole; what it reads to decide is a number."""

    def __init__(self, scale):
        super().__init__()
        self.first, self.exit, self.last = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        with torch.no_grad():
            for layer in (self.first, self.exit):
                layer.weight.copy_(torch.eye(2))
                layer.bias.zero_()
            self.last.weight.copy_(scale * torch.tensor([[0.0, 1], [1, 0]]))

    def forward(self, x):
        h = self.first(x)
        early = self.exit(h)
        return early if early.max() > 1 else self.last(h)


def test_a_model_that_goes_another_way_with_a_unit_replaced_is_followed():
    model, x = EarlyExit(10.0), torch.tensor([[5.0, 0.5]])  # early; without unit 0 to the end
    table = sweep(model, "first", [x], lambda answer, _: answer[:, 0])
    with torch.no_grad():
        late = model.last(torch.tensor([[0.0, 0.5]]))[0, 0].item()
    assert table.value.tolist() == pytest.approx([late, 5.0])
    straight = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert read(straight, x) is not None  # the control: nothing looks on the way


def test_what_a_module_leaves_for_another_is_that_of_its_own_row():
    kept = {}

    class Keeps(nn.Linear):
        def forward(self, x):
            kept["skip"] = super().forward(x)
            return kept["skip"]

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.middle, self.last = (nn.Linear(3, 3) for _ in range(3))
            self.block = Keeps(3, 3)

        def forward(self, x):
            return self.last(self.middle(self.block(self.first(x))).tanh() + kept["skip"])

    torch.manual_seed(0)
    model, x = Skip(), torch.randn(4, 3)
    with pytest.warns(EngineWarning, match="'middle'.*keep something"):
        table = sweep(model, ["first", "middle"], [x], lambda answer, _: answer[:, 0])
    alone = [sweep(model, place, [x], lambda answer, _: answer[:, 0]) for place in ("first", "middle")]
    assert table.value.tolist() == pytest.approx([value for one in alone for value in one.value])


def test_a_model_that_answers_otherwise_each_time_is_refused():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.passes = nn.Linear(2, 2), 0

        def forward(self, x):
            self.passes += 1
            return self.first(x).tanh() * self.passes

    with pytest.raises(ValueError, match="in another way each time"):
        sweep(Counts(), "first", [torch.randn(3, 2)], lambda answer, _: answer[:, 0])


def test_weights_made_in_inference_mode_and_answers_of_another_type_are_taken():
    class Query(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Parameter(torch.randn(1, 2))
            self.first, self.gate, self.last = (nn.Linear(2, 2) for _ in range(3))

        def forward(self, x):
            return self.last(self.first(x) * self.gate(self.query))

    class Short(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.inner(x)

    with torch.inference_mode():
        query, short = Query(), Short()
    x = torch.randn(5, 2)
    for model, place in ((query, "first"), (short, "inner.0")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EngineWarning)
            found = sweep(model, place, [x], lambda answer, _: answer[:, 0].float())
        with edit(model, edits([Site(place, 1)])), torch.no_grad():
            expected = model(x)[:, 0].float().mean().item()
        assert found.value[1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("items", [200, 300])
def test_a_batch_runs_in_parts_only_where_items_do_not_depend_on_each_other(items):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    model, x = nn.Sequential(nn.Linear(2, 3), norm, nn.Linear(3, 2)).eval(), torch.randn(items, 2)
    if items == 300:
        with pytest.raises(ValueError, match="depends on the others"):
            sweep(model, "0", [x], lambda answer, _: answer[:, 0])
        return
    with edit(model, edits([Site("0", 1)])), torch.no_grad():
        expected = model(x)[:, 0].mean().item()
    assert sweep(model, Site("0", 1), [x], lambda answer, _: answer[:, 0]).value.item() == pytest.approx(expected)


def test_a_list_with_an_entry_per_item_is_not_cut_off():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 2)

        def forward(self, x, lengths):
            return torch.stack([item[length - 1] for item, length in zip(self.first(x), lengths, strict=False)])

    batches = [(torch.randn(300, 4, 2), [1 + i % 4 for i in range(300)])]
    with pytest.raises(ValueError, match="argument 1 of a batch is a list of 300"):
        sweep(Last(), "first", batches, lambda answer, _: answer[:, 0])
    assert len(sweep(Last(), "first", [(batches[0][0][:9], batches[0][1][:9])], lambda answer, _: answer[:, 0])) == 2


def test_a_metric_does_not_write_into_what_others_are_given():
    model, x = nn.Linear(2, 2), torch.randn(3, 2)
    metrics = {"twice": lambda answer, _: answer.mul_(2)[:, 0], "once": lambda answer, _: answer[:, 0]}
    with pytest.raises(ValueError, match="'twice' writes into the answer"):
        sweep(model, "", [x], metrics)
    with pytest.raises(TypeError, match="an ablation is an AblationType"):
        sweep(model, "", [x], metrics["once"], "zero")
    with pytest.raises(TypeError, match="a Site or a module's name; got Linear"):
        sweep(model, model, [x], metrics["once"])


@pytest.mark.parametrize(
    ("batch", "there"), [(torch.ones(3, 4, 2), "a Tensor"), ({"input": torch.ones(3, 4, 2)}, "'input'")]
)
def test_a_mask_that_is_not_there_is_named(batch, there):
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(KeyError, match=f"where='mask' is no key .*{there}"):
        sweep(model, "0", [batch], lambda answer, _: answer[:, 0, 0], AblationType.MEAN, where="mask")
