"""The set-up of a notebook: choices that make no sense are refused, and runs are kept where they should be."""

import pytest
import torch

import nbutils as nb
from nbutils import claims, layout

CHOICES = {"profile": "quick", "data": "embedded", "seeds": 2, "processes": 1}


def test_a_session_knows_its_seeds_and_keeps_runs_only_where_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(layout, "root", lambda: tmp_path)
    session = nb.begin("01-color-cube", **CHOICES)
    assert (session.seeds, session.full, session.executor) == ((0, 1), False, None)
    assert session.checkpoint("anchored") is None
    assert session.store.is_dir()
    kept = nb.begin("01-color-cube", **CHOICES | {"seeds": [42, 7], "profile": "full"}, runs="build/runs")
    assert (kept.seeds, kept.full) == ((42, 7), True)
    assert kept.checkpoint("anchored") == tmp_path / "build" / "runs" / "anchored.safetensors"
    assert nb.begin("01-color-cube", **CHOICES | {"processes": 2}).executor == "loky"
    assert torch.get_num_threads() == 1


def test_results_come_from_the_function_once(tmp_path):
    session, calls = nb.begin("01-color-cube", **CHOICES), str(tmp_path / "calls")  # a path would count by content

    def double(x):
        with open(calls, "a") as file:
            file.write("x")
        return {"y": 2 * x}

    for _ in range(2):
        assert session.results(double, [{"x": 1}, {"x": 2}]) == [{"y": 2}, {"y": 4}]
    assert (tmp_path / "calls").read_text() == "xx"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"profile": "fast"}, "PROFILE is one of 'quick', 'full'; got 'fast'"),
        ({"data": "fake"}, "DATA is one of"),
        ({"seeds": 0}, "seeds are a number of 1 or more"),
        ({"seeds": "12"}, "seeds are a number"),
        ({"seeds": [1, 1]}, "each once"),
        ({"seeds": [-1]}, "0 or more"),
        ({"processes": 0}, "PROCESSES"),
        ({"processes": True}, "PROCESSES"),
    ],
)
def test_choices_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        nb.begin("01-color-cube", **CHOICES | wrong)


@pytest.mark.parametrize("stem", ["", "../x", None, "a/b"])
def test_a_stem_is_a_name(stem):
    with pytest.raises(ValueError, match="STEM"):
        nb.begin(stem, **CHOICES)


def test_a_dopesheet_must_be_there():
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        nb.begin("01-color-cube", **CHOICES, dopesheet="none.csv")


def test_reading_starts_the_record(monkeypatch):
    monkeypatch.setattr(claims, "_results", None)
    nb.begin("01-color-cube", **CHOICES).reads("a formula")
    assert (claims.stem(), claims.source()) == ("01-color-cube", "a formula")
