import threading
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nbutils import batches
from nbutils.ablation.edits import edits
from nbutils.ablation.running import answer
from nbutils.ablation.sources import src_ablations
from nbutils.ablation.types import AblationType
from nbutils.ablation.values import gather
from nbutils.hooks import edit
from nbutils.sites import Site


class _Several(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x, 2 * x)


class _Named(NamedTuple):
    loss: torch.Tensor
    logits: torch.Tensor


def test_the_answer_is_the_tensor_or_the_logits_or_the_only_tensor():
    x = torch.ones(2, 3)
    for make in (
        lambda a, b: b,
        lambda a, b: {"hidden": a, "logits": b},
        lambda a, b: _Named(a, b),
        lambda a, b: (b, None, [a]),
        lambda a, b: {"hidden": None, "out": b},
    ):
        assert torch.equal(answer(_Several(make), x), 2 * x)
    assert torch.equal(answer(_Several(lambda a, b: (a, b)), x, item=1), 2 * x)
    for make, told in ((lambda a, b: (a, b), "0, 1"), (lambda a, b: {"a": a, "b": b}, "'a', 'b'")):
        with pytest.raises(TypeError, match=f"tensors at {told}: give item="):
            answer(_Several(make), x)
    with pytest.raises(TypeError, match="with no tensor"):
        answer(_Several(lambda a, b: None), x)
    with pytest.raises(TypeError, match="tensors at 'a'"):
        answer(_Several(lambda a, b: {"a": a}), x, item="b")


RESAMPLE = AblationType.RESAMPLE


class _Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(self.layer(x).tanh())


def test_a_run_of_several_is_gathered_by_its_call():
    model, x = _Twice(), torch.randn(4, 3)
    sites = [Site("layer", 1, call=call) for call in (0, 1)]
    values = gather(model, sites, RESAMPLE, [x])
    first = model.layer(x).detach()
    second = model.layer(first.tanh()).detach()
    assert torch.equal(values[sites[0]], first[:, 1])
    assert torch.equal(values[sites[1]], second[:, 1])
    assert torch.equal(src_ablations(model, sites, x), torch.stack(list(values.values())))
    twin = torch.randn(4, 3)
    with edit(model, edits(sites[:1], gather(model, sites[:1], RESAMPLE, [twin]))):
        got = model(x)
    first[:, 1] = model.layer(twin)[:, 1].detach()
    assert torch.allclose(got, model.layer(first.tanh()), atol=1e-6)
    for call, told in (
        (None, r"ran 2 times: give Site\('layer', call=…\), 0 to 1"),
        (2, "no call 2"),
        ("every", "one run"),
    ):
        with pytest.raises(ValueError, match=told):
            gather(model, [Site("layer", call=call)], RESAMPLE, [x])


def test_items_that_lie_on_another_axis_are_refused_by_their_values_too():
    torch.manual_seed(0)
    x = torch.randn(3, 3, 4)
    for batch_first in (True, False):
        model = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(4, 2, 8, batch_first=batch_first), 2, enable_nested_tensor=False
        )
        call = lambda: gather(model, ["layers.1.linear1"], RESAMPLE, [x])  # noqa: E731, B023
        if batch_first:
            assert call()["layers.1.linear1"].shape == (3, 3, 8)
        else:  # positions attend to each other
            with pytest.raises(ValueError, match="other values for 2 items alone than for the same among 3"):
                call()


def test_a_module_that_never_runs_is_refused_with_what_may_be_the_reason():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    with pytest.raises(ValueError, match=r"'attention.out_proj' .* ran 0 times: .* its weight directly"):
        gather(Attending(), ["attention.out_proj"], RESAMPLE, [torch.randn(2, 3, 4)])


def test_values_of_other_items_are_refused_and_those_of_what_all_share_fit():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), torch.randn(5, 3)
    for site in (Site("0"), Site("0", 1)):
        values = gather(model, [site], RESAMPLE, [x])
        with pytest.raises(ValueError, match=r"values of 5 items .* the output of '0' in a pass of 2"):  # noqa: SIM117
            with edit(model, edits([site], values)):
                model(x[:2])
    with pytest.raises(ValueError, match=r"a value \(3,\) cannot stand in for \(5, 3\)"):  # noqa: SIM117
        with edit(model, edits(["0"], {"0": torch.ones(3)})):
            model(x)

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.places = nn.Embedding(7, 3)

        def forward(self, x):
            return x + self.places(torch.arange(7)[None])

    model, x = Positions(), torch.randn(4, 7, 3)
    for site in (Site("places"), Site("places", 1)):
        with edit(model, edits([site], gather(model, [site], RESAMPLE, [x]))):
            assert torch.equal(model(x), model.forward(x))
        with edit(model, edits([site], {site: torch.randn(4, *x.shape[1 : 3 - (site.unit is not None)])})):  # noqa: SIM117
            with pytest.raises(ValueError, match=r"values of 4 items .* in a pass of 1"):
                model(x)


def test_a_batch_that_the_model_does_not_take_is_named():
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.randn(4, 3)
    loader = DataLoader(TensorDataset(x, torch.zeros(4)), 2)
    with pytest.raises(TypeError, match=r"Sequential's forward takes \(input\).* 2 parts.*\[x for x, _ in loader\]"):
        gather(model, ["0"], RESAMPLE, loader)
    with pytest.raises(TypeError, match="nearest: input"):
        gather(model, ["0"], RESAMPLE, [{"inputs": x}])
    mixed = (x, [x, {"mask": x[:, 0]}], 1.5)
    assert batches.count(mixed) == 4
    half = batches.select(mixed, slice(2))
    assert torch.equal(half[1][1]["mask"], x[:2, 0])
    assert half[2] == 1.5
    with pytest.raises(ValueError, match=r"argument 1\[1\]: 2"):
        batches.count((x, [x, x[:2]]))


def test_runners_of_several_threads_see_their_own_passes():
    model, found = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval(), {}

    def work(i):
        x = torch.full((3, 3), float(i))
        found[i] = all(
            torch.equal(gather(model, ["0"], RESAMPLE, [x])["0"], model[0].forward(x).detach()) for _ in range(20)
        )

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), True)


def test_a_state_of_all_layers_is_no_tensor_that_all_items_share():
    model, x = nn.Sequential(nn.GRU(3, 4, batch_first=True)), torch.randn(3, 5, 3)
    assert gather(model, ["0"], RESAMPLE, [x])["0"].shape == (3, 5, 4)
    for items in (3, 1):
        with pytest.raises(ValueError, match=rf"\(1, {items}, 4\) for {items} items and \(1, 2, 4\) for 2"):
            gather(nn.Sequential(_Last()), ["0.state"], RESAMPLE, [x[:items]])


class _Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.state = nn.GRU(3, 4, batch_first=True), nn.Identity()

    def forward(self, x):
        return self.state(self.rnn(x)[1])[-1]
