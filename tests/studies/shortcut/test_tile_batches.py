"""Batches of tiles: epochs, symmetries, and the stain jitter of the schedule."""

from __future__ import annotations

import pytest
import torch

from nbutils.seeding import generator
from studies.shortcut.batches import TileBatches, turned
from studies.shortcut.stains import jitter


def tiles(count=10, size=8):
    """Return tiles of which each pixel is unlike all others, and their numbers as labels."""
    pixels = torch.randint(30, 250, (count, 3, size, size), generator=generator(0, "test tiles"), dtype=torch.uint8)
    return pixels, torch.arange(count)


def step(batches, seeds, number):
    block, offset = divmod(number, batches.block)
    draws = [batches.draw(seed, block) for seed in seeds]
    return batches.batch({key: torch.stack([d[key][offset] for d in draws]) for key in draws[0]}, torch.float64)


def test_an_epoch_shows_each_tile_once_with_its_label_under_one_of_eight_symmetries():
    images, labels = tiles()
    batches = TileBatches(images, labels, batch_size=5, block=3)
    shown = [step(batches, [4], number) for number in range(4)]
    assert sorted(shown[0]["target"][0].tolist() + shown[1]["target"][0].tolist()) == list(range(10))
    assert sorted(shown[2]["target"][0].tolist() + shown[3]["target"][0].tolist()) == list(range(10))
    seen = set()
    for batch in shown:
        for image, label in zip(batch["input"][0], batch["target"][0], strict=True):
            original = images[label].double() / 255
            same = [s for s in range(8) if torch.equal(turned(original, torch.tensor(s)), image)]
            assert len(same) == 1
            seen |= {*same}
    assert len(seen) >= 4


def test_the_symmetries_are_the_squares():
    image = tiles()[0][0]
    kinds = {turned(image, torch.tensor(s)).numpy().tobytes() for s in range(8)}
    expected = {
        x.contiguous().numpy().tobytes()
        for k in range(4)
        for x in (image.rot90(k, (1, 2)), image.flip(2).rot90(k, (1, 2)))
    }
    assert kinds == expected
    assert len(kinds) == 8


def test_draws_are_the_seeds_own():
    batches = TileBatches(*tiles(), batch_size=5, jitter=[1.0] * 4)
    together, alone = step(batches, [1, 2], 1), step(batches, [2], 1)
    assert torch.equal(together["input"][1], alone["input"][0])
    assert not torch.equal(together["input"][0], alone["input"][0])


def test_the_jitter_follows_the_schedule_step_by_step():
    images, labels = tiles()
    plain = TileBatches(images, labels, batch_size=5)
    scheduled = TileBatches(images, labels, batch_size=5, jitter=[0.0, 2.0])
    assert torch.equal(step(scheduled, [3], 0)["input"], step(plain, [3], 0)["input"])
    before, after = step(plain, [3], 1)["input"][0], step(scheduled, [3], 1)["input"][0]
    assert torch.equal(after, jitter(before, generator(3, "stain jitter", 1), 2.0))
    assert (after - before).abs().max() > 0.02
    with pytest.raises(ValueError, match="step 2 has no jitter; there are 2"):
        step(scheduled, [3], 2)


def test_what_does_not_correspond_is_refused_and_other_content_is_another_name():
    images, labels = tiles()
    for arguments, message in [
        ((images.float(), labels), "bytes"),
        ((images[:, :, 1:], labels), "size"),
        ((images, labels[1:]), "as many labels"),
        ((images, labels, (), 11), "between 1 and the 10"),
    ]:
        with pytest.raises(ValueError, match=message):
            TileBatches(*arguments)
    assert len(repr(TileBatches(images, labels, (), 5))) < 200
