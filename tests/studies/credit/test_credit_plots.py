"""Figures of the credit audit are tested through the data they draw, in both themes."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PathCollection

from nbutils.plotting import theme
from studies.credit.perturbation import PerturbationCorrelation
from studies.credit.plots import (
    lengths_over_training,
    plot_accuracy,
    plot_power_laws,
    plot_precision,
    plot_predictions,
    plot_rho_by_layer,
    plot_settling,
    plot_steps,
    shown_predictions,
)
from studies.credit.slopes import Slope

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RNG = np.random.default_rng(0)
LOOKS = {"BP": "BP", "DFA": "DFA", "frozen": "frozen", "weak": "penalty 1", "strong": "penalty 2"}


@pytest.fixture(autouse=True, params=[theme.LIGHT, theme.DARK], ids=lambda look: look.name)
def look(request):
    with theme.use(request.param):
        yield request.param
    plt.close("all")


def dots(ax) -> list[np.ndarray]:
    return [np.asarray(a.get_offsets()) for a in ax.collections if isinstance(a, PathCollection)]


@pytest.fixture
def table():
    rows = [
        {"regime": regime, "seed": seed, "layer": layer, "rho": RNG.random(), "ceiling": 1.0}
        for regime in ("BP", "DFA", "frozen")
        for seed in range(5)
        for layer in range(4)
    ]
    return pd.DataFrame(rows).assign(null_low=-0.04, null_high=0.05)


def test_each_panel_shows_every_seed_the_mean_and_the_band(table):
    fig = plot_rho_by_layer(table, LOOKS, columns=2)
    panels = [ax for ax in fig.axes if ax.axison]
    assert [ax.get_title("left") for ax in panels] == ["BP", "DFA", "frozen"]
    for ax in panels:
        part = table[table.regime == ax.get_title("left")]
        (points,) = dots(ax)
        np.testing.assert_array_equal(points[:, 1], part.rho)
        np.testing.assert_array_equal(points[:, 0].round(), part.layer)
        means = part.groupby("layer").rho.mean()
        assert any(np.array_equal(line.get_ydata(), means) for line in ax.lines)
        (band,) = [patch.get_data() for patch in ax.patches]
        assert set(band.values) == {0.05}
        assert set(np.ravel(band.baseline)) == {-0.04}


def test_precision_shows_lost_measurements_as_hollow():
    table = pd.DataFrame(
        {"gradient_rms": [1e-6, 1e-3, 1.0], "float32_ceiling": [np.nan, 0.3, 1.0], "ceiling": [1.0, 1.0, 1.0]}
    )
    (ax,) = plot_precision(table, (np.array([1e-6, 1.0]), np.array([0.0, 1.0]))).axes
    exact, measured, lost = dots(ax)
    np.testing.assert_array_equal(exact, [[1e-6, 1], [1e-3, 1], [1, 1]])
    np.testing.assert_array_equal(measured, [[1e-3, 0.3], [1, 1]])
    np.testing.assert_array_equal(lost, [[1e-6, 0]])
    assert ax.collections[-1].get_facecolors().size == 0
    assert ax.get_xscale() == "log"
    (ax,) = plot_precision(table.iloc[1:], (np.array([1e-6, 1.0]), np.array([0.0, 1.0]))).axes
    assert len(dots(ax)) == 2


def test_a_power_law_is_drawn_with_its_fit_and_the_expectation():
    x = np.array([1.0, 10, 100, 1000])
    table = pd.DataFrame({"‖h‖": x, "‖g‖": 2 * x**-0.5, "regime": ["DFA", "DFA", "weak", "weak"]})
    panel = table, ("‖h‖", "‖g‖"), Slope(-0.5, -0.6, -0.4, np.log10(2), 4)
    ax, other = plot_power_laws([panel, panel], LOOKS, expected=-1.0).axes
    assert other.get_title("left") == "slope −0.50 [−0.60, −0.40]"
    np.testing.assert_array_equal(np.concatenate(dots(ax)), table[["‖h‖", "‖g‖"]])
    expected, fitted = [line.get_xydata() for line in ax.lines]
    np.testing.assert_allclose(fitted, [[1, 2], [1000, 2 * 1000**-0.5]])
    assert np.log10(expected[1, 1] / expected[0, 1]) == pytest.approx(-3)
    assert np.sqrt(expected[:, 1].prod()) == pytest.approx(np.sqrt(fitted[:, 1].prod()))  # through the same centre
    with pytest.raises(ValueError, match="above 0"):
        plot_power_laws([(0 * table[["‖h‖", "‖g‖"]].assign(regime=1), *panel[1:])], LOOKS, expected=-1.0)


def test_accuracies_stand_beside_the_baseline():
    values = {"BP": RNG.random(5), "frozen": RNG.random(5)}
    intervals = {"BP": (0.2, 0.3), "frozen": (0.4, 0.6)}
    (ax,) = plot_accuracy(values, intervals, LOOKS, baseline="frozen", published={"BP": 0.615}).axes
    for points, results in zip(dots(ax), values.values(), strict=True):
        np.testing.assert_array_equal(points[:, 0], results)
    assert ax.patches[0].get_x() == 0.4
    drawn = [line.get_xdata() for line in ax.lines]
    assert [0.2, 0.3] in [list(x) for x in drawn]
    assert any(line.get_marker() == "x" and line.get_xdata()[0] == 0.615 for line in ax.lines)
    with pytest.raises(KeyError, match="'other'"):
        plot_accuracy(values, intervals, LOOKS, baseline="other")


def test_predictions_are_drawn_with_the_line_on_which_they_agree():
    predicted, actual = RNG.normal(size=(2, 8, 50))
    found = PerturbationCorrelation(torch.as_tensor(predicted), torch.as_tensor(actual))
    results = {"float64": found, "float32": PerturbationCorrelation(found.predicted, 0 * found.actual)}
    left, right = plot_predictions(results).axes
    np.testing.assert_array_equal(dots(left)[0], np.column_stack([predicted.ravel(), actual.ravel()]))
    assert left.get_title("left") == f"float64\nρ = {found.rho:+.3f}".replace("-", "−")
    few = shown_predictions(results, shown=100)
    assert few.groupby("measurement").size().tolist() == [100, 100]
    np.testing.assert_array_equal(few.predicted[few.measurement == "float64"], predicted.ravel()[::4])
    assert "undefined" in right.get_title("left")
    with pytest.raises(ValueError, match="at least one"):
        plot_predictions({})


@pytest.mark.parametrize(
    "draw", [lambda t: plot_rho_by_layer(t, LOOKS), lambda t: plot_precision(t, (np.ones(1), np.ones(1)))]
)
def test_a_table_without_a_column_or_a_row_is_named(table, draw):
    table = table.assign(gradient_rms=1.0, float32_ceiling=1.0)
    with pytest.raises(KeyError, match="ceiling"):
        draw(table.drop(columns="ceiling"))
    with pytest.raises(ValueError, match="at least one row"):
        draw(table.iloc[:0])


def test_steps_are_drawn_twice_and_lost_ones_hollow_at_zero():
    steps = np.array([1e-8, 1e-6, 1e-4])
    predicted = 1 / np.hypot(1, 2e-6 / steps)
    table = pd.DataFrame({"precision": "float32", "step": steps, "in_roundoffs": steps * 2**24, "predicted": predicted})
    fig = plot_steps(table.assign(rho=[np.nan, 0.4, 1.0]), {"a step": 1e-5})
    for ax, x in zip(fig.axes, ("step", "in_roundoffs"), strict=True):
        seen, lost = dots(ax)[:2]
        np.testing.assert_allclose(seen, np.column_stack([table[x][1:], [0.4, 1.0]]))
        np.testing.assert_allclose(lost, [[table[x][0], 0.0]])
        curve = next(line for line in ax.lines if len(line.get_xdata()) == 200)
        np.testing.assert_allclose(np.interp(table[x], *curve.get_data()), predicted, atol=0.01)
    assert any(np.array_equal(line.get_xdata(), [1e-5, 1e-5]) for line in fig.axes[0].lines)


def test_settling_shows_lengths_by_strength_and_their_slope():
    rows = [
        {"seed": seed, "variant": name, "step": step, "term": term, "value": value * (seed + 1) ** 2}
        for seed in (0, 3)
        for name, value in (("weak", 4.0), ("strong", 1.0))
        for step in (0, 9)
        for term in ("hidden norm", "total")
    ]
    slopes = pd.DataFrame({"step": [0, 9], "slope": [0.0, -0.5], "low": [-0.1, -0.6], "high": [0.1, -0.4]})
    lengths = lengths_over_training(pd.DataFrame(rows), {"weak": 0.01, "strong": 0.1})
    left, right = plot_settling(lengths, LOOKS, slopes).axes
    np.testing.assert_allclose([line.get_ydata() for line in left.lines], [[4.0, 4.0], [2.0, 2.0]])
    assert list(right.lines[0].get_ydata()) == [0.0, -0.5]
