"""Works cited: a link to a paper has an entry in `references.bib`, complete and once."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from nbutils import layout
from nbutils.notebook.document import read

ENTRY = re.compile(r"^@(?P<kind>\w+)\{(?P<key>[^,\s]+),\n(?P<fields>.*?)^\}", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^  (\w+) = \{(.*)\},?$", re.MULTILINE)
PAPER = re.compile(r"https?://(?:dx\.)?(?:doi|arxiv)\.org/[^\s)\]]+")


def entries():
    """Return the fields of each entry by its key, and all keys, repeated ones as often as they are there."""
    text = (layout.root() / "notebooks" / "references.bib").read_text(encoding="utf-8")
    found = [(entry["key"], dict(FIELD.findall(entry["fields"]))) for entry in ENTRY.finditer(text)]
    assert len(found) == text.count("\n@"), "an entry that is not of the form @kind{key, fields, one a line}"
    return dict(found), [key for key, _ in found]


def test_entries_are_complete_and_there_is_one_for_each_work():
    by_key, keys = entries()
    assert not [key for key, n in Counter(keys).items() if n > 1]
    assert not [url for url, n in Counter(fields.get("url") for fields in by_key.values()).items() if n > 1]
    lacking = {key: {"author", "title", "year", "url"} - set(fields) for key, fields in by_key.items()}
    assert not {key: lack for key, lack in lacking.items() if lack}


@pytest.mark.parametrize("notebook", layout.notebooks(), ids=lambda path: path.stem)
def test_a_notebooks_papers_are_in_the_bibliography(notebook):
    known = {fields["url"] for fields in entries()[0].values()}
    text = "\n".join(cell.source for cell in read(notebook).cells if cell.cell_type == "markdown")
    assert sorted({link for link in PAPER.findall(text) if link not in known}) == []
