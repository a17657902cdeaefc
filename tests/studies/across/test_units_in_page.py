"""The live figure of units: its numbers are those of the tables, and its page has all that they need."""

from __future__ import annotations

from base64 import b64decode

import numpy as np
import pandas as pd
import pytest
from drawn import words
from scipy.stats import kendalltau

from studies.across.live import FAR, ORDER, PLANE, Network, compare, live_units, named, plain, plot_first_view, signed
from studies.across.predictors import league
from studies.across.standins import rank_agreement

READ = ["magnitude", "random"]


def network(label: str = "net", units: int = 12, seed: int = 0) -> Network:
    """Return a network of two layers, the first a third of it; zeros and the optimal constant rank in reverse."""
    random = np.random.default_rng(seed)
    layers = np.where(np.arange(units) < units // 3, "net.blocks.0.heads", "fc1")
    effects = pd.DataFrame({name: random.standard_normal(units) for name in ORDER})
    effects["zero"] = np.arange(units) + 1.0
    effects["optimal"] = -effects["zero"].to_numpy()[::-1]
    effects["mean"] = effects["zero"] * 2
    number = np.where(np.arange(units) < units // 3, np.arange(units), np.arange(units) - units // 3)
    read = pd.DataFrame({name: random.random(units) for name in READ})
    return Network(label, "nats", effects.assign(layer=layers, unit=number), read)


OWN = network()


def test_two_rankings_are_compared_as_the_study_does():
    effects = OWN.effects.set_index(["layer", "unit"])[list(ORDER)]
    found = compare(OWN, "zero", "resample")
    assert {name: found.alike[name] for name in ORDER} == rank_agreement(effects, "zero").tau.to_dict()
    assert {name: found.alike[name] for name in READ} == league(OWN.read, effects["zero"]).to_dict()
    assert found.alike["resample"] == pytest.approx(kendalltau(effects["zero"], effects["resample"].abs()).statistic)
    assert found.strongest == 2


def test_nothing_moves_between_equal_rankings_and_the_ends_change_places_in_reverse():
    same, reverse = compare(OWN, "zero", "mean"), compare(OWN, "zero", "optimal")
    assert same.alike["mean"] == pytest.approx(1)
    assert (same.shared, same.far.sum()) == (2, 0)
    assert reverse.alike["optimal"] == pytest.approx(-1)
    assert reverse.shared == 0
    gaps = np.abs(np.arange(12) - np.arange(12)[::-1])
    np.testing.assert_array_equal(reverse.far, gaps > 12 / FAR)
    assert reverse.moved == 0  # the first of the two that move most


def test_what_is_read_off_is_ranked_within_layers():
    found = compare(OWN, "zero", "magnitude")
    assert found.among.tolist() == [4] * 4 + [8] * 8
    np.testing.assert_array_equal(found.ranks[0], [*range(1, 5), *range(1, 9)])
    assert sorted(found.ranks[1, :4]) == [1, 2, 3, 4]


def test_what_differs_by_less_than_a_millionth_is_tied():
    effects = OWN.effects.assign(zero=1.0, mean=1 + 1e-8 * np.arange(12))
    found = compare(Network("net", "nats", effects, OWN.read), "zero", "mean")
    assert np.isnan(found.alike["mean"])  # all are tied, as the study has it
    assert (found.ranks == 6.5).all()
    assert plain(found.alike["mean"]) == "–"


def test_the_page_is_given_the_tables():
    live = live_units([OWN, network("other", 20)], shown="other", up="magnitude")
    own = live.data["networks"][0]
    assert own["layers"] == ["block 0", "fc1"]
    for name, table in (("effects", OWN.effects[list(ORDER)]), ("read", OWN.read)):
        values = np.frombuffer(b64decode(own[name]["base64"]), own[name]["dtype"]).reshape(own[name]["shape"])
        np.testing.assert_array_equal(values, table.to_numpy().T)
    assert live.data["first"] == {"network": "other", "across": "zero", "up": "magnitude"}


@pytest.mark.usefixtures("look")
def test_the_picture_shows_units_by_rank_and_rings_the_one_that_moves_most(look):
    plane, rows = plot_first_view(OWN, "zero", "optimal").axes
    found = compare(OWN, "zero", "optimal")
    drawn = [len(one.get_offsets()) for one in plane.collections]
    assert drawn == [(~found.far).sum(), found.far.sum() // 2, found.far.sum() // 2, 1]
    (ring,) = plane.collections[-1].get_offsets()
    assert ring[0] < PLANE[0] / 2  # weak under zeros, the strongest under the optimal constant
    assert {"block 0, unit 0", "+1.0", "−12.0", "−1.00", "read off instead"} <= set(words(rows))
    assert "→ rank under zero" in words(plane)


def test_effects_are_written_with_two_digits():
    written = [signed(value) for value in (0.0, 0.4, -0.0057, 12.34, -8.6e-6, 2e-4, 9.96, 1e-15)]
    assert written == ["0", "+0.40", "−0.0057", "+12.3", "−8.6e−6", "+2.0e−4", "+10.0", "0"]
    assert named("net.blocks.2.attention.heads", 3) == "block 2, unit 3"
    assert named("fc1", 3) == "fc1, unit 3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shown": "none"}, "labels of their own"),
        ({"across": "magnitude"}, "expected two of"),
        ({"up": "none"}, "expected two of"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        live_units([OWN], **{"shown": "net"} | change)


def test_tables_that_lack_something_are_refused():
    for effects, read in (
        (OWN.effects.drop(columns="zero"), OWN.read),
        (OWN.effects, OWN.read[["random"]]),
        (OWN.effects, OWN.read.iloc[1:]),
        (OWN.effects.assign(zero=np.nan), OWN.read),
    ):
        with pytest.raises(ValueError, match="other: expected"):
            live_units([OWN, Network("other", "nats", effects, read)], shown="net")
