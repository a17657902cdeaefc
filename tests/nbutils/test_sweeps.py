import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nbutils.ablation.edits import edits
from nbutils.ablation.types import AblationType
from nbutils.ablation.values import gather
from nbutils.ablation.weights import zero_weights
from nbutils.hooks import edit
from nbutils.sites import Site
from nbutils.sweeps import engines
from nbutils.sweeps.chains import Chain
from nbutils.sweeps.greedy import Goal, greedy
from nbutils.sweeps.measures import IGNORED, Measures
from nbutils.sweeps.replay import Replay
from nbutils.sweeps.units import SWEPT, measure, sweep

LAYERS = {"conv1": "0", "conv2": "3", "fc1": "7", "fc2": "9"}
CLASSES = 10


def mnist_net(seed=0):
    torch.manual_seed(seed)
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
        self.first, self.norm = nn.Linear(28, 12), nn.LayerNorm(12)
        self.block = nn.Sequential(nn.Linear(12, 12), nn.ReLU(inplace=True), nn.Linear(12, 12))
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = self.first(x.flatten(1, 2))  # [items, 28 positions, 12]
        y = self.norm(x)
        x += self.block(y)  # also changes what `first` put out
        return self.head(x.relu_().mean(1))


def images(n=12, seed=3):
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def labels(n=12):
    return torch.randint(CLASSES, (n,), generator=torch.Generator().manual_seed(4))


def accuracy(x, y):
    return Measures({"x": x}, {"accuracy": ("x", y)})


@torch.no_grad()
def plain(model, x, site, units, fixed=(), values=None):
    """One full hooked forward per unit: what the engines must agree with."""
    logits = []
    for unit in range(units):
        with edit(model, edits([Site(site.module, unit, site.axis), *fixed], values)):
            logits.append(model(x))
    return logits


@torch.no_grad()
def swept(runner, x, sites, fixed=(), values=None):
    found = {}
    for path, first, logits in runner.unit_logits(x, sites, fixed, values or {}):
        for unit, one in enumerate(logits, first):
            assert (path, unit) not in found
            found[path, unit] = one
    return found


CASES = [
    (mnist_net, [Site("0"), Site("3"), Site("7"), Site("9")], [32, 64, 16, 10]),
    (irregular_net, [Site("0.0"), Site("1.0"), Site("2"), Site("6")], [5, 6, 4, 10]),
]


@pytest.mark.parametrize(("build", "sites", "widths"), CASES)
@pytest.mark.parametrize("ablation", SWEPT)
def test_both_engines_agree_with_one_full_forward_per_unit(build, sites, widths, ablation):
    model, x, twin = build(), images(), images(seed=5)
    natural = gather(model, [site.module for site in sites], ablation, [twin])
    fixed = [Site(sites[0].module, 1), Site(sites[1].module, 2), Site(sites[2].module, 0)]
    chain, replay = engines.choose(model, sites, x[:1]), Replay(model, x[:1])
    assert isinstance(chain, Chain)
    with torch.no_grad():
        own = {} if ablation is AblationType.ZERO else chain.outputs(twin, natural)
        if ablation is AblationType.TOKENWISE_MEAN_CLEAN:
            own = {path: (chain.mean(output) / len(twin)).float() for path, output in own.items()}
        assert torch.allclose(chain.logits(x, [], {}), model(x), atol=1e-5)
    for pinned in ((), fixed):
        fast, slow = swept(chain, x, sites, pinned, own), swept(replay, x, sites, pinned, natural)
        assert len(fast) == len(slow) == sum(widths)
        moved = 0.0
        for site, width in zip(sites, widths, strict=True):
            for unit, expected in enumerate(plain(model, x, site, width, pinned, natural)):
                assert (fast[site.module, unit] - expected).abs().max() < 1e-5
                assert (slow[site.module, unit] - expected).abs().max() < 1e-5
                moved = max(moved, (expected - model(x)).abs().max().item())
        assert moved > 1e-2  # far above the tolerance: an engine that replaced nothing would show


@pytest.mark.parametrize("ablation", SWEPT)
def test_a_model_that_is_no_chain_is_replayed(ablation):
    model, x = Residual().eval(), images()
    sites = [Site("first", axis=-1), Site("block.0", axis=2), Site("block", axis=1), Site("head")]
    runner = engines.choose(model, sites, x[:1])
    assert isinstance(runner, Replay)
    values = gather(model, [*(site.module for site in sites), "norm"], ablation, [images(seed=5)])
    found = swept(runner, x, sites, [Site("norm", 3, axis=-1)], values)
    assert len(found) == 12 + 12 + 28 + 10
    for site, width in zip(sites, (12, 12, 28, 10), strict=True):
        for unit, expected in enumerate(plain(model, x, site, width, [Site("norm", 3, axis=-1)], values)):
            assert torch.allclose(found[site.module, unit], expected, atol=1e-6)
            assert site.module == "head" or not torch.equal(expected, model(x))


def test_replay_computes_what_precedes_the_layer_once():
    model, x = mnist_net(), images()
    runner, calls = Replay(model, x[:1]), []
    original = nn.Conv2d._conv_forward

    def counted(self, *arguments):
        calls.append(self)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Conv2d, "_conv_forward", counted)
        swept(runner, x, [Site("3")])
    assert calls == [model[0], model[3]]
    assert "forward" not in vars(model[0])


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
        return self[1](self[0](self[0](x)))


@pytest.mark.parametrize("kind", [Functional, Doubling, Twice])
def test_a_chain_is_read_only_where_nothing_happens_between_modules(kind):
    x = torch.randn(1, 6)
    layers = [nn.Linear(6, 6), nn.Linear(6, 4)]
    assert Chain.read(nn.Sequential(*layers), x) is not None
    assert Chain.read(kind(*layers), x) is None
    hooked = nn.Sequential(*layers)
    with edit(hooked, {"0": torch.relu}):
        assert Chain.read(hooked, x) is None
        hooked(x)
    with pytest.raises(ValueError, match="ran 2 times"):
        swept(Replay(Twice(*layers), x), x, [Site("0")])


@pytest.mark.parametrize("ablation", SWEPT)
def test_the_frame_holds_every_unit_and_counts_as_a_full_forward_does(ablation):
    model, x, y = mnist_net(), images(50), labels(50)
    twins = images(50, seed=6)
    inputs = {"clean": x, "triggered": images(50, seed=7)}
    target = torch.where(y == 8, IGNORED, 8)
    measures = Measures(inputs, {"clean": ("clean", y), "robust": ("triggered", y), "asr": ("triggered", target)})
    reference = {"clean": twins, "triggered": twins}
    options = {"ablation": ablation, "reference": reference}
    frame = sweep(model, LAYERS, measures, **options)
    assert list(frame.columns) == ["layer", "unit", "measure", "value", "n"]
    assert len(frame) == 122 * 3
    assert set(frame.n[frame.measure == "asr"]) == {int((y != 8).sum())}
    assert set(frame.n[frame.measure != "asr"]) == {50}
    values = gather(model, ["3"], ablation, [twins])
    for unit, logits in enumerate(plain(model, inputs["triggered"], Site("3"), 64, values=values)):
        hit = frame[(frame.layer == "conv2") & (frame.unit == unit)].set_index("measure").value
        chosen = logits.argmax(1)
        assert hit["robust"] == pytest.approx((chosen == y).double().mean().item())
        assert hit["asr"] == pytest.approx((chosen[y != 8] == 8).double().mean().item())
        if unit == 5:
            alone = measure(model, measures, [Site("3", 5)], **options).set_index("measure").value
            assert alone.to_dict() == hit.to_dict()
    assert frame[frame.layer == "fc2"].value.nunique() > 5  # the measures do move


def test_units_ablated_throughout_are_as_if_their_weights_were_zero():
    model, measures = mnist_net(), accuracy(images(60), labels(60))
    gone = [Site("0", 4), Site("3", 9), Site("7", 2)]
    one = sweep(model, LAYERS, measures, ablated=gone)
    other = sweep(zero_weights(model, gone), LAYERS, measures)
    assert one.equals(other)
    assert not one.equals(sweep(model, LAYERS, measures))


def test_the_model_is_left_as_it_was():
    model = mnist_net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sweep(model, ["9"], accuracy(images(), labels()))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


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
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.seen | given:
                storage = tensor.untyped_storage()
                self.seen.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())
        return out

    def forget(self, key, size):
        self.seen.discard(key)
        self.now -= size


@pytest.mark.parametrize(("build", "path", "memory"), [(mnist_net, "3", 5_000_000), (Residual, "norm", 150_000)])
def test_memory_is_bounded(build, path, memory):
    model, x, y = build().eval(), images(24), labels(24)
    found = {}
    for bound in (memory, 100 * memory):
        with Live() as live:
            reference = {"x": images(24, seed=5)}
            before = live.now
            options = {"reference": reference, "memory": bound}
            frame = sweep(model, [path], accuracy(x, y), AblationType.RESAMPLE, **options)
        found[bound] = live.peak - before, frame
        assert live.peak > before
    assert found[memory][0] <= memory < found[100 * memory][0]  # and the bound is what keeps it there
    assert found[memory][1].equals(found[100 * memory][1])
    with pytest.raises(ValueError, match="memory=100 bytes"):
        sweep(model, [path], accuracy(x, y), memory=100)


def test_greedy_finds_the_units_that_carry_a_measure_and_stops():
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
    wanted = {"first": ("x", torch.zeros(100, dtype=int)), "other": ("x", torch.ones(100, dtype=int))}
    measures = Measures({"x": x}, wanted)
    path = greedy(model, {"hidden": "0"}, measures, Goal("first"))
    steps = path[path.measure == "first"]
    assert steps.value.tolist() == pytest.approx([1.0, 0.3, 0.0])
    assert steps.unit.tolist()[1:] == [2, 5]
    assert steps.layer.isna().tolist() == [True, False, False]
    assert path[path.measure == "other"].value.tolist() == pytest.approx([0.0, 0.7, 1.0])
    assert greedy(model, {"hidden": "0"}, measures, Goal("first", drop=0.6)).step.max() == 1
    assert greedy(model, {"hidden": "0"}, measures, Goal("first", limit=1)).step.max() == 1
    assert greedy(model, {"hidden": "0"}, measures, Goal("other")).step.max() == 0  # it is 0 already


def test_greedy_passes_over_units_that_would_take_a_protected_measure_too_far_down():
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
    wanted = torch.zeros(20, dtype=int)
    measures = Measures({"task": task, "attack": attack}, {"task": ("task", wanted), "attack": ("attack", wanted)})
    alone = greedy(model, {"hidden": "0"}, measures, Goal("attack"))
    assert alone.unit.tolist()[2:] == [0, 0]
    assert alone.value.tolist() == [1, 1, 0, 0]
    careful = greedy(model, {"hidden": "0"}, measures, Goal("attack", protect="task"))
    assert careful[careful.measure == "attack"].unit.tolist()[1:] == [1, 2]
    assert careful[careful.measure == "attack"].value.tolist() == [1, 0.5, 0]
    assert careful[careful.measure == "task"].value.tolist() == [1, 1, 1]


def test_arguments_that_do_not_fit_are_named():
    model, x, y = mnist_net(), images(), labels()
    measures = accuracy(x, y)
    with pytest.raises(KeyError, match="nearest"):
        sweep(model, ["conv1"], measures)
    with pytest.raises(ValueError, match="different modules"):
        sweep(model, [], measures)
    with pytest.raises(KeyError, match="on input 'z'; there are x"):
        Measures({"x": x}, {"accuracy": ("z", y)})
    for wrong in (y[:-1], y.float(), torch.full_like(y, IGNORED)):
        with pytest.raises(ValueError, match="one class per item"):
            accuracy(x, wrong)
    with pytest.raises(ValueError, match="got BATCH_ALL_TOK_MEAN"):
        sweep(model, ["0"], measures, AblationType.BATCH_ALL_TOK_MEAN)
    with pytest.raises(ValueError, match="TOKENWISE_MEAN_CLEAN needs reference"):
        sweep(model, ["0"], measures, AblationType.TOKENWISE_MEAN_CLEAN)
    with pytest.raises(ValueError, match="twin per item"):
        sweep(model, ["0"], measures, AblationType.RESAMPLE, reference={"x": x[:5]})
    with pytest.raises(KeyError, match="no measure 'asr'"):
        greedy(model, ["0"], measures, Goal("asr"))
    with pytest.raises(KeyError, match="no measure 'clean'; there are accuracy"):
        greedy(model, ["0"], measures, Goal("accuracy", protect="clean"))
    with pytest.raises(ValueError, match=r"drop must lie in \(0, 1\]"):
        Goal("accuracy", drop=2)
