"""The source's interpretation as it is, and ours, which answers every case."""

from __future__ import annotations

import pytest
import torch

from nbutils import layout
from nbutils.notebook.document import read
from studies.credit.checkpoints import save_checkpoint
from studies.credit.network import ResidualMLP
from studies.credit.report import CASES, read_cases, source_says, we_say


def build():
    return ResidualMLP(12, 8, 5, num_blocks=3)


def test_the_source_looks_at_sizes_alone_and_we_at_signs():
    assert "useful" in source_says(0.002, -0.08)  # whichever way it points
    assert "about no" in source_says(0.002, 0.04)
    assert "prints nothing" in source_says(0.06, 0.08)
    assert source_says(0.002, 0.08).count("\n") == 3
    row = {"deep, exact": -0.08, "z": -4.0, "float32 of the gradient": 0.9}
    assert "against the loss, beyond chance; float32 at a fixed step sees 90%" in we_say(row)
    assert "useful" in we_say(row | {"z": 4.0})
    quiet = we_say(row | {"z": -1.9, "float32 of the gradient": 0.1})
    assert "not distinguishable from chance; float32 at a fixed step could not" in quiet


def test_what_is_there_is_read_and_what_is_not_is_named(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"none of the source's 7 checkpoints, such as results/confirm"):
        read_cases(tmp_path, build)
    model = build()
    save_checkpoint(tmp_path / CASES[0][1], model)
    save_checkpoint(tmp_path / CASES[1][1], model, torch.ones(3, 8, 5))
    capsys.readouterr()
    read = read_cases(tmp_path, build)
    assert list(read) == [CASES[0][0], CASES[1][0]]
    assert torch.equal(read[CASES[1][0]][1], torch.ones(3, 8, 5))
    told = capsys.readouterr().out
    assert told.count("skipped") == 5
    assert "bare; matrices from the seed" in told


def test_given_checkpoints_are_audited_before_anything_is_trained():
    notebook = next(path for path in layout.notebooks() if path.stem.startswith("04-"))
    sources = [cell.source for cell in read(notebook).cells if cell.cell_type == "code"]
    audit, training = (next(i for i, s in enumerate(sources) if text in s) for text in ("read_cases(given", "nb.fit("))
    assert audit < training
