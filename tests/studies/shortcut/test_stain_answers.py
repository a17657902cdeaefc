"""What the live figure of stains shows: answers with channels ablated, sweeps to look up, and its first view."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from studies.shortcut.live import COLUMNS, MEASURES, STAINS, answer, compared, live_shortcut, looked_up, stained
from studies.shortcut.networks import CHANNELS, NarrowTileNet
from studies.shortcut.pooled import Pool
from studies.shortcut.recovery import twin_of
from studies.shortcut.stains import REFERENCE, Stain, turned
from studies.shortcut.tiles import Tiles

KS, CONTROLS = (0, 4, CHANNELS), ("pattern", "oracle")
OTHER = turned(REFERENCE, torch.tensor([5.0, -5.5]), torch.tensor([-6.5, -11.5]))


def tiles(count: int = 6, size: int = 16, seed: int = 0) -> Tiles:
    pixels = torch.randint(30, 256, (count, size, size, 3), generator=torch.Generator().manual_seed(seed))
    column = torch.arange(count) % 2
    return Tiles(pixels.byte(), column, 0 * column, 0 * column, np.full(count, "train"), ("H0",), ("a",), "noise")


def each(stain: Stain, count: int) -> Stain:
    """Return a stain as often as there are tiles."""
    return Stain(*(part.expand(count, *part.shape) for part in (stain.vectors, stain.maxima, stain.white)))


@pytest.fixture(scope="module")
def model() -> NarrowTileNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NarrowTileNet().eval()


def answers_of(model, some, stains=(REFERENCE, OTHER), ks=KS):
    @torch.no_grad()
    def features_of(images):
        return model.pooled(images)

    reference = Pool(features_of(tiles(40, seed=1).images()), torch.arange(40) % 2)
    rng = torch.Generator().manual_seed(2)
    orders = {name: torch.randperm(CHANNELS, generator=rng) for name in CONTROLS}
    return answer(model, features_of, some, stains, reference, orders, ks, draws=5), reference


@torch.no_grad()
def test_answers_are_the_networks_and_without_channels_they_know_no_stain(model):
    some = tiles()
    found, reference = answers_of(model, some)
    for place, share in ((0, 0.0), (10, 1.0)):
        seen = model(stained(some.images(), REFERENCE, OTHER, share)).softmax(1)[:, 1]
        assert found.whole[place] == pytest.approx(seen.numpy(), abs=1e-5)
    assert np.allclose(found.own[:, 0], found.whole)
    assert np.ptp(found.whole, axis=0).max() > 1e-4
    # With all channels at their mean, every tile gets the answer of the mean features.
    constant = model.fc(reference.features.mean(0)).softmax(0)[1].item()
    assert np.allclose(found.own[:, -1], constant, atol=1e-5)
    assert np.allclose(found.low[:, -1], found.high[:, -1])  # there is only one such set of channels
    ill = np.array([0, 1] * 3)
    assert np.allclose(found.right[..., 0], ((found.own > 0.5) == ill).mean(-1))
    assert (found.right[..., 2] <= found.right[..., 3]).all()
    assert found.at("oracle", 4, 0.5) == (found.right[1, 0, 5, 0], *found.right[1, 1, 5, :2])


def curves(seeds=(0, 1)) -> pd.DataFrame:
    """Return a sweep whose control is ahead of its twin by (K + 1 + seed) / 1000."""
    rows = []
    for where in ("ID", "OOD"):
        for control in CONTROLS:
            for measure in (*MEASURES, "called tumour"):
                for k in KS:
                    for seed in seeds:
                        twin = 0.6 + 0.01 * seed
                        rows.append((where, control, measure, k, seed, twin + (k + 1 + seed) / 1000, np.nan, np.nan))
                        rows.append((where, twin_of(control), measure, k, seed, twin, twin - 0.1 * (seed + 1), 0.7))
    return pd.DataFrame(rows, columns=["set", "control", "measure", "k", "seed", "mean", "low", "high"])


def test_a_sweep_is_compared_with_its_random_twins():
    found = compared(curves(), CONTROLS)
    assert set(found.measure) == {*MEASURES}
    row = found.set_index(["set", "control", "measure", "k"]).loc[("OOD", "oracle", "accuracy", 4)]
    assert row["before"] == pytest.approx(0.605 + 0.0015)
    assert (row["own"], row["random"]) == pytest.approx((0.605 + 0.0055, 0.605))
    assert row["mean"] == pytest.approx(0.0055)
    assert (row["mean"] - row["low"]) == pytest.approx(12.7062 * 0.0005, rel=1e-4)  # Student's t of two seeds
    assert (row["band low"], row["band high"]) == pytest.approx((-0.2, 0.1))  # the widest of the seeds
    alone = compared(curves(seeds=(0,)), CONTROLS)
    assert alone["low"].isna().all()
    assert alone["mean"].notna().all()
    with pytest.raises(KeyError, match="no curve of 'pattern' and its twin"):
        compared(curves().query("control != 'pattern, matched'"), CONTROLS)


def test_what_is_not_recorded_is_looked_up_as_nan():
    table = compared(curves(), CONTROLS)
    short = table[(table.control == "oracle") & (table.k > 0)][["set", "control", "measure", "k", "mean"]]
    both = pd.concat([table, short.query("set == 'OOD'").assign(set="recorded")])
    found = looked_up(both, ["ID", "OOD", "recorded"], CONTROLS, KS)
    assert found.shape == (3, len(MEASURES), len(CONTROLS), len(KS), len(COLUMNS))
    assert found[1, 0, 1, 1, 5] == found[2, 0, 1, 1, 5] == pytest.approx(0.0055)
    assert np.isnan(found[2, :, 0]).all()
    assert np.isnan(found[2, :, :, 0]).all()
    assert np.isfinite(found[:2]).all()


@pytest.mark.parametrize(
    ("some", "stains", "seeds", "ks"),
    [
        (tiles(), (REFERENCE, OTHER), (0, 1), KS),
        (tiles(1), (REFERENCE, OTHER), (0,), (0, 4)),  # one label
        (tiles(8, 96), (each(REFERENCE, 8), each(OTHER, 8)), (0,), KS),
    ],
    ids=["usual", "one tile, one seed", "large tiles, a stain each"],
)
def test_the_first_view_says_the_tables_numbers(model, some, stains, seeds, ks):
    found, _ = answers_of(model, some, stains, ks)
    table = compared(curves(seeds).query("k in @ks"), CONTROLS)
    words = {"stain": "the other", "network": "a network"}
    live = live_shortcut(table, found, some, stains, first=("oracle", "OOD", 4), **words)
    assert len(live.stored("label")) < 350_000
    data = json.loads(live.stored("label"))["data"]
    assert data["tiles"]["pixels"]["shape"][1] == min(some.size, 64)
    assert data["tiles"]["tumour"] == sorted(data["tiles"]["tumour"])
    said = [text.get_text() for ax in live.static().axes for text in ax.texts]
    told = "+0.6 [−0.1, +1.2]" if len(seeds) > 1 else "+0.5"
    assert said.count(told) == 2  # of ID and of OOD
    assert f"less random, K = 4: {told}" in said
    whole, own, random = found.at("oracle", 4, 1.0)
    assert f"{100 * whole:.0f} % → {100 * own:.0f} %; random as strong {100 * random:.0f} %" in said
    for wrong in (("random", "OOD", 4), ("oracle", "H9", 4), ("oracle", "OOD", 5)):
        with pytest.raises(ValueError, match="expected one of"):
            live_shortcut(table, found, some, stains, first=wrong, **words)
    with pytest.raises(ValueError, match="tiles that the answers are of, got 9"):
        live_shortcut(table, found, tiles(9), stains, first=("oracle", "OOD", 4), **words)


def test_the_stain_axis_holds_both_stains():
    assert STAINS[0] == 0
    assert 1.0 in STAINS
    images = tiles().images()
    assert torch.allclose(stained(images, REFERENCE, OTHER, 0.0), images, atol=1e-5)
    assert (stained(images, REFERENCE, OTHER, 1.0) - images).abs().max() > 0.05
