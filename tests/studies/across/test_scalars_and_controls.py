import numpy as np
import pandas as pd
import pytest
import torch

from nbutils.data import digits
from studies.across import scalars
from studies.across.training import Trained
from studies.backdoor.network import MnistNet
from studies.color_cube.network import ColorMLP
from studies.credit.network import ResidualMLP


@pytest.fixture(scope="module")
def splits():
    return digits.load()


def twice(build):
    torch.manual_seed(0)
    model = build().eval()
    return Trained(model, model)


def test_a_correlation_does_not_see_an_error_added_everywhere():
    found = scalars.red_only(twice(ColorMLP))
    assert found.published.std() == pytest.approx(0, abs=1e-9)
    assert np.ptp(found.control) > 0


def test_one_of_several_carriers_is_not_missed_and_all_are(splits):
    found = scalars.one_channel(twice(MnistNet), splits).set_index("x")
    assert found.published[1] > 0.9  # one carrier: both see it
    assert found.published[2:].max() < 0.05
    assert found.control.min() > 0.9


def test_a_relative_step_does_not_see_the_length_of_the_state(splits):
    found = scalars.audit(twice(lambda: ResidualMLP(784, 16)), splits)
    assert found.published.iloc[-1] < 0.5 < 0.999 < found.control.min()


def test_a_circuit_is_judged_by_its_own_stand_in_and_by_the_worst():
    rows = [("a", "a", 0.25, "a", 0.9), ("a", "a", 0.25, "b", 0.1), ("a", "b", 0.25, "a", 0.0)]
    certified = pd.DataFrame(rows, columns=["first", "second", "share", "judge", "kept"])
    assert scalars.circuit(certified).to_numpy().tolist() == [["a", 0.9, 0.1]]
