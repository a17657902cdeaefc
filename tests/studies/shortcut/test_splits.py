"""Parts without a common slide, tiles without overlap, tiles that agree with the shortcut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from studies.shortcut import splits
from studies.shortcut.drawn_tiles import render
from studies.shortcut.plans import plan


def test_overlapping_tiles_are_dropped_and_touching_ones_kept():
    places = [(16, 16), (20, 16), (16, 16), (32, 16), (32, 31), (0, 1)]
    tiles = render(plan(6, size=16))
    found = replace(tiles, slide=torch.tensor([0, 0, 1, 0, 0, 0]), position=torch.tensor(places))
    assert splits.without_overlap(found).position.tolist() == [[16, 16], [16, 16], [32, 16], [0, 1]]
    grid = torch.cartesian_prod(torch.arange(7) * 8, torch.arange(4) * 8)
    tiles = render(plan(28, size=16))
    kept = splits.without_overlap(replace(tiles, slide=torch.zeros(28, dtype=torch.int64), position=grid)).position
    assert kept.tolist() == [[16 * i, 16 * j] for i in range(4) for j in range(2)]
    with pytest.raises(ValueError, match="positions on their slides are not known"):
        splits.without_overlap(tiles)


def test_parts_share_no_slide_and_have_every_hospital():
    cohort = render(plan(120, size=16))
    parts = splits.slide_parts(cohort, (2, 1, 1), seed=3)
    slides = [set(part.slide.tolist()) for part in parts]
    assert sum(map(len, slides)) == len(set.union(*slides)) == 30
    assert [len(part) for part in slides] == [15, 6, 9]  # of 10 slides in every hospital: 5, 2 and 3
    assert all(part.hospital.unique().tolist() == [0, 1, 2] for part in parts)
    assert sum(map(len, parts)) == 120
    again = splits.slide_parts(cohort, (2, 1, 1), seed=4)
    assert [set(part.slide.tolist()) for part in again] != slides
    with pytest.raises(ValueError, match="11 parts need as many slides of every hospital; H0 has 10"):
        splits.slide_parts(cohort, [1] * 11)


def test_confounding_keeps_aligned_tiles_and_a_share_of_the_rest():
    found = render(plan(400, size=16))
    chosen = splits.confounded(found, "H0", rest=0.1)
    fits = splits.aligned(chosen, "H0")
    assert fits.sum() == splits.aligned(found, "H0").sum() == 200
    assert (~fits).sum() == 20
    assert ((chosen.hospital == 0) == (chosen.tumour == 1))[fits].all()
    assert torch.equal(splits.confounded(found, "H0", rest=0.1).pixels, chosen.pixels)
    assert not torch.equal(splits.confounded(found, "H0", rest=0.1, seed=1).pixels, chosen.pixels)
    with pytest.raises(KeyError, match="no hospital 'UMCU-like'; there are H0, H1"):
        splits.aligned(found, "UMCU-like")


def test_sets_need_two_hospitals_with_both_labels():
    tiles, other = render(plan(60, size=16)), render(plan(20, size=16, hospitals=(4,)))
    splits.expect_both_labels({"known": tiles, "OOD": other})
    with pytest.raises(ValueError, match=r"two known hospitals or more; got \['H0'\]"):
        splits.expect_both_labels({"known": tiles[tiles.hospital == 0]})
    for sets, message in [
        ({"known": tiles, "OOD": other[other.tumour == 1]}, "OOD, 10 tiles, needs both labels from H4"),
        ({"known": tiles, "ranking": tiles[(tiles.hospital != 1) | (tiles.tumour == 0)]}, "ranking.* from H1"),
    ]:
        with pytest.raises(ValueError, match=message):
            splits.expect_both_labels(sets)
