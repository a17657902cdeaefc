import numpy as np
import pytest
import torch

from nbutils.ablation.surgery import prune
from nbutils.ablation.weights import zero_weights
from nbutils.hooks import edit
from nbutils.sites import Site
from nbutils.sweeps.units import sweep
from studies.color_cube.data import RED_HSV, rgb_grid
from studies.color_cube.mappers import BoundedFalloff
from studies.color_cube.measures import error_correlation, rgb_similarity, squared_error
from studies.color_cube.planted import PlantedColors
from studies.color_cube.steering import Suppression

GAIN = 0.5


@pytest.fixture(scope="module")
def planted():
    colors = torch.as_tensor(rgb_grid(8).reshape(-1, 3))
    similarity = rgb_similarity(colors.numpy(), RED_HSV)
    rho = 0.9 * similarity**1.5  # so that the squared error is proportional to similarity cubed
    return colors, similarity, rho, PlantedColors(colors, torch.as_tensor(rho), gain=GAIN).eval()


def test_it_reconstructs_exactly_when_left_alone(planted):
    colors, _, _, model = planted
    assert squared_error(model(colors), colors).max().item() < 1e-20


def test_ablation_pruning_and_suppression_give_the_derived_error(planted):
    colors, similarity, rho, model = planted
    expected = (GAIN * rho) ** 2
    with torch.no_grad():
        sites = [Site("bottleneck", 0, part="input")]
        errors = [squared_error(call(model, sites, colors)(colors), colors) for call in (zero_weights, prune)]
        with edit(model, {"bottleneck": Suppression((1.0, 0, 0, 0, 0), BoundedFalloff(power=0))}):
            errors.append(squared_error(model(colors), colors))
    for error in errors:
        assert error.numpy() == pytest.approx(expected, abs=1e-12)
        assert error_correlation(error, similarity, power=3) == pytest.approx(1, abs=1e-9)
    cyan = (colors == torch.tensor([0.0, 1, 1])).all(1)
    assert errors[0][cyan].item() == pytest.approx((GAIN * rho[cyan.numpy()][0]) ** 2, abs=1e-15)


def test_another_dimension_is_not_red(planted):
    """Negative control: what is found on dimension 0 is found there only."""
    colors, similarity, _, model = planted
    wrong = squared_error(zero_weights(model, [Site("bottleneck", 1, part="input")], colors)(colors), colors).detach()
    assert wrong.max().item() > 0.1
    assert abs(error_correlation(wrong, similarity, power=3)) < 0.3


def test_a_sweep_finds_the_planted_dimension_and_no_other(planted):
    colors, similarity, rho, model = planted
    unlike = torch.as_tensor(similarity) < 1e-9
    metrics = {
        "all": squared_error,
        "unlike": lambda output, batch: (squared_error(output, batch), unlike),
    }
    swept = sweep(model, Site("bottleneck", part="input"), [colors], metrics).pivot(
        index="unit", columns="metric", values="value"
    )
    assert swept["all"][0] == pytest.approx(((GAIN * rho) ** 2).mean(), abs=1e-12)
    assert swept["unlike"][0] == pytest.approx(0, abs=1e-15)
    assert len(swept) == 5
    assert (swept["unlike"][1:] > 0.1).all()


def test_impossible_plants_are_refused(planted):
    colors, _, rho, model = planted
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        PlantedColors(colors, torch.as_tensor(np.ones(len(rho))))
    with pytest.raises(ValueError, match="gain"):
        PlantedColors(colors, torch.as_tensor(rho), gain=0.6)
    with pytest.raises(ValueError, match="codebook"):
        model(torch.full((1, 3), 0.123, dtype=torch.float64))
