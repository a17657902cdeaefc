"""Controls of the credit audit."""

from __future__ import annotations

import pytest
import torch

from studies.credit.explorer import credit_explorer
from studies.credit.perturbation import PerturbationCorrelation


def test_the_explorer_redraws_and_reports_what_fails():
    seen = []

    def evaluate(layer, epsilon, precision):
        seen.append((layer, epsilon, precision))
        if precision == "float16":
            raise RuntimeError("no such <precision>")
        return PerturbationCorrelation(torch.arange(4.0)[None], torch.arange(4.0)[None])

    box = credit_explorer(evaluate, [0, 1], [1e-3, 1e-5], ["float32", "float16"])
    controls, status, picture = box.children
    assert seen == [(0, 1e-3, "float32")]
    assert "ρ = +1.0000" in status.value
    assert 'alt="Predicted against true change of the loss: layer 0, ε = 0.001, float32"' in picture.value
    controls.children[1].value = 1e-5
    controls.children[0].value = 1
    assert seen[-1] == (1, 1e-5, "float32")
    controls.children[2].value = "float16"
    assert "no such &lt;precision&gt;" in status.value
    assert picture.value == ""
    with pytest.raises(ValueError, match="at least one layer"):
        credit_explorer(evaluate, [], [1e-3])
