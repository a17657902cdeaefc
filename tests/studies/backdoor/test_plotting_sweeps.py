"""Pictures of sweeps are tested through the data they draw, in both themes."""

import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from nbutils.plotting import theme
from studies.backdoor.plots.differences import plot_layer_swaps, plot_weight_changes
from studies.backdoor.plots.heat_maps import plot_unit_heat_map
from studies.backdoor.plots.localisation import plot_localisation
from studies.backdoor.plots.searches import plot_greedy, plot_unit_counts

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RNG = np.random.default_rng(0)
METRICS = ("clean accuracy", "ASR", "robust accuracy")
BASELINE = pd.DataFrame({"metric": METRICS, "value": [0.96, 0.99, 0.01], "n": [100, 90, 90]})


@pytest.fixture(autouse=True, params=[theme.LIGHT, theme.DARK], ids=lambda look: look.name)
def look(request):
    with theme.use(request.param):
        yield request.param
    plt.close("all")


def swept(**widths: int) -> pd.DataFrame:
    rows = [
        (layer, unit, metric, RNG.random(), 100)
        for layer, width in widths.items()
        for unit in range(width)
        for metric in METRICS
    ]
    return pd.DataFrame(rows, columns=["site", "unit", "metric", "value", "n"])


def changes(sweep: pd.DataFrame, layer: str) -> np.ndarray:
    """Return the changes `[metrics, units]` by another way than the pictures'."""
    before = dict(zip(METRICS, BASELINE["value"], strict=True))
    rows = sweep[sweep["site"] == layer]
    return np.array([rows[rows["metric"] == name]["value"].to_numpy() - before[name] for name in METRICS])


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_the_heat_map_shows_the_changes():
    sweep = swept(conv1=5, fc1=40)
    fig = plot_unit_heat_map(sweep, BASELINE, found=[("fc1", 37)])
    limit = max(np.abs(changes(sweep, layer)).max() for layer in ("conv1", "fc1"))
    for ax, layer in zip(fig.axes, ("conv1", "fc1"), strict=False):
        np.testing.assert_allclose(ax.images[0].get_array(), changes(sweep, layer))
        assert ax.images[0].get_clim() == pytest.approx((-limit, limit))
        assert ax.get_title("left") == layer
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == [
        "clean accuracy, 96.0%",
        "ASR, 99.0%",
        "robust accuracy, 1.0%",
    ]


def test_found_units_are_marked_and_signs_can_be_read_without_colour():
    sweep = swept(conv1=3, fc1=40)
    conv1, fc1 = plot_unit_heat_map(sweep, BASELINE, found=[("fc1", 37), ("fc1", 2)]).axes[:2]
    change = changes(sweep, "fc1")
    up, down, mark = fc1.collections
    np.testing.assert_array_equal(up.get_offsets()[:, ::-1], np.argwhere(change >= 0.1))
    np.testing.assert_array_equal(down.get_offsets()[:, ::-1], np.argwhere(change <= -0.1))
    assert not np.array_equal(up.get_paths()[0].vertices, down.get_paths()[0].vertices)
    assert mark.get_offsets()[:, 0].tolist() == [2, 37]
    assert not len(conv1.collections[2].get_offsets())
    bold = [label.get_text() for label in fc1.get_xticklabels() if label.get_fontweight() == "bold"]
    assert bold == ["2", "37"]


def test_sweeps_that_are_not_whole_are_refused():
    sweep = swept(conv1=3)
    with pytest.raises(KeyError, match="robust accuracy"):
        plot_unit_heat_map(sweep, BASELINE[:2])
    with pytest.raises(KeyError, match="fc9"):
        plot_unit_heat_map(sweep, BASELINE, found=[("fc9", 0)])
    with pytest.raises(KeyError, match=r"\('conv1', 3\)"):
        plot_unit_heat_map(sweep, BASELINE, found=[("conv1", 3)])
    with pytest.raises(ValueError, match="several"):
        plot_unit_heat_map(pd.concat([sweep, sweep]), BASELINE)
    with pytest.raises(ValueError, match="gaps"):
        plot_unit_heat_map(sweep[1:], BASELINE)
    with pytest.raises(KeyError, match="value"):
        plot_unit_heat_map(sweep.drop(columns="value"), BASELINE)


def path(seed: int, values: list[float], search: str = "conv1", metric: str = "ASR") -> pd.DataFrame:
    return pd.DataFrame({"search": search, "seed": seed, "step": range(len(values)), "metric": metric, "value": values})


def test_a_search_that_ended_stays_in_the_median():
    paths = [path(0, [0.9, 0.1]), path(1, [0.8, 0.5, 0.2]), path(2, [0.7, 0.6, 0.3])]
    fig = plot_greedy(pd.concat([*paths, path(0, [0.9, 0.0], "fc1")]))
    first, second = fig.axes
    assert fig.get_figwidth() <= 870 / 96
    assert (first.get_ylim(), first.get_xlim()) == (second.get_ylim(), second.get_xlim()), "slopes can be compared"
    *faint, strong = first.lines
    assert strong.get_ydata() == pytest.approx([0.8, 0.5, 0.2]), "without the ended one: 0.25"
    assert [line.get_ydata().tolist() for line in faint] == [[0.9, 0.1, 0.1], [0.8, 0.5, 0.2], [0.7, 0.6, 0.3]]
    (only,) = second.lines
    assert only.get_ydata().tolist() == [0.9, 0.0]
    assert (first.get_title("left"), second.get_title("left")) == ("conv1", "fc1")
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ASR"]
    six = pd.concat([path(0, [0.9] * (place % 2 + 1), f"search {place}") for place in range(5)])
    *panels, empty = plot_greedy(six).axes
    assert [words(ax) for ax in panels] == [["takes no unit"], [], ["takes no unit"], [], ["takes no unit"]]
    assert empty.get_legend() is not None, "the sixth panel, which is empty, explains the others"
    own = plot_greedy(pd.concat(paths), strong_seed=1).axes[0].lines[-1]
    assert own.get_ydata().tolist() == [0.8, 0.5, 0.2]
    with pytest.raises(ValueError, match="several"):
        plot_greedy(pd.concat([paths[0], paths[0]]))
    with pytest.raises(ValueError, match="gaps"):
        plot_greedy(paths[1][1:])
    with pytest.raises(KeyError, match="search"):
        plot_greedy(paths[0].drop(columns="search"))


def swapped(seeds: int = 1) -> pd.DataFrame:
    rows = [
        (a, b, metric, RNG.random(), 100)
        for _ in range(seeds)
        for a, b in itertools.product((False, True), repeat=2)
        for metric in METRICS
    ]
    return pd.DataFrame(rows, columns=["conv1", "fc1", "metric", "value", "n"])


@pytest.mark.parametrize("seeds", [1, 3])
def test_swaps_stand_in_the_order_of_a_metric_over_the_layers_they_took(seeds, look):
    swaps = swapped(seeds)
    upper, lower = plot_layer_swaps(swaps, by="ASR", metrics=["ASR", "clean accuracy"]).axes
    median = swaps.groupby(["conv1", "fc1", "metric"])["value"].median().unstack()
    order = median.sort_values("ASR")
    attack, clean = upper.lines
    np.testing.assert_allclose(attack.get_ydata(), order["ASR"])
    np.testing.assert_allclose(clean.get_ydata(), order["clean accuracy"])
    assert clean.get_color() == look.accents[0], "the colour that it has beside all metrics"
    opened, filled = lower.collections[:2]
    assert opened.get_facecolor().tolist() == [list(to_rgba(look.paper))]
    assert filled.get_facecolor().tolist() == [list(to_rgba(look.ink))]
    took = np.array([conv1 for conv1, _ in order.index])
    assert filled.get_offsets()[:, 0].tolist() == np.flatnonzero(took).tolist()
    assert opened.get_offsets()[:, 0].tolist() == np.flatnonzero(~took).tolist()
    assert len(upper.collections) == (2 if seeds == 1 else 4)
    if seeds > 1:
        faint = upper.collections[0].get_offsets()
        rows = swaps[swaps["metric"] == "ASR"]
        expected = [(order.index.get_loc((row.conv1, row.fc1)), row.value) for row in rows.itertuples()]
        np.testing.assert_allclose(faint, expected)


def test_swaps_that_lack_something_are_refused():
    swaps = swapped()
    with pytest.raises(KeyError, match="speed"):
        plot_layer_swaps(swaps, by="speed")
    with pytest.raises(ValueError, match="before `metric`"):
        plot_layer_swaps(swaps.drop(columns=["conv1", "fc1"]), by="ASR")
    with pytest.raises(ValueError, match="gaps"):
        plot_layer_swaps(swaps[1:], by="ASR")


def test_weight_changes_rank_the_found_units():
    frame = pd.DataFrame(
        {
            "site": ["conv1"] * 4 + ["fc1"] * 2,
            "unit": [0, 1, 2, 3, 0, 1],
            "change": [0.1, 0.4, 0.0, 0.2, 0.3, 0.5],
            "found": [False, False, False, True, False, False],
        }
    )
    (ax,) = plot_weight_changes(frame).axes
    still, some, found, *rest = ax.collections
    assert still.get_offsets()[:, 0].tolist() == [0.05], "nothing changed: at the left end, half the smallest"
    assert some.get_offsets()[:, 0].tolist() == [0.4, 0.1]
    assert found.get_offsets()[:, 0].tolist() == [0.2]
    assert words(ax) == ["3: rank 2 of 4", ""]
    assert [len(dots.get_offsets()) for dots in rest] == [0, 2, 0]
    assert "diamond" in ax.get_xlabel()
    assert "open" in ax.get_xlabel()
    many = frame.assign(site="conv1", unit=range(6), found=True)
    assert words(plot_weight_changes(many).axes[0])[0].endswith("and 2 more")
    with pytest.raises(ValueError, match="0 or more"):
        plot_weight_changes(frame.assign(change=-1.0))
    with pytest.raises(KeyError, match="found"):
        plot_weight_changes(frame.drop(columns="found"))


def test_counts_draw_every_seed_once_and_those_that_never_got_there_apart():
    counts = {"conv1": [1] * 7 + [3, np.nan], "fc1": [2, 2, 1]}
    (ax,) = plot_unit_counts(counts).axes
    dots, lost, others, none = (collection.get_offsets() for collection in ax.collections)
    assert np.round(dots[:, 0]).tolist() == [1] * 7 + [3]
    assert lost[:, 0].tolist() == [4], "beyond the largest number"
    assert np.round(others[:, 0]).tolist() == [1, 2, 2]
    assert not len(none)
    assert len(np.unique(dots, axis=0)) == 8, "no dot hides another"
    assert words(ax) == ["median 1", "median 2"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "3", "never"]
    assert words(plot_unit_counts({"conv1": [1, np.nan, np.nan]}).axes[0]) == ["median: never"]
    (whole,) = plot_unit_counts({"conv1": [0, 2]}).axes
    assert [label.get_text() for label in whole.get_xticklabels()] == ["0", "1", "2"]
    for bad in ({}, {"conv1": []}, {"conv1": [1.5]}, {"conv1": [-1]}):
        with pytest.raises(ValueError, match="expected"):
            plot_unit_counts(bad)


def test_networks_without_a_backdoor_are_drawn_open_and_no_line_leads_to_them():
    rows = [("A", drift, seed, rate) for drift in (0, 100) for seed in range(3) for rate in (0.5, 0.1)]
    table = pd.DataFrame(rows, columns=["set", "drift", "seed", "rate"])
    table["carriers"] = 2.0 + table.drift / 100 + table.seed
    table["asr"] = np.where((table.rate == 0.5) & ((table.seed < 2) | (table.drift == 0)), 0.9, 0.1)
    (ax,) = plot_localisation(table).axes
    often, seldom = ax.get_lines()
    assert often.get_ydata().tolist() == [3, 4]
    assert len(seldom.get_ydata()) == 0
    filled, empty = ax.collections[:2]
    assert filled.get_offsets()[:, 1].tolist() == [2, 3, 4, 3, 4]
    assert empty.get_offsets()[:, 1].tolist() == [5]
    with pytest.raises(KeyError):
        plot_localisation(table.drop(columns="asr"))
