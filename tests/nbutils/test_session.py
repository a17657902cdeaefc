"""The set-up of a notebook: choices that make no sense are refused, and runs are kept where they should be."""

import elsewhere
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
        ({"runs": 5}, "RUNS is a path or None; got 5"),
        ({"dopesheet": ""}, "DOPESHEET is a path"),
        ({"device": "gpu"}, "DEVICE is 'cpu', 'cuda', 'cuda:1', …, or 'mps'; got 'gpu'; there is cpu"),
        ({"device": None}, "DEVICE is 'cpu'"),
        ({"device": "cuda:7"}, "DEVICE='cuda:7': torch sees no such device; there is cpu"),
        ({"device": "meta"}, "DEVICE='meta': torch sees no such device"),
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


def test_embedded_data_never_take_the_place_of_real_ones_in_silence(monkeypatch):
    monkeypatch.setattr(claims, "_results", None)
    with pytest.raises(ValueError, match=r"DATA is 'real', and the data are embedded digits; \$NBUTILS_DATA is"):
        nb.begin("01-color-cube", **CHOICES | {"data": "real"}).reads("embedded digits")
    assert claims.source() is None
    with pytest.warns(UserWarning, match="DATA is 'auto', and no real data were found: these are embedded digits"):
        nb.begin("01-color-cube", **CHOICES | {"data": "auto"}).reads("embedded digits")
    nb.begin("01-color-cube", **CHOICES | {"data": "real"}).reads("a formula")  # it knows no other


def test_a_device_is_the_one_that_is_named_and_is_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(layout, "root", lambda: tmp_path)
    monkeypatch.setattr(claims, "_results", None)
    plain = nb.begin("01-color-cube", **CHOICES, runs="runs")
    assert (plain.device, plain.store) == (torch.device("cpu"), tmp_path / "runs")
    assert "device cpu\n" in str(plain)
    x = torch.ones(2)
    pairs = nb.Pairs(x, x, torch.zeros(2))
    assert plain.moved(x) is x
    assert plain.moved(pairs) is pairs
    with elsewhere.device() as device:
        session = nb.begin("01-color-cube", **CHOICES | {"processes": None}, device=device.type, runs="runs")
        assert (session.device, session.processes, session.executor) == (device, 1, None)
        assert f"device {device}\n" in str(session)
        assert session.store != plain.store  # results are told apart by content, which does not say where they are from
        model, named, kept = session.moved((torch.nn.Linear(2, 2), {"x": x, "n": 3}, nb.Pairs(x, x, torch.zeros(2))))
        places = {model.weight.device, named["x"].device, kept.clean.device, kept.labels.device}
        assert (places, named["n"]) == ({device}, 3)
        assert nb.begin("01-color-cube", **CHOICES | {"processes": 2}, device=device).executor == "loky"
        session.reads("a formula")
    assert claims.load(claims.save(tmp_path / "results.json")).device == str(device)
