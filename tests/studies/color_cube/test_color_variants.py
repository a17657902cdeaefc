"""Other experiments of the series by parameters and dopesheet alone: notebook 01 from its first cell to its last."""

import json

import cells
import matplotlib
import pytest

from nbutils import layout

SHEET = "STEP,lr,separate,anchor,anti-anchor,anti-subspace,unitarity\n0,1e-3,0.01,0.1,0.05,0.1,0.01\n19,1e-2,,,,,\n"
SMALL = {"N_SEEDS": 3, "SIDE_SEEDS": 2, "ROUTED_SEEDS": 2, "GRID": 4, "N_RANDOM": 2, "PROCESSES": 1}


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv(layout.OUT_VARIABLE, str(tmp_path))
    monkeypatch.setenv("NBUTILS_SILENT", "1")
    matplotlib.use("agg")
    (tmp_path / "sheet.csv").write_text(SHEET)
    return {"DOPESHEET": str(tmp_path / "sheet.csv")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        {"BOTTLENECK": 4, "ANCHORED": {"red": 1.0, "blue": 0.5}, "REGULARIZERS": ["anchor", "unitarity"]},
        {"BOTTLENECK": 3, "HIDDEN": 6, "NONLINEAR": 1, "SUBDIVISIONS": 4, "OTHERS": ["magenta"]},
    ],
    ids=["two labels in four dimensions", "a small network on a coarse grid"],
)
def test_another_experiment_needs_parameters_only(variant, quiet, tmp_path):
    (path,) = layout.notebooks("01")
    names = cells.execute(path, SMALL | quiet | variant)
    assert not names["claiming"]
    recorded = json.loads((tmp_path / path.stem / "results.json").read_text(encoding="utf-8"))
    assert recorded["metrics"]["steps"] == 20
    assert recorded["hypotheses"]["H2, blind measure"]["holds"]
    assert set(names["panels"]) == {"red", *variant.get("OTHERS", ("blue", "yellow", "cyan"))}
    rows = (tmp_path / path.stem / "seeds.csv").read_text(encoding="utf-8").splitlines()
    assert (rows[0], len(rows)) == ("seed,ablated,ablated R²,suppressed,suppressed R²", 4)


def test_a_choice_that_makes_no_sense_ends_before_any_network_is_made(quiet, monkeypatch):
    monkeypatch.setattr("nbutils.training.ensemble.Ensemble.__init__", lambda *_: pytest.fail("a network was made"))
    (path,) = layout.notebooks("01")
    with pytest.raises(ValueError, match=r"^BOTTLENECK lies between 3 and HIDDEN = 10"):
        cells.execute(path, SMALL | {"BOTTLENECK": 12})
