import copy
import multiprocessing
import pickle
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from nbutils.ablation.edits import Replace, edits
from nbutils.ablation.sources import batch_src_ablations, src_ablations
from nbutils.ablation.types import AblationType
from nbutils.ablation.values import gather
from nbutils.ablation.weights import zero_weights
from nbutils.data.pairs import PairLoader, Pairs
from nbutils.hooks import capture, edit
from nbutils.sites import Site

LAYERS = {"0": 32, "3": 64, "7": 16}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1600, 16), nn.ReLU(), nn.Linear(16, 10)),
    ).eval()


def images(n=10, seed=1):
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_zero_weights_and_bias_equal_a_zero_activation(model, layer):
    sites = [Site(layer, 3), Site(layer, 5)]
    with edit(model, edits(sites)):
        activation = model(images())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert torch.allclose(zero_weights(model, sites)(images()), activation, atol=1e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())  # a copy was edited
    left = zero_weights(model, sites)
    left.get_submodule(layer).bias[[3, 5]] = 1.0  # weights without the bias is another operation
    assert (left(images()) - activation).abs().max() > 1e-4


@torch.no_grad()
def test_a_site_without_a_unit_is_the_whole_layer(model):
    with edit(model, edits([Site("3")])):
        whole = model(images())
    assert torch.allclose(zero_weights(model, [Site("3")])(images()), whole, atol=1e-6)
    assert torch.allclose(whole, whole[:1].expand_as(whole))  # nothing of the image gets through
    assert not torch.allclose(model(images()), model(images())[:1].expand(10, -1), atol=1e-3)


@torch.no_grad()
def test_replace_touches_its_units_only_and_on_any_axis():
    x, model = torch.randn(4, 6, 3, 5), nn.Identity()
    for axis in (1, 2, -1):
        with edit(model, {Site("", (0, 2), axis): Replace(7.0)}):
            replaced = model(x).movedim(axis, 0)
        rest = [unit for unit in range(x.shape[axis]) if unit not in (0, 2)]
        assert (replaced[[0, 2]] == 7).all()
        assert torch.equal(replaced[rest], x.movedim(axis, 0)[rest])
    with (
        pytest.raises(ValueError, match="cannot stand in"),
        edit(model, {Site("", 0, 1): Replace(torch.zeros(3, 3, 5))}),
    ):
        model(x)


@torch.no_grad()
def test_means_are_exact_for_unequal_batches(model):
    x = images(10)
    with capture(model, "0", "7") as seen:
        model(x)
    for size in (10, 4, 3):  # the last batch has 10, 2 and 1
        means = gather(model, ["0", "7"], AblationType.TOKENWISE_MEAN_CLEAN, x.split(size))
        for name in means:
            assert torch.allclose(means[name], seen[name].mean(0, keepdim=True), atol=1e-6)
    mean_of_means = torch.stack([part.mean(0) for part in seen["7"].split(3)]).mean(0)
    assert (mean_of_means - means["7"]).abs().max() > 1e-3


@torch.no_grad()
def test_resampled_activations_are_those_of_the_twin(model):
    x, twin = images(seed=1), images(seed=2)
    values = gather(model, ["3"], AblationType.RESAMPLE, twin.split(4))
    with edit(model, edits([Site("3")], values)):
        assert torch.allclose(model(x), model(twin), atol=1e-5)  # nothing but layer 3 leads to the output
    with edit(model, edits([Site("3", 0), Site("3", 1)], values)), capture(model, "3") as seen:
        some = model(x)
    assert torch.equal(seen["3"][:, :2], values["3"][:, :2])
    assert (some - model(twin)).abs().max() > 1e-3
    assert gather(model, ["3"], AblationType.ZERO, ()) == {"3": 0}


def test_gathering_runs_in_eval_mode_and_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.9), nn.Linear(5, 2)).train()
    x = torch.randn(8, 6)
    twice = [gather(model, ["2"], AblationType.RESAMPLE, [x])["2"] for _ in range(2)]
    assert torch.equal(*twice)
    assert not torch.equal(model(x), model(x))  # it is back in training mode, where the dropout acts
    assert not any(module._forward_hooks for module in model.modules())


def test_what_cannot_be_replaced_is_named(model):
    with pytest.raises(KeyError, match="nearest"):
        gather(model, ["net.0"], AblationType.ZERO, ())
    for kind in (AblationType.RESAMPLE, AblationType.TOKENWISE_MEAN_CLEAN):
        assert gather(model, [], kind, [images(2)]) == {}
        with pytest.raises(ValueError, match=f"{kind.name} needs inputs"):
            gather(model, ["0"], kind, [])
    with pytest.raises(ValueError, match="as a whole and unit by unit"):
        edits([Site("0", 1), Site("0")])
    with pytest.raises(ValueError, match="replaced twice"):
        edits([Site("0", 1), Site("0", (1, 2))])
    for site in (Site("1", 0), Site("0", 0, axis=2)):
        with pytest.raises(ValueError, match=r"Linear, Conv|lie on axis 1"):
            zero_weights(model, [site])


# By source ------------------------------------------------------------------------------------------------------------


class Mixer(nn.Module):
    """Positions, heads, dropout, and an in-place operation right after a source: all that can go wrong in one."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.heads = nn.Identity()
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(8, 3)

    def forward(self, x):  # (items, positions, 5)
        h = self.embed(x)
        h = h.relu_()  # writes into what `embed` put out
        split = self.heads(h.unflatten(2, (2, 4)).repeat(1, 1, 1, 2))  # (items, positions, heads, 8)
        return self.out(self.drop(split.sum(2)))


SOURCES = [Site("embed"), Site("heads", 1, axis=2), Site("heads", 0, axis=2)]
ALL = list(AblationType)
BATCH = [AblationType.RESAMPLE, AblationType.BATCH_TOKENWISE_MEAN, AblationType.BATCH_ALL_TOK_MEAN]
DATASET = [kind for kind in ALL if kind.needs == "dataset"]


@pytest.fixture
def mixer():
    torch.manual_seed(0)
    return Mixer().train()


def sequences(n=7, seed=1):
    made = torch.Generator().manual_seed(seed)
    return Pairs(torch.randn(n, 4, 5, generator=made), torch.randn(n, 4, 5, generator=made), torch.zeros(n))


def sources_of(model, x):
    """Return the sources' activations by plain arithmetic `[sources, items, positions, 8]`."""
    embedded = nn.functional.linear(x, model.embed.weight, model.embed.bias)
    heads = embedded.relu().unflatten(2, (2, 4)).repeat(1, 1, 1, 2)
    return torch.stack([embedded, heads[:, :, 1], heads[:, :, 0]]).detach()


def test_there_are_seven_types_under_the_names_of_the_source_system():
    assert {kind.name for kind in ALL} == {
        *("RESAMPLE", "ZERO", "BATCH_TOKENWISE_MEAN", "BATCH_ALL_TOK_MEAN"),
        *("TOKENWISE_MEAN_CLEAN", "TOKENWISE_MEAN_CORRUPT", "TOKENWISE_MEAN_CLEAN_AND_CORRUPT"),
    }
    assert [kind for kind in ALL if kind.needs == "batch"] == BATCH


def test_the_seven_are_one_object_each_whoever_asks():
    for kind in ALL:
        assert AblationType[kind.name] is AblationType(kind.value) is getattr(AblationType, kind.name) is kind
        assert pickle.loads(pickle.dumps({"kind": kind}))["kind"] is copy.deepcopy(kind) is kind
        assert str(kind) == f"AblationType.{kind.name}"
        with pytest.raises(AttributeError, match="frozen"):
            kind.needs = "nothing"
    assert repr(AblationType.ZERO) == "<AblationType.ZERO: 'zero'>"
    assert len({*ALL}) == len(AblationType) == 7
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(AblationType, [kind.value for kind in ALL[:2]])[1] is ALL[1]
    with pytest.raises(KeyError, match="no ablation type 'MEDIAN'; there are RESAMPLE, ZERO"):
        AblationType["MEDIAN"]
    with pytest.raises(ValueError, match="has the value 'median'"):
        AblationType("median")


class CorruptMedian(AblationType):
    needs = "batch"

    def inputs(self, batch):
        return [batch.corrupt]

    def reduce(self, output, site):
        return output.median(0, keepdim=True).values


@dataclass(frozen=True)
class Constant(AblationType):
    needs = "nothing"
    constant: float = 3.0


class Largest(AblationType):
    """Over a dataset and its positions; of the heads, over those too."""

    needs = "dataset"

    def reduce(self, output, site):
        return output.amax((0, *site.position_axes(output)), keepdim=True)

    def combine(self, total, part):
        return torch.maximum(total, part)

    def finish(self, total):
        return total


class Flipped(AblationType):
    """Of another item of the batch."""

    def reduce(self, output, site):
        return output.flip(0)


def test_a_type_of_ones_own_is_one_class(mixer):
    pairs = sequences(7)
    loader = PairLoader(pairs, 3)
    clean, corrupt = sources_of(mixer, pairs.clean), sources_of(mixer, pairs.corrupt)
    found = src_ablations(mixer, SOURCES, pairs.corrupt, CorruptMedian())
    assert torch.allclose(found, corrupt.median(1, keepdim=True).values.expand_as(corrupt), atol=1e-6)
    assert torch.allclose(src_ablations(mixer, SOURCES, pairs.clean, Flipped()), clean.flip(1), atol=1e-6)
    assert (src_ablations(mixer, SOURCES, pairs.clean, Constant()) == 3).all()
    largest = clean.amax((1, 2), keepdim=True).expand(3, 1, 4, 8)
    assert torch.allclose(src_ablations(mixer, SOURCES, loader, Largest()), largest, atol=1e-6)
    by_batch = batch_src_ablations(mixer, SOURCES, loader, Largest())
    assert torch.allclose(by_batch[2], largest, atol=1e-6)
    for kind, batches in ((Largest(), loader), (CorruptMedian(), [pairs.corrupt]), (Constant(), ())):
        whole = gather(mixer, ["embed"], kind, batches)
        with torch.no_grad(), edit(mixer, edits(SOURCES[:1], whole)), capture(mixer, "embed") as seen:
            mixer(pairs.clean)
        sample = pairs.corrupt if kind.needs == "batch" else loader if kind.needs == "dataset" else pairs.clean
        assert torch.equal(seen["embed"], src_ablations(mixer, SOURCES[:1], sample, kind)[0].expand_as(seen["embed"]))
    assert [(kind.name, kind.value) for kind in (Largest(), Constant())] == [("Largest",) * 2, ("Constant",) * 2]
    assert Constant(2.0) == pickle.loads(pickle.dumps(Constant(2.0))) != Constant(1.0)
    assert list(AblationType) == ALL  # one's own is no eighth
    with pytest.raises(AttributeError, match="frozen"):
        Largest().needs = "batch"
    with pytest.raises(NotImplementedError, match="must say what stands in"):
        src_ablations(mixer, SOURCES, pairs.clean, type("Empty", (AblationType,), {})())
    with pytest.raises(ValueError, match="needs must be"):
        type("Wrong", (AblationType,), {"needs": "luck"})
    with pytest.raises(ValueError, match="cannot stand in"):
        src_ablations(
            mixer, SOURCES, pairs.clean, type("Half", (Flipped,), {"reduce": lambda s, o, _, __=None: o[:, :2]})()
        )


def test_resampled_sources_of_two_precisions_keep_every_item_apart():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4).double()

        def forward(self, x):
            return self.second(self.first(x).double())

    model, x = Mixed(), torch.randn(3, 4)
    found = src_ablations(model, [Site("first"), Site("second")], x, stack=True)
    assert torch.equal(found[0], model.first(x).double())
    assert torch.equal(found[1], model(x))


@pytest.mark.parametrize("kind", ALL, ids=str)
def test_every_type_is_what_it_says_on_a_model_that_writes_into_its_activations(mixer, kind):
    pairs = sequences()
    own = sources_of(mixer, pairs.clean)
    expected = {
        AblationType.RESAMPLE: own,
        AblationType.ZERO: own * 0,
        AblationType.BATCH_TOKENWISE_MEAN: own.mean(1, keepdim=True).expand_as(own),
        AblationType.BATCH_ALL_TOK_MEAN: own.mean((1, 2), keepdim=True).expand_as(own),
        AblationType.TOKENWISE_MEAN_CLEAN: own.mean(1, keepdim=True),
        AblationType.TOKENWISE_MEAN_CORRUPT: sources_of(mixer, pairs.corrupt).mean(1, keepdim=True),
        AblationType.TOKENWISE_MEAN_CLEAN_AND_CORRUPT: torch.cat([own, sources_of(mixer, pairs.corrupt)], 1).mean(
            1, keepdim=True
        ),
    }
    found = src_ablations(mixer, SOURCES, PairLoader(pairs, 3) if kind.needs == "dataset" else pairs.clean, kind)
    assert found.shape == expected[kind].shape
    assert torch.allclose(found, expected[kind], atol=1e-6)
    assert not found.requires_grad
    if kind is AblationType.RESAMPLE:
        assert found[0].min() < -0.1  # negative, as before the ReLU that was written over it
    others = [other for name, other in expected.items() if name is not kind and other.shape == found.shape]
    assert all((found - other).abs().max() > 1e-2 for other in others)  # the types can be told apart here
    assert mixer.training
    assert mixer.drop.training
    assert not any(module._forward_hooks for module in mixer.modules())


def test_dataset_means_know_neither_the_batch_size_nor_the_last_batch(mixer):
    pairs = sequences(7)
    for kind in DATASET:
        whole = src_ablations(mixer, SOURCES, PairLoader(pairs, 7), kind)
        for size in (1, 2, 3, 4):
            assert torch.allclose(src_ablations(mixer, SOURCES, PairLoader(pairs, size), kind), whole, atol=1e-6)
    first = src_ablations(mixer, SOURCES, PairLoader(pairs[:6], 3), DATASET[0])  # what dropping the rest would give
    assert (first - src_ablations(mixer, SOURCES, PairLoader(pairs, 3), DATASET[0])).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ALL, ids=str)
def test_every_batch_has_ablations_of_its_own_inputs_and_size(mixer, kind):
    loader = PairLoader(sequences(7), 3)
    for way in ("clean", "corrupt") if kind.needs == "batch" else (None,):
        found = batch_src_ablations(mixer, SOURCES, loader, kind, way)
        assert {key: value.shape for key, value in found.items()} == {
            key: (3, size, 4, 8) for key, size in ((0, 3), (1, 3), (2, 1))
        }
        if kind.needs == "batch":
            for batch in loader:
                assert torch.equal(found[batch.key], src_ablations(mixer, SOURCES, getattr(batch, way), kind))
    if kind.needs != "batch":
        assert torch.equal(found[0][:, :1], found[2])
    assert mixer.training


def test_ablations_by_source_replace_just_those_sources(mixer):
    pairs = sequences()
    mixer.eval()
    values = src_ablations(mixer, SOURCES[1:], pairs.corrupt)
    with torch.no_grad(), edit(mixer, edits(SOURCES[1:], values)):
        assert torch.allclose(mixer(pairs.clean), mixer(pairs.corrupt), atol=1e-6)  # both heads lead to the output
    with torch.no_grad(), edit(mixer, edits(SOURCES[1:2], values[:1])), capture(mixer, "heads") as seen:
        some = mixer(pairs.clean)
    assert torch.equal(seen["heads"][:, :, 1], values[0])
    assert (some - mixer(pairs.corrupt)).abs().max() > 1e-2
    by_site = src_ablations(mixer, SOURCES, pairs.corrupt, stack=False)
    with torch.no_grad(), edit(mixer, edits(SOURCES[:1], by_site)):
        assert torch.allclose(mixer(pairs.clean), mixer(pairs.corrupt), atol=1e-6)
    with pytest.raises(ValueError, match="row for each of the 2 sites"):
        edits(SOURCES[1:], values[:1])
    with pytest.raises(ValueError, match="as a whole and unit by unit"):
        edits([Site("heads", axis=2), Site("heads", 1, axis=2)], values)
    with pytest.raises(ValueError, match="cannot stand in"), edit(mixer, edits(SOURCES[1:], values[:, :3])):
        mixer(pairs.clean)


def test_sources_of_several_shapes_come_by_site_and_cannot_be_stacked(model):
    sites = [Site("0", 4), Site("0", 5), Site("7"), Site("9", 2)]
    for kind in AblationType:
        sample = PairLoader(Pairs(images(5), images(5, 2), torch.zeros(5)), 2) if kind.needs == "dataset" else images(5)
        found = src_ablations(model, sites, sample, kind)
        items = 1 if kind.needs == "dataset" else 5
        assert [tuple(found[site].shape) for site in sites] == [(items, 26, 26), (items, 26, 26), (items, 16), (items,)]
        with pytest.raises(ValueError, match=r"unequal shape.*'0' \(\d, 26, 26\), .*'7' \(\d, 16\), .*'9' \(\d,\)"):
            src_ablations(model, sites, sample, kind, stack=True)
    assert src_ablations(model, sites[:2], images(5), stack=True).shape == (2, 5, 26, 26)
    all_positions = src_ablations(model, sites[:1], images(5), AblationType.BATCH_ALL_TOK_MEAN)
    with torch.no_grad():
        assert torch.allclose(all_positions, model[0](images(5))[:, 4].mean(), atol=1e-6)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x))


class Pair(nn.Module):
    class Both(nn.Module):
        def forward(self, x):
            return x, 2 * x

    def __init__(self):
        super().__init__()
        self.pair = self.Both()

    def forward(self, x):
        return self.pair(x)[0]


class Counting(nn.Module):
    """Changes its own buffer even in eval mode, and stops when told to."""

    def __init__(self, last=10):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.last = last
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        if self.calls > self.last:
            raise RuntimeError("no more")
        return self.layer(x)


def test_the_model_is_left_as_it_was_after_an_error_too():
    for last in (10, 0):
        model = Counting(last).train()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with nullcontext() if last else pytest.raises(RuntimeError, match="no more"):
            src_ablations(model, [Site("layer")], torch.zeros(2, 4))
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert model.layer.training
        assert not model.layer._forward_hooks


def test_arguments_that_cannot_be_meant_are_refused(mixer):
    pairs = sequences()
    loader = PairLoader(pairs, 3)
    for kind in BATCH:
        for way in (None, "both"):
            with pytest.raises(ValueError, match="'clean' or 'corrupt'"):
                batch_src_ablations(mixer, SOURCES, loader, kind, way)
        with pytest.raises(ValueError, match="one batch of inputs; got a PairLoader"):
            src_ablations(mixer, SOURCES, loader, kind)
    for kind in (AblationType.ZERO, *DATASET):
        with pytest.raises(ValueError, match="does not take clean_corrupt"):
            batch_src_ablations(mixer, SOURCES, loader, kind, "clean")
    for kind in DATASET:
        with pytest.raises(ValueError, match=r"give a PairLoader; got a tensor \(7, 4, 5\)"):
            src_ablations(mixer, SOURCES, pairs.clean, kind)
    with pytest.raises(ValueError, match="need a PairLoader; got a list"):
        batch_src_ablations(mixer, SOURCES, [pairs.clean], AblationType.ZERO)
    with pytest.raises(ValueError, match="takes batches of inputs"):
        gather(mixer, ["embed"], AblationType.RESAMPLE, loader)
    with pytest.raises(ValueError, match="at least one source"):
        src_ablations(mixer, [], pairs.clean)
    with pytest.raises(ValueError, match="1 item or more"):
        src_ablations(mixer, SOURCES, pairs.clean[:0])
    with pytest.raises(KeyError, match="nearest: embed"):
        src_ablations(mixer, [Site("embedding")], pairs.clean)
    with pytest.raises(ValueError, match="units 0 to 1 on axis 2; got 2"):
        src_ablations(mixer, [Site("heads", 2, axis=2)], pairs.clean)
    with pytest.raises(ValueError, match="no axis 3"):
        src_ablations(mixer, [Site("embed", 0, axis=3)], pairs.clean)
    for name, times in (("layer", 2), ("idle", 0)):
        with pytest.raises(ValueError, match=f"'{name}' must run once .* ran {times} times"):
            src_ablations(Shared(), [Site(name)], torch.zeros(2, 4))
    first, second = (src_ablations(Pair(), [Site("pair", item=item)], torch.ones(2, 4)) for item in (None, 1))
    assert torch.equal(first, src_ablations(Pair(), ["pair"], torch.ones(2, 4)))
    assert not torch.equal(first, second)
    with pytest.raises(TypeError, match="item="):
        src_ablations(Pair(), [Site("pair", item=2)], torch.zeros(2, 4))
    with pytest.raises(ValueError, match="one shape"):
        gather(mixer, ["embed"], DATASET[0], [pairs.clean, pairs.clean[:, :3]])
    assert mixer.training
    assert not any(module._forward_hooks for module in mixer.modules())


def test_a_batch_mean_of_a_module_is_that_of_each_batch(mixer):
    pairs = sequences(7)
    values = gather(mixer, ["embed"], AblationType.BATCH_TOKENWISE_MEAN, pairs.clean.split(4))["embed"]
    own = sources_of(mixer, pairs.clean)[0]
    assert torch.allclose(values[:4], own[:4].mean(0), atol=1e-6)
    assert torch.allclose(values[4:], own[4:].mean(0), atol=1e-6)
    means = gather(mixer, ["embed"], AblationType.TOKENWISE_MEAN_CORRUPT, PairLoader(pairs, 4))["embed"]
    assert torch.allclose(means, sources_of(mixer, pairs.corrupt)[0].mean(0, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("kind", ALL, ids=str)
def test_a_source_that_puts_out_its_own_weight_is_copied(kind):
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 8))

        def forward(self, x):
            return self.weight.expand(len(x), -1, -1)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions, self.embed = Positions(), nn.Linear(5, 8)

        def forward(self, x):
            return self.embed(x) + self.positions(x)

    model, pairs, sites = Model(), sequences(), [Site("positions", axis=-1), Site("embed")]
    sample = PairLoader(pairs, 3) if kind.needs == "dataset" else pairs.clean
    found = src_ablations(model, sites, sample, kind)
    batches = sample if kind.needs == "dataset" else [sample]
    whole = gather(model, sites[:1], kind, batches)[sites[0]]
    before = found.clone()
    assert not found.requires_grad
    assert not whole.requires_grad
    with torch.no_grad():
        model.positions.weight.fill_(100)
    assert torch.equal(found, before)
    assert whole.max() < 50
