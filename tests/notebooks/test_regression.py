"""The comparison of outputs: what must fail fails and noise passes, in the function and under nbval."""

from __future__ import annotations

import base64
import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nbutils import layout
from nbutils.notebook.compare import Tolerance, compare_json, compare_outputs, compare_text, stored_fault
from nbutils.notebook.document import PLOTLY

DEFAULT = Tolerance()
finite = st.floats(-1e12, 1e12, allow_nan=False)


def typed(values: list[float]) -> dict[str, str]:
    """Return values as plotly packs them."""
    return {"dtype": "f8", "bdata": base64.b64encode(np.asarray(values, "<f8").tobytes()).decode()}


@given(finite, st.floats(-0.99, 0.99))
def test_noise_within_the_tolerance_passes_and_twice_the_tolerance_fails(value: float, part: float) -> None:
    step = DEFAULT.allowed(value)
    near, far = value + part * step, value + np.copysign(2 * step, part)
    for stored, computed, agree in ((value, near, True), (value, far, False)):
        assert (compare_text(f"r = {stored:.17e}", f"r = {computed:.17e}", DEFAULT) is None) is agree
        assert (compare_json({"x": [stored]}, {"x": [computed]}, DEFAULT) is None) is agree
        assert (compare_json({"x": typed([stored])}, {"x": typed([computed])}, DEFAULT) is None) is agree


@given(st.integers(), st.integers(), st.sampled_from(["{}", "n = {} seeds", "<td>{}</td>", "kept {}."]))
def test_a_changed_integer_always_fails(stored: int, computed: int, form: str) -> None:
    assume(stored != computed)
    for markup in (False, True):
        assert compare_text(form.format(stored), form.format(computed), DEFAULT, markup=markup)
        assert compare_text(form.format(stored), form.format(stored), DEFAULT, markup=markup) is None
    assert compare_json([stored], [computed], DEFAULT)


@given(st.text())
def test_any_text_agrees_with_itself_and_not_with_more_of_it(text: str) -> None:
    assert compare_text(text, text, DEFAULT) is None
    assert compare_text(text, text + " more", DEFAULT)


@pytest.mark.parametrize(
    ("stored", "computed", "markup", "agree"),
    [
        ("r = 0.9303 ± 0.0340", "r = 0.9304 ± 0.0340", False, True),
        ("r = 0.9303 ± 0.0340", "r = 0.9313 ± 0.0340", False, False),
        ("r = 0.9303", "r = -0.9303", False, False),
        ("r = 0.9303", "q = 0.9303", False, False),
        ("loss nan", "loss nan", False, True),
        ("loss nan", "loss 0.1", False, False),
        ("inf", "-inf", False, False),
        ("1e-05", "1.1e-05", False, False),
        ("1 of 3", "1.0001 of 3", False, True),  # the shortest form of a float that is nearly whole
        ("seeds 1501.", "seeds 1502.", False, False),  # a sentence ends; this is no float
        ("version 2.9.1", "version 2.9.2", False, False),
        ("sha 3e45ab", "sha 3e46ab", False, False),
        ("<object at 0x7f3a00>", "<object at 0x7f3b11>", False, True),
        ("  a  0.1\n  b  0.2", "     a   0.1\n  b  0.2", False, False),  # moved, though no number is wider
        ("     r\n0  0.1", "         r\n0  0.09999", False, True),  # padding follows the wider number
        ("[ 0.1 -0.2]", "[-1e-12 -0.2]", False, False),
        ("[ 0.0 -0.2]", "[-0.0000000001 -0.2]", False, True),
        (
            "data:a/b;base64,AA== then 3",
            "data:a/b;base64,BB== then 4",
            False,
            False,
        ),  # masks no more than itself
        ("<style>#T_1a2b3_row0</style>", "<style>#T_9f8e7_row0</style>", True, True),
        ('<td style="background:#fe3412">', '<td style="background:#ff3412">', True, True),
        ('<td style="background:#fe3412">', '<td style="background:#f03412">', True, False),
        (
            '<img src="data:image/png;base64,AAAA" alt="a">',
            '<img src="data:image/png;base64,BB==" alt="a">',
            True,
            True,
        ),
        (
            '<img src="data:image/png;base64,AAAA" alt="a">',
            '<img src="data:image/png;base64,BB==" alt="b">',
            True,
            False,
        ),
    ],
)
def test_what_agrees_in_text(stored: str, computed: str, markup: bool, agree: bool) -> None:
    assert (compare_text(stored, computed, DEFAULT, markup=markup) is None) is agree


def bundle(**data: object) -> dict[str, object]:
    names = {"png": "image/png", "html": "text/html", "widget": "application/vnd.jupyter.widget-view+json"}
    names |= {"plain": "text/plain", "plotly": PLOTLY}
    return {
        "output_type": "display_data",
        "metadata": {},
        "data": {names[key]: item for key, item in data.items()},
    }


def stream(text: str, name: str = "stdout") -> dict[str, object]:
    return {"output_type": "stream", "name": name, "text": text}


@pytest.mark.parametrize(
    ("stored", "computed", "agree"),
    [
        ([stream("a\n"), stream("b\n")], [stream("a\nb\n")], True),
        ([stream("a\n")], [stream("a\n"), stream("warned\n", "stderr")], True),
        ([stream("a\n")], [stream("a\n"), bundle(plain="b")], False),
        ([bundle(plain="b"), stream("a\n")], [stream("a\n"), bundle(plain="b")], False),
        ([], [stream("a\n")], False),
        ([bundle(png="AA", plain="a")], [bundle(png="BB", plain="a")], True),
        ([bundle(png="AA", plain="a")], [bundle(plain="a")], False),
        ([bundle(plotly={}, png="AA")], [bundle(plotly={})], False),
        ([bundle(widget={"model_id": "1"}, plain="a")], [bundle(widget={"model_id": "2"}, plain="b")], True),
        ([bundle(widget={"model_id": "1"}, plain="a")], [bundle(plain="a")], False),
        ([bundle(plotly={"x": [1, True]})], [bundle(plotly={"x": [1, 1]})], False),
        ([bundle(plotly={"x": typed([1, 2])})], [bundle(plotly={"x": [1.0, 2.0]})], True),
        ([bundle(plotly={"x": [1]})], [bundle(plotly={"x": [1], "y": []})], False),
    ],
)
def test_what_agrees_in_outputs(stored: list, computed: list, agree: bool) -> None:
    why = compare_outputs(stored, computed)
    assert (why is None) is agree, why


def test_a_difference_names_both_values_and_the_tolerance() -> None:
    why = compare_outputs([stream("n = 3, r = 0.93\n")], [stream("n = 3, r = 0.95\n")])
    assert why is not None
    for part in ("output 1", "'0.93'", "'0.95'", "r = ", "rtol 0.0002"):
        assert part in why


def test_a_bad_tolerance_is_refused() -> None:
    assert Tolerance.of({"metadata": {"nbutils": {"rtol": 0.1}}}) == Tolerance(rtol=0.1)
    with pytest.raises(ValueError, match=r"nbutils\.atol: expected a finite number >= 0, got -1"):
        Tolerance.of({"metadata": {"nbutils": {"atol": -1}}})


def test_a_cell_that_was_not_executed_or_failed_is_no_reference() -> None:
    cell = new_code_cell("1 / 0", execution_count=1)
    assert stored_fault(cell) is None
    cell.outputs = [nbformat.v4.new_output("error", ename="ZeroDivisionError", evalue="x", traceback=[])]
    assert "ZeroDivisionError" in str(stored_fault(cell))
    cell.metadata.tags = ["raises-exception"]
    assert stored_fault(cell) is None
    cell.execution_count = None
    assert "never executed" in str(stored_fault(cell))


# The notebook that the next test perturbs: one cell for each kind of output. It needs only numpy, so that a
# kernel is ready in a second.
SOURCES = {
    "print": (
        "import base64, os, sys\nimport numpy as np\nfrom IPython.display import display\n"
        "rng = np.random.default_rng(0)\na = rng.normal(size=(300, 300))\nr = float(np.sin(a @ a).mean())\n"
        'print(f"r = {r:.9f} over {len(a)} rows", object())'
    ),
    "semicolon": "a.shape;",
    "noise": 'print("took 1.234 s", file=sys.stderr)\nprint("first")\nprint("second")',
    "table": (
        "style = f'<style>#T_{np.random.randint(16**4):04x}a td {{}}</style>'\n"
        "html = f'{style}<table><tr><td>{r:.6f}</td></tr></table>'\n"
        'display({"text/html": html, "text/plain": "a table"}, raw=True)'
    ),
    "plotly": (
        "x = np.arange(5) / 3\npacked = {'dtype': 'f8', 'bdata': base64.b64encode(x.tobytes()).decode()}\n"
        "trace = {'type': 'scatter', 'x': packed, 'y': [r, 2 * r]}\n"
        f"display({{'{PLOTLY}': {{'data': [trace], 'layout': {{}}}}}}, raw=True)"
    ),
    "folder": "assert os.path.isdir(os.environ['NBUTILS_OUT']) and os.environ['NBUTILS_SILENT'] == '1'",
}
CELLS = list(SOURCES)


def cell_of(notebook: NotebookNode, name: str) -> NotebookNode:
    return [cell for cell in notebook.cells if cell.cell_type == "code"][CELLS.index(name)]


def stored_text(name: str, pattern: str, change: Callable[[str], str]) -> Callable[[NotebookNode], None]:
    """Return an edit of the text or HTML that a cell stored: the first match of a pattern, changed."""

    def edit(notebook: NotebookNode) -> None:
        output = cell_of(notebook, name).outputs[0]
        holder, key = (output, "text") if output.output_type == "stream" else (output.data, "text/html")
        holder[key], count = re.subn(pattern, lambda found: change(found.group()), holder[key], count=1)
        assert count == 1

    return edit


def stored_array(axis: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[NotebookNode], None]:
    """Return an edit of the array that the plotly cell stored."""

    def edit(notebook: NotebookNode) -> None:
        trace = cell_of(notebook, "plotly").outputs[0].data[PLOTLY]["data"][0]
        if axis == "x":
            trace[axis] = typed(list(change(np.frombuffer(base64.b64decode(trace[axis]["bdata"])))))
        else:
            trace[axis] = [float(value) for value in change(np.array(trace[axis]))]

    return edit


def one_percent_at_1(values: np.ndarray) -> np.ndarray:
    return values * np.where(np.arange(len(values)) == 1, 1.01, 1.0)


def strip(*, counts: bool, outputs: bool) -> Callable[[NotebookNode], None]:
    def edit(notebook: NotebookNode) -> None:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.execution_count = None if counts else cell.execution_count
                cell.outputs = [] if outputs else cell.outputs

    return edit


def edit_noise(notebook: NotebookNode) -> None:
    for name, pattern in (("print", r"-?0\.\d+"), ("table", r"-?0\.\d+")):
        stored_text(name, pattern, lambda text: repr(float(text) * (1 + 1e-7)))(notebook)
    for axis in "xy":
        stored_array(axis, lambda values: values * (1 + 1e-7))(notebook)


def edit_loose(notebook: NotebookNode) -> None:
    stored_text("print", r"-?0\.\d+", lambda text: repr(float(text) * 1.01))(notebook)
    cell_of(notebook, "print").metadata.nbutils = {"rtol": 0.05}


def edit_error(notebook: NotebookNode) -> None:
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="stored", traceback=[])
    cell_of(notebook, "folder").outputs = [error]


# What is done to the stored notebook, and the cells that must fail then.
VARIANTS: dict[str, tuple[Callable[[NotebookNode], None], set[str]]] = {
    "untouched": (lambda notebook: None, set()),
    "noise": (edit_noise, set()),
    "loose": (edit_loose, set()),
    "number": (stored_text("print", r"-?0\.\d+", lambda text: repr(float(text) * 1.001)), {"print"}),
    "integer": (stored_text("print", "300", lambda text: "301"), {"print"}),
    "table": (stored_text("table", r"-?0\.\d+", lambda text: repr(float(text) * 1.001)), {"table"}),
    "list": (stored_array("y", one_percent_at_1), {"plotly"}),
    "packed": (stored_array("x", one_percent_at_1), {"plotly"}),
    "error": (edit_error, {"folder"}),
    "no-counts": (strip(counts=True, outputs=False), set(CELLS)),
    "no-outputs": (strip(counts=False, outputs=True), {"print", "noise", "table", "plotly"}),
    "stripped": (strip(counts=True, outputs=True), set(CELLS)),
}


@pytest.fixture(scope="module")
def perturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project's conftest and one perturbed copy of the notebook for each variant."""
    folder = tmp_path_factory.mktemp("perturbed")
    shutil.copy(layout.root() / "notebooks" / "conftest.py", folder)
    cells = [new_code_cell(source) for source in SOURCES.values()]
    original = new_notebook(cells=[new_markdown_cell("# 01 · A title"), *cells])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBUTILS_OUT", str(folder))
        patch.setenv("NBUTILS_SILENT", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        NotebookClient(original, timeout=60, resources={"metadata": {"path": str(folder)}}).execute()
    folder.joinpath("._untouched.ipynb").write_bytes(b"\0\5\26\7")  # macOS leaves such files beside others
    for name, (edit, _) in VARIANTS.items():
        notebook = copy.deepcopy(original)
        edit(notebook)
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_nbval_fails_on_every_change_and_passes_noise(perturbed: Path, threads: str) -> None:
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "--nbval-cell-timeout", "60"]
    command += ["-n", "2", "--dist", "loadscope", "-p", "no:cacheprovider", "-rA", "--color", "no", "."]
    env = {**os.environ, "OMP_NUM_THREADS": threads}
    run = subprocess.run(command, cwd=perturbed, env=env, capture_output=True, text=True, check=False)

    outcomes = re.findall(r"^(PASSED|FAILED|ERROR) ([\w-]+)\.ipynb::Cell (\d+)", run.stdout, re.MULTILINE)
    assert len(outcomes) == len(VARIANTS) * len(CELLS), run.stdout + run.stderr
    found = {variant: {CELLS[int(c)] for o, v, c in outcomes if v == variant and o != "PASSED"} for variant in VARIANTS}
    assert found == {variant: cells for variant, (_, cells) in VARIANTS.items()}, run.stdout
    assert "Cell 0: Cell outputs differ" in run.stdout
    assert "computed '300'" in run.stdout
    assert "._untouched" not in run.stdout
