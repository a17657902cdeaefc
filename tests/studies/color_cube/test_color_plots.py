"""Figures of the colour cube are tested through the data they draw, in both themes."""

import numpy as np
import pandas as pd
import pytest
from drawn import scatters, words
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from studies.color_cube.data import HsvCube
from studies.color_cube.plots.cubes import draw_error_by_hue, plot_cube_slices, plot_error_vs_similarity
from studies.color_cube.plots.distributions import plot_power_sweep, plot_seed_distribution
from studies.color_cube.plots.frontier import plot_frontiers, plot_losses, tabulate_frontiers
from studies.color_cube.plots.latents import ColorLatents, plot_latent_grid, plot_stacked
from studies.color_cube.plots.sphere import EYE, plot_sphere
from studies.color_cube.plots.tables import LATEX_PREAMBLE, color_table_html, color_table_latex

RNG = np.random.default_rng(0)
pytestmark = pytest.mark.usefixtures("look")


def sphere_points(count: int, dimensions: int = 5) -> np.ndarray:
    points = RNG.normal(size=(count, dimensions))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_patches_are_reconstructed_outside_and_true_inside():
    recon, truth = RNG.random((2, 3, 4, 5, 3))
    fig = plot_cube_slices(recon, truth, "Ablated")
    assert fig.get_suptitle() == "Ablated"
    assert [ax.get_title("left") for ax in fig.axes] == ["saturation 0", "saturation 0.5", "saturation 1"]
    for index, ax in enumerate(fig.axes):
        (image,) = ax.images
        cells = image.get_array().reshape(4, 12, 5, 12, 3)
        assert image.origin == "lower", "the first value is the lowest row"
        np.testing.assert_array_equal(cells[:, 6, :, 6], truth[index])
        np.testing.assert_array_equal(cells[:, 0, :, 11], recon[index])
        assert not np.array_equal(cells[:, 6, :, 6], recon[index])


def test_error_lines_have_the_colours_whose_error_they_show():
    hue, saturation, value = np.linspace(0, 1, 13), np.linspace(0, 1, 3), np.linspace(0, 1, 5)
    mse, rgb = RNG.random((13, 3, 5)), RNG.random((13, 3, 5, 3))
    ax = Figure().subplots()
    draw_error_by_hue(ax, HsvCube(hue, saturation, value, rgb), mse)
    lines = [artist for artist in ax.collections if isinstance(artist, LineCollection)]
    for row, line in zip((4, 3, 2, 1), lines, strict=True):
        points = [segment[0] for segment in line.get_segments()]
        np.testing.assert_array_equal(points, np.column_stack([hue, mse[:, -1, row]])[:-1])
        np.testing.assert_allclose(line.get_colors()[:, :3], (rgb[:-1, -1, row] + rgb[1:, -1, row]) / 2)
    assert set(words(ax)) == {"value 0.25", "value 0.5", "value 0.75", "value 1"}


def test_error_against_similarity_draws_each_colour_where_it_belongs():
    similarity, error, rgb = RNG.random(50), RNG.random(50), RNG.random((50, 3))
    words = {"powers": {"a": 3, "b": 1}, "titles": {"a": "a, r = 0.9", "b": "b"}}
    ax, other = plot_error_vs_similarity(similarity, {"a": error, "b": 2 * error}, rgb, **words).axes
    for panel, x, y in ((ax, similarity**3, error), (other, similarity, 2 * error)):
        (dots,) = scatters(panel)
        np.testing.assert_array_equal(dots.get_offsets(), np.column_stack([x, y]))
        np.testing.assert_array_equal(dots.get_facecolors()[:, :3], rgb)
        ends, line = panel.lines[-1].get_data()
        np.testing.assert_allclose(line, np.poly1d(np.polyfit(x, y, 1))(ends))
    assert (ax.get_xlabel(), ax.get_title("left")) == ("similarity to red, power 3", "a, r = 0.9")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: plot_cube_slices(a((2, 3, 4, 3)), a((2, 3, 5, 3)), ""), r"truth of shape \[2, 3, 4, 3\]"),
        (lambda a: plot_cube_slices(a((2, 3, 4, 3)) + 1, a((2, 3, 4, 3)), ""), r"RGB in \[0, 1\] in recon"),
        (
            lambda a: plot_error_vs_similarity(a(5), {"a": a(4)}, a((5, 3)), powers={"a": 1}, titles={"a": ""}),
            r"error of shape \[5\]",
        ),
        (lambda a: ColorLatents(a((5, 4)) * np.nan, a((5, 3))), "finite numbers in latents"),
        (lambda a: ColorLatents(a((5, 4)), a((4, 3))), r"rgb of shape \[5, 3\]"),
        (lambda a: ColorLatents(a((5, 4)), a((5, 3)), (np.ones(3), 1.0)), r"cone's direction of shape \[4\]"),
        (lambda a: ColorLatents(a((5, 4)), a((5, 3)), (np.zeros(4), 1.0)), "zero vector"),
        (lambda a: plot_latent_grid(ColorLatents(a((5, 4)), a((5, 3))), []), "at least one"),
        (lambda a: plot_seed_distribution({}), "at least one label"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(RNG.random)


def test_near_latents_are_large_and_drawn_over_far_ones(look):
    latents, rgb = sphere_points(40), RNG.random((40, 3))
    views = [(1, 0, 2), (3, 4, 0), (1, 2, None)]
    first, second, third = plot_latent_grid(ColorLatents(latents, rgb), views).axes
    for ax, (x, y, depth) in ((first, (1, 0, 2)), (second, (3, 4, 0))):
        (dots,) = scatters(ax)
        order = np.argsort(latents[:, depth])
        np.testing.assert_array_equal(dots.get_offsets(), latents[order][:, [x, y]])
        assert (np.diff(dots.get_sizes()) > 0).all()
        paper = np.array(to_rgb(look.paper))
        haze = np.abs(dots.get_facecolors()[:, :3] - rgb[order]) / np.abs(paper - rgb[order])
        np.testing.assert_allclose(haze, 0.2 * (1 - latents[order][:, [depth]]) * np.ones((1, 3)))
        assert (ax.get_xlabel(), ax.get_ylabel()) == (f"dimension {x} →", f"dimension {y} →")
    (flat,) = scatters(third)
    np.testing.assert_array_equal(flat.get_offsets(), latents[:, [1, 2]])
    assert len(set(flat.get_sizes())) == 1


def test_a_cone_is_outlined_where_it_meets_the_sphere_of_the_view():
    latents, rgb = sphere_points(20), RNG.random((20, 3))
    angle = 0.6

    def outlines(direction, *dims):
        cone = ColorLatents(latents, rgb, (np.array(direction), angle))
        lines = [ax.lines[1::2] for ax in plot_latent_grid(cone, dims).axes]  # the upper of two strokes
        return [[line.get_xydata()[np.isfinite(line.get_xdata())] for line in some] for some in lines]

    upright, across, end_on, missed = outlines([-2.0, 0, 0, 0, 0], (1, 0, 2), (0, 3, 1), (1, 2, 0), (1, 2, 3))
    for (outline,), along in ((upright, 1), (across, 0)):
        rim, origin = outline[[0, 2]], outline[1]
        np.testing.assert_array_equal(origin, [0, 0])
        np.testing.assert_allclose(rim[:, along], -np.cos(angle))
        np.testing.assert_allclose(np.sort(rim[:, 1 - along]), [-np.sin(angle), np.sin(angle)])
    (circle,) = end_on  # all of it on the far side
    np.testing.assert_allclose(np.hypot(*circle.T), np.sin(angle))
    assert missed == []
    # Slanted: every point of the rim, put back on the sphere, is at the cone's angle to its axis.
    direction = np.array([1, 0, 0.5]) / np.hypot(1, 0.5)
    for half, side in zip(outlines([1.0, 0, 0.5, 0, 0], (1, 0, 2))[0], (1, -1), strict=False):
        depth = side * np.sqrt(np.clip(1 - (half**2).sum(1), 0, None))
        np.testing.assert_allclose(half[:, 1] * direction[0] + depth * direction[2], np.cos(angle), atol=1e-6)


def test_what_becomes_of_a_colour_is_drawn_within_it():
    points, rgb, recon = sphere_points(30), RNG.random((30, 3)), RNG.random((30, 3))
    (ax,) = plot_latent_grid(ColorLatents(points, rgb, recon=recon), [(0, 1, None)]).axes
    (dots,) = scatters(ax)
    np.testing.assert_array_equal(dots.get_offsets()[::2], points[:, :2])
    np.testing.assert_array_equal(dots.get_offsets()[1::2], points[:, :2])
    assert (dots.get_sizes()[1::2] < dots.get_sizes()[::2]).all()
    (plain,) = plot_latent_grid(ColorLatents(points, recon), [(0, 1, None)]).axes
    np.testing.assert_array_equal(dots.get_facecolors()[1::2], scatters(plain)[0].get_facecolors())


def test_frontiers_join_medians_and_keep_a_methods_colour_over_panels():
    x, y = np.linspace(0, 1, 6) * np.ones((5, 1)), RNG.random((5, 6)) + 0.1
    a, b = "anchored, e₀", "plain, LEACE"
    panels = {"red": {a: (x, y), b: (x, 2 * y)}, "blue": {b: (x, y)}}
    fig = plot_frontiers(panels, level=0.1)
    first, second = fig.axes
    drawn = {line.get_label(): line for line in first.get_lines()}
    np.testing.assert_allclose(drawn[a].get_xydata(), np.column_stack([x[0], np.median(y, axis=0)]))
    np.testing.assert_allclose(drawn[b].get_ydata(), 2 * np.median(y, axis=0))
    again = {line.get_label(): line for line in second.get_lines()}[b]
    assert (again.get_color(), again.get_marker()) == (drawn[b].get_color(), drawn[b].get_marker())
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [a, b]
    table = tabulate_frontiers(panels).set_index(["concept", "method"])
    np.testing.assert_allclose(table.loc[("red", a), "high"], np.quantile(y, 0.75, axis=0))
    assert len(table) == 3 * 6
    with pytest.raises(ValueError, match="at least one panel"):
        plot_frontiers({}, level=0.1)


def test_losses_are_medians_over_seeds_by_phase():
    rows = [(s, t, "anchor", (s + 1.0) * (t + 1), p) for s in range(3) for t in (0, 10) for p in ("train", "validate")]
    history = pd.DataFrame(rows, columns=["seed", "step", "term", "value", "phase"])
    (ax, *_) = plot_losses(history, ["anchor"]).axes
    train, validate = ax.get_lines()
    np.testing.assert_array_equal(validate.get_xydata(), [[0, 2], [10, 22]])
    np.testing.assert_array_equal(train.get_xdata(), [0, 10])


def test_a_view_of_fewer_dimensions_lays_the_others_flat():
    latents = ColorLatents(sphere_points(20), RNG.random((20, 3)), (np.eye(5)[0], 1.0))
    flat, line = plot_latent_grid(latents, [(0, 3, None), (2, None, 0)]).axes
    np.testing.assert_array_equal(scatters(flat)[0].get_offsets(), latents.points[:, [0, 3]])
    assert (scatters(line)[0].get_offsets()[:, 1] == 0).all()
    assert (line.get_xlabel(), line.get_ylabel()) == ("dimension 2 →", "")


@pytest.mark.parametrize("dims", [(1, 0, 5), (-1, 0, 2)])
def test_views_of_dimensions_that_latents_do_not_have_are_refused(dims):
    latents = ColorLatents(sphere_points(20), RNG.random((20, 3)))
    for draw in (lambda: plot_latent_grid(latents, [dims]), lambda: plot_sphere(latents, dims)):
        with pytest.raises(IndexError, match="from 0 to 4"):
            draw()


def test_stacked_figures_share_the_scale_they_are_given():
    latents, rgb, cells = sphere_points(20), RNG.random((20, 3)), RNG.random((4, 6, 3))
    cube = HsvCube(np.linspace(0, 1, 9), np.linspace(0, 1, 2), np.linspace(0, 1, 3), RNG.random((9, 2, 3, 3)))
    mse = RNG.random((9, 2, 3))

    def error_axis(scale, **options):
        dims = ((3, 0, 1), (3, 2, 4))
        fig = plot_stacked(ColorLatents(latents, rgb), cells, cells, cube, scale * mse, dims=dims, **options)
        return fig.axes[-1]

    assert error_axis(1, max_error=2).get_ylim() == error_axis(0.1, max_error=2).get_ylim()
    assert error_axis(1).get_ylim() != error_axis(0.1).get_ylim()
    collections = [c for c in error_axis(1).collections if isinstance(c, LineCollection)]
    np.testing.assert_array_equal([s[0][1] for s in collections[0].get_segments()], mse[:-1, -1, 2])


def test_the_picture_of_the_sphere_is_seen_from_where_the_camera_stands():
    eye = np.array(EYE) / np.linalg.norm(EYE)
    side = np.cross([0, 0, 1], eye) / np.linalg.norm(np.cross([0, 0, 1], eye))
    points, rgb = np.array([eye, side, -eye, -side]), RNG.random((4, 3))
    (ax,) = plot_sphere(ColorLatents(points, rgb)).axes
    (dots,) = scatters(ax)
    np.testing.assert_allclose(dots.get_offsets(), [[0, 0], [1, 0], [-1, 0], [0, 0]], atol=1e-12)  # far ones first
    np.testing.assert_array_equal(dots.get_facecolors()[[0, -1], :3], rgb[[2, 0]])
    assert (np.diff(dots.get_sizes())[[0, -1]] > 0).all()
    assert set(words(ax)) == {"dimension 0", "dimension 1", "dimension 2"}
    with pytest.raises(IndexError, match="from 0 to 2"):
        plot_sphere(ColorLatents(points, rgb), (0, 1, 3))


COLORS = pd.DataFrame(
    {
        "name": ["red", "teal & <b>", "grey_50%"],
        "rgb": [(1, 0, 0), (0, 1, 0.5), (0.5, 0.5, 0.5)],
        "no intervention": [3.6e-5, 1.2345, np.nan],
        "Δ ablated": [0.3333, -0.0000031, -0.5],
    }
)


def test_the_html_table_has_swatches_words_and_no_negative_zero():
    table = color_table_html(COLORS)
    assert table._repr_html_() == color_table_html(COLORS)._repr_html_(), "the same at every call"
    assert table.html.count("background-color:#ff0000") == 1
    assert "<code>#00ff80</code>" in table.html
    assert "teal &amp; &lt;b&gt;" in table.html
    assert table.html.count('scope="row"') == 3
    assert table.html.count('scope="col"') == 4
    assert repr(table).splitlines() == [
        "name        colour   no intervention  Δ ablated",
        "red         #ff0000            0.000      0.333",
        "teal & <b>  #00ff80            1.234      0.000",
        "grey_50%    #808080                –     -0.500",
    ]
    assert "-0.000" not in table.html


def test_the_latex_table_is_escaped_and_aligned():
    latex = color_table_latex(COLORS, "Error by color", "tab:error")
    for line in (
        r"\caption{Error by color}",
        r"\label{tab:error}",
        r"\begin{tabular}{l c S[table-format=1.3] S[table-format=-1.3]}",
        r"\multicolumn{2}{c}{Color} & {no intervention} & {$\Delta$ ablated} \\",
        r"red & \swatch{FF0000} & 0.000 & 0.333 \\",
        r"teal \& <b> & \swatch{00FF80} & 1.234 & 0.000 \\",
        r"grey\_50\% & \swatch{808080} & {--} & -0.500 \\",
    ):
        assert line in latex.splitlines()
    for package in ("booktabs", "siunitx", "xcolor"):
        assert rf"\usepackage{{{package}}}" in LATEX_PREAMBLE
    assert r"\newcommand{\swatch}[1]" in LATEX_PREAMBLE
    assert LATEX_PREAMBLE.count("{") == LATEX_PREAMBLE.count("}")


def test_a_table_without_what_it_needs_is_refused():
    with pytest.raises(KeyError, match="expected a column 'rgb'"):
        color_table_html(COLORS.drop(columns="rgb"))
    with pytest.raises(ValueError, match="expected numbers in column 'verdict'"):
        color_table_latex(COLORS.assign(verdict="good"), "", "")


def test_the_distribution_shows_every_seed_the_band_and_the_marked_ones():
    values = {"ablated": RNG.normal(0.93, 0.03, 30), "suppressed": RNG.normal(0.95, 0.02, 30)}
    fig = plot_seed_distribution(values, reference={"ablated": (0.931, 0.034)}, highlight={"best": 7})
    left, right = fig.axes
    strips = [dots.get_offsets() for dots in scatters(left) if len(dots.get_offsets()) == 30]
    rings = [dots.get_offsets() for dots in scatters(left) if len(dots.get_offsets()) == 1]
    for row, (strip, ring, results) in enumerate(zip(strips, rings, values.values(), strict=True)):
        np.testing.assert_array_equal(strip[:, 0], results)
        assert (np.abs(strip[:, 1] - row) < 0.5).all()
        np.testing.assert_array_equal(ring, strip[[7]])
    (band,) = [p for p in left.patches if type(p).__name__ == "Rectangle"]
    assert (band.get_x(), band.get_width()) == pytest.approx((0.931 - 0.034, 2 * 0.034))
    assert [tick.get_text() for tick in left.get_yticklabels()] == list(values)
    assert words(left) == ["best", "best"]
    for line, results in zip(right.lines, values.values(), strict=True):
        x, y = line.get_data()
        assert np.interp(np.median(results), x, y) == pytest.approx(0.5, abs=0.04)
        np.testing.assert_array_equal(x[1:], np.sort(results))
        assert (y[0], y[-1]) == (0, 1)
    with pytest.raises(IndexError, match="expected best among the 30 seeds of ablated, got 30"):
        plot_seed_distribution(values, highlight={"best": 30})


def test_the_power_sweep_shows_means_bands_and_choices():
    powers = [1, 2, 3]
    table = pd.DataFrame(
        [("ablated", p, p / 10, p / 10 - 0.01, p / 10 + 0.02) for p in (3, 1, 2)]
        + [("post hoc", p, 0.3, 0.2, 0.4) for p in powers],
        columns=["plan", "power", "mean", "low", "high"],
    )
    (ax,) = plot_power_sweep(powers, table, chosen={"ablated": 3}).axes
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [(1, 0.1), (2, 0.2), (3, 0.3)])
    band = ax.collections[0].get_paths()[0].vertices
    assert {(1.0, 0.09), (1.0, 0.12), (3.0, 0.29), (3.0, 0.32)} <= {tuple(v) for v in band.round(9)}
    (ring,) = scatters(ax)
    np.testing.assert_allclose(ring.get_offsets(), [(3, 0.3)])
    assert sorted(words(ax)) == ["ablated", "post hoc"]
    with pytest.raises(ValueError, match=r"expected the powers \[1.0, 2.0, 3.0\] for post hoc, got \[1, 2\]"):
        plot_power_sweep(powers, table.iloc[:-1])
    with pytest.raises(KeyError, match="low"):
        plot_power_sweep(powers, table.drop(columns="low"))
