"""The README's cards, its figure "found against published", and its table of every number."""

from __future__ import annotations

import json

import pytest

from nbutils import layout
from nbutils.notebook import cards, readme
from nbutils.plotting import theme
from nbutils.plotting.forest import Compared, plot_forest

ROW = {"label": "r", "format": "{r_mean:.3f} ± {r_std:.3f}", "source": ".931 ± .034"}
COMPARE = {"panel": "correlation", "found": "r_mean", "spread": "r_std", "published": 0.931, "published_spread": 0.034}
SPEC = {
    "question": "Does it?",
    "sign": "partly",
    "verdict": "half < whole",
    "picture": "key",
    "headline": ROW,
    "rows": [ROW | {"compare": COMPARE}, {"label": "ASR", "format": "{poisoned.asr:.3f}", "record": "real"}],
}
RECORD = {
    "stem": "01-first",
    "profile": "quick",
    "source": "generated",
    "versions": {},
    "claims": {"good": {"value": 1.0, "holds": True}, "bad": {"value": 0.0, "holds": False}},
    "metrics": {"r_mean": 0.93041, "r_std": 0.04778, "absent": None},
    "hypotheses": {"H1": {"holds": True}, "H2": {"holds": False}, "H3": {"holds": None}},
}


@pytest.fixture
def project(tmp_path):
    """Return a function that writes a project of one notebook, with changes to its metadata, and returns its root."""
    (tmp_path / "notebooks").mkdir()
    assets = tmp_path / "large-assets" / "01-first"
    assets.mkdir(parents=True)
    for name in ("key.png", "key.dark.png"):
        (assets / name).write_bytes(b"a picture")
    files = {look: {"file": name, "sha256": ""} for look, name in (("light", "key.png"), ("dark", "key.dark.png"))}
    (assets / "manifest.json").write_text(json.dumps({"key": files | {"alt": 'A "key". More.', "source": None}}))
    (assets / "results.json").write_text(json.dumps(RECORD), encoding="utf-8")

    def write(**changes):
        spec = {key: value for key, value in (SPEC | changes).items() if value is not None}
        cell = {"cell_type": "markdown", "metadata": {}, "source": "# 01 · Title | *of* it\nverdict"}
        notebook = {"cells": [cell], "metadata": {"nbutils": {"readme": spec}}, "nbformat": 4, "nbformat_minor": 4}
        (tmp_path / "notebooks" / "01-first.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
        return tmp_path

    return write


def test_readme_is_current(monkeypatch):
    monkeypatch.delenv(layout.OUT_VARIABLE, raising=False)
    text = (layout.root() / "README.md").read_text(encoding="utf-8")
    assert readme.refreshed(text, readme.results()) == text, "run `python -m nbutils.notebook.readme`"


def test_a_card_shows_picture_question_sign_and_headline_beside_the_published_number(project):
    shown = readme.results(project())
    for part in (
        '<a href="notebooks/01-first.ipynb">01 · Title | of it</a>',
        'srcset="large-assets/01-first/key.dark.png"',
        '<img src="large-assets/01-first/key.png" alt="A &quot;key&quot;." width="260">',
        "Does it?",
        "<b>◐ Partly:</b> half &lt; whole",
        "<b>0.930 ± 0.048</b> r; published: <b>.931 ± .034</b>",
        "1 of 3 hypotheses held, 1 undecided; 1 of 2 stored results reproduced",
    ):
        assert part in shown, part
    assert "published: <b>no number</b>" in readme.results(project(headline={"label": "r", "format": "1"}))
    assert 'href="01-first.ipynb"' in readme.cards(cards.load(project()), project() / "notebooks")


def test_the_table_has_a_quantity_a_row_with_failures_and_missing_runs(project):
    root = project()
    shown = readme.results(root)
    assert "| [01](notebooks/01-first.ipynb) | r | 0.930 ± 0.048 | .931 ± .034 | quick |" in shown
    assert "| [01](notebooks/01-first.ipynb) | ASR | not run | – | real data |" in shown
    assert "| [01](notebooks/01-first.ipynb) | quick | 1 of 3 | 1 | 1 of 2 (not `bad`) |" in shown

    real = RECORD | {"metrics": {"poisoned.asr": 0.98412}, "hypotheses": {}}
    (root / "large-assets" / "01-first" / "results.real.json").write_text(json.dumps(real), encoding="utf-8")
    shown = readme.results(root)
    assert "| ASR | 0.984 | – | real data |" in shown
    assert "| real data | none kept | – | 1 of 2 (not `bad`) |" in shown
    assert "1 of 3 hypotheses held" in shown  # of the committed run alone


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"question": None}, "needs 'question'"),
        ({"verdict": " "}, "needs 'verdict'"),
        ({"sign": "good"}, "'sign' is one of confirmed, partly, refuted, got 'good'"),
        ({"picture": "other"}, "no picture 'other' for its card; there are key"),
        ({"headline": None}, "have 'label' and 'format', got None"),
        ({"headline": ROW | {"format": "{unheard_of:.3f}"}}, "unheard_of.*recorded metrics: absent, r_mean, r_std"),
        ({"headline": ROW | {"record": "full"}}, "reads the full run, which is not kept"),
        ({"rows": None}, "needs a list 'rows'"),
        ({"rows": ["none"]}, "got 'none'"),
        ({"rows": [ROW | {"record": "fake"}]}, "'record' is one of embedded, real, full, got 'fake'"),
        ({"rows": [ROW | {"format": "{r_mean}; {r_std}"}]}, "a row is one quantity"),
        ({"rows": [ROW | {"source": 1}]}, "'source' is text, got 1"),
        ({"rows": [ROW | {"compare": COMPARE | {"spread": "absent"}}]}, "'compare' names 'absent'"),
        ({"rows": [ROW | {"compare": COMPARE | {"more": 1}}]}, "'compare' has panel, found, published"),
        ({"rows": [ROW | {"compare": {"panel": "r"}}]}, "'compare' has panel, found, published"),
    ],
)
def test_what_a_card_lacks_is_an_error_that_names_the_notebook(project, changes, complaint):
    assert cards.load(project())
    with pytest.raises(ValueError, match=rf"^01-first\.ipynb.*{complaint}"):
        readme.results(project(**changes))


def test_a_picture_that_is_listed_and_not_there_is_an_error(project):
    root = project()
    (root / "large-assets" / "01-first" / "key.dark.png").unlink()
    with pytest.raises(ValueError, match=r"^01-first\.ipynb: the picture of its card is missing: key\.dark\.png"):
        readme.results(root)


def test_the_figure_is_the_one_of_the_index(project):
    root = project()
    assert "Found against published" not in readme.results(root)
    (root / "notebooks" / "00-all.ipynb").write_text("{}")
    with pytest.raises(ValueError, match=r"^00-all\.ipynb has no picture 'found-against-published'"):
        readme.results(root)
    assets = root / "large-assets" / "01-first"
    folder = assets.rename(assets.with_name("00-all"))
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text().replace('"key"', f'"{readme.FOREST}"'))
    (root / "notebooks" / "01-first.ipynb").unlink()
    assert '<img src="large-assets/00-all/key.png"' in readme.results(root)


def test_the_figure_draws_each_number_on_the_scale_of_its_panel(project):
    (number,) = readme.compared(cards.load(project()))
    assert number == Compared("correlation", "r", 0.93041, 0.04778, 0.931, 0.034, "0.930 ± 0.048", ".931 ± .034")
    with theme.use(theme.LIGHT):
        figure = plot_forest([number, number._replace(panel="other", found=50.0, published=60.0), number])
    first, second = figure.axes
    assert [text.get_text() for text in first.get_yticklabels()] == ["r", "r"]
    assert first.get_xlim()[1] < 1.1 < 50 < second.get_xlim()[1]
    segments = first.containers[0].lines[2][0].get_segments()[0]
    assert segments[:, 0].tolist() == pytest.approx([0.93041 - 0.04778, 0.93041 + 0.04778])
    with pytest.raises(ValueError, match="got none"):
        plot_forest([])


def test_only_what_stands_between_two_markers_is_replaced():
    stale = f"top\n{readme.BEGIN}\nold\n{readme.END}\nbottom\n"
    assert readme.refreshed(stale, "new") == f"top\n{readme.BEGIN}\n\nnew\n\n{readme.END}\nbottom\n"
    for text in ("no markers", stale + stale, f"{readme.END}\n{readme.BEGIN}"):
        with pytest.raises(ValueError, match="README needs one line"):
            readme.refreshed(text, "new")
