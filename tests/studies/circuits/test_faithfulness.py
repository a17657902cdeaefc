import numpy as np
import pytest
import torch

from studies.circuits.faithfulness import faithfulness, faithfulness_curve


def test_faithfulness_is_1_for_the_model_0_for_nothing_and_tells_the_two_means_apart():
    clean, ablated = np.array([2.0, 1.0, 5.0]), np.array([0.0, 0.0, 4.0])
    assert faithfulness(clean, clean, ablated).ratio_of_means == 1
    assert faithfulness(ablated, clean, ablated).mean_of_ratios == 0
    found = faithfulness(np.array([2.0, 0.5, 4.0]), clean, ablated)
    assert found.ratio_of_means == pytest.approx((2 + 0.5 + 0) / 4)
    assert found.mean_of_ratios == pytest.approx((1 + 0.5 + 0) / 3)
    assert (found.worst, found.prompts, found.undefined) == (0, 3, 0)
    assert found.sd == pytest.approx(np.std([1, 0.5, 0]))
    equal = faithfulness(np.array([1.0, 3.0]), np.array([2.0, 3.0]), np.array([0.0, 3.0]))
    assert (equal.mean_of_ratios, equal.prompts, equal.undefined) == (0.5, 1, 1)
    assert np.isnan(faithfulness([1.0], [1.0], [1.0]).ratio_of_means)
    with pytest.raises(ValueError, match="one value per prompt"):
        faithfulness([1.0], [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="finite"):
        faithfulness([np.nan], [1.0], [0.0])


def test_a_curve_has_a_row_per_circuit():
    clean, ablated = torch.ones(6), torch.zeros(6)
    shares = torch.tensor([0.0, 0.5, 1.0])
    frame = faithfulness_curve([0, 3, 4], shares[:, None].expand(3, 6), clean, ablated)
    assert frame.edges.tolist() == [0, 3, 4]
    assert frame.ratio_of_means.tolist() == frame.worst.tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match="for each of 3 circuits"):
        faithfulness_curve([0, 3], shares[:, None].expand(3, 6), clean, ablated)
