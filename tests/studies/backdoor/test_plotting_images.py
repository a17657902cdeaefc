"""Grids of images are tested through the pixels, frames and words they draw, in both themes."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from nbutils.plotting import theme
from studies.backdoor.plots.activations import CHANGE, plot_activation_maps, plot_kernels
from studies.backdoor.plots.digits import plot_digits
from studies.backdoor.plots.grids import Grid, fit, make_figure
from studies.backdoor.plots.triggers import plot_recovered_triggers, plot_visible
from studies.backdoor.trigger import Trigger
from studies.backdoor.trigger_recovery import RecoveredTriggers

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RNG = np.random.default_rng(0)
MEAN, STD = 0.1307, 0.3081


@pytest.fixture(autouse=True, params=[theme.LIGHT, theme.DARK], ids=lambda look: look.name)
def look(request):
    with theme.use(request.param):
        yield request.param
    plt.close("all")


def drawn(ax, rows: int, columns: int, height: int, width: int) -> np.ndarray:
    """Return the images of a grid `[rows, columns, height, width]`, NaN where there is none."""
    (picture,) = ax.images
    mosaic = picture.get_array().filled(np.nan)
    down = (len(mosaic) - height) // max(rows - 1, 1)
    across = (mosaic.shape[1] - width) // max(columns - 1, 1)
    return np.array([[mosaic[r * down :, c * across :][:height, :width] for c in range(columns)] for r in range(rows)])


def heavy(ax) -> list[tuple[float, float]]:
    """Return the upper left corners of heavy frames, without their margin."""
    frames = [patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_linewidth() > 1]
    return sorted((round(frame.get_x(), 0), round(frame.get_y(), 0)) for frame in frames)


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def ticks(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_digits_are_pixels_again_and_wrong_answers_have_a_sign_and_a_frame():
    pixels = RNG.random((2, 3, 4, 5))
    answers, wanted = np.array([[1, 2, 3], [8, 8, 8]]), np.array([[1, 2, 3], [1, 2, 8]])
    fig = plot_digits((pixels - MEAN) / STD, answers=answers, wanted=wanted, row_labels=["clean", "triggered"])
    (ax,) = fig.axes
    np.testing.assert_allclose(drawn(ax, 2, 3, 4, 5), pixels, atol=1e-12)
    assert words(ax) == ["✓ 1", "✓ 2", "✓ 3", "✗ 8", "✗ 8", "✓ 8"]
    assert [text.get_fontweight() for text in ax.texts] == ["normal"] * 3 + ["bold", "bold", "normal"]
    assert len(heavy(ax)) == 2
    assert ticks(ax.yaxis) == ["clean", "triggered"]
    assert ax.images[0].get_clim() == (0, 1)


def test_a_list_of_digits_is_broken_into_rows_and_what_a_trigger_overshoots_is_cut():
    images = RNG.random((5, 28, 28))
    triggered = Trigger.checkerboard().apply(torch.as_tensor(images)).numpy()
    (ax,) = plot_digits(triggered, columns=3, captions=list("abcde")).axes
    grid = drawn(ax, 2, 3, 28, 28)
    assert np.isnan(grid[1, 2]).all(), "five images leave the sixth place empty"
    np.testing.assert_allclose(grid.reshape(6, 28, 28)[:5], np.clip(triggered * STD + MEAN, 0, 1))
    assert (triggered * STD + MEAN).max() > 1
    assert words(ax) == list("abcde")
    assert not heavy(ax)


def test_an_outline_follows_the_edge_of_its_pixels_on_every_image():
    mask = np.zeros((4, 5), dtype=bool)
    mask[2:, 3:] = True
    (ax,) = plot_digits(np.zeros((1, 2, 4, 5)), outline=mask).axes
    outlines = [artist for artist in ax.collections if isinstance(artist, LineCollection)]
    assert len(outlines) == 2
    segments = np.array(outlines[0].get_segments())
    assert len(segments) == 8, "the circumference of 2×2 pixels"
    assert (segments.min(axis=(0, 1)).tolist(), segments.max(axis=(0, 1)).tolist()) == ([3, 2], [5, 4])
    second = np.array(outlines[1].get_segments())
    np.testing.assert_array_equal(second - segments, np.broadcast_to([6, 0], second.shape))


def test_activation_maps_share_one_scale_and_mark_units():
    maps = {"clean": RNG.random((7, 3, 4)), "triggered": 9 * RNG.random((7, 3, 4))}
    fig = plot_activation_maps(maps, [6, 0, 1, 5], highlight=[5, 0], columns=3)
    first, second, bar = fig.axes
    np.testing.assert_array_equal(drawn(first, 2, 3, 3, 4), np.stack(list(maps.values()))[:, [6, 0, 1]])
    last = drawn(second, 2, 3, 3, 4)
    np.testing.assert_array_equal(last[:, 0], np.stack(list(maps.values()))[:, 5])
    assert np.isnan(last[:, 1:]).all()
    assert (ticks(first.xaxis), ticks(second.xaxis)) == (["6", "▶0", "1"], ["▶5", "", ""])
    assert (len(heavy(first)), len(heavy(second))) == (2, 2)
    assert first.images[0].norm is second.images[0].norm
    assert first.images[0].get_clim() == (0, maps["triggered"][[6, 0, 1, 5]].max())
    half = first.images[0].norm(first.images[0].get_clim()[1] / 4)
    assert half == pytest.approx(0.5), "a quarter of the largest is half way up the colours"
    assert "square-root" in bar.get_ylabel()
    for ax in fig.axes:
        box = ax.get_tightbbox().transformed(fig.transFigure.inverted())
        assert ((box.get_points() >= 0) & (box.get_points() <= 1)).all(), "nothing is cut off"


def test_recovered_triggers_show_what_is_painted_and_what_is_left():
    masks = torch.ones(4, 3, 3)
    masks[1] = 0
    masks[1, 2, 2] = 0.5
    masks[2, 0, 0] = 0.9
    patterns = torch.full((4, 1, 3, 3), (1 - MEAN) / STD)  # white
    found = RecoveredTriggers((0, 1, 2, 3), masks, patterns, torch.ones(4))
    control = RecoveredTriggers((0, 1, 2, 3), torch.ones(4, 3, 3) / 9, patterns, torch.ones(4))
    (ax,) = plot_recovered_triggers({"poisoned": found, "control": control}, target=1).axes
    grid = drawn(ax, 2, 4, 3, 3)
    expected = np.full((3, 3), 0.5)
    expected[2, 2] = 0.75
    np.testing.assert_allclose(grid[0, 1], expected, atol=1e-6)
    np.testing.assert_allclose(grid[0, 0], 1, atol=1e-6)
    assert words(ax)[:2] == ["9.0 px\n−0.7", "0.5 px\n⚑ +114.0"]
    assert words(ax)[4:] == ["1.0 px\n+0.0"] * 4, "no flag without an outlier"
    assert ticks(ax.xaxis) == ["0", "▶ 1", "2", "3"]
    assert len(heavy(ax)) == 2
    fewer = RecoveredTriggers((0, 1, 2), masks[:3], patterns[:3], torch.ones(3))
    with pytest.raises(ValueError, match="the same labels"):
        plot_recovered_triggers({"poisoned": found, "control": fewer})


def test_kernels_share_a_scale_around_0_and_keep_their_sign_in_grey():
    kernels = {name: RNG.normal(size=(3, 3, 3)) for name in ("clean", "poisoned")}
    ax, bar = plot_kernels(kernels, ["a", "b", "c"], [list("123"), list("456")]).axes
    np.testing.assert_array_equal(drawn(ax, 2, 3, 3, 3), np.stack(list(kernels.values())))
    limit = max(np.abs(values).max() for values in kernels.values())
    assert ax.images[0].get_clim() == (-limit, limit)
    assert (ticks(ax.xaxis), ticks(ax.yaxis), words(ax)) == (list("abc"), ["clean", "poisoned"], list("123456"))
    assert bar.get_ylabel() == "weight"
    lightness = CHANGE(np.linspace(0, 1, 64))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all(), "grey tells more from less"


@pytest.mark.parametrize("columns", [1, 8, 16])
def test_a_grid_with_its_labels_is_at_most_870_pixels_wide(columns):
    labels = ["poisoned network, triggered digits"]
    inches = fit(columns, 11, labels, right=0.75, most=0.9)
    fig, _ = make_figure([Grid(1, columns, 11, 11, inches)], labels, right=0.75)
    assert fig.get_figwidth() <= 870 / 96
    assert (inches == 0.9) == (columns == 1), "images are shrunk only where they must be"


def test_visible_pixels_of_the_trigger_are_told_apart_by_shape(look):
    trigger = Trigger.checkerboard().mask
    visible = np.zeros((28, 28), dtype=bool)
    visible[:26, :26] = True
    fig = plot_visible(trigger, visible)
    (ax,) = fig.axes
    seen, unseen = (artist for artist in ax.collections if not isinstance(artist, LineCollection))
    for dots, region in ((seen, trigger.numpy() & visible), (unseen, trigger.numpy() & ~visible)):
        assert sorted(map(tuple, dots.get_offsets()[:, ::-1].astype(int))) == sorted(map(tuple, np.argwhere(region)))
    assert not np.array_equal(seen.get_paths()[0].vertices, unseen.get_paths()[0].vertices)
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "in the trigger and seen: 8",
        "in the trigger, not seen: 10",
        "reaches no output",
    ]
    assert fig.get_facecolor()[:3] == to_rgb(look.paper)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_digits(np.zeros((2, 3))), r"images of shape \[N, height, width\]"),
        (lambda: plot_digits(np.zeros((0, 3, 3))), "at least one image"),
        (lambda: plot_digits(np.zeros((2, 3, 3)), captions=["a"]), "2 captions, got 1"),
        (lambda: plot_digits(np.zeros((2, 3, 3)), answers=[1, 2, 3]), r"answers of shape \[2\]"),
        (lambda: plot_digits(np.zeros((2, 3, 3)), wanted=[1, 2]), "answers to compare"),
        (lambda: plot_digits(np.zeros((2, 3, 3)), row_labels=["a", "b"]), "1 row labels, got 2"),
        (lambda: plot_digits(np.zeros((2, 3, 3)), outline=np.ones((2, 2))), r"outline of shape \[3, 3\]"),
        (lambda: plot_activation_maps({}), "at least one condition"),
        (lambda: plot_activation_maps({"a": np.zeros((2, 3, 3)), "b": np.zeros((2, 3, 4))}), r"b of shape \[2, 3, 3\]"),
        (lambda: plot_kernels({"a": np.zeros((2, 3, 3))}, ["1"], [["x"]]), r"a of shape \[1, height, width\]"),
        (lambda: plot_visible(np.zeros((3, 3)), np.ones((3, 3))), "at least one pixel"),
    ],
)
def test_images_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_units_that_do_not_exist_are_named():
    with pytest.raises(IndexError, match="units from 0 to 1"):
        plot_activation_maps({"a": np.zeros((2, 3, 3))}, highlight=[2])
