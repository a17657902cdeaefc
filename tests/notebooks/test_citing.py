"""What can be cited: numbers of figures, tables and equations, links to them and to works, on the page and in print."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from test_render import DARK, LIGHT, shown

from nbutils import layout
from nbutils.notebook import anchors, bibliography, hygiene
from nbutils.notebook.document import first_sentence
from nbutils.notebook.render import render_all
from nbutils.notebook.searching import entries

BIB = r"""
@article{knuth1984,
  author = {Knuth, Donald E. and G{\"o}del, K. and {\O}re, Oystein},
  title = {Literate programming},
  journal = {The Computer Journal},
  volume = {27},
  pages = {97--111},
  year = {1984},
  url = {https://doi.org/10.1093/comjnl/27.2.97}
}

@article{nobody,
  author = {Nobody, A.},
  title = {Not cited},
  year = {2000},
  url = {https://arxiv.org/abs/2000.00001}
}
"""
TABLE = (
    '<table border="1" class="dataframe"><caption id="table-by-seed">r &lt; 1</caption><tr><td>0.5</td></tr></table>'
)
PROSE = """# 07 · Cited

See [Figure](#figure-growth), [that figure](#figure-growth), [Figure](08-other.ipynb#figure-plain),
[Table](#table-by-seed), [Table](#table-words), [Equation](#equation-loss), [above](#What-it-shows),
[there](08-other.ipynb#Why?) and
[Knuth, 1984](https://doi.org/10.1093/comjnl/27.2.97).

## What it shows

$$ L = \\sum_i x_i^2 \\label{loss} $$

Table: Words of *one* study. {#table-words}

| word | meaning |
|---|---|
| site | a place |
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Two notebooks that refer to each other, in a project with a bibliography; return its folder of notebooks."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(layout, "root", lambda: tmp_path)
    monkeypatch.setattr(layout, "notebooks", lambda *_: sorted(folder.glob("*.ipynb")))
    (folder / "references.bib").write_text(BIB)
    (tmp_path / "CITATION.cff").write_text(
        "title: A collection\nversion: 1.2\ndate-released: 2026-01-02\nlicense: MIT\n"
        "authors:\n  - name: The authors\n  - {given-names: Ada, family-names: Byron}\n"
    )
    figures = {
        "growth": {"alt": "Growth. A line.", "caption": "It grows with $r_1$."},
        "plain": {"alt": "Recorded on X. Ten lines rise. None falls."},
    }
    for stem, names in {"07-cited": ["growth"], "08-other": ["plain"]}.items():
        assets = tmp_path / "large-assets" / stem
        assets.mkdir(parents=True)
        manifest = {}
        for name in names:
            files = {"light": (f"{name}.png", LIGHT), "dark": (f"{name}.dark.png", DARK)}
            files |= {"data": (f"{name}.csv", b"r\n0.5\n")} if name == "growth" else {}
            manifest[name] = {"cell": 1, "source": None, **figures[name]}
            for key, (file, content) in files.items():
                (assets / file).write_bytes(content)
                manifest[name][key] = {"file": file, "sha256": hashlib.sha256(content).hexdigest()}
        (assets / "manifest.json").write_text(json.dumps(manifest))
    record = {"stem": "07-cited", "profile": "quick", "source": "made up", "versions": {}, "metrics": {}}
    record["claims"] = {"a": {"value": 1, "holds": True}}
    record["hypotheses"] = {"H1": {"holds": False, "found": "r = 0.1"}, "H2": {"holds": True, "found": "r < 1"}}
    (tmp_path / "large-assets" / "07-cited" / "results.json").write_text(json.dumps(record))
    write(folder / "07-cited.ipynb", PROSE, ["growth"], TABLE)
    write(folder / "08-other.ipynb", "# 08 · Other\n\n## Why?\n\nBecause.", ["plain"])
    return folder


def write(path: Path, prose: str, names: list[str], html: str = "") -> None:
    alts = {"growth": "Growth. A line.", "plain": "Recorded on X. Ten lines rise. None falls."}
    picture = base64.b64encode(LIGHT).decode()
    outputs = [shown({"image/png": picture}, {"image/png": {"alt": alts[name]}}) for name in names]
    description = f'<details class="figure-description"><summary>Figure description</summary>{alts[names[0]]}</details>'
    outputs += [shown({"text/html": description})]
    cells = [
        new_markdown_cell(prose),
        new_code_cell("a = 1\nb = 2", execution_count=1),
        new_code_cell("show()", execution_count=2, outputs=outputs + [shown({"text/html": html})] * bool(html)),
    ]
    nbformat.write(new_notebook(cells=cells), path)


def rendered(project: Path) -> dict[str, BeautifulSoup]:
    written = render_all(sorted(project.glob("*.ipynb")), project.parent / "out")
    return {path.stem: BeautifulSoup(path.read_text(), "html.parser") for path in written}


def test_links_become_the_numbers_of_what_they_name(project):
    page = rendered(project)["07-cited"]
    links = {a["href"]: a.get_text() for a in page.main.select(".prose p:not(.byline) a")}
    assert {href: text.replace("\xa0", " ") for href, text in links.items()} == {
        "#figure-growth": "that figure",  # the last of two
        "08-other.html#figure-plain": "Figure 08.1",
        "#table-by-seed": "Table 07.2",
        "#table-words": "Table 07.1",
        "#equation-loss": "Equation 07.1",
        "#what-it-shows": "above",
        "08-other.html#why": "there",
        "#ref-knuth1984": "Knuth, 1984",
    }
    assert page.main.select_one('a[href="#figure-growth"]').text == "Figure\xa007.1"
    for href in links:
        file, _, anchor = href.partition("#")
        assert (rendered(project)[Path(file).stem] if file else page).find(id=anchor)


def test_captions_are_visible_and_figures_carry_what_a_reader_can_take(project):
    pages = rendered(project)
    figure = pages["07-cited"].main.figure
    assert figure.figcaption.b.text == "Figure 07.1."
    assert "It grows with" in figure.figcaption.text
    assert figure.figcaption.math["alttext"] == "r_1"
    assert figure.img["alt"] == figure.select_one(".figure-description").get_text().removeprefix("Description")
    data = figure.select_one("a[download='growth.csv']")["href"]
    assert base64.b64decode(data.removeprefix("data:text/csv;base64,")) == b"r\n0.5\n"
    assert pages["08-other"].figcaption.text == "Figure 08.1. Recorded on X. Ten lines rise."
    captions = [caption.text for caption in pages["07-cited"].find_all("caption")]
    assert captions == ["Table 07.1. Words of one study.", "Table 07.2. r < 1"]
    assert pages["07-cited"].select_one("#equation-loss .number").text == "(07.1)"


def test_references_list_the_works_cited_and_no_others(project):
    pages = rendered(project)
    works = [item.get_text() for item in pages["07-cited"].select(".references li")]
    assert works == [
        "Knuth, D. E., Gödel, K. and Øre, O. (1984). Literate programming. The Computer Journal 27, 97–111. "
        "doi.org/10.1093/comjnl/27.2.97"
    ]
    assert not pages["08-other"].find(id="references")
    assert "The authors, Ada Byron · 2026-01-02 · version 1.2 · MIT" in pages["08-other"].select_one(".byline").text
    assert "In: A collection, version 1.2." in pages["08-other"].find(id="cite").text


def test_hypotheses_stand_apart_from_stored_results(project):
    outcome = rendered(project)["07-cited"].select_one(".outcome")
    assert outcome.p.text == "1 of 2 hypotheses held; 1 of 1 stored results reproduced."
    assert [item.get_text(" ") for item in outcome.select("dl > div")] == [
        "disconfirmed  H1 r = 0.1",
        "confirmed  H2 r < 1",
    ]


def test_code_is_folded_and_cells_that_show_nothing_are_one_fold_with_the_next(project):
    folds = rendered(project)["07-cited"].main.select("details.code")
    assert [fold.summary.text for fold in folds] == ["Code, 3 lines"]
    assert not folds[0].has_attr("open")


def test_notebook_00_is_the_index_and_the_search_reads_prose_and_captions(project):
    assert "index" in rendered(project)  # made, where no notebook is one
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("# 00 · All\n\n[cited](07-cited.ipynb)")]), project / "00-all.ipynb"
    )
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("# 09 · Back\n\n[all](00-all.ipynb)")]), project / "09-back.ipynb"
    )
    pages = rendered(project)
    assert next(iter(pages)) == "index"
    assert "00-all" not in pages
    assert pages["09-back"].main.select_one(".prose p:not(.byline) a")["href"] == "index.html"
    assert pages["index"].h1.text == "00 · All"
    found = json.loads(pages["index"].find("script", id="search-index").string)
    sections = {entry["url"]: entry["text"] for entry in found}
    assert "Because." in sections["08-other.html#why"]
    assert "Words of one study." in sections["07-cited.html#what-it-shows"]
    assert "show()" not in str(found)


FAULTS = [
    (
        "[Figure](#figure-shrinkage)",
        r"07-cited.ipynb, cell 0: no figure 'shrinkage' \(#figure-shrinkage\); there are growth",
    ),
    ("[Figure](08-other.ipynb#figure-x)", r"cell 0: no figure 'x' \(08-other.html#figure-x\)"),
    ("[Table](#table-no)", "cell 0: no table 'no'"),
    ("[Equation](#equation-no)", "cell 0: no equation 'no'"),
    ("![a cat](cat.png)", "07-cited.ipynb, cell 0: no picture 'cat.png'"),
    ("![a cat](attachment:cat.png)", "07-cited.ipynb, cell 0: no attachment 'cat.png'"),
]


@pytest.mark.parametrize(("markdown", "message"), FAULTS)
def test_what_is_missing_is_named_with_notebook_and_cell(project, markdown, message):
    path = project / "07-cited.ipynb"
    assert hygiene.hygiene(path, only="references") == []
    write(path, f"{PROSE}\n\n{markdown}", ["growth"], TABLE)
    with pytest.raises(ValueError, match=message):
        rendered(project)
    assert re.search(message.replace(".ipynb, cell", ".ipynb: cell"), hygiene.hygiene(path, only="references")[0])


@pytest.mark.parametrize(
    ("markdown", "fault"),
    [
        ("[x](#Nowhere)", "cell 0: the link '#Nowhere' leads to no heading"),
        ("[x](https://doi.org/10.1/unknown)", "cell 0: https://doi.org/10.1/unknown has no entry in references.bib"),
        ("$\\unheard{x}$", "cell 0: no MathML for \\unheard"),
    ],
)
def test_hygiene_names_dead_links_and_works_without_an_entry(project, markdown, fault):
    path = project / "07-cited.ipynb"
    write(path, f"{PROSE}\n\n{markdown}", ["growth"], TABLE)
    found = hygiene.hygiene(path, only="references")
    assert len(found) == 1
    assert found[0].startswith(f"07-cited.ipynb: {fault}")


def test_an_output_that_cannot_be_shown_leaves_a_gap_and_a_warning(project, capsys):
    path = project / "09-gaps.ipynb"
    data = [{"application/pdf": "JVBERi0="}, {"image/png": "!"}, {"application/x-unknown": "x"}]
    data += [{"text/html": '<img src="https://example.org/a.png" alt="a cat">'}, {"text/plain": "shown"}]
    cell = new_code_cell("x", execution_count=1, outputs=list(map(shown, data)))
    nbformat.write(new_notebook(cells=[new_markdown_cell("# 09 · Gaps"), cell]), path)
    page = rendered(project)["09-gaps"]
    expected = ["application/pdf", "a picture that is none", "application/x-unknown", "a cat"]
    assert [gap.text for gap in page.select(".gap")] == [f"[Not shown: {what}]" for what in expected]
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("09-gaps")]
    assert warnings == [f"09-gaps.ipynb, cell 1: not shown: {what}" for what in expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BIB.replace("  year = {1984},\n", ""), "knuth1984 lacks year"),
        (BIB.replace("nobody,", "knuth1984,"), "two entries have the key knuth1984"),
        (
            BIB.replace("https://arxiv.org/abs/2000.00001", "https://doi.org/10.1093/comjnl/27.2.97"),
            "two entries have the url",
        ),
        (BIB.replace("  year = {1984},", "  year = 1984,"), "knuth1984: expected '  name"),
        (BIB.replace("@article{nobody,", "@article{,"), "expected entries '@kind{key,'"),
    ],
)
def test_a_bibliography_of_another_form_is_refused(project, text, message):
    (project / "references.bib").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        bibliography.load()
    assert message in hygiene.hygiene(project / "07-cited.ipynb", only="references")[0]


def test_the_committed_bibliography_and_citation_are_read():
    assert all(work.html() for work in bibliography.load().values())
    about = bibliography.collection()
    assert about.title == "Ablation notebooks"
    assert about.bibtex("01 · Red", "red").startswith("@incollection{red,\n  author = {")


def test_anchors_are_lower_case_unique_and_never_the_pages_own():
    html = "<h2 id='contents'>Contents</h2><h2 id='a'>A</h2><p id='a'></p><h2 id='content'>x</h2>"
    assert anchors.numbered(html, "07-x").anchors() == {"contents-2", "a", "a-2", "content-2"}
    assert anchors.slug(" Who can read *the* hospital? ") == "who-can-read-the-hospital"
    assert anchors.slug("„?“") == "section"
    assert [one["text"] for one in entries(anchors.numbered("<p>a<b>b</b></p><pre>c</pre>", "07-x"), "f", "t")] == [
        "ab"
    ]


def test_a_caption_is_the_first_sentence_of_the_description():
    assert first_sentence("Rising to 0.5 at step 3. It falls.") == "Rising to 0.5 at step 3."
    assert first_sentence("Recorded on MNIST. Rising. It falls.") == "Recorded on MNIST. Rising."


def test_print_has_the_same_numbers_and_code_in_an_appendix(project):
    for module in ("pypandoc", "typst"):
        pytest.importorskip(module, reason="the extra 'pdf' is not installed")
    from nbutils.notebook import pdf
    from nbutils.notebook.chapters import complete
    from nbutils.notebook.document import Document, read

    documents = [Document(path, read(path)) for path in sorted(project.glob("*.ipynb"))]
    stems = [document.stem for document in documents]
    out = project.parent / "out"
    html = pdf._html(complete([pdf._Print(document, stems, out.parent, out) for document in documents]))
    soup = BeautifulSoup(html, "html.parser")
    assert [caption.b.text for caption in soup.find_all("figcaption")] == ["Figure 07.1.", "Figure 08.1."]
    assert soup.find("a", string="Figure\xa008.1")["href"] == "#08-other.figure-plain"
    assert soup.find(id="08-other.figure-plain")
    assert r"\qquad\text{(07.1)}" in soup.select_one("span.display").text
    appendix = html.index("Appendix: code")
    assert html.index("show()") > appendix > html.index("Figure 08.1.")
    written = render_all([document.path for document in documents], out, pdf=True)
    assert [path.name for path in written][-3:] == ["07-cited.pdf", "08-other.pdf", "supplement.pdf"]


def test_the_index_shows_thumbnails_in_both_looks_and_no_hidden_code(project):
    kept = project.parent / "large-assets" / "07-cited"
    thumbnail = (
        '<table class="cards"><tr><td><img src="../large-assets/07-cited/growth.png" alt="Growth."></td></tr></table>'
    )
    cells = [
        new_markdown_cell("# 00 · All\n\nWords."),
        new_code_cell("hidden = 1", metadata={"jupyter": {"source_hidden": True}}, execution_count=1),
        new_code_cell(
            "cards()",
            metadata={"jupyter": {"source_hidden": True}},
            execution_count=2,
            outputs=[shown({"text/html": thumbnail})],
        ),
        new_code_cell("seen = 1", execution_count=3),
    ]
    nbformat.write(new_notebook(cells=cells), project / "00-all.ipynb")
    main = rendered(project)["index"].main
    assert [code.get_text().strip() for code in main.select("details.code .highlight")] == ["seen = 1"]
    assert main.select_one("table.cards picture source")["srcset"].endswith(base64.b64encode(DARK).decode())
    assert not main.select(".outcome")  # its cards count those of all

    (kept / "growth.dark.png").unlink()  # a picture without a dark version stays as it is
    main = rendered(project)["index"].main
    assert main.select_one("table.cards picture img")
    assert not main.select("table.cards picture source")
