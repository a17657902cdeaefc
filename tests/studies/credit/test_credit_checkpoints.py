"""Checkpoints of both formats, and files one cannot trust."""

from __future__ import annotations

import pytest
import torch

from nbutils.data.weights import StateError
from studies.credit.checkpoints import load_checkpoint, save_checkpoint
from studies.credit.network import ResidualMLP


def build():
    return ResidualMLP(12, 8, 5, num_blocks=3)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build().eval()


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
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "without.pt")
    assert load_checkpoint(tmp_path / "without.pt", build).feedback is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda m: ResidualMLP(12, 9, 5, 3).state_dict(), r"'embed\.weight' must have shape \(8, 12\); got \(9, 12\)"),
        (lambda m: ResidualMLP(12, 8, 5, 2).state_dict(), r"expected a parameter 'blocks\.2\.0\.weight'"),
        (lambda m: ResidualMLP(12, 8, 5, 4).state_dict(), r"'blocks\.3\.0\.weight' is no parameter"),
        (lambda m: {"state_dict": [1, 2]}, "expected tensors by name; found 'state_dict'"),
        (
            lambda m: {"state_dict": m.state_dict(), "Bs": [torch.zeros(8, 5)] * 2},
            r"'Bs' must be a list of 3 matrices, one per block; got 2",
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
