"""The mean over a dataset and its positions, the optimal constant, and types of one's own."""

import copy
import math
import pickle
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.ablation.optimal import OPTIMAL, Optimal
from nbutils.ablation.types import AblationType

MEAN = AblationType.MEAN


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", [MEAN, OPTIMAL], ids=str)
def test_the_types_beside_the_seven_are_found_by_name_and_value_and_are_one_object(kind):
    assert AblationType[kind.name] is AblationType(kind.value) is getattr(AblationType, kind.name) is kind
    assert pickle.loads(pickle.dumps([kind]))[0] is copy.deepcopy(kind) is kind
    assert str(kind) == f"AblationType.{kind.name}"
    assert kind not in list(AblationType)  # iteration gives the seven of the source document
    assert len(AblationType) == 7
    with pytest.raises(AttributeError):
        kind.needs = "nothing"


class Tokens(nn.Module):
    """Sequences of any length: numbers -> `[items, positions, 3]` -> one number per item."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Linear(2, 3), nn.Linear(3, 1)
        self.double()

    def forward(self, x, mask=None):
        return self.out(self.embed(x).relu().mean(1))


def test_the_mean_is_over_items_and_positions_of_batches_of_any_length():
    model, ragged = Tokens().train(), [normal(4, 5, 2), normal(3, 2, 2, seed=1), normal(1, 7, 2, seed=2)]
    every = torch.cat([model.embed(x).flatten(0, 1) for x in ragged]).detach()
    sites = [nb.Site("embed"), nb.Site("embed", 1), nb.Site("embed", slice(0, 2))]
    values = nb.gather(model, sites, MEAN, ragged)
    assert [tuple(values[site].shape) for site in sites] == [(1, 1, 3), (1, 1), (1, 1, 2)]
    torch.testing.assert_close(values[sites[0]][0, 0], every.mean(0))
    torch.testing.assert_close(values[sites[1]][0, 0], every.mean(0)[1])
    assert not torch.allclose(every.mean(0), torch.stack([model.embed(x).mean((0, 1)) for x in ragged]).mean(0))
    for x in ragged:  # one value fits every length
        with nb.edit(model, nb.edits(sites[1:2], values)), nb.capture(model, "embed") as seen:
            model(x)
        assert (seen["embed"][..., 1] == values[sites[1]]).all()
    with pytest.raises(ValueError, match="one shape"):  # a mean of each position needs it
        nb.gather(model, sites, AblationType.TOKENWISE_MEAN_CLEAN, ragged)
    assert model.training


def test_the_mean_leaves_out_what_does_not_count():
    model = Tokens()
    lengths = torch.tensor([[3, 1, 4], [2, 2, 1]])
    data = [
        {"x": normal(3, 5 - i, 2, seed=i), "mask": torch.arange(5 - i) < length[:, None]}
        for i, length in enumerate(lengths)
    ]
    counted = torch.cat([model.embed(batch["x"])[batch["mask"]] for batch in data]).detach().mean(0)
    for spoiled in (0.0, math.inf):  # what is padded may be anything
        told = [{**b, "x": b["x"].masked_fill(~b["mask"][..., None], spoiled)} for b in data]
        torch.testing.assert_close(nb.gather(model, ["embed"], MEAN, told, where="mask")["embed"][0, 0], counted)
    assert not torch.allclose(nb.gather(model, ["embed"], MEAN, data)["embed"][0, 0], counted)


class Gated(nn.Module):
    """Units `h = x`, two of them, each times a gate of its own that the input holds too; the answer is their sum."""

    def __init__(self):
        super().__init__()
        self.h, self.norm, self.read = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, affine=False), nn.ReLU()
        nn.init.eye_(self.h.weight)
        self.double()

    def forward(self, x, gate):
        return (self.h(x) * gate).sum(1, keepdim=True)


def test_the_optimal_constant_of_a_gated_unit_is_the_weighted_mean_and_every_other_value_does_worse():
    model, x, gate = Gated().train(), normal(40, 2) + 1, (normal(40, 2, seed=1) + normal(40, 2)).exp()
    sites = [nb.Site("h", 0), nb.Site("h", 1)]
    kind = Optimal(loss="squared", steps=200)
    data = [(x[:25], gate[:25]), (x[25:], gate[25:])]
    model.h.weight.grad = torch.ones(2, 2).double()
    found = nb.gather(model, sites, kind, data)
    wanted = (gate.square() * x).sum(0) / gate.square().sum(0)  # of Σ gate² (x − a)²
    torch.testing.assert_close(torch.cat([found[site] for site in sites]), wanted, rtol=0, atol=1e-3)
    others = [nb.gather(model, sites, other, [(x, gate)]) for other in (MEAN, AblationType.ZERO)]
    others.append(nb.gather(model, sites, AblationType.RESAMPLE, [(x.flip(0), gate.flip(0))]))

    def loss(values, site):
        with torch.no_grad(), nb.edit(model.eval(), nb.edits([site], values)):
            after = model(x, gate)
        return (after - (x * gate).sum(1, keepdim=True)).square().mean().item()

    assert all(loss(found, site) < loss(other, site) - 1e-2 for other in others for site in sites)
    assert model.h.weight.requires_grad
    assert (model.h.weight.grad == 1).all()
    assert not any(module._forward_hooks for module in model.modules())
    # Alone and together, in one batch and in several: each unit has its own constant.
    for again in (replace(kind, fold=1), kind):
        alone = nb.gather(model, sites[1:], again, [(x, gate)])
        torch.testing.assert_close(alone[sites[1]], found[sites[1]], rtol=0, atol=1e-6)
    assert torch.equal(found[sites[0]], nb.gather(model, sites, kind, data)[sites[0]])  # no random number


def test_the_optimal_constant_of_logits_is_the_mean_of_the_probabilities():
    """argmin_a Σ KL(p_i ‖ softmax(a)) has softmax(a) = the mean of p_i: the default loss."""
    model, logits = nn.Identity(), 3 * normal(30, 4)
    logits[:, 3] = -50.0
    found = nb.gather(model, [""], replace(OPTIMAL, steps=400), [logits])[""]
    wanted = logits.softmax(1).mean(0)
    torch.testing.assert_close(found.softmax(1)[0], wanted, rtol=0, atol=1e-3)
    mean = nb.gather(model, [""], MEAN, [logits])[""]
    assert (mean.softmax(1)[0] - wanted).abs().max() > 0.05


def test_the_optimal_constant_of_absolute_loss_is_the_median_and_depends_on_the_readout():
    x = normal(41, 1).exp() - 1

    class Rectified(nn.Module):
        def __init__(self):
            super().__init__()
            self.unit = nn.Identity()

        def forward(self, x):
            return self.unit(x.clone()).relu_()

    def absolute(output, batch):
        return (output - batch)[:, 0].abs()

    median = nb.gather(nn.Identity(), [""], Optimal(loss=absolute, steps=300), [x])[""]
    torch.testing.assert_close(median, x.median().view(1, 1), rtol=0, atol=5e-3)
    # Behind a ReLU the squared difference is least where relu(a) = E relu(x), which is above E x.
    least = nb.gather(Rectified(), ["unit"], Optimal(loss="squared", steps=300), [x])["unit"]
    torch.testing.assert_close(least, x.relu().mean().view(1, 1), rtol=0, atol=1e-3)
    assert (x.relu().mean() - x.mean()) > 0.1


def test_the_optimal_constant_never_loses_more_than_the_mean():
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)), 3 * torch.randn(32, 3)
    model[2].weight.data *= 5
    sites = [nb.Site("1", unit) for unit in range(6)] + [nb.Site("1"), nb.Site("1", slice(1, 4))]
    intact = model(x).detach().log_softmax(1)
    mean = nb.gather(model, sites, MEAN, [x])

    def loss(values, site):
        with torch.no_grad(), nb.edit(model, nb.edits([site], {site: values[site]})):
            return (intact.exp() * (intact - model(x).log_softmax(1))).sum(1).mean().item()

    for steps in (0, 1, 50):
        for rate in (0.1, 100.0):  # a rate that overshoots, too
            found = nb.gather(model, sites, replace(OPTIMAL, steps=steps, rate=rate), [x])
            assert all(loss(found, site) <= loss(mean, site) + 1e-7 for site in sites)
            if not steps:
                assert all(torch.equal(found[site], mean[site]) for site in sites)
    found = nb.gather(model, sites, OPTIMAL, [x])
    assert all(loss(found, site) < loss(mean, site) - 1e-4 for site in sites)


def test_the_optimal_constant_is_one_for_all_positions_or_one_for_each_and_padding_does_not_count():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Identity()

        def forward(self, x, mask):
            return self.logits(x)

    model, x = Language(), 2 * normal(20, 3, 4)
    mask = torch.ones(20, 3, dtype=torch.bool)
    mask[10:, 2] = False
    batch, kind, place = {"x": x, "mask": mask}, replace(OPTIMAL, steps=300), nb.Site("logits", axis=2)
    shared = nb.gather(model, [place], kind, [batch], where="mask")[place]
    torch.testing.assert_close(shared.softmax(-1)[0, 0], x[mask].softmax(-1).mean(0), rtol=0, atol=1e-3)
    own = nb.gather(model, [place], replace(kind, tokenwise=True), [batch], where="mask")[place]
    assert (shared.shape, own.shape) == ((1, 1, 4), (1, 3, 4))
    torch.testing.assert_close(own.softmax(-1)[0, 2], x[:10, 2].softmax(-1).mean(0), rtol=0, atol=1e-3)


def test_what_has_no_optimal_constant_is_refused():
    x = torch.randn(6, 3)
    with pytest.raises(ValueError, match="loss='kl' needs logits"):
        nb.gather(nn.Linear(3, 1), [""], OPTIMAL, [x])
    with pytest.raises(ValueError, match="no gradient: write it without argmax"):
        nb.gather(nn.Linear(3, 2), [""], Optimal(loss=lambda out, _: out.argmax(1) * 1.0), [x])
    with pytest.raises(ValueError, match="one number per item"):
        nb.gather(nn.Linear(3, 2), [""], Optimal(loss=lambda out, _: out.sum()), [x])
    with pytest.raises(ValueError, match=r"torch.int64: only of floating"):
        nb.gather(nn.Embedding(4, 2), [nb.Site("", part="input", axis=1)], OPTIMAL, [torch.ones(3, 2).long()])
    with pytest.raises(ValueError, match="needs inputs"):
        nb.gather(nn.Linear(3, 2), [""], OPTIMAL, [])
    with pytest.raises(ValueError, match="steps must be 0 or more"):
        Optimal(steps=-1)
    with pytest.raises(ValueError, match="loss is 'kl'"):
        Optimal(loss="mse")

    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.unit, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            self.idle(x)
            return self.unit(x).detach()

    with pytest.raises(ValueError, match="there is no gradient"):
        nb.gather(Cut(), ["unit"], OPTIMAL, [x])
    model = Cut()  # what nothing reads loses nothing
    assert torch.equal(nb.gather(model, ["idle"], OPTIMAL, [x])["idle"], nb.gather(model, ["idle"], MEAN, [x])["idle"])


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.block, self.head = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = self.embed(x)
        return self.head(h + self.block(h))


class DatasetMedian(AblationType):
    """The median over a dataset: contributions are the outputs themselves."""

    needs = "dataset"

    def reduce(self, output, site, where=None):
        return output.clone()

    def combine(self, total, part):
        return torch.cat([total, part])

    def finish(self, total):
        return total.median(0, keepdim=True).values


@dataclass(frozen=True)
class BatchQuantile(AblationType):
    q: float = 0.5

    def reduce(self, output, site, where=None):
        return output.quantile(self.q, 0, keepdim=True)


@pytest.mark.parametrize("kind", [DatasetMedian(), BatchQuantile(0.5), MEAN, replace(OPTIMAL, steps=20)], ids=str)
def test_every_type_goes_wherever_a_type_does(kind):
    model, x = Residual(), torch.randn(9, 2, generator=torch.Generator().manual_seed(2))
    pairs = nb.PairLoader(nb.Pairs(x, x.flip(0), torch.zeros(9)), 9)
    sites = [nb.Site("embed"), nb.Site("block")]
    sample = pairs if kind.needs == "dataset" else x
    values = nb.gather(model, sites, kind, pairs if kind.needs == "dataset" else [x])
    rows = nb.src_ablations(model, sites, sample, kind)
    by_batch = nb.batch_src_ablations(model, sites, pairs, kind, "clean" if kind.needs == "batch" else None)
    for i, site in enumerate(sites):
        assert torch.equal(rows[i].expand(9, 4), values[site].expand(9, 4))
        assert torch.equal(by_batch[0][i], values[site].expand(9, 4))
    with torch.no_grad():
        activation = model.embed(x)
    if kind is not MEAN and not isinstance(kind, Optimal):
        torch.testing.assert_close(values[sites[0]][:1], activation.median(0, keepdim=True).values)
    graph = nb.residual_graph(model, x, embedding="embed", branch="block", blocks=1, head="head")
    task = nb.EdgeTask(model, graph, pairs, kind, lambda logits, batch: logits[:, 0].square())
    with torch.no_grad():  # one edge by hand
        after = model.head(values[sites[0]] + model.block(activation))
        by_hand = (after.square() - model(x).square())[:, 0].mean()
    scores = dict(zip(graph.edges, nb.exact_scores(task), strict=True))
    torch.testing.assert_close(scores["embedding", "logits"].float(), by_hand)
    assert by_hand.abs() > 1e-3

    # One unit alone, by hand, in a sweep; and to first order.
    def metric(logits, batch):
        return logits[:, 0]

    unit = nb.Site("block", 1)
    with (
        torch.no_grad(),
        nb.edit(model, nb.edits([unit], nb.gather(model, [unit], kind, pairs if sample is pairs else [x]))),
    ):
        after = model(x)[:, 0].mean()
    swept = nb.sweep(model, "block", pairs, metric, kind)
    predicted = nb.attribute(model, "block", pairs, metric, kind)
    torch.testing.assert_close(torch.tensor(swept.value[1]).float(), after)
    torch.testing.assert_close(torch.tensor(predicted.value[1]).float(), after - model(x)[:, 0].mean())
    again = pickle.loads(pickle.dumps(kind))
    assert again == kind or type(again) is type(kind)
