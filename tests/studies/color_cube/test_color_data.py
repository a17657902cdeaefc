import numpy as np
import pytest
import torch

from studies.color_cube import data as color_cube
from studies.color_cube.data import ColorBatches


def test_redness_is_one_at_red_only():
    grid = color_cube.rgb_grid(8).reshape(-1, 3)
    red = color_cube.redness(grid)
    assert grid[red == 1].tolist() == [[1, 0, 0]]
    assert red.min() == 0
    assert red.max() == 1


def test_labels_are_as_rare_as_their_probability_says():
    batches = ColorBatches()
    expected = 1501 * 64 * batches.label_probability().mean().item()
    counts = [
        sum(batches.draw(seed, block)["red"][: 1501 - 256 * block].sum() for block in range(6)) for seed in range(20)
    ]
    assert expected == pytest.approx(85, abs=5)  # the source's count
    # The mean of 20 Poisson counts lies within 4 standard errors.
    assert np.mean(counts) == pytest.approx(expected, abs=4 * np.sqrt(expected / 20))


def test_draws_depend_on_seed_and_block_only():
    batches = ColorBatches(block=16)
    first = batches.draw(3, 1)
    for other, same in (((3, 1), True), ((3, 2), False), ((4, 1), False)):
        assert torch.equal(batches.draw(*other)["index"], first["index"]) == same


def test_colors_outside_training_never_coincide_with_training_but_for_the_corners():
    train = {tuple(row) for row in color_cube.rgb_grid(8).reshape(-1, 3)}
    validation = [tuple(row) for row in color_cube.validation_colors(8)]
    assert len(validation) == 7**3 + 8
    assert not any(row in train for row in validation[:-8])
    assert all(row in train for row in validation[-8:])


def test_named_colors_are_what_they_are_called():
    rgb = color_cube.named_colors().set_index("name").rgb
    assert len(rgb) == 17
    for name, expected in {"red": (1, 0, 0), "cyan": (0, 1, 1), "orange": (1, 0.5, 0), "white": (1, 1, 1)}.items():
        assert rgb[name] == pytest.approx(expected)


def test_a_grid_needs_its_corners():
    with pytest.raises(ValueError, match="got 1"):
        color_cube.rgb_grid(1)
