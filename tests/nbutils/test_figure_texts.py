"""Descriptions of figures live in one file a study: filled in where a figure is shown, and checked both ways."""

from __future__ import annotations

import inspect

import nbformat
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_notebook

from nbutils import claims, layout
from nbutils.notebook.hygiene import hygiene
from nbutils.plotting import figures, texts

STEM = "07-example"
TEXTS = '''notebook = "07-example"

[growth]
alt = """
Two lines;
the second rises {factor:.1f} times as fast, to {ends[fast]:d}."""

["cube-{plan}"]
alt = "Four slices under the plan {plan}."
caption = """
The cube under {plan},
where $e_0$ is red."""
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a project with the texts above, begin a record in it, and return its `figures.toml`."""
    for room, content in {"growth": TEXTS, "other": 'notebook = "08-other"\n'}.items():
        (tmp_path / "notebooks" / "studies" / room).mkdir(parents=True)
        (tmp_path / "notebooks" / "studies" / room / "figures.toml").write_text(content)
    monkeypatch.setattr(layout, "root", lambda: tmp_path)
    monkeypatch.setenv(layout.OUT_VARIABLE, str(tmp_path))
    monkeypatch.setattr(claims, "_results", None)
    claims.begin(STEM, profile="quick", source="embedded")
    return tmp_path / "notebooks" / "studies" / "growth" / "figures.toml"


def draw() -> Figure:
    return Figure(figsize=(0.5, 0.5))


def alts() -> dict[str, str]:
    return {name: entry["alt"] for name, entry in figures.manifest(STEM).items()}


def test_the_values_of_the_call_fill_in_name_and_text(project):
    figures.show(draw, "growth", factor=2, ends={"slow": 2, "fast": 4})
    for plan in ("ablated", "none"):
        figures.show(draw, "cube-{plan}", plan=plan)
    figures.show(draw, "of-a-user", alt="A figure\nwithout entry.")
    assert alts() == {
        "growth": "Two lines; the second rises 2.0 times as fast, to 4.",
        "cube-ablated": "Four slices under the plan ablated.",
        "cube-none": "Four slices under the plan none.",
        "of-a-user": "A figure without entry.",
    }
    captions = {name: entry.get("caption") for name, entry in figures.manifest(STEM).items()}
    assert captions == {
        "growth": None,
        "cube-ablated": "The cube under ablated, where $e_0$ is red.",
        "cube-none": "The cube under none, where $e_0$ is red.",
        "of-a-user": None,
    }


@pytest.mark.parametrize(
    ("name", "values", "error", "message"),
    [
        ("shrinkage", {}, KeyError, r"figures\.toml has no entry \['shrinkage'\]; there are growth, cube-{plan}"),
        ("growth", {"factor": 2}, KeyError, r"\['growth'\] asks for ends"),
        ("cube-{plan}", {"plan": "none", "seed": 3}, ValueError, r"does not ask for seed, only \['plan'\]"),
        ("growth", {"factor": "two", "ends": {"fast": 4}}, ValueError, "cannot be filled in: ValueError: Unknown form"),
        ("growth", {"factor": 2, "ends": {}}, ValueError, "cannot be filled in: KeyError: 'fast'"),
        ("cube-{plan}", {"plan": "../none"}, ValueError, "a figure's name takes lower-case letters"),
        ("growth", {"alt": "Lines.", "factor": 2}, ValueError, "factor fill in an entry"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(project, name, values, error, message):
    with pytest.raises(error, match=message):
        figures.show(draw, name, **values)
    assert not figures.manifest(STEM)


def test_a_notebook_without_texts_is_told_where_they_belong(project):
    claims.begin("09-new", profile="quick", source="embedded")
    with pytest.raises(KeyError, match='of 09-new, which has the line notebook = "09-new", or give alt='):
        figures.show(draw, "growth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[growth", "is not TOML"),
        ('[growth]\nalt = "Lines."', "expected a line notebook"),
        (
            'notebook = "07-example"\n[growth]\nalt = 3',
            r"expected a table \['growth'\] with alt, and caption or none, as text",
        ),
        ('notebook = "07-example"\n[growth]\nalt = "Lines."\nwidth = 3', "and nothing else"),
        ('notebook = "07-example"\n[growth]\nalt = " "', "empty alt text"),
        ('notebook = "07-example"\n[growth]\nalt = "Lines."\ncaption = " "', "empty caption"),
        ('notebook = "07-example"\n[growth]\nalt = "Lines."\ncaption = "To {}."', "no template"),
        ('notebook = "07-example"\n[growth]\nalt = "To {}."', "no template: expected a name in every pair of braces"),
        ('notebook = "07-example"\n[growth]\nalt = "To {fast."', r"\['growth'\] is no template"),
        ('notebook = "07-example"\n[growth]\nalt = "To {twin:.1f}."', r"asks for twin, which show\(…\) takes itself"),
        ('notebook = "08-other"\n', "08-other has several figures.toml"),
    ],
)
def test_a_file_of_another_form_is_refused(project, content, message):
    project.write_text(content)
    with pytest.raises(ValueError, match=message):
        texts.find("08-other")


def test_the_names_that_show_takes_itself_are_known():
    named = inspect.signature(figures.show).parameters.values()
    assert {each.name for each in named if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)} == texts.TAKEN


SHOWS_ALL = """show(draw, "growth", factor=2, ends=ends)
for plan in plans:
    figures.show(draw, "cube-{plan}", plan=plan)"""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (SHOWS_ALL, []),
        (SHOWS_ALL + '\nshow(draw, "own", alt=text)\nshow(draw, "old", "A line.")', []),
        (SHOWS_ALL.splitlines()[0], ["figures.toml: no cell shows 'cube-{plan}'"]),
        (
            SHOWS_ALL + '\nshow(draw, "shrinkage")',
            ["figure 'shrinkage' is shown without alt text, and figures.toml has no entry of this name"],
        ),
    ],
)
def test_hygiene_finds_entries_without_a_figure_and_figures_without_an_entry(project, tmp_path, source, expected):
    path = tmp_path / f"{STEM}.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)
    assert hygiene(path, only="figure texts") == [f"{path.name}: {fault}" for fault in expected]
