import copy
import random
import re
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nbutils import layout
from nbutils.hooks import UnusedEditWarning, capture, edit, unchanged, watch
from nbutils.sites import Site


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Linear(4, 2)).eval()


X = torch.linspace(-1, 1, 15).reshape(5, 3)
ENTER = {
    "capture": lambda m: capture(m, "0", "3"),
    "edit": lambda m: edit(m, {"0": lambda x: 2 * x}),
    "edit of an input": lambda m: edit(m, {Site("3", part="input"): lambda x: 2 * x}),
    "watch": lambda m: watch(m, {"0": lambda output: None}, inputs={"3": lambda *inputs: None}),
}
each = pytest.mark.parametrize("enter", ENTER.values(), ids=ENTER)


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    kinds += ("_forward_hooks_always_called", "_backward_hooks")
    return [list(getattr(module, kind).values()) for module in model.modules() for kind in kinds]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@each
def test_hooks_are_removed_when_the_block_raises_and_others_stay(model, enter):
    order = []
    model[0].register_forward_hook(lambda *_: order.append("first"))
    before = hooks(model)
    with pytest.raises(ZeroDivisionError), enter(model):
        assert hooks(model) != before
        own = model[0].register_forward_hook(lambda *_: order.append("second"))
        model(X)
        raise ZeroDivisionError
    model(X)
    assert order == ["first", "second"] * 2  # one made inside stays, too
    own.remove()
    assert hooks(model) == before


@each
@pytest.mark.parametrize("seed", range(5))
def test_blocks_may_close_in_any_order(model, enter, seed):
    plain = model(X)
    blocks = [enter(model) for _ in range(4)]
    for block in blocks:
        block.__enter__()
    model(X)
    random.Random(seed).shuffle(blocks)
    for block in blocks:
        block.__exit__(None, None, None)
    assert not any(hooks(model))
    assert torch.equal(model(X), plain)


def test_threads_open_and_close_on_one_model_and_each_captures_its_own_passes(model):
    inputs, found = [torch.full((2, 3), float(i)) for i in range(4)], {}
    expected = [model[0](x) for x in inputs]
    together = threading.Barrier(len(inputs), timeout=30)

    def work(i):
        for _ in range(20):
            with capture(model, "0") as seen:
                together.wait()
                model(inputs[i])
                together.wait()
                found[i] = seen["0"]
            assert torch.equal(found[i], expected[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[i], one) for i, one in enumerate(expected))
    assert not any(hooks(model))
    block = capture(model, "0")
    block.__enter__()
    closing = threading.Thread(target=block.__exit__, args=(None, None, None))
    closing.start()
    closing.join()
    assert not any(hooks(model))


@each
def test_a_training_step_inside_outlasts_the_block(model, enter):
    model.train()
    before = state(model)
    with enter(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model(X).square().sum().backward()
        optimizer.step()
        model.eval()
        stepped = state(model)
    assert not same(before, stepped)
    assert same(state(model), stepped)
    assert not model.training  # modes are the block's, too


@each
def test_no_copy_of_the_weights_is_made(model, enter, monkeypatch):
    big = nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.Identity(), nn.Linear(4, 500_000))
    made = []
    for name in ("clone", "detach", "copy_"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, real=real, **k: made.append(real) or real(self, *a, **k)
        )
    with enter(big):
        assert not made
        big[0](X)
        big[3](torch.zeros(1, 4))
    with unchanged(big, weights=True):  # the count can tell
        assert len(made) >= 4


def test_an_edit_acts_inside_its_block_only(model):
    plain = model(X)
    with edit(model, {"3": torch.zeros_like}):
        assert (model(X) == 0).all()
    assert torch.equal(model(X), plain)
    assert not torch.equal(plain, torch.zeros_like(plain))  # the edit did change something


def test_an_edit_of_an_input_is_the_model_on_that_input(model):
    with edit(model, {Site("3", part="input"): torch.ones_like}), capture(model, "2") as seen:
        assert torch.equal(model(X), model[3](torch.ones(5, 4)))
    assert not torch.equal(seen["2"], torch.ones(5, 4))  # what precedes is as it was
    with pytest.raises(ValueError, match="the edit at the input of '3' must keep"):  # noqa: SIM117
        with edit(model, {Site("3", part="input"): lambda x: x[:, :1]}):
            model(X)
    first = {Site("0", part="input"): torch.zeros_like}
    with edit(model, first):
        assert torch.equal(model[0](input=X), model[0].bias.expand(5, -1))  # a keyword is an input, too
    with (
        pytest.raises(TypeError, match="the input of '0' must be a tensor; its call was given 0: list"),
        edit(model, first),
    ):
        model[0]([X])
    with pytest.warns(UnusedEditWarning, match="the input of '0' never ran"), edit(model, first):
        pass


def test_an_edit_upstream_is_seen_by_a_capture_downstream(model):
    with edit(model, {"0": torch.zeros_like}), capture(model, "1", "3") as seen:
        model(X)
    assert torch.allclose(seen["1"], seen["1"][:1].expand(5, 4))  # all samples alike once their input is zero
    assert seen["3"].shape == (5, 2)


@pytest.mark.parametrize("graph", [False, True])
def test_a_capture_is_safe_from_later_inplace_operations(model, graph):
    expected = model[1](model[0](X))
    with torch.set_grad_enabled(graph), capture(model, "1", "2") as seen:
        output = model(X)
    assert (seen["1"] < 0).any()  # the ReLU behind it works in place and would have made these 0
    assert torch.equal(seen["1"], expected)
    assert torch.equal(seen["2"], expected.relu())
    assert torch.equal(output, model(X))

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.same, self.linear = nn.Identity(), nn.Linear(3, 3)

        def forward(self, x):
            h = self.linear(x)
            branch = self.same(h)  # the very tensor that is written into next
            h += 1
            return h + 0 * branch

    with torch.set_grad_enabled(graph), capture(model := Residual(), "same") as seen:
        model(X)
    assert torch.equal(seen["same"], model.linear(X))


def test_gradients_at_captured_activations_are_those_by_hand(model):
    with capture(model, "0", "1") as seen:
        loss = model(X).square().sum()
    with torch.enable_grad():
        by_hand = model[0](X).detach().requires_grad_()
        (expected,) = torch.autograd.grad(model[3](model[1](by_hand).relu()).square().sum(), by_hand)
    assert torch.equal(torch.autograd.grad(loss, seen["0"], retain_graph=True)[0], expected)
    assert expected.abs().max() > 1e-3
    assert torch.autograd.grad(loss, seen["1"], retain_graph=True)[0].shape == (5, 4)
    loss.backward()
    trained = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model(X).square().sum().backward()
    assert all(torch.equal(a, parameter.grad) for a, parameter in zip(trained, model.parameters(), strict=True))


class Fickle(nn.Module):
    """Runs one layer or the other, or one of them twice; in a checkpointed segment if told to."""

    def __init__(self, checkpointed=False):
        super().__init__()
        self.a, self.b, self.checkpointed = nn.Linear(3, 3), nn.Linear(3, 3), checkpointed

    def run(self, x):
        segment = lambda x: self.a(x).tanh()  # noqa: E731
        return checkpoint(segment, x, use_reentrant=False) if self.checkpointed else segment(x)

    def forward(self, x, which="a"):
        return self.b(x) if which == "b" else self.a(self.run(x)) if which == "twice" else self.run(x)


def test_a_capture_holds_nothing_of_an_earlier_pass():
    model = Fickle()
    with capture(model, "a", "b") as seen:
        model(X)
        assert set(seen) == {"a"}
        model(X, "b")
        assert set(seen) == {"b"}
        with pytest.raises(KeyError, match="'a' has no output of the last forward pass; there are b"):
            seen["a"]
        with pytest.raises(TypeError):
            model("no tensor")
        assert not seen
        with pytest.raises(ValueError, match=r"'a' must run once in a forward pass.*call="):
            model(X, "twice")
        for x in (X, 2 * X):  # a part run by hand, outside a pass
            model.run(x)
            assert torch.equal(seen["a"], model.a.forward(x))


@pytest.mark.parametrize("call", [0, 1, "every"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_module_that_runs_twice_is_edited_call_by_call(call, checkpointed):
    model = Fickle(checkpointed)

    def by_hand(x):
        first = model.a.forward(x) * (2 if call in (0, "every") else 1)
        return model.a.forward(first.tanh()) * (2 if call in (1, "every") else 1)

    site = Site("a", call=call)
    with edit(model, {site: lambda x: 2 * x}):
        output = model(X, "twice")
        if not checkpointed or call == "every":  # in the repetition the gradient is that of the edited run, too
            expected = torch.autograd.grad(by_hand(X).sum(), model.a.weight)[0]
            assert torch.allclose(torch.autograd.grad(output.sum(), model.a.weight)[0], expected, atol=1e-6)
        else:
            with pytest.raises(ValueError, match="in a backward pass, which repeats a checkpointed segment"):
                output.sum().backward()
        if call != "every":
            with pytest.raises(ValueError, match="within a pass of the whole model, and this one is in none"):
                model.a(X)
    assert torch.allclose(output, by_hand(X), atol=1e-6)
    assert not torch.allclose(output, model(X, "twice"), atol=1e-3)
    if call == "every":
        with pytest.raises(ValueError, match="a capture is of one run"), capture(model, site):
            pass
    else:
        with capture(model, site) as seen:
            model(X, "twice")
        h = model.a.forward(X)
        assert torch.equal(seen[site], model.a.forward(h.tanh()) if call else h)


def test_an_edit_of_a_module_that_runs_again_needs_its_call():
    with edit(model := Fickle(), {"a": torch.zeros_like}):
        model(X)
        model(X)  # another pass
        model.run(X)
        with pytest.raises(ValueError, match=r"'a' must run once in a forward pass.*call="):
            model(X, "twice")
        model(X)


def test_what_an_edit_is_given_is_its_own_and_what_it_returns_stays_the_callers(model):
    kept, x = torch.linspace(-1, 1, 20).reshape(5, 4), X.clone()

    def write(tensor):
        tensor[:, 0] = 7
        return tensor

    with torch.no_grad(), edit(model, {"1": lambda _: kept, Site("0", part="input"): write}):
        model(x)
    assert torch.equal(x, X)
    assert torch.equal(kept, torch.linspace(-1, 1, 20).reshape(5, 4))  # the ReLU behind it writes into what it gets
    handle = model[1].register_forward_hook(lambda *_: kept)
    with torch.no_grad():
        model(x)
    handle.remove()
    assert (kept >= 0).all()  # as a bare hook lets it


def test_an_edit_of_one_unit_changes_no_other_bit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)
    with torch.no_grad(), edit(model, {Site("0", 2): lambda x: x}):
        assert torch.equal(model(x), model.forward(x))


def test_no_model_is_walked_to_enter(monkeypatch):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for name in ("named_modules", "named_parameters"):
        monkeypatch.setattr(nn.Module, name, lambda *_, name=name, **__: pytest.fail(f"{name} walks the model"))
    for enter in ENTER.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnusedEditWarning)
            with enter(nn.ModuleDict({"0": model[0], "3": model[1]})):
                pass


def test_a_capture_of_a_checkpointed_segment_holds_the_pass_and_not_its_repetition():
    model = Fickle(checkpointed=True)
    with capture(model, "a") as seen:
        loss = model(X).square().sum()
        kept = seen["a"]
        gradient = torch.autograd.grad(loss, kept, retain_graph=True)[0]
        loss.backward()
        assert seen["a"] is kept
    assert torch.allclose(gradient, 2 * kept.tanh() * (1 - kept.tanh() ** 2))


def test_a_watch_sees_what_goes_in_and_out_and_changes_nothing(model):
    shapes, outputs = [], []
    plain = model(X)
    with watch(model, {"3": outputs.append}, inputs={"3": lambda x: shapes.append(tuple(x.shape)) or 5}):
        assert torch.equal(found := model(X), plain)
    assert outputs[0] is found  # the object itself
    assert shapes == [(5, 4)]

    class Enough(Exception):
        pass

    def stop(_output):
        raise Enough

    with pytest.raises(Enough), watch(model, {"1": stop, "3": outputs.append}):
        model(X)
    assert len(outputs) == 1
    assert not any(hooks(model))


@pytest.mark.parametrize("weights", [False, True])
def test_unchanged_puts_modes_buffers_and_random_numbers_back_whatever_happens(model, weights):
    model[1].train()
    weight, mean, before, modes = model[0].weight, model[1].running_mean, state(model), [m.training for m in model]
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with pytest.raises(ZeroDivisionError), unchanged(model, weights=weights):
        torch.rand(7)
        model.train()(X)  # moves the running statistics
        model[1].num_batches_tracked = torch.tensor(7)
        with torch.no_grad():
            model[3].weight.add_(1)
        if weights:
            model[0].weight = nn.Parameter(torch.zeros(4, 3))
            model.half()
        raise ZeroDivisionError
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model] == modes
    assert model[1].running_mean is mean
    after = state(model)
    if weights:
        assert model[0].weight is weight
        assert weight.dtype == torch.float32
        assert same(after, before)
    else:
        assert torch.equal(after.pop("3.weight"), before.pop("3.weight") + 1)  # not asked for
        assert same(after, before)


def test_a_copy_made_inside_unchanged_is_the_callers(model):
    with unchanged(model):
        trained = copy.deepcopy(model).train()
        trained(X)
    assert trained.training
    assert trained[1].num_batches_tracked == 1
    assert model[1].num_batches_tracked == 0


@pytest.mark.filterwarnings("ignore::FutureWarning")
@each
def test_scripted_models_are_refused_by_name(model, enter):
    for scripted in (torch.jit.script(model), torch.jit.trace(model, X)):
        with pytest.raises(ValueError, match="the model, which is scripted"), enter(scripted):
            pass
        outer = nn.ModuleDict({"a": scripted})
        for name in ("a", "a.0"):
            with pytest.raises(ValueError, match=r"'a'.* is scripted"), edit(outer, {name: torch.zeros_like}):
                pass
        with unchanged(scripted, weights=True):
            scripted.train()
            with torch.no_grad():
                next(scripted.parameters()).add_(1)
        assert torch.equal(next(scripted.parameters()), model[0].weight)
        assert not scripted.training


def test_a_compiled_model_meets_its_edits_under_its_own_names():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    compiled = torch.compile(model, backend="eager")
    plain = compiled(X)
    for one, other in ((model, compiled), (compiled, model), (compiled, compiled)):
        for name in {"0", "_orig_mod.0"} if one is compiled else {"0"}:
            with edit(one, {name: torch.zeros_like}):
                assert torch.equal(other(X), model[1].bias.expand(5, 2))
    assert torch.equal(compiled(X), plain)
    with pytest.raises(KeyError, match="nearest: 0, 1"), edit(compiled, {"2": torch.zeros_like}):
        pass
    blocks = [capture(compiled, "0") for _ in range(2)]
    for block in blocks:
        block.__enter__()
    for block in blocks:  # the first one first
        block.__exit__(None, None, None)
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch._dynamo.eval_frame._stance.stance == "default"


@each
def test_unknown_names_list_the_nearest(enter):
    named = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    with pytest.raises(KeyError, match="nearest: encoder, decoder"), enter(named):
        pass
    for call in (lambda: capture(named, "encoder", "encodr"), lambda: edit(named, {"encodr": torch.zeros_like})):
        with pytest.raises(KeyError, match="nearest: encoder"), call():
            pass
    assert not any(hooks(named))


def test_an_edit_that_never_ran_warns_and_one_that_ran_does_not(model):
    with pytest.warns(UnusedEditWarning, match="never ran"), edit(model, {"0": torch.zeros_like}):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with edit(model, {"0": torch.zeros_like}):
            model(X)


@pytest.mark.parametrize(("bad", "error"), [(lambda x: x[:, :1], ValueError), (lambda x: None, TypeError)])
def test_an_edit_must_return_a_tensor_of_the_same_shape(model, bad, error):
    with pytest.raises(error, match="the edit at the output of '0'"), edit(model, {"0": bad}):
        model(X)
    assert not any(hooks(model))


def test_nothing_else_registers_a_hook():
    root, registers = layout.root(), re.compile(r"\.register_(module_)?(forward|backward|full_backward)_\w*hook\(")
    found = {
        path.relative_to(root).as_posix()
        for path in (*root.glob("nbutils/**/*.py"), *root.glob("notebooks/**/*.py"), *root.glob("notebooks/*.ipynb"))
        if registers.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"nbutils/hooks.py"}
