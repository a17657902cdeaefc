"""The audited network: its states, continuing from one of them, and reading checkpoints one cannot trust."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nbutils.data.weights import StateError
from studies.credit.network import ResidualMLP, load_checkpoint, save_checkpoint


def build():
    return ResidualMLP(12, 8, 5, num_blocks=3)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build().eval()


def test_hidden_states_are_the_inputs_of_blocks(model):
    x = torch.randn(6, 12)
    logits, hidden = model(x, return_hidden=True)
    assert len(hidden) == model.num_blocks + 1 == len(model.blocks) + 1
    assert torch.equal(logits, model(x))
    seen = {}
    for place, block in enumerate(model.blocks):
        block.register_forward_hook(lambda _m, inputs, output, place=place: seen.update({place: (inputs[0], output)}))
    model(x)
    for block in model.blocks:
        block._forward_hooks.clear()
    for layer, (before, added) in seen.items():
        assert torch.equal(before, hidden[layer])
        assert torch.allclose(before + added, hidden[layer + 1])
    assert torch.allclose(model.out_head(model.out_ln(hidden[-1])), logits)
    assert sum(p.numel() for p in ResidualMLP().parameters()) == 3073 * 256 + 4 * (2 * 257 * 256 + 512) + 512 + 2570


def test_the_loss_from_any_state_is_the_networks_loss(model):
    x, labels = torch.randn(6, 12), torch.tensor([0, 1, 2, 3, 4, 0])
    logits, hidden = model(x, return_hidden=True)
    expected = F.cross_entropy(logits, labels, reduction="none")
    for layer, h in enumerate(hidden):
        assert torch.allclose(model.loss_from(layer, labels)(h), expected, atol=1e-6)
        twice = model.loss_from(layer, labels)(torch.stack([h, h + 1]))
        assert torch.allclose(twice[0], expected, atol=1e-6)
        assert twice.shape == (2, 6)
    assert not torch.allclose(model.loss_from(1, labels)(hidden[0]), expected, atol=1e-3)
    for layer in (-1, 4):
        with pytest.raises(IndexError, match=f"between 0 and 3; got {layer}"):
            model.logits_from(hidden[0], layer)
    with pytest.raises(ValueError, match="num_blocks must be 1 or more; got 0"):
        ResidualMLP(num_blocks=0)


def test_both_formats_are_read_back(model, tmp_path):
    feedback = torch.randn(3, 8, 5)
    for name, matrices in (("bare.pt", None), ("with.pt", feedback)):
        found = load_checkpoint(save_checkpoint(tmp_path / "new" / name, model, matrices), build)
        assert not found.model.training
        x = torch.randn(4, 12)
        assert torch.equal(found.model(x), model(x))
        assert found.feedback is None if matrices is None else torch.equal(found.feedback, feedback)
    torch.save({"state_dict": model.state_dict(), "Bs": list(feedback.double())}, tmp_path / "theirs.pt")
    assert torch.equal(load_checkpoint(tmp_path / "theirs.pt", build).feedback, feedback)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "without.pt")
    assert load_checkpoint(tmp_path / "without.pt", build).feedback is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda m: ResidualMLP(12, 9, 5, 3).state_dict(), r"'embed\.weight' must have shape \(8, 12\); got \(9, 12\)"),
        (lambda m: ResidualMLP(12, 8, 5, 2).state_dict(), r"expected a parameter 'blocks\.2\.0\.weight'"),
        (lambda m: ResidualMLP(12, 8, 5, 4).state_dict(), r"'blocks\.3\.0\.weight' is no parameter"),
        (lambda m: {"state_dict": [1, 2]}, "'state_dict' must hold tensors by name; got list"),
        (
            lambda m: {"state_dict": m.state_dict(), "Bs": [torch.zeros(8, 5)] * 2},
            r"'Bs' must be a list of 3 matrices, one a block; got 2",
        ),
        (lambda m: {"state_dict": m.state_dict(), "Bs": torch.zeros(3, 8, 5)}, "'Bs' must be a list .* got Tensor"),
        (
            lambda m: {"state_dict": m.state_dict(), "Bs": [torch.zeros(8, 5)] * 2 + [torch.zeros(5, 8)]},
            r"'Bs'\[2\] must have shape \(8, 5\); got \(5, 8\)",
        ),
    ],
)
def test_a_checkpoint_of_another_shape_is_one_clear_error(model, tmp_path, content, message):
    path = tmp_path / "other.pt"
    torch.save(content(model), path)
    with pytest.raises(StateError, match=rf"other\.pt: .*{message}"):
        load_checkpoint(path, build)


class Bomb:
    """A pickle of it writes a file when it is loaded as pickles usually are."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_refused_and_not_run(model, tmp_path):
    witness, path = tmp_path / "executed", tmp_path / "bomb.pt"
    torch.save({"state_dict": model.state_dict(), "Bs": Bomb(witness)}, path)
    with pytest.raises(StateError, match=r"bomb\.pt could not be read .*without running code"):
        load_checkpoint(path, build)
    assert not witness.exists()
    torch.load(path, weights_only=False)["Bs"].close()
    assert witness.exists()  # the bomb is live
    with pytest.raises(FileNotFoundError, match=r"dfa_s42\.pt; there is no such file"):
        load_checkpoint(tmp_path / "dfa_s42.pt")
