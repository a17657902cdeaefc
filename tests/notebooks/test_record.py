import json

import pytest

from nbutils import __main__ as cli
from nbutils import claims, layout
from nbutils.notebook import execute, record
from nbutils.plotting import figures

CELL = """
from nbutils import claims
from nbutils.plotting import figures
import matplotlib.pyplot as plt
claims.begin("02-study", profile=PROFILE, source="embedded digits" if DATA == "embedded" else "mnist")
for name in ("kept", "other"):
    def draw():
        figure, axes = plt.subplots(figsize=(1, 1))
        axes.plot([0, len(name)])
        return figure
    figures.show(draw, name, f"A line, {name}.")
claims.metric(n=3)
_ = claims.save()
"""


@pytest.fixture
def study(project):
    path = project.write("02-study", CELL, parameters='PROFILE = "quick"\nDATA = "embedded"')
    content = json.loads(path.read_text())
    content["metadata"]["nbutils"] = {"recorded": ["kept"]}
    path.write_text(json.dumps(content))
    return path


def test_a_run_on_real_data_is_kept_with_its_command_and_shown_again(study, project, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert cli.main(["run", "02", "--data", "real", "--profile", "full", "--out", str(out)]) == 0
    assert cli.main(["record", "02", "--source", str(out)]) == 0
    results = json.loads(layout.recorded("02-study").read_text())
    assert results["command"] == "python -m nbutils run 02 --profile full --data real"
    assert (results["source"], results["metrics"]) == ("mnist", {"n": 3})
    assert len(results["date"]) == len("2000-01-01")
    real = project.root / "large-assets" / "02-study" / "real"
    assert {path.name for path in real.iterdir()} == {"kept.png", "kept.dark.png", "manifest.json"}
    assert (real / "kept.png").read_bytes() == (out / "02-study" / "kept.png").read_bytes()

    monkeypatch.setenv(layout.OUT_VARIABLE, str(tmp_path / "later"))
    monkeypatch.setattr(claims, "_results", None)
    claims.begin("02-study", profile="quick", source="embedded digits")
    figures.show_recorded("kept")
    entry = figures.manifest("02-study")["recorded-kept"]
    assert (entry["source"], entry["alt"]) == ("mnist", "Recorded on mnist. A line, kept.")
    with pytest.raises(KeyError, match=r"no figure 'other' in real; there are kept"):
        figures.show_recorded("other")


def test_a_full_run_on_embedded_data_is_kept_beside_the_one_on_real_data(study, project, tmp_path, monkeypatch):
    for data in ("real", "embedded"):
        out = tmp_path / data
        assert cli.main(["run", "02", "--data", data, "--profile", "full", "--out", str(out)]) == 0
        assert cli.main(["record", "02", "--source", str(out)]) == 0
    found = {which: json.loads(layout.recorded("02-study", which).read_text())["source"] for which in layout.RECORDED}
    assert found == {"real": "mnist", "full": "embedded digits"}
    assert (project.root / "large-assets" / "02-study" / "full" / "kept.png").is_file()

    monkeypatch.setenv(layout.OUT_VARIABLE, str(tmp_path / "later"))
    monkeypatch.setattr(claims, "_results", None)
    claims.begin("02-study", profile="quick", source="embedded digits")
    for which in layout.RECORDED:
        figures.show_recorded("kept", which)
    entries = figures.manifest("02-study")
    assert entries["recorded-full-kept"]["alt"].startswith("Recorded in the full profile on embedded digits.")
    assert entries["recorded-kept"]["source"] == "mnist"
    with pytest.raises(KeyError, match="recorded runs are real, full; got 'best'"):
        layout.recorded("02-study", "best")


def test_what_cannot_be_recorded_changes_nothing(study, project, tmp_path, capsys):
    before = project.files()
    assert cli.main(["record", "02", "--source", str(tmp_path / "nowhere")]) == 2
    assert "results.json is missing; let `run 02-study --data real" in capsys.readouterr().err

    execute.run(study, tmp_path / "out")
    record.note_run(tmp_path / "out" / "02-study", "run", "2000-01-01", 1)
    with pytest.raises(ValueError, match=r"is of embedded data in the quick profile; run with --data real, or with"):
        record.record(study, tmp_path / "out")

    execute.run(study, tmp_path / "out", {"DATA": "real"})
    record.note_run(tmp_path / "out" / "02-study", "run", "2000-01-01", 1)
    study.write_text(study.read_text().replace('"kept"', '"lost"'))
    with pytest.raises(ValueError, match="has no figure lost; it has kept, other"):
        record.record(study, tmp_path / "out")
    assert {k: v for k, v in project.files().items() if k != "notebooks/02-study.ipynb"} == {
        k: v for k, v in before.items() if k != "notebooks/02-study.ipynb"
    }
