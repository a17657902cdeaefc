import pytest
import torch

from studies.color_cube.mappers import BezierMapper, BoundedFalloff, LinearMapper


def test_falloff_formula():
    x = torch.tensor([-1.0, 0.0, 0.3, 0.5, 0.75, 1.0], dtype=torch.float64)
    gate = BoundedFalloff(start=0.5, slope=0.8, power=2)(x)
    assert gate.tolist() == pytest.approx([0, 0, 0, 0, 0.8 * 0.25, 0.8])
    assert BoundedFalloff(power=0)(x).tolist() == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("mapper", [LinearMapper(0.2, 0.6), BezierMapper(0.2, 0.6), BezierMapper(0.0, 0.3, 1.0)])
def test_mappers_squeeze_monotonically_onto_their_range(mapper):
    x = torch.linspace(-1, 1, 401, dtype=torch.float64)
    y = mapper(x)
    below = x <= mapper.start
    assert torch.equal(y[below], x[below])
    assert y[-1].item() == pytest.approx(mapper.end, abs=1e-7)
    assert (y.diff() > -1e-12).all()
    assert (y <= x + 1e-12).all()
    with pytest.raises(ValueError, match="start"):
        type(mapper)(0.6, 0.2)


def test_bezier_points_satisfy_its_equation_and_it_sets_in_without_a_kink():
    mapper = BezierMapper(0.2, 0.6)
    t = torch.tensor(0.37, dtype=torch.float64)
    p = [(0.2, 0.2), *[(0.2 + mapper.tension * 0.4,) * 2], (1 - mapper.tension * 0.4, 0.6), (1.0, 0.6)]
    b = [(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3]
    x, y = (sum(w * point[axis] for w, point in zip(b, p, strict=True)) for axis in (0, 1))
    assert mapper(x[None]).item() == pytest.approx(y.item(), abs=1e-7)
    slope = (mapper(torch.tensor([0.201], dtype=torch.float64)) - 0.2) / 0.001
    assert slope.item() == pytest.approx(1, abs=0.02)
    linear = (LinearMapper(0.2, 0.6)(torch.tensor([0.201], dtype=torch.float64)) - 0.2) / 0.001
    assert linear.item() == pytest.approx(0.5, abs=0.02)  # the linear one does kink
