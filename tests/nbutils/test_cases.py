"""Calls that are easy to get wrong without a word, on models that were not written here: right, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from any_models import sequences
from any_oddities import inside
from any_sequences import encoder, heads, positions
from any_vision import swin, vit
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import segmentation

import nbutils as nb
from nbutils.sweeps.engines import EngineWarning
from studies.backdoor import repairs

Kind = nb.AblationType
REFUSED = (ValueError, TypeError, KeyError)


def first(batch: Any) -> Any:
    return batch[0]


def answers(model: nn.Module, x: Any, edits: Any = None) -> Tensor:
    with torch.no_grad(), nb.edit(model, edits or {}):
        return model(x)


def accuracies(model: nn.Module, site: Any, x: Tensor, y: Tensor, *options: Any, **more: Any) -> Tensor:
    frame = nb.sweep(model, site, [(x, y)], nb.accuracy(), *options, inputs=first, **more)
    return torch.tensor(frame.value.to_numpy(), dtype=torch.float32)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("path", "width"), [("enc.layers.0.norm1", 8), ("enc.layers.0.linear1", 12), ("enc", 8)])
@pytest.mark.parametrize("nested", [False, True])
def test_a_fused_encoder_is_swept_as_it_answers_unit_by_unit(path, width, nested):
    model, x = encoder(nested).eval(), sequences(60)
    y = answers(model, x).argmax(1)
    site = nb.Site(path, axis=2)
    edited = [answers(model, x, nb.edits([nb.Site(path, unit, 2)])) for unit in range(width)]
    want = [(answer.argmax(1) == y).float().mean() for answer in edited]
    assert torch.allclose(accuracies(model, site, x, y), torch.stack(want), atol=1e-6)
    assert min(want) < 1  # the units matter


def test_a_compiled_model_that_has_run_is_edited_captured_and_swept():
    plain, x = inside(lambda part: part).eval(), torch.randn(30, 5)
    compiled = torch.compile(plain, backend="eager")
    before = answers(compiled, x)
    edit = nb.edits([nb.Site("_orig_mod.0")])
    assert torch.equal(answers(compiled, x, edit), answers(plain, x, nb.edits(["0"])))
    assert not torch.equal(answers(compiled, x, edit), before)
    with nb.capture(compiled, "_orig_mod.0") as seen:
        compiled(x)
    assert torch.equal(seen["_orig_mod.0"], plain[0](x))
    y = before.argmax(1)
    assert torch.equal(accuracies(compiled, "_orig_mod.0", x, y), accuracies(plain, "0", x, y))


def test_answers_that_are_no_logits_are_refused_or_named_where_there_are_several():
    model = segmentation.lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    batches = [(x, torch.zeros(2, dtype=torch.long))]
    with pytest.raises(REFUSED, match="logits"):
        nb.sweep(model, nb.Site("classifier.low_classifier", 0), batches, nb.accuracy(), inputs=first)
    middle = lambda output, _batch: output[:, 1].mean((1, 2))  # noqa: E731
    frame = nb.sweep(model, nb.Site("classifier.low_classifier", 1), batches, middle, inputs=first, output="out")
    edited = answers(model, x, nb.edits([nb.Site("classifier.low_classifier", 1)]))["out"][:, 1].mean()
    assert frame.value.item() == pytest.approx(edited.item(), abs=1e-6)


class Table(nn.Module):
    """Takes one mapping as its argument, not keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)

    def forward(self, table: Any) -> Tensor:
        return self.words(table["ids"])


def test_batches_of_any_kind_give_the_mean_over_items_or_one_refusal():
    ids, kind = torch.randint(0, 20, (6, 7)), Kind.TOKENWISE_MEAN_CLEAN
    model, table = Table(), {"ids": ids, "mask": ids.bool()}
    truth = model.words(ids).mean(0, keepdim=True)
    assert torch.allclose(nb.gather(model, ["words"], kind, [(table,)])["words"], truth, atol=1e-6)
    with pytest.raises(TypeError, match=r"forward|keyword"):
        nb.gather(model, ["words"], kind, [table])
    linear, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(6, 4)
    found = nb.gather(linear, ["0"], kind, DataLoader(TensorDataset(x), 4))["0"]
    assert torch.allclose(found, linear(x).mean(0, keepdim=True), atol=1e-6)


def test_what_all_items_share_is_its_own_mean_and_replacing_it_changes_nothing():
    model, x = positions().eval(), torch.randint(0, 20, (40, 6))
    y = answers(model, x).argmax(-1)
    table = model.places.weight[:6].detach()
    for value in (
        nb.gather(model, ["places"], Kind.TOKENWISE_MEAN_CLEAN, [x])["places"][0],
        nb.src_ablations(model, ["places"], nb.PairLoader(nb.Pairs(x, x, y), 7), Kind.TOKENWISE_MEAN_CLEAN)[0, 0],
        *nb.src_ablations(model, ["places"], x, Kind.BATCH_TOKENWISE_MEAN)[0],
    ):
        assert torch.allclose(value, table, atol=1e-6)
    loader = nb.PairLoader(nb.Pairs(x, x, y), 40)
    both = nb.batch_src_ablations(model, ["words", "places"], loader, Kind.RESAMPLE, "corrupt")[0]
    assert torch.equal(both[1], table.expand(40, 6, 8))
    assert (accuracies(model, "places", x, y, Kind.TOKENWISE_MEAN_CLEAN) == 1).all()
    assert accuracies(model, "places", x, y).min() < 1  # under zeros


@pytest.mark.parametrize(
    ("build", "site", "axes"),
    [
        (lambda: heads(True), nb.Site("heads", 1, 2), (0, 1)),
        (lambda: heads(False), nb.Site("heads", 1, 1, positions=(2,)), (0, 2)),
        (swin, nb.Site("features.1.0.attn", 1, 3), (0, 1, 2)),
        (swin, nb.Site("features.1.0.attn", 1, -1, positions=(2, 1)), (0, 1, 2)),
    ],
)
def test_gather_and_src_ablations_take_one_mean_over_positions(build, site, axes):
    model = build().eval()
    x = torch.randn(3, 3, 32, 32) if build is swin else sequences(3)
    with nb.capture(model, site.module) as seen, torch.no_grad():
        model(x)
    truth = seen[site.module].mean(axes, keepdim=True).expand_as(seen[site.module]).select(site.axis, 1)
    gathered = nb.gather(model, [site], Kind.BATCH_ALL_TOK_MEAN, [x])[site]
    assert torch.allclose(gathered.expand_as(truth), truth, atol=1e-6)
    row = nb.src_ablations(model, [site], x, Kind.BATCH_ALL_TOK_MEAN)[0]
    assert torch.allclose(row.expand_as(truth), truth, atol=1e-6)


def test_a_layer_on_tokens_has_its_features_as_units_everywhere():
    model, path, x = vit().eval(), "encoder.layers.encoder_layer_1.mlp.0", torch.randn(24, 3, 32, 32)
    nn.init.normal_(model.heads.head.weight)
    y = answers(model, x).argmax(1)
    site = nb.Site(path, 5)
    zeroed = answers(nb.zero_weights(model, [site]), x)
    assert torch.allclose(zeroed, answers(model, x, nb.edits([site])), atol=1e-5)
    assert torch.allclose(zeroed, answers(model, x, nb.edits([nb.Site(path, 5, 2)])), atol=1e-5)
    assert not torch.allclose(zeroed, answers(model, x), atol=1e-4)
    assert len(accuracies(model, path, x, y)) == 12
    with pytest.raises(ValueError, match="units 0 to 11; got 25"), nb.edit(model, nb.edits([nb.Site(path, 25)])):
        model(x)
    assert right_or_refused(lambda: repairs.dormancy(model, path, x).shape) in (None, (12,))
    removed = right_or_refused(lambda: repairs.fine_prune(model, path, x, y, max_drop=1.0).removed)
    assert removed is None or sorted(site.unit for site in removed) == list(range(12))


def right_or_refused(function: Callable[[], Any]) -> Any:
    """Return what a call gives; None for a refusal."""
    try:
        return function()
    except REFUSED:
        return None


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_weights_that_are_computed_anew_are_pruned_right_or_not_at_all(wrap):
    model, x = inside(wrap).eval(), torch.randn(6, 5)
    zeroed = right_or_refused(lambda: nb.zero_weights(model, [nb.Site("0", 2)]))
    assert zeroed is None or (zeroed[0](x)[:, 2] == 0).all()
    pruned = right_or_refused(lambda: nb.prune(model, "1", [2]))
    assert pruned is None or torch.allclose(pruned(x), answers(model, x, nb.edits([nb.Site("1", 2)])), atol=1e-6)
    with pytest.raises(ValueError, match="parametri"):
        repairs.neuron_masks(model, ["0"], x, torch.arange(6) % 3, steps=1)


def test_a_capture_holds_what_the_last_pass_ran_and_nothing_else():
    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, which: bool) -> Tensor:
            return self.a(x) if which else self.b(x)

    model, x = Either(), torch.randn(2, 4)
    with nb.capture(model, "a", "b") as seen:
        model(x, True)
        model(x, False)
    assert list(seen) == ["b"]
    with pytest.raises(ValueError, match="'a' must run once"):  # in one of two batches it does not
        nb.gather(model, ["a"], Kind.RESAMPLE, [(x, True), (x, False)])


@pytest.mark.parametrize("last", [nn.Identity(), nn.Flatten(0)], ids=["[items, 1]", "[items]"])
def test_one_logit_is_above_or_below_zero(last):
    model, x = nn.Sequential(nn.Identity(), nn.Linear(8, 1), last).eval(), torch.randn(300, 8)
    y = (answers(model, x).flatten() > 0.3).long()

    def truth(edits: Any) -> Tensor:
        return ((answers(model, x, edits).flatten() > 0).long() == y).float().mean()

    site = nb.Site("1", part="input")
    want = torch.stack([truth(nb.edits([nb.Site("1", unit, part="input")])) for unit in range(8)])
    assert torch.allclose(accuracies(model, site, x, y), want, atol=1e-6)
    assert (want - (y == 0).float().mean()).abs().min() > 1e-3  # the share of class 0, which an argmax would give


def test_hooks_of_ones_own_at_a_swept_module_take_part():
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).relu()
            return self.c(h + self.b(h).relu())

    model, x = Beside().eval(), torch.randn(200, 4)
    mean = lambda output, _batch: output.square().mean(1)  # noqa: E731

    def swept() -> Tensor:
        return torch.tensor(nb.sweep(model, "b", [x], mean).value.to_numpy()).float()

    def by_edits() -> Tensor:
        return torch.stack([answers(model, x, nb.edits([nb.Site("b", unit)])).square().mean() for unit in range(6)])

    alone = by_edits()
    assert torch.allclose(swept(), alone, atol=1e-6)
    with nb.edit(model, {"b": lambda output: output * 3 + 1}):
        edited = by_edits()
        with pytest.warns(EngineWarning, match="'b'"):
            assert torch.allclose(swept(), edited, atol=1e-6)
    assert not torch.allclose(alone, edited, atol=1e-3)
    model.b.register_forward_hook(lambda _module, _inputs, output: output * 3 + 1)
    with pytest.warns(EngineWarning, match="'b'"):
        assert torch.allclose(swept(), edited, atol=1e-6)
