"""Figures are tested through the data they draw, in both themes."""

from itertools import pairwise

import numpy as np
import pytest
from drawn import scatters, words
from matplotlib.figure import Figure
from matplotlib.text import Text

from nbutils import layout
from nbutils.plotting.distributions import plot_gain
from nbutils.plotting.labels import label_curves, label_ends
from nbutils.plotting.schedules import plot_timeline
from nbutils.schedules import Dopesheet, Timeline

RNG = np.random.default_rng(0)
pytestmark = pytest.mark.usefixtures("look")


def test_the_timeline_shows_every_step_every_key_and_every_name():
    sheet = Dopesheet.from_csv(layout.dopesheet("01-color-cube"))
    timeline = Timeline(sheet)
    fig = plot_timeline(timeline, sheet)
    upper, lower = fig.axes
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("weight", "learning rate", "step")
    assert (upper.get_yscale(), lower.get_yscale()) == ("linear", "log")
    frame = timeline.frame()
    for ax, names in ((upper, timeline.parameters[1:]), (lower, ("lr",))):
        lines = [line for line in ax.lines if len(line.get_xdata()) == len(timeline)]
        keys = [line for line in ax.lines if line.get_linestyle() == "None"]
        assert set(names) <= set(words(ax))
        assert len(lines) == len(names)
        for name, line in zip(names, lines, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), frame[name])
            of_name = [key for key in keys if key.get_color() == line.get_color()]
            drawn = np.concatenate([np.column_stack(key.get_data()) for key in of_name])
            expected = [(k.step, k.values[name]) for k in sheet.keyframes if name in k.values]
            if name == "lr":
                expected[0] = (0, lower.get_ylim()[0])
            assert sorted(map(tuple, drawn)) == expected
        assert len({line.get_color() for line in lines}) == len(names)
        assert len({str(line._dash_pattern) for line in lines}) == len(names), "told apart without colour"
    assert "1e-08 at step 0" in words(lower), "a key below the axis is written out"
    assert "Train" in words(upper)


def test_a_timeline_without_logarithmic_parameters_has_one_panel():
    sheet = Dopesheet.from_text("STEP,a\n0,1\n9,2\n")
    assert len(plot_timeline(Timeline(sheet), sheet).axes) == 1
    constant = Dopesheet.from_text("STEP,PHASE,lr,a\n0,first,0.1,1\n1,rehabilitate,,2\n2,third,,1\n99,,,\n")
    (ax,) = plot_timeline(Timeline(constant), constant).axes
    assert "learning rate 0.1 throughout" in ax.get_xlabel(), "a rate that never changes has no panel"
    names = [text for text in ax.texts if text.get_text() in ("first", "rehabilitate", "third")]
    flat = Dopesheet.from_text("STEP,a,b\n0,0,0.1\n9,20,0\n")
    (beside,) = plot_timeline(Timeline(flat), flat).axes
    assert (ax.get_yscale(), beside.get_yscale()) == ("linear", "symlog"), "a small weight beside a large one is seen"
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in names]
    assert boxes[0].y1 <= boxes[1].y0, "names that would overlap stand one above the other"
    empty = Dopesheet.from_text("STEP\n9\n")
    with pytest.raises(ValueError, match="at least one parameter"):
        plot_timeline(Timeline(empty), empty)


def test_the_gain_shows_every_pair_the_mean_and_its_interval():
    gains = {"post hoc": RNG.normal(0.1, 0.05, 20), "random": RNG.normal(0.5, 0.1, 20)}
    (ax,) = plot_gain(gains, {"post hoc": (0.08, 0.12), "random": (0.45, 0.55)}).axes
    for dots, results in zip(scatters(ax), gains.values(), strict=True):
        np.testing.assert_array_equal(dots.get_offsets()[:, 0], results)
    zero, *lines = ax.lines
    assert list(zero.get_xdata()) == [0, 0]
    assert [list(line.get_xdata()) for line in lines[::2]] == [[0.08, 0.12], [0.45, 0.55]]
    np.testing.assert_allclose([line.get_xdata()[0] for line in lines[1::2]], [g.mean() for g in gains.values()])
    assert words(ax)[0] == f"{gains['post hoc'].mean():+.3f} [+0.080, +0.120]"
    with pytest.raises(KeyError, match="random"):
        plot_gain(gains, {"post hoc": (0, 1)})
    with pytest.raises(ValueError, match="at least one label"):
        plot_gain({}, {})


def overlaps(texts) -> int:
    boxes = [Text.get_window_extent(text) for text in texts]  # of the words, without the line that leads there
    return sum(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[place + 1 :])


def test_labels_keep_clear_of_each_other():
    fig = Figure(layout="constrained")
    ax = fig.subplots()
    x = np.linspace(0, 1, 50)
    curves = [(x, x * slope, f"a rather long name {slope}", "C0") for slope in (1, 1.02, 0.98)]
    for cx, cy, _, _ in curves:
        ax.plot(cx, cy)
    beside = label_curves(ax, curves)
    at_ends = label_ends(ax, [(0.5, f"name {i}", "C0") for i in range(5)])
    naive = [ax.text(0, 0.5, f"name {i}") for i in range(5)]
    fig.draw_without_rendering()
    assert overlaps(beside) == overlaps(at_ends) == 0
    for cx, cy, _, _ in curves:
        points = ax.transData.transform(np.column_stack([cx, cy]))
        assert not any(text.get_window_extent().count_contains(points) for text in beside)
    assert overlaps(naive) == 10, "without placement all pairs overlap"


def test_end_labels_stay_in_the_order_of_their_lines_and_within_the_axes():
    ax = Figure().subplots()
    texts = label_ends(
        ax,
        [(1.0, "top", "C0"), (0.0, "bottom", "C0"), (0.01, "above bottom", "C0"), (0.99, "below top", "C0")],
    )
    heights = {text.get_text(): text.xyann[1] for text in texts}
    order = ["bottom", "above bottom", "below top", "top"]
    assert all(heights[low] < heights[high] for low, high in pairwise(order))
    assert heights["bottom"] >= 0
    assert heights["top"] <= 1
