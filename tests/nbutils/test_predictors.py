"""Attribution of units: exact before a linear readout, complete along the way; gradients of `capture`."""

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.ablation.types import AblationType

KINDS = [AblationType.ZERO, AblationType.RESAMPLE, AblationType.TOKENWISE_MEAN_CLEAN, AblationType.MEAN]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Head(nn.Module):
    """A layer of units at several positions, and a readout that is linear, or is not."""

    def __init__(self, linear=True):
        super().__init__()
        torch.manual_seed(0)
        self.unit, self.drop, self.out = nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)
        self.read = nn.Identity() if linear else nn.Tanh()
        self.double()

    def forward(self, x):  # [items, positions, 4]
        return self.out(self.read(self.drop(self.unit(x))).mean(1))


def pairs(n=7, size=3):
    return nb.PairLoader(nb.Pairs(normal(n, 2, 4), normal(n, 2, 4, seed=1), torch.arange(n) % 3), size)


def first(output, batch):
    return output[:, 0]


def exact(model, sites, kind, loader=None):
    """Return the change of `first` when each site alone is replaced, by plain edits."""
    loader = loader or pairs()
    changes = []
    for site in sites:
        total = 0.0
        for batch in loader:
            whole = loader if kind.needs == "dataset" else kind.inputs(batch)
            values = nb.gather(model, [site], kind, whole)
            with torch.no_grad():
                before = model.eval()(batch.clean)
                with nb.edit(model, nb.edits([site], values)):
                    total += (model(batch.clean) - before)[:, 0].sum().item()
        changes.append(total / len(loader.pairs))
    return torch.tensor(changes, dtype=torch.float64)


def found(frame):
    return torch.tensor(frame["value"].to_numpy())


SITES = [nb.Site("unit", unit) for unit in range(5)]


@pytest.mark.parametrize("kind", [*KINDS, nb.Optimal(steps=15)], ids=str)
def test_attribution_is_the_exact_effect_where_the_readout_is_linear_and_is_not_where_it_is_not(kind):
    for linear in (True, False):
        model = Head(linear).train()
        wanted = exact(model, SITES, kind)
        model.train()
        frame = nb.attribute(model, ["unit"], pairs(), first, kind)
        assert frame.columns.tolist() == ["site", "unit", "metric", "value", "n"]
        assert frame["unit"].tolist() == list(range(5))
        assert set(frame["n"]) == {7}
        assert ((found(frame) - wanted).abs().max() < 1e-9) == linear
        assert model.drop.training
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_integrated_gradients_of_a_layer_add_up_to_the_effect_of_replacing_it(kind):
    model = Head(linear=False)
    whole = exact(model, [nb.Site("unit")], kind)
    assert whole.abs() > 5e-3
    apart = [
        (
            found(nb.attribute(model, ["unit"], pairs(), first, kind, method="integrated", steps=steps)).sum() - whole
        ).abs()
        for steps in (4, 8, 64)
    ]
    assert apart[2] < 1e-5
    assert apart[0] > 3 * apart[1] > 9 * apart[2]  # the midpoint rule: four times less for twice the points
    gradient = found(nb.attribute(model, ["unit"], pairs(), first, kind)).sum()
    assert (gradient - whole).abs() > 10 * apart[1]
    # Of one unit alone the way is its own: its sum of one is its effect.
    alone = found(nb.attribute(model, SITES[2:3], pairs(), first, kind, method="integrated", steps=64))
    torch.testing.assert_close(alone, exact(model, SITES[2:3], kind), rtol=0, atol=1e-5)


def test_groups_and_several_metrics_and_items_that_do_not_count():
    model, loader = Head(), pairs()
    groups = [nb.Site("unit", slice(0, 2)), nb.Site("unit", (4, 2))]
    metrics = {"first": first, "second": lambda output, batch: (output[:, 1], batch.pairs.labels == 1)}
    frame = nb.attribute(model, groups, loader, metrics)
    each = nb.attribute(model, ["unit"], loader, metrics).set_index(["metric", "unit"])["value"]
    for name in metrics:
        wanted = [each[name][0] + each[name][1], each[name][4] + each[name][2]]
        assert frame[frame.metric == name]["value"].tolist() == pytest.approx(wanted)
    assert frame.groupby("metric")["n"].first().to_dict() == {"first": 7, "second": 2}


@pytest.mark.parametrize("kind", [*KINDS, nb.Optimal(steps=15)], ids=str)
def test_attribution_has_the_rows_of_a_sweep_and_predicts_its_changes(kind):
    model, loader, sites = Head(), pairs(), {"layer": "unit", "head": nb.Site("unit", slice(2, 4), axis=2)}
    if isinstance(kind, nb.Optimal):  # of each site alone: a unit has one value in a call
        with pytest.raises(ValueError, match=r"OPTIMAL is found for each site alone, .* share units"):
            nb.sweep(model, sites, loader, first, kind)
        sites = {"layer": nb.Site("unit", slice(0, 2)), "one": nb.Site("unit", 4, axis=2)}
    swept, frame = nb.sweep(model, sites, loader, first, kind), nb.attribute(model, sites, loader, first, kind)
    keys = ["site", "unit", "metric", "n"]
    assert swept[keys].equals(frame[keys])
    with torch.no_grad():
        intact = model.eval()(loader.pairs.clean)[:, 0].mean().item()
    torch.testing.assert_close(found(swept) - intact, found(frame), rtol=0, atol=1e-9)


def test_baselines_have_the_rows_of_a_sweep_and_know_nothing_of_the_metric():
    model, loader = Head(), pairs()
    size = nb.attribute(model, ["unit"], loader, first, method="magnitude")
    with torch.no_grad():
        wanted = model.unit(loader.pairs.clean).abs().mean((0, 1))
    torch.testing.assert_close(found(size), wanted)
    drawn = [nb.attribute(model, ["unit"], loader, first, method="random", seed=seed) for seed in (0, 0, 1)]
    assert drawn[0].equals(drawn[1])
    assert not drawn[0].equals(drawn[2])
    keys = ["site", "unit", "metric", "n"]
    gradient = nb.attribute(model, ["unit"], loader, first)
    assert size[keys].equals(gradient[keys])
    assert drawn[0][keys].equals(gradient[keys])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_where_they_are_switched_off(mode):
    model, loader = Head(linear=False), pairs()
    wanted = nb.attribute(model, "unit", loader, first, nb.Optimal(steps=3))
    with mode():
        x = normal(7, 2, 4) * 1.0
        loader = nb.PairLoader(nb.Pairs(x, x, torch.zeros(7)), 3)
        assert wanted.equals(nb.attribute(model, "unit", loader, first, nb.Optimal(steps=3)))


def test_what_cannot_be_attributed_is_refused():
    model, loader = Head(), pairs()
    with pytest.raises(ValueError, match=r"'accuracy' has no gradient: .*nb\.cross_entropy"):
        nb.attribute(model, ["unit"], loader, nb.accuracy())
    with pytest.raises(ValueError, match="least there: its gradient is 0"):
        nb.attribute(model, ["unit"], loader, nb.divergence())
    assert (nb.attribute(model, ["unit"], loader, nb.divergence(), method="integrated")["value"] > 0).any()
    with pytest.raises(ValueError, match="method is one of 'gradient'"):
        nb.attribute(model, ["unit"], loader, first, method="saliency")
    with pytest.raises(ValueError, match="steps must be 1 or more"):
        nb.attribute(model, ["unit"], loader, first, method="integrated", steps=0)
    with pytest.raises(KeyError, match="nearest: unit"):
        nb.attribute(model, ["units"], loader, first)

    class Twice(Head):
        def forward(self, x):
            return super().forward(x) + self.out(self.unit(x)).mean(1)

    with pytest.raises(ValueError, match="must run once"):
        nb.attribute(Twice(), ["unit"], loader, first)

    class Cut(Head):
        def forward(self, x):
            return self.out(self.read(self.unit(x).detach()).mean(1)) + 0 * self.drop(x).sum()

    with pytest.raises(ValueError, match="there is no gradient, and what lies there changes it"):
        nb.attribute(Cut(), ["unit"], loader, first)
    tokens = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(TypeError, match="only floating-point"):
        nb.attribute(tokens, [nb.Site("0", part="input", axis=1)], [torch.ones(3, 2).long()], first)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.lstm(x)[0][:, -1])


def encoder():
    layer = nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", batch_first=True)
    return nn.Sequential(nn.Linear(3, 4), nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(20, 2)).eval()


def gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=11, n_positions=8)
    return transformers.GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize(
    ("make", "place", "batch"),
    [
        (Recurrent, "lstm", normal(6, 5, 3)),
        (encoder, "1.layers.0", normal(6, 5, 3)),
        (encoder, "1.layers.1.linear1", normal(6, 5, 3)),
        (gpt2, nb.Site("transformer.h.0.attn.c_proj", part="input"), torch.arange(30).view(6, 5) % 11),
        (gpt2, "transformer.h.1.mlp", torch.arange(30).view(6, 5) % 11),
    ],
)
def test_captured_activations_have_gradients(make, place, batch):
    """The gradient at what is captured is the limit of (metric after a small push − metric) / push."""
    torch.manual_seed(0)
    model = make().double()

    def metric():
        answer = model(batch)
        return (answer if isinstance(answer, torch.Tensor) else answer.logits).flatten(1)[:, 0].sum()

    with nb.capture(model, place) as seen:
        (gradient,) = torch.autograd.grad(metric(), seen[place])
        activation = seen[place].detach()
    push = 1e-4 * normal(*activation.shape)
    with torch.no_grad():
        changed = []
        for sign in (1, -1):
            with nb.edit(model, {place: lambda tensor, sign=sign: tensor + sign * push}):
                changed.append(metric())
    assert gradient.abs().max() > 1e-6
    torch.testing.assert_close((gradient * push).sum(), (changed[0] - changed[1]) / 2, rtol=1e-4, atol=1e-12)
