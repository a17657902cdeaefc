from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from nbutils.sites import Site, submodule


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))


def test_a_site_finds_its_module_and_names_near_misses(model):
    assert (submodule(model, "3"), submodule(model, "")) == (model[3], model)
    with pytest.raises(KeyError, match="nearest: 0"):
        Site("0.0").on(model)
    model.alias = model[0]
    assert submodule(model, "alias") is model[0]


def test_the_axis_of_units_is_what_the_module_says(model):
    class Norm2d(nn.LayerNorm):  # over channels, as some vision models have it
        def forward(self, x):
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)

    parts = nn.ModuleDict(
        {
            "norm": Norm2d(4),
            "plain": nn.LayerNorm(4),
            "image": nn.LayerNorm([4, 5, 5]),
            "act": nn.ReLU(),
            "pool": nn.MaxPool2d(2),
        }
    )
    said = {name: Site(name).on(parts).axis for name in parts}
    attention = nn.ModuleDict({"a": nn.MultiheadAttention(4, 2, batch_first=True)})
    assert [Site("a", item=item).on(attention).axis for item in (None, 0, 1)] == [-1, -1, None]
    assert said == {"norm": None, "plain": -1, "image": None, "act": None, "pool": 1}
    assert (Site("0").on(model).axis, Site("3").on(model).axis) == (1, -1)
    assert Site("0", axis=3).on(model).axis == 3  # one's own counts
    with pytest.raises(ValueError, match=r"on which axis of \(2, 3, 4\)"):
        Site("act", 0).select(torch.zeros(2, 3, 4))
    for kind in (nn.LSTM, nn.GRU):
        with pytest.raises(ValueError, match="batch_first"):
            Site("rnn").on(nn.ModuleDict({"rnn": kind(2, 3)}))
        assert Site("rnn").on(nn.ModuleDict({"rnn": kind(2, 3, batch_first=True)})).axis == -1


def test_groups_inputs_and_items():
    x = torch.arange(24.0).view(2, 3, 4)
    group = Site("a", slice(1, 3), -1)
    assert torch.equal(group.select(x), x[..., 1:3])
    assert torch.equal(Site("a", (2, 0), -1).select(x), x[..., [2, 0]])
    changed = group.exchange(x, torch.zeros(2, 3, 2))
    assert (changed[..., 1:3] == 0).all()
    assert torch.equal(changed[..., [0, 3]], x[..., [0, 3]])
    assert Site("a", torch.tensor([1, 2])) == Site("a", [1, 2]) != Site("a", slice(1, 3))
    for bad in ([], [1, 1], [-1], slice(1, None), "1", 1.5):
        with pytest.raises(ValueError, match="unit"):
            Site("a", bad)
    pair, table = (x, x + 1), {"hidden": x, "loss": x.mean()}
    assert Site("a").take(pair) is x
    first, second = Site("a", item=1).put(pair, -x)
    assert first is x
    assert torch.equal(second, -x)
    assert torch.equal(Site("a", item="hidden").put(table, -x)["hidden"], -x)
    assert table["hidden"] is x
    for item, value in ((None, table), (2, pair), ("logits", table), (0, x)):
        with pytest.raises(TypeError, match="the output"):
            Site("a", item=item).take(value)


def test_an_argument_is_found_by_position_or_name():
    class Block(nn.Module):
        def forward(self, hidden, mask=None, scale=1.0):
            return hidden

    block, x, mask = Block(), torch.zeros(2, 3), torch.ones(2, 3)
    site = Site("a", part="input")
    assert site.argument(block, (x, mask), {}) == 0
    assert site.argument(block, (), {"hidden": x, "scale": 2.0}) == "hidden"
    assert Site("a", part="input", item="mask").argument(block, (x, mask), {}) == 1
    assert Site("a", part="input", item="mask").argument(block, (x,), {"mask": mask}) == "mask"
    for wrong, arguments in ((site, {"hidden": x, "mask": mask}), (Site("a", part="input", item="key"), {"hidden": x})):
        with pytest.raises(TypeError, match="the input"):
            wrong.argument(block, (), arguments)


@pytest.mark.parametrize(("module", "unit"), [("0", 4), ("3", 5)])
def test_a_unit_that_does_not_exist_is_refused(model, module, unit):
    with pytest.raises(ValueError, match=f"units 0 to {unit - 1}; got {unit}"):
        Site(module, unit=unit).on(model)
    for bad in ({"unit": -1}, {"axis": 0}):
        with pytest.raises(ValueError, match=r"axis 0|unit is an index"):
            Site(module, **bad)


def test_units_are_counted_on_the_named_axis():
    output = torch.zeros(2, 7, 3, 8)  # items, positions, heads, width
    assert [Site("attention", axis=axis).count(output) for axis in (1, 2, -2, -1)] == [7, 3, 3, 8]
    with pytest.raises(ValueError, match="0 to 2 on axis -2; got 3"):
        Site("attention", unit=3, axis=-2).count(output)
    for axis in (4, -4):  # axis -4 is the items
        with pytest.raises(ValueError, match="no axis"):
            Site("attention", axis=axis).count(output)


def test_a_site_selects_its_unit_and_knows_where_positions_lie():
    heads, image, hidden = torch.randn(2, 7, 3, 8), torch.randn(2, 4, 5, 6), torch.randn(2, 9)
    assert torch.equal(Site("a", 1, axis=-2).select(heads), heads[:, :, 1])
    assert Site("a").select(heads) is heads
    assert [site.unit for site in Site("a", axis=2).each(heads)] == [0, 1, 2]
    assert Site("a", 1, axis=2).position_axes(heads) == (1,)
    assert Site("a", 1, axis=-2).position_axes(heads) == (1,)
    assert Site("conv", 1, axis=1).position_axes(image) == (2, 3)
    assert Site("mlp").position_axes(hidden) == ()
    assert Site("mlp", axis=-1).position_axes(heads[:, :, 0]) == (1,)
    assert Site("swin", axis=-1).position_axes(image) == (1, 2)
    assert Site("a", positions=(-3,), axis=2).position_axes(heads) == (1,)
    with pytest.raises(ValueError, match="no axis 4"):
        Site("a", positions=(4,)).position_axes(heads)
    with pytest.raises(ValueError, match="axis 0"):
        Site("a", positions=(0,))


@dataclass(frozen=True)
class _Answer:
    hidden: Any
    loss: Any = None


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_holds_tensors_is_read_and_written_and_what_has_no_items_is_refused():
    x = torch.randn(2, 3)
    answer = _Answer(x)
    assert Site("a").take(answer) is x
    assert torch.equal(Site("a", item="hidden").put(answer, -x).hidden, -x)
    assert answer.hidden is x
    largest = torch.max(x, 0)
    assert torch.equal(Site("a", item=-1).put(largest, x[0]).indices, x[0])
    packed = nn.utils.rnn.pack_sequence([x, x[:1]])
    nested = torch.nested.nested_tensor([x, x[:1]], layout=torch.jagged)
    quantized = torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
    refusals = {"PackedSequence": packed, "nested": nested, "sparse": x.to_sparse(), "quantized": quantized}
    torch.vmap(lambda item: refusals.setdefault("vmap", item))(x)
    for told, value in (*refusals.items(), ("tensors at no place", ((x,), (x,))), ("got set", {x})):
        with pytest.raises(TypeError, match=f"the output of 'a'.*{told}"):
            Site("a").take(value)


def test_a_call_is_a_number_or_every():
    assert repr(Site("a", call=1)) == "Site('a', call=1)"
    assert Site("a", call=1) != Site("a")
    for bad in (-1, "all", 1.5):
        with pytest.raises(ValueError, match="call is the number of a run"):
            Site("a", call=bad)
