import warnings

import pytest
import torch
from torch import nn

from nbutils.hooks import UnusedEditWarning, capture, edit


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Linear(4, 2)).eval()


X = torch.linspace(-1, 1, 15).reshape(5, 3)


def snapshot(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    return state, modes, hooks


def assert_same(model, before):
    state, modes, hooks = before
    after = snapshot(model)
    assert all(torch.equal(state[name], after[0][name]) for name in state)
    assert (modes, hooks) == after[1:]


@pytest.mark.parametrize("enter", [lambda m: capture(m, "0"), lambda m: edit(m, {"0": lambda x: 2 * x})])
def test_everything_is_restored_when_the_block_raises(model, enter):
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError), enter(model):
        model.train()
        model(X)  # moves the running statistics
        with torch.no_grad():
            model[3].weight.add_(1)
        raise ZeroDivisionError
    assert_same(model, before)


def test_an_edit_acts_inside_its_block_only(model):
    plain = model(X)
    with edit(model, {"3": torch.zeros_like}):
        assert (model(X) == 0).all()
    assert torch.equal(model(X), plain)
    assert not torch.equal(plain, torch.zeros_like(plain))  # the edit did change something


def test_an_edit_upstream_is_seen_by_a_capture_downstream(model):
    with edit(model, {"0": torch.zeros_like}), capture(model, "1", "3") as seen:
        model(X)
    assert torch.allclose(seen["1"], seen["1"][:1].expand(5, 4))  # all samples alike once their input is zero
    assert seen["3"].shape == (5, 2)


def test_a_capture_is_safe_from_later_inplace_operations(model):
    with capture(model, "1") as seen:
        model(X)
    assert (seen["1"] < 0).any()  # the ReLU behind it works in place and would have made these 0


def test_unknown_names_list_the_nearest(model):
    named = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    with pytest.raises(KeyError, match="nearest: encoder"), capture(named, "encodr"):
        pass
    with pytest.raises(KeyError, match="no module ''"), edit(model, {"": torch.zeros_like}):
        pass
    assert_same(model, snapshot(model))


def test_an_edit_that_never_ran_warns_and_one_that_ran_does_not(model):
    with pytest.warns(UnusedEditWarning, match="never ran"), edit(model, {"0": torch.zeros_like}):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with edit(model, {"0": torch.zeros_like}):
            model(X)


@pytest.mark.parametrize(("bad", "error"), [(lambda x: x[:, :1], ValueError), (lambda x: None, TypeError)])
def test_an_edit_must_return_a_tensor_of_the_same_shape(model, bad, error):
    before = snapshot(model)
    with pytest.raises(error, match="the edit at '0'"), edit(model, {"0": bad}):
        model(X)
    assert_same(model, before)


def test_what_is_replaced_inside_the_block_is_put_back_too(model):
    """Another parameter, another buffer, another dtype, and a hook of one's own."""
    weight, mean = model[0].weight, model[1].running_mean
    before = snapshot(model)
    with capture(model, "0"):
        model[0].weight = nn.Parameter(torch.zeros(4, 3))
        model[1].running_mean = torch.ones(4)
        model[3].register_forward_hook(lambda *_: None)
        model.half()
    assert model[0].weight is weight
    assert model[1].running_mean is mean
    assert weight.dtype == torch.float32
    assert_same(model, before)
