"""Claims hold or raise, and either way are recorded."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from nbutils import claims, layout


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Begin results and return where it will be written."""
    monkeypatch.setenv(layout.OUT_VARIABLE, str(tmp_path))
    monkeypatch.setattr(claims, "_results", None)
    claims.begin("07-example", profile="quick", source="embedded")
    return tmp_path / "07-example" / "results.json"


def test_a_claim_that_holds_prints_one_line_and_is_saved(results, capsys):
    claims.check("r_mean", torch.tensor(0.93034), expect=0.931, atol=0.012)
    assert capsys.readouterr().out == "holds   r_mean = 0.9303   expected 0.931 ± 0.012\n"
    assert not results.exists()  # nothing is written before it is asked for
    assert claims.save() == results

    record = claims.load(results)
    assert record.claims == {"r_mean": {"value": 0.93034, "expect": 0.931, "atol": 0.012, "holds": True}}
    assert (record.stem, record.profile, record.source) == ("07-example", "quick", "embedded")
    assert record.versions["torch"] == torch.__version__.split("+")[0]


def test_a_claim_that_fails_raises_and_leaves_results_that_name_it(results, capsys):
    claims.check("first", 1, at_least=1)
    with pytest.raises(claims.ClaimError, match=r"second = 0\.9   expected 0\.931 ± 0\.012"):
        claims.check("second", 0.9, expect=0.931, atol=0.012)
    assert capsys.readouterr().out.splitlines()[-1].startswith("fails   second = 0.9")
    saved = claims.load(results).claims
    assert [saved[name]["holds"] for name in ("first", "second")] == [True, False]


@pytest.mark.parametrize(
    ("value", "limits", "holds"),
    [
        (2.0, {"at_least": 2}, True),
        (1.999, {"at_least": 2}, False),
        (2.0, {"at_most": 2}, True),
        (2.001, {"at_most": 2}, False),
        (2.5, {"at_least": 2, "at_most": 3}, True),
        (3.5, {"at_least": 2, "at_most": 3}, False),
        (3, {"expect": 3, "atol": 0}, True),
        (4, {"expect": 3, "atol": 0.5}, False),
    ],
)
def test_bounds_are_inclusive(results, value, limits, holds):
    if holds:
        claims.check("n", value, **limits)
    else:
        with pytest.raises(claims.ClaimError):
            claims.check("n", value, **limits)
    claims.save()
    assert claims.load(results).claims["n"] == {"value": value, **limits, "holds": holds}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("limits", [{"expect": 0, "atol": 1}, {"at_least": 0}, {"at_most": 0}])
def test_a_value_that_is_not_finite_never_holds(results, value, limits):
    with pytest.raises(claims.ClaimError):
        claims.check("n", value, **limits)
    assert claims.load(results).claims["n"]["value"] is None  # JSON has no word for it


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"expect": 1},
        {"atol": 1},
        {"expect": 1, "atol": 1, "at_least": 0},
        {"atol": 1, "at_most": 0},
        {"expect": 1, "atol": -1},
        {"expect": math.nan, "atol": 1},
        {"at_least": 2, "at_most": 1},
    ],
)
def test_a_claim_has_exactly_one_sound_form(results, limits):
    with pytest.raises(ValueError, match="claim 'n'"):
        claims.check("n", 1, **limits)


def test_metrics_keep_whole_numbers_whole_and_fractions_fractions(results):
    claims.metric(n=3, seeds=np.int64(4), mean=np.float32(0.1), half=torch.tensor(0.5), third=1 / 3, none=math.nan)
    claims.save()
    metrics = json.loads(results.read_text())["metrics"]
    assert metrics == {"n": 3, "seeds": 4, "mean": 0.1, "half": 0.5, "third": 0.333333, "none": None}
    assert [type(metrics[name]) for name in ("n", "seeds", "half")] == [int, int, float]


def test_nothing_can_be_claimed_before_begin(results, monkeypatch):
    claims.check("n", 1, at_least=0)
    monkeypatch.setattr(claims, "_results", None)
    with pytest.raises(ValueError, match=r"claims\.begin"):
        claims.check("n", 1, at_least=0)


@pytest.mark.parametrize(
    ("change", "defect"),
    [
        (lambda record: record.pop("stem"), "'stem'"),
        (lambda record: record.update(metrics=[]), "'metrics'"),
        (lambda record: record["metrics"].update(n="three"), "metric 'n'"),
        (lambda record: record["claims"]["c"].update(holds="yes"), "claim 'c'"),
        (lambda record: record["claims"]["c"].update(value=True), "claim 'c'"),
    ],
)
def test_load_names_file_and_defect(results, change, defect):
    claims.check("c", 1, at_least=0)
    claims.save()
    claims.load(results)
    record = json.loads(results.read_text())
    change(record)
    results.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=rf"results\.json does not hold results of a notebook: .*{defect}"):
        claims.load(results)


def test_load_names_a_file_that_is_not_json(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"stem": ')
    with pytest.raises(ValueError, match=r"results\.json is not JSON"):
        claims.load(path)


def test_a_hypothesis_that_falls_is_kept_and_raises_nothing(results, capsys):
    claims.hypothesis("H1, one unit is enough", np.bool_(False), "ten are needed")
    claims.hypothesis("H2, and harmless", None, "two seeds cannot tell")
    claims.hypothesis("H1, one unit is enough", True, "one is")
    assert capsys.readouterr().out.splitlines()[::2] == [
        "disconfirmed   H1, one unit is enough: ten are needed",
        "confirmed   H1, one unit is enough: one is",
    ]
    kept = claims.load(claims.save()).hypotheses
    assert {name: outcome["holds"] for name, outcome in kept.items()} == {
        "H1, one unit is enough": True,
        "H2, and harmless": None,
    }
    with pytest.raises(TypeError, match="holds"):
        claims.hypothesis("H3", "yes", "a text is no verdict")
    with pytest.raises(ValueError, match="one line"):
        claims.hypothesis("H3", True, "two\nlines")
