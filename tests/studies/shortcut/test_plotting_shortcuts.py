import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from studies.shortcut.plots import (
    plot_ablation_effect,
    plot_areas,
    plot_dose_response,
    plot_grid,
    plot_probe_curves,
    plot_recovery,
    plot_scores,
    plot_tile_sheet,
)

KS = (0, 4, 64)


@pytest.fixture(autouse=True)
def no_figure_left_open():
    yield
    plt.close("all")


def curves(sets=("ID", "OOD"), controls=("shortcut", "random", "matched random", "morphology")):
    rows = []
    for place, control in enumerate(controls):
        for number, group in enumerate(sets):
            for k in KS:
                mean = 0.9 - 0.1 * number - 0.001 * k * (place + 1)
                rows.append((control, group, k, mean, 0.01 * (place + 1), mean - 0.02, mean + 0.03))
    return pd.DataFrame(rows, columns=["control", "set", "k", "mean", "sd", "low", "high"])


def title(ax):
    return ax.get_title(loc="left") or ax.get_title()


def drawn(ax):
    """Return label -> (x, y) of the lines that have one."""
    lines = {line.get_label(): np.asarray(line.get_xydata()) for line in ax.get_lines()}
    return {label: points for label, points in lines.items() if not label.startswith("_")}


def test_the_sources_figure_has_its_curves_their_spread_and_the_baseline():
    frame = curves()
    fig = plot_ablation_effect(frame)
    left, right = fig.axes
    mean = frame.set_index(["control", "set", "k"])["mean"]
    lines = drawn(left)
    assert lines["top-K shortcut channels"].tolist() == [[k, mean["shortcut", "OOD", k]] for k in KS]
    assert lines["top-K morphology channels"][:, 1].tolist() == [mean["morphology", "OOD", k] for k in KS]
    assert (lines["none ablated (0.800)"][:, 1] == 0.8).all()
    band = left.collections[0].get_paths()[0].vertices
    at_64 = band[band[:, 0] == 64, 1]
    assert (at_64.min(), at_64.max()) == pytest.approx(
        (mean["random", "OOD", 64] - 0.02, mean["random", "OOD", 64] + 0.02)
    )
    assert drawn(right)["ID, random"][:, 1].tolist() == [mean["random", "ID", k] for k in KS]
    assert set(drawn(right)) == {f"{group}, {name}" for group in ("ID", "OOD") for name in ("shortcut", "random")}
    for ax in fig.axes:
        assert ax.get_xscale() == "symlog"
        assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "4", "64"]


def test_the_sources_figure_without_known_hospitals_or_morphology():
    frame = curves(sets=("OOD",), controls=("shortcut", "random"))
    fig = plot_ablation_effect(frame)
    assert len(fig.axes) == 1
    assert not any("morphology" in label for label in drawn(fig.axes[0]))
    with pytest.raises(KeyError, match="no curve of 'random' on 'OOD'"):
        plot_ablation_effect(frame[frame.control == "shortcut"])


def test_dose_response_draws_every_control_in_every_panel():
    frame = curves()
    fig = plot_dose_response(frame, quantity="share right")
    assert fig.axes[0].get_ylabel() == "share right"
    mean = frame.set_index(["set", "control", "k"])["mean"]
    for ax, group in zip(fig.axes, ("ID", "OOD"), strict=True):
        assert title(ax) == group
        found = [line.get_ydata().tolist() for line in ax.get_lines()]
        assert found == [[mean[group, name, k] for k in KS] for name in frame.control.unique()]
    assert {text.get_text() for text in fig.axes[-1].texts} == set(frame.control)
    with pytest.raises(ValueError, match=r"expected shortcut once for each K of \[0, 4, 64\] in ID, got \[0, 64\]"):
        plot_dose_response(frame.drop(index=1))
    with pytest.raises(KeyError, match="none called \\['measure'\\]"):
        plot_dose_response(frame, by="measure")


def test_probe_curves_average_models_and_show_floor_and_ceiling():
    rows = [
        ("hospital", "shortcut", k, probe, 0.9 - 0.01 * k * (probe == "fixed") + 0.1 * seed, seed)
        for k in KS
        for probe in ("fixed", "refitted")
        for seed in (0, 1)
    ]
    frame = pd.DataFrame(rows, columns=["target", "control", "k", "probe", "value", "seed"])
    fig = plot_probe_curves(frame, floors={"hospital": [0.2, 0.4]}, ceilings={"hospital": 0.33})
    (ax,) = fig.axes
    fixed, refitted, ceiling = ax.get_lines()
    assert fixed.get_ydata() == pytest.approx([0.95, 0.91, 0.31])
    assert refitted.get_ydata() == pytest.approx([0.95] * 3)
    assert ceiling.get_ydata() == pytest.approx([0.33, 0.33])
    assert fixed.get_markerfacecolor() != refitted.get_markerfacecolor()
    (floor,) = ax.patches
    assert (floor.get_y(), floor.get_y() + floor.get_height()) == pytest.approx((0.2, 0.4))


def test_scores_are_plotted_by_rank_with_their_correlation():
    truth = np.array([10.0, 1.0, 100.0, 5.0])
    fig = plot_scores(
        {"pattern": truth**2, "coefficient": -truth}, truth, quantity="the truth", marked={"pattern": [2]}
    )
    right, wrong = fig.axes
    assert [re.search(r"[+-]\d\.\d\d", title(ax))[0] for ax in (right, wrong)] == ["+1.00", "-1.00"]
    rest, marked = (points.get_offsets().tolist() for points in right.collections)
    assert marked == [[4, 4]]
    assert sorted(rest) == [[1, 1], [2, 2], [3, 3]]
    with pytest.raises(ValueError, match=r"expected scores \[4\], got \{'short': \[3\]\}"):
        plot_scores({"short": truth[:3]}, truth, quantity="the truth")


def test_the_sheet_shows_each_tile_as_it_is():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    fig = plot_tile_sheet(images, row_labels=["normal", "tumour"], column_labels=["H0", "H1", "H2"])
    shown = [np.asarray(ax.get_images()[0].get_array()) for ax in fig.axes]
    assert np.array_equal(shown, images.reshape(6, 8, 8, 3))
    with pytest.raises(ValueError, match="expected 2 row and 3 column labels, got 2 and 2"):
        plot_tile_sheet(images, row_labels=["a", "b"], column_labels=["a", "b"])


def test_recovery_is_drawn_around_0_where_its_area_is_taken():
    rows = [
        (name, measure, k, k / 1000 * place, -1.0, 1.0)
        for place, name in enumerate(("pattern", "oracle"))
        for measure in ("accuracy", "area under ROC")
        for k in KS
    ]
    frame = pd.DataFrame(rows, columns=["control", "measure", "k", "mean", "low", "high"])
    fig = plot_recovery(frame)
    assert [title(ax) for ax in fig.axes] == ["accuracy", "area under ROC"]
    for ax in fig.axes:
        lines = drawn(ax)
        assert lines["oracle"][:, 1].tolist() == [k / 1000 for k in KS]
        assert lines["pattern"][:, 0] == pytest.approx(np.log2(1 + np.array(KS)), abs=0.1)
        low, high = ax.get_ylim()
        assert low < 0 < 0.064 < high < 0.2  # intervals do not set the scale
    with pytest.raises(KeyError, match="none called \\['low'\\]"):
        plot_recovery(frame.drop(columns="low"))


def test_areas_have_a_dot_per_seed_and_a_mean_in_the_controls_colour():
    rows = [
        (name, control, seed, 0.1 * place + 0.02 * seed, 0.1 * place - 0.05, 0.1 * place + 0.07)
        for name in ("ρ = 0.9", "ρ = 0")
        for place, control in enumerate(("coefficient", "oracle"))
        for seed in (0, 1)
    ]
    frame = pd.DataFrame(rows, columns=["condition", "control", "seed", "value", "low", "high"])
    (ax,) = plot_areas(frame, quantity="area").axes
    dots = [dots.get_offsets()[:, 0].tolist() for dots in ax.collections]
    assert dots == [pytest.approx(row) for row in ([0, 0.02], [0.1, 0.12])] * 2
    assert [dots.get_facecolor()[0].tolist() for dots in ax.collections[:2]] == [
        dots.get_facecolor()[0].tolist() for dots in ax.collections[2:]
    ]
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["ρ = 0.9", "coefficient", "oracle", "ρ = 0", "coefficient", "oracle"]
    assert [text.get_text() for text in ax.texts][:2] == ["+0.010 [-0.050, +0.070]", "+0.110 [+0.050, +0.170]"]


def test_the_grid_has_a_dot_per_seed_and_its_control():
    rows = [
        (score, basis, "accuracy", seed, 0.1 * seed, np.nan if score == "coefficient" else 0.01)
        for basis in ("channels", "LEACE direction")
        for score in ("coefficient", "pattern")
        for seed in (0, 1)
    ]
    columns = ["score", "basis", "measure", "seed", "value", "control"]
    (ax,) = plot_grid(pd.DataFrame(rows, columns=columns), measures=("accuracy",)).axes
    dots = [dots.get_offsets()[:, 0].filled(np.nan).tolist() for dots in ax.collections if len(dots.get_offsets()) == 2]
    assert dots[0] == [0, 0.1]
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["channels", "coefficient", "pattern", "LEACE direction", "coefficient", "pattern"]
