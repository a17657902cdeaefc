"""Live figures without a browser: what is packed comes back, and what would not run is refused before it is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from nbformat.v4 import new_notebook

from nbutils.notebook.document import Document
from nbutils.notebook.hygiene import check_figures
from nbutils.notebook.offline import external_references
from nbutils.plotting import figures
from nbutils.plotting.live import LiveFigure, module, on_page, packed, parts_of

SCRIPT = "notebooks/studies/color_cube/cube.js"


def unpacked(parts):
    """Return an array as `live.js` reads it."""
    return np.frombuffer(b64decode(parts["base64"]), np.dtype(parts["dtype"]).newbyteorder("<")).reshape(parts["shape"])


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "int32", ">f4"])
def test_arrays_come_back_to_the_last_bit(kind):
    array = np.arange(12).reshape(3, 4).astype(kind) / np.array(1, kind)
    array = array.astype(kind)[:, ::2]  # not contiguous
    back = unpacked(packed({"deep": [array]})["deep"][0])
    assert back.shape == array.shape
    assert (back == array).all()
    assert (unpacked(packed(torch.arange(3.0))) == [0, 1, 2]).all()


@pytest.mark.parametrize("value", [np.zeros(2, np.int64), float("nan"), {"a": {1, 2}}, np.array(["x"]), object()])
def test_what_a_script_could_not_read_is_refused(value):
    with pytest.raises(TypeError, match=r"expected an array of|JSON values and arrays"):
        packed([value])


def test_what_is_refused_says_where_it_is():
    with pytest.raises(TypeError, match=r"^data\.layers\[1\]\.weight: expected an array of"):
        packed({"layers": [{}, {"weight": np.zeros(2, np.int64)}]})
    with pytest.raises(TypeError, match=r"^data\.a: 'base64' is the name"):  # `live.js` would read an array
        packed({"a": {"base64": "text"}})
    array = packed(np.zeros(2, np.float32))
    assert packed(array) == array  # the control


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("const x = 1;", "export default"),
        ("export default {};\nexport default {};", "export default"),
        ("import x from './x.js';\nexport default {};", "import nothing"),
        ("// </Script>\nexport default {};", "holds '</Script'"),
        ("const x = '<!-- <script>';\nexport default {};", "holds '<!--'"),
    ],
)
def test_a_module_must_run_on_its_own(project, monkeypatch, text, problem):
    script = project.root / "notebooks" / "figure.js"
    script.write_text(text)
    with pytest.raises(ValueError, match=problem):
        LiveFigure(script, {}, Figure, "Look.")
    script.write_text("export default { render() {} };")  # the control
    assert LiveFigure(script, {}, Figure, " Look. ").about == "Look."


@pytest.mark.parametrize(
    "script", ["notebooks/none.js", "pyproject.toml", "/etc/hostname", "../outside.js", "nbutils/plotting/live.js"]
)
def test_a_module_lies_below_the_notebooks(script):
    with pytest.raises(FileNotFoundError, match="no JavaScript file"):
        LiveFigure(script, {}, Figure, "Look.")


def test_a_line_must_say_what_it_is():
    with pytest.raises(ValueError, match="needs a line"):
        LiveFigure(SCRIPT, {}, Figure, " ")


def test_a_page_has_the_same_module_and_loads_nothing():
    text = on_page(SCRIPT, "/* host */")
    assert text.replace("const liveModule =", "export default").startswith(module(SCRIPT))
    assert "export default {" not in text
    assert "</script" not in text.lower()
    assert external_references(f"<script type=module>{text}</script>") == []
    assert external_references(f"<script type=module>{text} fetch('x')</script>") != []


def test_a_figure_that_is_shown_nowhere_has_no_state():
    live = LiveFigure(SCRIPT, {"x": np.zeros(2, np.float32)}, Figure, "Look.")
    assert live.state == {}
    with pytest.raises(RuntimeError, match="shown nowhere"):
        live.move(strength=1)
    assert json.loads(live.stored("label")).keys() == {"script", "about", "label", "data", "theme"}


def test_a_cell_that_shows_a_figure_again_closes_the_widget_that_it_had(project, monkeypatch):
    from ipywidgets.widgets import widget

    def shown(name):
        figures.show(LiveFigure(script, {}, Figure, "Look."), name, "Two lines.", stem="01-lines", caption="Lines.")
        return len(widget._instances)

    script = project.root / "notebooks" / "figure.js"
    script.write_text("export default { render() {} };")
    monkeypatch.setattr(figures, "_place", lambda: "cell-1")
    once = shown("lines")
    assert [shown("lines") for _ in range(3)] == [once] * 3
    assert shown("others") > once  # the controls: another figure, and another cell, where the first is still seen
    monkeypatch.setattr(figures, "_place", lambda: "cell-2")
    assert shown("lines") > once + 2


def test_of_two_figures_that_look_alike_each_has_its_own_data(project):
    script = project.root / "notebooks" / "figure.js"
    script.write_text("export default { render() {} };")
    for x, name in enumerate(["first", "second"]):
        figures.show(LiveFigure(script, {"x": x}, Figure, "Look."), name, "Alike.", stem="01-lines", caption="Lines.")
    folder = project.root / "large-assets" / "01-lines"
    picture = (folder / "first.png").read_bytes()
    assert picture == (folder / "second.png").read_bytes()
    document = Document(project.root / "notebooks" / "01-lines.ipynb", new_notebook())
    for x, name in enumerate(["first", "second"]):
        figure = document.figure(picture, "Alike.", name=name)
        assert figure.name == name
        assert parts_of(figure.files["live"])["data"] == {"x": x}
    assert document.figure(picture, "Alike.").name == "first"  # the control


def test_hygiene_notes_a_figure_that_no_longer_moves(project):
    script = project.root / "notebooks" / "figure.js"
    script.write_text("export default { render() {} };")
    figures.show(LiveFigure(script, {}, Figure, "Look."), "lines", "Two lines.", stem="01-lines", caption="Lines.")
    assets = project.root / "large-assets" / "01-lines"

    def found():
        return list(check_figures(new_notebook(), project.root / "notebooks" / "01-lines.ipynb", assets))

    assert found() == []  # the control
    script.write_text("const x = 1;")
    assert "does not move: notebooks/figure.js must have" in found()[0]
    script.unlink()
    assert "does not move: no JavaScript file notebooks/figure.js" in found()[0]


@pytest.mark.parametrize("stored", [b"", b"{x", b"[]", b"{}", b"[" * 100_000, b'{"data": NaN}'])
def test_what_is_no_live_figure_is_refused_in_words(stored):
    with pytest.raises(ValueError, match=r"\w"):
        parts_of(stored)


def test_the_widget_is_imported_when_one_is_shown_and_not_before():
    code = "import sys, nbutils.plotting.figures; print('anywidget' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
