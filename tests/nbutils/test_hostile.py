"""Broken and hostile files: each is read, or refused by one clear error that names it.

None runs code, leaves its folder or reaches for the network. Files are mutated blindly (bits, cuts, repeats) and by
structure (any JSON in the place of a part).
"""

from __future__ import annotations

import json
import os
import pickle
import pkgutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

import nbutils
from nbutils import claims, layout
from nbutils.data import arrays, digits
from nbutils.data.weights import fill
from nbutils.notebook import document, execute, hygiene, parameters, record
from nbutils.plotting import figures
from nbutils.schedules.dopesheet import Dopesheet
from nbutils.schedules.timeline import Timeline
from nbutils.training import checkpoints
from nbutils.training.ensemble import Ensemble
from nbutils.training.fit import fit
from nbutils.training.objective import Objective

CLEAR = (ValueError, KeyError, FileNotFoundError)
# A folder made once serves all examples: each writes its file anew. A loaded machine is slow, not wrong.
many = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
some = settings(many, max_examples=40)


def load(reader: Callable[[], object], path: Path) -> object:
    """Read; return what was read, or the one clear error."""
    try:
        return reader()
    except CLEAR as refusal:
        error = refusal
    assert path.name in str(error), f"{error!r} does not name {path.name}"
    assert len(str(error)) < 2000
    return error


def refused(found: object) -> bool:
    return isinstance(found, CLEAR)


@st.composite
def mutations(draw) -> list[tuple[str, float, int]]:
    """Draw what to do to a file: (what, where as a share of its length, with what)."""
    kinds = st.sampled_from(["flip", "cut", "insert", "drop", "repeat", "zero"])
    return draw(st.lists(st.tuples(kinds, st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))


def mutated(content: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    for kind, share, number in changes:
        place = int(share * max(len(content) - 1, 0))
        before, after = content[:place], content[place:]
        if kind == "flip" and after:
            content = before + bytes([after[0] ^ (1 << number % 8)]) + after[1:]
        elif kind == "cut":
            content = before
        elif kind == "insert":
            content = before + bytes([number]) * (1 + number % 3) + after
        elif kind == "drop":
            content = before + after[1 + number % 16 :]
        elif kind == "repeat":
            content = before + after[: number + 1] + after
        else:
            content = before + bytes(min(number, len(after))) + after[number:]
    return content


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../../x", "\ud800"]),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3),
    max_leaves=5,
)


@st.composite
def changed_json(draw, whole: object) -> object:
    """Draw a copy of a JSON value in which one part, chosen at random, is anything, or is gone."""
    parent = None
    content = place = json.loads(json.dumps(whole))
    while isinstance(place, dict | list) and place and (parent is None or draw(st.integers(0, 3))):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        parent, key = place, draw(st.sampled_from(keys))
        place = parent[key]
    if parent is None or draw(st.integers(0, 20)) == 0:
        return draw(anything)
    if draw(st.booleans()):
        del parent[key]
    else:
        parent[key] = draw(anything)
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile")


# Dopesheets

SHEET = b"STEP,PHASE,ACTION,lr:log,weight\n0,first,,0.1,0\n+0.5,,save stop,,\n100,second,,0.01,1\n+10,,,,0\n"


@many
@given(changes=mutations())
@example(changes=[("insert", 0.5, 0)])
def test_dopesheets(folder, changes):
    path = folder / "sheet.csv"
    path.write_bytes(mutated(SHEET, changes))
    found = load(lambda: Timeline.from_csv(path), path)
    if not refused(found):
        assert np.isfinite(found.frame().to_numpy()).all()


@many
@given(
    cells=st.lists(
        st.lists(
            st.text(max_size=6) | st.sampled_from(["", "1e9", "9" * 5000, "+.5", "-1", "nan"]), min_size=3, max_size=3
        )
    )
)
def test_dopesheets_of_any_cells(folder, cells):
    path = folder / "cells.csv"
    lines = [",".join(row) for row in [["STEP", "a", "b:log"], ["0", "1", "1"], *cells]]
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass", newline="")
    load(lambda: Dopesheet.from_csv(path), path)


# Results

RESULTS = {
    "stem": "01-a",
    "profile": "quick",
    "source": "embedded",
    "versions": {"torch": "2"},
    "device": "cpu",
    "claims": {"one": {"value": 1.0, "expect": 1.0, "atol": 0.1, "holds": True}},
    "metrics": {"n": 3, "r": 0.5, "none": None},
}


@many
@given(content=changed_json(RESULTS))
def test_results(folder, content):
    path = folder / "results.json"
    path.write_text(json.dumps(content))
    load(lambda: claims.load(path), path)


@many
@given(changes=mutations())
def test_results_of_any_bytes(folder, changes):
    path = folder / "results.json"
    path.write_bytes(mutated(json.dumps(RESULTS, indent=1).encode(), changes))
    load(lambda: claims.load(path), path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"stem": ' + "9" * 5000 + "}", '"\\ud800"', "\ufeff{}", ""])
def test_json_that_breaks_readers(tmp_path, text):
    for name, reader in [
        ("results.json", claims.load),
        ("manifest.json", lambda path: figures.manifest_of(path.parent)),
    ]:
        path = tmp_path / name
        path.write_text(text)
        assert refused(load(lambda reader=reader, path=path: reader(path), path))


# Manifests

PICTURE = {"file": "plot.png", "sha256": "0" * 64, "bytes": 3}
MANIFEST = {
    "plot": {"alt": "A dot", "cell": 2, "source": "none", "light": PICTURE, "dark": PICTURE | {"file": "plot.dark.png"}}
}


@many
@given(content=changed_json(MANIFEST))
def test_manifests(folder, content):
    path = folder / "manifest.json"
    path.write_text(json.dumps(content))
    found = load(lambda: figures.manifest_of(folder), path)
    if not refused(found):
        for entry in found.values():
            for look in ("light", "dark"):
                assert (folder / entry[look]["file"]).resolve().parent == folder.resolve()
        list(hygiene.check_figures(nbformat_notebook(), folder / "a.ipynb", folder))  # raises nothing


def nbformat_notebook():
    import nbformat

    return nbformat.v4.new_notebook()


OUTSIDE = ["../../x", "..", ".", "/etc/passwd", "a/b.png", "..\\x", "C:x", "", "a\0b"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_path_that_leaves_its_folder_is_refused_wherever_a_manifest_is_read(tmp_path, project, name):
    def manifest_in(folder: Path, file: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        entry = json.loads(json.dumps(MANIFEST["plot"]))
        entry["dark"]["file"] = file
        (folder / "manifest.json").write_text(json.dumps({"plot": entry}))
        for look in ("plot.png", "plot.dark.png"):
            (folder / look).write_bytes(b"png")

    notebook = project.write("01-a", "pass")
    made = tmp_path / "run" / "01-a"
    manifest_in(made, name)
    (made / "results.json").write_text(json.dumps(RESULTS | {"source": "mnist"}))
    record.note_run(made, "run 01", "2026-01-01", 1.0)
    before = project.files()
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest: figure 'plot': 'dark' must name a file"):
        record.record(notebook, tmp_path / "run")
    assert project.files() == before

    recorded = project.root / "large-assets" / "01-a" / "real"
    manifest_in(recorded, name)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        figures.show_recorded("plot", stem="01-a")

    manifest_in(made, "plot.dark.png")  # the control
    manifest_in(recorded, "plot.dark.png")
    assert record.record(notebook, tmp_path / "run")


@some
@given(content=changed_json({"command": "run 01", "date": "2026-01-01", "seconds": 3}))
def test_the_note_of_a_run(folder, content):
    path = folder / record.RUN
    path.write_text(json.dumps(content))
    load(lambda: record._run(path), path)


# Notebooks

CELL = {"cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]}, "source": ["A, B = 1, 2\n", "A;"]}
OUTPUTS = [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]
OUTPUTS += [{"output_type": "display_data", "metadata": {}, "data": {"text/plain": "2"}}]
NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"nbutils": {"recorded": ["plot"]}},
    "cells": [
        {"cell_type": "markdown", "id": "b", "metadata": {}, "source": "# 01 · A title\n\nText."},
        CELL | {"execution_count": 1, "outputs": OUTPUTS},
    ],
}


def read_notebook(path: Path) -> object:
    """Read a notebook as every command does."""
    read = document.read(path)
    document.opening(read)
    execute.normalise(read)
    return parameters.chosen(path, {}), hygiene.hygiene(path, assets=path.parent / "none")


def test_a_notebook_with_what_jupyter_repairs_is_read(tmp_path, project, capfd):
    path = tmp_path / "01-a.ipynb"
    whole = json.loads(json.dumps(NOTEBOOK))
    for cell in whole["cells"]:
        cell["id"] = None
        cell["unknown"] = 1
    del whole["cells"][1]["outputs"][1]["metadata"], whole["nbformat_minor"]
    for content in (NOTEBOOK, whole):
        path.write_text(json.dumps(content))
        assert read_notebook(path)
    whole = json.loads(json.dumps(NOTEBOOK))
    whole["cells"][1]["source"] = 3
    path.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=r"01-a\.ipynb is not a notebook: cells\[1\]\.source: 3 is not"):
        read_notebook(path)
    assert capfd.readouterr() == ("", "")


@many
@given(content=changed_json(NOTEBOOK))
def test_notebooks(folder, project, content):
    path = folder / "01-a.ipynb"
    path.write_text(json.dumps(content))
    load(lambda: read_notebook(path), path)


@many
@given(changes=mutations())
def test_notebooks_of_any_bytes(folder, project, changes):
    path = folder / "01-a.ipynb"
    path.write_bytes(mutated(json.dumps(NOTEBOOK, indent=1).encode(), changes))
    load(lambda: read_notebook(path), path)


# Checkpoints


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(1, 1)

    def forward(self, x):
        return self.a(x)


class Points:
    block = 4

    def __repr__(self):
        return "Points"

    def draw(self, seed, block):
        return {"input": torch.ones(4, 2, 1)}

    def batch(self, drawn, dtype):
        return {"input": drawn["input"].to(dtype), "target": drawn["input"].to(dtype)}


def train(path: Path, seeds=(0, 1)):
    timeline = Timeline(Dopesheet.from_text("STEP,lr\n0,0.1\n5,0.1\n"))
    return fit(Ensemble(Line, seeds), Points(), Objective([]), timeline, checkpoint=path, every=3)


@pytest.fixture(scope="module")
def checkpoint(folder) -> bytes:
    path = folder / "whole.ckpt"
    train(path)
    return path.read_bytes()


@some
@given(changes=mutations())
def test_a_changed_checkpoint_is_refused(folder, checkpoint, changes):
    path = folder / "changed.ckpt"
    content = mutated(checkpoint, changes)
    path.write_bytes(content)
    found = load(lambda: train(path), path)
    assert refused(found) or content == checkpoint


@some
@given(data=st.data())
def test_a_checkpoint_with_a_right_digest_and_wrong_content(folder, checkpoint, data):
    path = folder / "forged.ckpt"
    path.write_bytes(checkpoint)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    run, progress = json.loads(header["run"]), json.loads(header["progress"])
    match data.draw(st.sampled_from(["run", "progress", "shape", "missing"])):
        case "run":
            run = data.draw(changed_json(run))
        case "progress":
            progress = data.draw(changed_json(progress))
        case kind:
            name = data.draw(
                st.sampled_from(sorted(name for name in tensors if name.startswith(("ens", "hist", "opt"))))
            )
            tensor = tensors.pop(name)
            if kind == "shape":
                tensors[name] = torch.stack([tensor, tensor])
    checkpoints.write(path, tensors, run, progress)
    load(lambda: train(path), path)


# Weights


def read_state(path: Path) -> nn.Module:
    return fill(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10)), path)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10)).state_dict()


@some
@given(changes=mutations(), suffix=st.sampled_from([".pt", ".safetensors"]))
def test_weights_of_any_bytes(folder, state, changes, suffix):
    path = folder / f"weights{suffix}"
    whole = folder / f"whole{suffix}"
    if not whole.exists():
        save(state, whole)
    path.write_bytes(mutated(whole.read_bytes(), changes))
    found = load(lambda: read_state(path), path)
    if not refused(found):
        assert all(tensor.isfinite().all() for tensor in found.state_dict().values())


def save(state, path):
    if path.suffix == ".pt":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)


WRONG = {
    "a parameter of another shape": lambda w: w.T,
    "half a parameter": lambda w: w[:5],
    "whole numbers": lambda w: w.long(),
    "complex numbers": lambda w: w + 0j,
    "not a number": lambda w: w * float("nan"),
    "a sparse tensor": lambda w: w.to_sparse(),
    "a quantised tensor": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    "a nested tensor": lambda w: torch.nested.nested_tensor([w[0], w[1, :3]]),
    "a tensor without content": lambda w: w.to("meta"),
    "a list": lambda w: w.tolist(),
    "a name": lambda w: "weights",
    "nothing": lambda w: None,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of what few save
@pytest.mark.parametrize("wrong", WRONG)
def test_weights_that_are_something_else(tmp_path, state, wrong):
    path = tmp_path / "weights.pt"
    torch.save(state | {"2.weight": WRONG[wrong](state["2.weight"])}, path)
    assert refused(load(lambda: read_state(path), path))


@pytest.mark.parametrize("content", [[], {}, {1: 2}, None, "text", {"0.weight": {}}, torch.zeros(3)])
def test_files_of_something_else(tmp_path, content):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    assert refused(load(lambda: read_state(path), path))


class Payload:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_code_in_a_file_is_refused_and_not_run(tmp_path, state):
    ran = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(ran)))  # the control: unpickled, it does run
    assert ran.is_dir()
    ran.rmdir()
    for number, content in enumerate([Payload(ran), state | {"0.bias": Payload(ran)}, state | {"extra": Payload(ran)}]):
        for zipped in (True, False):
            path = tmp_path / f"{number}.pt"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            assert refused(load(lambda path=path: read_state(path), path))
        path = tmp_path / "plain.pt"
        path.write_bytes(pickle.dumps(content))
        assert refused(load(lambda path=path: read_state(path), path))
        for suffix in (".safetensors", ".ckpt"):
            path = tmp_path / f"code{suffix}"
            path.write_bytes(pickle.dumps(content))
            reader = read_state if suffix == ".safetensors" else lambda path: checkpoints.read(path, {})
            assert refused(load(lambda reader=reader, path=path: reader(path), path))
    assert not ran.exists()


@some
@given(changes=mutations())
def test_arrays(folder, changes):
    key = arrays.put(folder, {"x": torch.arange(20.0)})
    path = folder / f"{key}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(mutated(whole, changes))
    arrays._kept.cache_clear()
    found = load(lambda: arrays.get(folder, key), path)
    assert refused(found) or torch.equal(found["x"], torch.arange(20.0))


# Digits

IDX = {
    "train-images-idx3-ubyte": np.array([2051, 12, 28, 28], ">i4").tobytes() + bytes(12 * 784),
    "train-labels-idx1-ubyte": np.array([2049, 12], ">i4").tobytes() + bytes(range(10)) + bytes(2),
    "t10k-images-idx3-ubyte": np.array([2051, 3, 28, 28], ">i4").tobytes() + bytes(3 * 784),
    "t10k-labels-idx1-ubyte": np.array([2049, 3], ">i4").tobytes() + bytes(3),
}


@many
@given(name=st.sampled_from(sorted(IDX)), changes=mutations(), header=st.booleans())
@example(name="t10k-images-idx3-ubyte", changes=[("zero", 0.0, 255)], header=True)
def test_digits(folder, name, changes, header):
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for other, content in IDX.items():
        (raw / other).write_bytes(content)
    whole = IDX[name]
    # Most of a file is pixels, where a flip is another picture: half of the mutations go into the header.
    content = mutated(whole[:16], changes) + whole[16:] if header else mutated(whole, changes)
    (raw / name).write_bytes(content)
    found = load(lambda: digits.load("real", root=folder), Path("-ubyte"))
    if not refused(found):
        assert len(found.train) + len(found.selection) == 12
        assert found.report.labels.max() < 10


# The network

BLOCK = """
import ipaddress, socket, sys

def refuse(event, arguments):
    if event == "socket.connect":
        address = arguments[1]
        if isinstance(address, tuple) and not ipaddress.ip_address(address[0].split("%")[0]).is_loopback:
            raise PermissionError(f"a connection to {address} was opened")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        if arguments[0] not in (None, "", "localhost", "127.0.0.1", "::1"):
            raise PermissionError(f"the address of {arguments[0]} was looked up")

sys.addaudithook(refuse)  # before anything else, and for good: an audit hook cannot be removed
"""


def test_the_block_blocks():
    for host, words in [("192.0.2.1", "connection"), ("example.org", "looked up")]:
        program = BLOCK + f"import urllib.request\nurllib.request.urlopen('http://{host}', timeout=5)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert "PermissionError" in done.stderr
        assert words in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = BLOCK + f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_no_module_opens_a_connection_when_imported():
    names = [
        module.name for module in pkgutil.walk_packages(nbutils.__path__, "nbutils.") if "__main__" not in module.name
    ]
    assert len(names) > 40
    program = BLOCK + f"import importlib\nfor name in {names!r}: importlib.import_module(name)\nprint('done')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.slow
def test_no_notebook_opens_a_connection(project, tmp_path):
    from nbutils.notebook import execute, render

    project.write(
        "01-a",
        BLOCK,
        "from nbutils import claims, seeding\nfrom nbutils.data import digits\n"
        "from studies.backdoor.network import MnistNet\nfrom nbutils.plotting import figures\n"
        "import matplotlib.pyplot as plt\nimport plotly.graph_objects as go\n"
        "seeding.pin(); claims.begin('01-a', profile='quick', source='embedded digits')",
        "splits = digits.load('auto'); logits = MnistNet()(splits.report.images[:4])\n"
        "claims.check('n', len(logits), at_least=4); claims.save()",
        "figures.show(lambda: plt.figure(figsize=(1, 1)), 'empty', 'Nothing')\n"
        "figures.show(lambda: go.Figure(), 'none', 'Nothing')",
        parameters="PROFILE = 'quick'",
    )
    copy = execute.run(layout.notebooks()[0], tmp_path / "out", {})  # raises where a cell does
    pages = render.render_all([copy], tmp_path / "html")
    assert render.external_references(pages[0].read_text(encoding="utf-8")) == []


def test_digits_are_downloaded_only_when_asked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(digits, "_download", asked.append)
    for data in ("real", "auto", "embedded"):
        load_quietly(data, tmp_path)
    assert asked == []
    load_quietly("real", tmp_path, download=True)
    assert len(asked) == 1


def load_quietly(data, root, **more):
    with suppress(FileNotFoundError):
        digits.load(data, root=root, **more)
