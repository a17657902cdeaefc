"""Circuit pictures are tested through what they draw, in both themes."""

import numpy as np
import pandas as pd
import pytest
from drawn import words
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyBboxPatch, PathPatch

from studies.circuits.plots.faithfulness import plot_faithfulness, plot_sorted
from studies.circuits.plots.graphs import plot_circuit
from studies.circuits.plots.heat_maps import plot_attention, plot_edge_scores
from studies.circuits.plots.pairs import plot_pairs

pytestmark = pytest.mark.usefixtures("look")


def edges():
    rows = [
        *(("token", f"a0.{head}.{letter}", 0, 1) for head in (0, 1) for letter in "qkv"),
        *((source, f"a1.0.{letter}", depth, 2) for source, depth in (("token", 0), ("a0.1", 1)) for letter in "qkv"),
        *((source, "logits", depth, 3) for source, depth in (("token", 0), ("a0.0", 1), ("a1.0", 2))),
    ]
    frame = pd.DataFrame(rows, columns=["source", "destination", "source_depth", "destination_depth"])
    return frame.assign(weight=np.linspace(-1, 0.5, len(frame)))


def curves(ax, paper):
    """Return the edges drawn, without the rims that keep them apart."""
    return [patch for patch in ax.patches if isinstance(patch, PathPatch) and patch.get_edgecolor() != paper]


def test_the_strongest_edges_are_drawn_as_wide_as_they_are_strong(look):
    paper = to_rgba(look.paper)
    frame = edges()
    (ax,) = plot_circuit(frame, top=5).axes
    widths = [patch.get_linewidth() for patch in curves(ax, paper)]
    assert widths == pytest.approx(sorted(6 * frame.weight.abs().nlargest(5)))
    assert all(patch.get_linestyle() in ("-", "solid") for patch in curves(ax, paper))
    (ax,) = plot_circuit(frame, threshold=0.3).axes
    assert len(curves(ax, paper)) == (frame.weight.abs() > 0.3).sum()
    dashed = [patch for patch in curves(ax, paper) if patch.get_linestyle() not in ("-", "solid")]
    assert len(dashed) == (frame.weight > 0.3).sum()  # the sign shows without colour
    assert {"token", "a0.0", "a0.1", "a1.0", "logits"} <= set(words(ax))
    assert [words(ax).count(letter) for letter in "qkv"] == [3, 3, 3]
    (left, _) = plot_circuit({"zero": frame, "mean": frame}, labels={"token": "tokens"}).axes
    assert left.get_title(loc="left") == "zero"
    assert "tokens" in words(left)


def test_no_edge_runs_behind_a_node_that_it_does_not_touch(look):
    paper = to_rgba(look.paper)
    (ax,) = plot_circuit(edges()).axes
    boxes = [patch.get_bbox() for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    for patch in curves(ax, paper):
        points = patch.get_path().interpolated(1).to_polygons(closed_only=False)[0]
        inner = points[1:-1]
        for box in boxes:
            inside = (abs(inner[:, 0] - (box.x0 + box.x1) / 2) < box.width / 2 - 0.02) & (
                abs(inner[:, 1] - (box.y0 + box.y1) / 2) < box.height / 2 - 0.02
            )
            assert not inside.any()


def test_the_heat_map_shows_every_score_with_its_sign(look):
    scores = pd.DataFrame({"zero": [0.1, -2.0, 0.0], "resample": [0.2, 1.0, 0.0]}, index=["a → b", "b → c", "c → d"])
    ax, _ = plot_edge_scores(scores, rows=2).axes
    np.testing.assert_array_equal(ax.images[0].get_array(), [[-2, 1], [0.1, 0.2]])  # strongest first
    assert ax.images[0].get_clim() == (-2, 2)
    assert words(ax) == ["−2.00", "+1.00", "+0.10", "+0.20"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b → c", "a → b"]
    with pytest.raises(ValueError, match="finite scores"):
        plot_edge_scores(scores * np.nan)


def test_faithfulness_has_a_panel_per_type_and_a_line_per_method():
    rows = [
        {"ablation": kind, "method": method, "edges": n, "ratio_of_means": n / 4, "low": 0, "high": 1}
        for kind in ("zero", "mean")
        for method in ("exact", "random")
        for n in (0, 2, 4)
    ]
    frame = pd.DataFrame(rows)
    fig = plot_faithfulness(frame)
    *panels, key = (ax for ax in fig.axes if ax.axison or ax.get_legend())
    for ax, title in zip(panels, ("zero", "mean"), strict=True):
        assert ax.get_title(loc="left") == title
        lines = [line for line in ax.lines if len(line.get_xdata()) == 3]
        assert len(lines) == 2
        assert len({line.get_linestyle() for line in lines}) == len({line.get_marker() for line in lines}) == 2
        np.testing.assert_array_equal(lines[0].get_ydata(), [0, 0.5, 1])
    assert [text.get_text() for text in key.get_legend().texts] == ["exact", "random"]
    with pytest.raises(ValueError, match="columns method"):
        plot_faithfulness(frame.drop(columns="method"))
    with pytest.raises(ValueError, match="need the columns weight"):
        plot_circuit(edges().drop(columns="weight"))
    with pytest.raises(ValueError, match="at least one circuit"):
        plot_circuit({})


def test_attention_is_shown_as_it_is_with_its_tokens():
    patterns = {"a0.0": np.eye(3), "a0.1": np.full((3, 3), 1 / 3)}
    axes = plot_attention(patterns, [7, 5, 7]).axes
    for ax, (name, pattern) in zip(axes, patterns.items(), strict=True):
        assert ax.get_title("left") == name
        np.testing.assert_array_equal(ax.images[0].get_array(), pattern)
        assert [label.get_text() for label in ax.get_xticklabels()] == ["7", "5", "7"]


def test_sorted_curves_rise_and_lose_no_method():
    values = {"textbook": [0.9, 1.0, 0.8], "random": [0.5, -0.1, 0.0]}
    panels = {"sufficient?": values, "least by network": {name: found[:2] for name, found in values.items()}}
    left, right = plot_sorted(panels, {"sufficient?": "methods", "least by network": "networks"}).axes
    for ax, label, count in ((left, "methods", 3), (right, "networks", 2)):
        assert (ax.get_xlabel(), ax.get_ylabel()) == (label, "faithfulness")
        lines = [line for line in ax.lines if line.get_marker() != "None"]
        for line, found in zip(lines, values.values(), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), range(1, count + 1))
            np.testing.assert_array_equal(line.get_ydata(), sorted(found[:count]))
    with pytest.raises(KeyError, match="'unknown'"):
        plot_sorted({"panel": {"unknown": [1.0]}}, {"panel": "methods"})
    with pytest.raises(ValueError, match="one panel"):
        plot_sorted({}, {})


def test_a_pair_is_written_once_and_what_certifies_least_is_darkest():
    names = ["zero", "resample", "optimal"]
    shared = pd.DataFrame([[2.0, 1.0, 0.0], [1.0, 4.0, 3.0], [0.0, 3.0, 3.0]], names, names)
    worst = pd.DataFrame([[0.5, -0.1, np.nan], [-0.1, 0.0, 0.2], [np.nan, 0.2, 0.9]], names, names)
    panels = {"shared": shared, "worst": worst}
    left, right = plot_pairs(panels, (".0f", ".1f"), labels={"resample": "twin"}, worse=(1, -1)).axes
    assert [text.get_text() for text in left.texts] == ["2", "1", "4", "0", "3", "3"]
    assert [text.get_text() for text in right.texts] == ["0.5", "−0.1", "0.0", "–", "0.2", "0.9"]
    assert [label.get_text() for label in left.get_xticklabels()] == ["zero", "twin", "optimal"]
    for ax, table, sign in ((left, shared, 1), (right, worst, -1)):
        shades = np.asarray(ax.images[0].get_array().filled(np.nan))
        drawn = np.tri(3, dtype=bool) & ~table.isna().to_numpy()
        order = np.argsort(sign * table.to_numpy()[drawn], kind="stable")
        assert (np.diff(shades[drawn][order]) >= 0).all()
    with pytest.raises(ValueError, match="a format and a direction"):
        plot_pairs(panels, (".0f",), labels={}, worse=(1, -1))
