from typing import NamedTuple

import pytest
import torch
from torch import nn

from nbutils.ablation.running import answer


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
