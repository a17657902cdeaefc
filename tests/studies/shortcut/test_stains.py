"""Stains as absorbers of light: painting and its inverse, turned vectors, jitter, and the change of stain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nbutils.seeding import generator
from studies.shortcut import stains
from studies.shortcut.stains import REFERENCE

OTHER = stains.turned(REFERENCE, torch.tensor([4.0, -3.0]), torch.tensor([-7.0, 5.0]))


@pytest.fixture
def relative():
    return torch.rand(5, 2, 8, 8, generator=generator(0, "tissue"))


@pytest.fixture
def images(relative):
    return REFERENCE.paint(relative)


def test_painting_is_beer_lambert_with_the_published_vectors(relative, images):
    haematoxylin, eosin = np.array([0.5626, 0.7201, 0.4062]), np.array([0.2159, 0.8012, 0.5581])
    density = np.einsum("nhw,c->nchw", 1.97 * relative[:, 0], haematoxylin / np.linalg.norm(haematoxylin))
    density += np.einsum("nhw,c->nchw", 1.03 * relative[:, 1], eosin / np.linalg.norm(eosin))
    assert np.allclose(images, 240 / 255 * np.exp(-density), atol=1e-6)
    assert torch.allclose(REFERENCE.paint(torch.zeros(2, 1, 1)), torch.full((3, 1, 1), 240 / 255))


def test_separation_returns_what_was_painted_and_no_rest(relative, images):
    found = REFERENCE.separate(images)
    assert torch.allclose(found[:, :2], relative, atol=1e-5)
    assert found[:, 2].abs().max() < 1e-5
    assert OTHER.separate(images)[:, 2].abs().max() > 0.01  # another stain does not explain it
    assert torch.allclose(REFERENCE.compose(found), images, atol=1e-6)


def test_vectors_turn_by_the_angles_asked_for_and_stay_unit():
    def degrees(a, b):
        return torch.rad2deg(torch.acos((a * b).sum(-1).clamp(-1, 1)))

    assert degrees(OTHER.vectors, REFERENCE.vectors) == pytest.approx([5.0, 74**0.5], abs=0.05)
    assert OTHER.vectors.norm(dim=-1) == pytest.approx([1, 1])
    between = degrees(*REFERENCE.vectors)
    towards = stains.turned(REFERENCE, torch.tensor([4.0, 0.0]), torch.zeros(2))
    away = stains.turned(REFERENCE, torch.zeros(2), torch.tensor([4.0, 0.0]))
    assert (degrees(*towards.vectors) - (between - 4)).abs() < 0.02
    assert (degrees(*away.vectors) - (between + 4)).abs() < 0.02


def test_changing_the_stain_keeps_the_tissue(relative, images):
    changed = stains.recolour(images, REFERENCE, OTHER)
    assert torch.allclose(changed, OTHER.paint(relative), atol=1e-5)
    assert (changed - images).abs().max() > 0.05
    assert torch.allclose(stains.recolour(changed, OTHER, REFERENCE), images, atol=1e-5)
    halfway = stains.blend(REFERENCE, OTHER, 0.5)
    assert torch.allclose(stains.blend(REFERENCE, OTHER, 1).vectors, OTHER.vectors)
    assert not torch.allclose(halfway.vectors, OTHER.vectors, atol=1e-3)


def test_jitter_scales_and_shifts_each_component_by_its_draw(images):
    drawn = torch.rand(5, 2, 3, generator=generator(1, "jitter")) * 2 - 1
    factor, offset = 1 + 0.2 * 1.5 * drawn[:, 0], 0.05 * 1.5 * drawn[:, 1]
    jittered = stains.jitter(images, generator(1, "jitter"), 1.5)
    expected = REFERENCE.separate(images) * factor[..., None, None] + offset[..., None, None]
    inside = (jittered < 1) & (jittered > 0)
    assert inside.float().mean() > 0.9
    assert torch.allclose(jittered[inside], REFERENCE.compose(expected)[inside], atol=1e-5)
    assert (jittered - images).abs().amax((1, 2, 3)).min() > 0.01  # every image changes


def test_jitter_repeats_itself_and_strength_0_changes_nothing(images):
    def once(seed, strength):
        return stains.jitter(images, generator(seed, "jitter"), strength)

    assert torch.equal(once(1, 1.0), once(1, 1.0))
    assert not torch.equal(once(1, 1.0), once(2, 1.0))
    assert torch.equal(once(1, 0.0), images)
    used, idle = generator(3), generator(3)
    stains.jitter(images, used, 0.0)
    stains.jitter(images, idle, 2.0)
    assert torch.equal(used.get_state(), idle.get_state())  # what is drawn next does not depend on the strength
    with pytest.raises(ValueError, match="0 or more; got -1"):
        once(1, -1)


def test_stains_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"maxima \[..., 2\].*got \(2, 3\), \(3,\) and \(\)"):
        stains.Stain(torch.ones(2, 3), torch.ones(3), torch.tensor(1.0))
