"""Weights in files that one cannot trust: what does not fit is named. `test_hostile` tries to break the reading."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nbutils.data.weights import StateError, fill


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.bias"), r"expected a parameter '0\.bias' of shape \(8,\); the file has 3 of the 4"),
        (lambda s: s.update({"fc.bias": s.pop("2.bias")}), r"'2\.bias' of shape \(10,\); .*'fc\.bias' instead"),
        (lambda s: s.update({"3.bias": torch.zeros(2)}), r"'3\.bias' is no parameter"),
        (lambda s: s.update({"2.weight": torch.zeros(10, 9)}), r"'2\.weight' .*\(10, 8\); got \(10, 9\)"),
        (lambda s: s.update({"0.bias": torch.full((8,), torch.nan)}), r"'0\.bias' must hold finite"),
        (lambda s: s.update({"0.bias": torch.zeros(8, dtype=torch.int64)}), r"'0\.bias' must hold finite real"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    state = network().state_dict()
    change(state)
    for path, write in ((tmp_path / "bad.pt", torch.save), (tmp_path / "bad.safetensors", save_file)):
        with pytest.raises(FileNotFoundError, match=path.name):
            fill(network(), path)
        write(dict(state), path)
        with pytest.raises(StateError, match=rf"bad\.(pt|safetensors): .*{message}"):
            fill(network(), path)
