"""Selectivity: what a correlation cannot see, measured on planted networks."""

import numpy as np
import pytest
import torch

from nbutils.training.ensemble import Ensemble
from studies.color_cube import frontier
from studies.color_cube.data import RED_HSV, ColorBatches, degree, rgb_grid
from studies.color_cube.directions import difference_of_means, rare_label_direction
from studies.color_cube.measures import error_correlation, rgb_similarity
from studies.color_cube.network import ColorMLP
from studies.color_cube.planted import PlantedColors
from studies.color_cube.steering import Suppression

COLORS = rgb_grid(6).reshape(-1, 3)
SIMILARITY = rgb_similarity(COLORS, RED_HSV)
RED = int(SIMILARITY.argmax())
STRENGTHS = np.linspace(0, 1, 11)


def planted(uniform: float) -> np.ndarray:
    """Return the damage `[strengths, N]` where the whole removal adds .2025·s³, and `uniform` to all colours."""
    rho = np.sqrt(0.81 * SIMILARITY**3 + 4 * uniform)
    model = PlantedColors(torch.as_tensor(COLORS), torch.as_tensor(rho)).eval()
    latents = model.bottleneck(model.encoder(torch.as_tensor(COLORS)))[None]
    removal = frontier.suppression(torch.eye(5, dtype=torch.float64)[:1])
    return frontier.sweep_strength(lambda z: model.decoder(z[0])[None], latents, COLORS, removal, STRENGTHS)[0]


def test_equal_damage_everywhere_is_seen_by_collateral_and_not_by_the_correlation():
    clean, spoilt = planted(0.0), planted(0.01)
    for added, uniform in ((clean, 0.0), (spoilt, 0.01)):
        assert error_correlation(added[-1], SIMILARITY, power=3) == pytest.approx(1, abs=1e-9)
        assert frontier.collateral(added[-1], SIMILARITY) == pytest.approx(uniform, abs=1e-12)
        assert added[-1, RED] == pytest.approx(0.2025 + uniform)
        # Both grow with the square of the strength: at equal damage at red, collateral is a known share of it.
        elsewhere = frontier.collateral(added, SIMILARITY)
        level = added[6, RED]
        found = frontier.at_equal_damage(added[None, :, RED], elsewhere[None], level)
        assert found == pytest.approx(level * uniform / (0.2025 + uniform), abs=1e-12)
    far = SIMILARITY < frontier.FAR
    expected = (0.2025 * SIMILARITY**3 + 0.01)[far].sum() / (0.2025 * SIMILARITY**3 + 0.01).sum()
    assert frontier.share_elsewhere(spoilt[-1], SIMILARITY) == pytest.approx(expected)
    assert frontier.share_elsewhere(clean[-1], SIMILARITY) < 0.01 < 0.1 < expected


def test_a_level_that_is_never_reached_has_no_collateral():
    found = frontier.at_equal_damage([[0, 0.5, 1], [0, 0.1, 0.2]], [[0, 1, 3], [0, 1, 2]], 0.75)
    assert found[0] == pytest.approx(2)
    assert np.isnan(found[1])
    with pytest.raises(ValueError, match="no similarity"):
        frontier.collateral(np.ones(3), np.ones(3))


def test_removals_of_an_ensemble_are_those_of_each_member():
    ensemble = Ensemble(ColorMLP, range(9))  # more than one chunk
    latents, decode = frontier.latents_of(ensemble, COLORS), frontier.decoder_of(ensemble)
    directions = torch.nn.functional.normalize(torch.randn(9, 5, dtype=torch.float64), dim=1)
    together = frontier.errors(decode, latents, COLORS, frontier.suppression(directions), 0.7)
    model, x = ensemble[8], torch.as_tensor(COLORS)
    with torch.no_grad():
        edited = Suppression(directions[8], torch.ones_like, 0.7)(model.bottleneck(model.encoder(x)))
        alone = (model.decoder(edited).clamp(0, 1) - x).square().mean(1)
    assert together[8] == pytest.approx(alone.numpy(), abs=1e-12)
    within = frontier.suppression(directions, 0.5)(latents)
    moved = (within != latents).any(-1)
    assert torch.equal(moved, (latents * directions[:, None]).sum(-1) > 0.5)


def test_leace_leaves_no_covariance_and_moves_least():
    """The theorem, and its negative controls: another direction leaves some, an orthogonal removal moves more."""
    generator = torch.Generator().manual_seed(0)
    z = (
        torch.randn(2, 400, 5, generator=generator, dtype=torch.float64)
        @ torch.randn(2, 5, 5, generator=generator).double()
    )
    concept = (z[0, :, 0] + z[1, :, 1]).sigmoid() ** 3
    removal = frontier.leace(z, concept)
    centred = concept - concept.mean()

    def left(edited):
        return (centred[:, None] * edited).mean(1).abs().max().item()

    erased = removal(z)
    assert left(erased) < 1e-12 < 0.01 < left(z)
    assert (removal(erased) - erased).abs().max() < 1e-10
    other = torch.nn.functional.normalize(torch.ones(2, 5, dtype=torch.float64), dim=1)
    assert left(frontier.Removal(other, other, z.mean(1))(z)) > 0.01
    # Taking the difference of means out at a right angle leaves none either, but moves more.
    means = torch.stack([difference_of_means(member, concept) for member in z])
    orthogonal = frontier.Removal(means, means, z.mean(1))(z)
    assert left(orthogonal) < 1e-12
    moved_by_leace, moved = ((edited - z).square().sum((1, 2)) for edited in (erased, orthogonal))
    assert (moved_by_leace < 0.99 * moved).all()
    with pytest.raises(ValueError, match="varying weight"):
        frontier.leace(z, torch.ones(400, dtype=torch.float64))


def test_labels_of_a_run_are_those_it_trained_with():
    batches = ColorBatches(block=16)
    index, label = batches.drawn_labels(3, 40)
    assert len(index) == len(label) == 40 * 64
    assert torch.equal(index[16 * 64 : 32 * 64], batches.draw(3, 1)["index"].flatten())
    latents = batches.colors() - 0.5
    index, label = ColorBatches(label_rate=1.0).drawn_labels(0, 1501)
    found = rare_label_direction(latents, index, label)
    assert found @ difference_of_means(latents, degree(batches.colors(), "red") ** 8) > 0.999
