"""The explorer of units is tested through what it draws and says, in both themes."""

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from nbutils.plotting import theme
from studies.backdoor.explorer import unit_explorer, view_units

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True, params=[theme.LIGHT, theme.DARK], ids=lambda look: look.name)
def look(request):
    with theme.use(request.param):
        yield request.param
    plt.close("all")


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def ablated(sites: dict[str, tuple[int, ...]], changed: int = 3) -> dict[str, object]:
    removed = sum(map(len, sites.values()))
    return {
        "before": {"clean accuracy": 0.97, "ASR": 0.99},
        "after": {"clean accuracy": 0.97 - removed / 100, "ASR": 0.99 / (1 + removed)},
        "images": np.zeros((changed, 28, 28)),
        "answers_before": np.full(changed, 8),
        "answers_after": np.arange(changed),
        "labels": np.minimum(np.arange(changed), 1),
    }


def test_the_units_view_shows_before_after_and_the_answers_that_change(look):
    left, right = view_units(ablated({"conv1": (9,)})).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["clean accuracy", "ASR"]
    before, after = left.collections[2:]
    assert (before.get_offsets()[0, 0], after.get_offsets()[0, 0]) == (0.99, 0.495)
    assert to_rgb(before.get_facecolor()[0]) == to_rgb(look.paper) != to_rgb(after.get_facecolor()[0])
    assert words(left) == ["97.0% → 96.0%", "99.0% → 49.5%"]
    assert words(right) == ["8 → ✓ 0", "8 → ✓ 1", "8 → ✗ 2"]
    many = view_units(ablated({}, changed=40)).axes[1]
    assert len(words(many)) == 12
    assert many.get_title("left").startswith("12 of 40")
    assert words(view_units(ablated({}, changed=0)).axes[1]) == ["no answer changes"]
    with pytest.raises(KeyError, match="labels"):
        view_units({key: value for key, value in ablated({}).items() if key != "labels"})
    with pytest.raises(KeyError, match="ASR"):
        view_units(ablated({}) | {"after": {"clean accuracy": 1.0}})
    with pytest.raises(ValueError, match="two answers and a label"):
        view_units(ablated({}) | {"labels": np.zeros(2)})


def test_the_unit_explorer_evaluates_all_chosen_units_and_shows_the_view():
    calls = []

    def evaluate(sites, ablation):
        calls.append((dict(sites), ablation))
        if ablation == "mean" and len(sites) > 1:
            raise ValueError("no <such> mean")
        return ablated(sites)

    explorer = unit_explorer(evaluate, {"conv1": 32, "fc1": 16}, ["zero", "mean"], chosen={"conv1": [9]})
    ablation, lists, hint, status, picture = explorer.children
    conv1, fc1 = lists.children
    assert [(units.description, len(units.options)) for units in lists.children] == [("conv1", 32), ("fc1", 16)]
    assert "several" in hint.value
    first = picture.value
    assert "clean accuracy 96.0%, ASR 49.5%" in first
    fc1.value = (1, 5)
    assert "conv1 9, fc1 1 5 ablated (zero)" in status.value
    assert picture.value != first
    ablation.value = "mean"
    assert "ValueError: no &lt;such&gt; mean" in status.value
    assert 'role="alert"' in status.value
    assert picture.value == ""
    conv1.value, fc1.value = (), ()
    assert "no units ablated (mean)" in status.value
    assert calls == [
        ({"conv1": (9,)}, "zero"),
        ({"conv1": (9,), "fc1": (1, 5)}, "zero"),
        ({"conv1": (9,), "fc1": (1, 5)}, "mean"),
        ({"fc1": (1, 5)}, "mean"),
        ({}, "mean"),
    ]
    assert not plt.get_fignums(), "no figure stays open"


def test_the_unit_explorer_refuses_units_that_do_not_exist():
    with pytest.raises(ValueError, match="at least one layer"):
        unit_explorer(lambda *_: ablated({}), {}, ["zero"])
    with pytest.raises(ValueError, match=r"\[16\] of 'fc1'"):
        unit_explorer(lambda *_: ablated({}), {"fc1": 16}, ["zero"], chosen={"fc1": [16]})
