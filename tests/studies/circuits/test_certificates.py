import numpy as np
import pytest
import torch

from studies.circuits.certificates import certificates, equally_strict, seen_edges, shared_blind_spots

SCORES = {
    "a": torch.tensor([-1.0, 0.0, 0.5, 0.0, 0.0]),
    "b": torch.tensor([0.0, 2.0, 0.5, 0.0, 0.0]),
    "c": torch.tensor([0.0, 0.0, -3.0, 0.1, 0.0]),
}
USED = torch.tensor([True, True, True, True, False])


def test_a_pair_shares_the_used_edges_that_neither_of_it_sees():
    shared = shared_blind_spots(seen_edges(SCORES, 0.2), USED)
    assert np.diag(shared).tolist() == [2, 2, 3]  # what each misses alone; the fourth is too weak to be seen
    assert shared.loc["a", "b"] == shared.loc["b", "a"] == 1
    assert shared.loc["a", "c"] == 2
    assert shared_blind_spots(seen_edges(SCORES, 0.05), USED).loc["a", "c"] == 1
    assert shared_blind_spots(seen_edges(SCORES, 0.05), torch.zeros(5, dtype=torch.bool)).to_numpy().sum() == 0


def test_a_certificate_is_false_where_what_passes_under_a_pair_fails_under_a_third():
    faithful = [[1.0, 1.0, 1.0], [0.95, 0.95, 0.1], [0.95, 0.2, 0.95], [0.95, 0.95, 0.85], [0.0, 0.95, 0.95]]
    found = certificates(faithful, list("abc"), 0.9, 0.8).set_index(["one", "other"])
    assert found.loc[("a", "b")].tolist() == [3, 1, 0.1]  # .85 neither passes nor fails
    assert found.loc[("a", "c")].tolist() == [2, 1, 0.2]
    assert found.loc[("a", "a")].tolist() == [4, 2, 0.1]
    alone = certificates([[0.5, 0.95]], ["a", "b"], 0.9, 0.8).set_index(["one", "other"])
    assert alone.loc[("a", "b"), "passed"] == 0
    assert np.isnan(alone.loc[("a", "b"), "worst"])
    with pytest.raises(ValueError, match="one column for each"):
        certificates(faithful, ["a"], 0.9, 0.8)
    with pytest.raises(ValueError, match="fails below where it passes"):
        certificates(faithful, list("abc"), 0.8, 0.9)


def test_a_lax_stand_in_is_given_a_higher_bar_until_it_passes_as_many():
    faithful = np.array([[1.0, 0.92, 0.95], [0.99, 0.5, 0.9], [0.98, 0.91, 0.93], [0.97, 0.3, 0.1]])
    found = equally_strict(faithful, list("abc"), 2, 0.8).set_index(["one", "other"])
    assert found.loc[("a", "a")].tolist() == [0.99, 1, 0.5]  # strict as it is, it still certifies what fails
    assert found.loc[("b", "b")].tolist() == [0.91, 0, 0.91]
    assert found.loc[("a", "c")].tolist() == [0.93, 0, 0.91]
    with pytest.raises(ValueError, match="can pass"):
        equally_strict(faithful, list("abc"), 5, 0.8)
