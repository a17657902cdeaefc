"""A saved figure depends on nothing that another thread or the user's settings of matplotlib change."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from nbutils import claims, layout
from nbutils.plotting import figures, theme
from nbutils.plotting.labels import label_curves

PAIRS = 60  # each is a light and a dark picture
SETTINGS = {"font.size": 20.0, "lines.linewidth": 9.0, "axes.grid": True, "savefig.bbox": "tight", "savefig.dpi": 30}


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """Begin a record and return the folder for its figures."""
    monkeypatch.setenv(layout.OUT_VARIABLE, str(tmp_path))
    monkeypatch.setattr(claims, "_results", None)
    claims.begin("07-example", profile="quick", source="embedded")
    return tmp_path / "07-example"


@pytest.fixture
def impatient():
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def note() -> Figure:
    """Draw what takes its colours, size and font from the theme, in little time."""
    fig = Figure(figsize=(0.8, 0.4))
    fig.text(0.1, 0.4, "note")
    return fig


def curve() -> Figure:
    fig = Figure(figsize=(1.4, 0.9))
    ax = fig.subplots()
    x = np.linspace(0, 1, 9)
    ax.plot(x, x**2)
    label_curves(ax, [(x, x**2, "x", theme.current().ink)])
    return fig


def test_pictures_of_two_threads_are_those_of_one(assets, impatient):
    figures.show(note, "alone", "A word.")
    light, dark = ((assets / name).read_bytes() for name in ("alone.png", "alone.dark.png"))
    assert light != dark
    start = Barrier(2)

    def draw(thread):
        start.wait()
        for number in range(PAIRS):
            figures.show(note, f"note-{thread}-{number}", "A word.")

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(draw, range(2)))
    names = [f"note-{thread}-{number}" for thread in range(2) for number in range(PAIRS)]
    wrong = [
        file
        for name in names
        for file, alone in ((f"{name}.png", light), (f"{name}.dark.png", dark))
        if (assets / file).read_bytes() != alone
    ]
    assert not wrong
    assert set(figures.manifest("07-example")) == {"alone", *names}


def test_settings_of_the_user_neither_reach_a_picture_nor_are_lost(assets):
    figures.show(curve, "default", "A parabola.")
    with matplotlib.rc_context(SETTINGS):
        figures.show(curve, "set", "A parabola.")
        assert {key: matplotlib.rcParams[key] for key in SETTINGS} == SETTINGS
    assert (assets / "set.png").read_bytes() == (assets / "default.png").read_bytes()

    fig = curve()
    with matplotlib.rc_context(SETTINGS):  # a figure made outside has them: they do differ
        figures.show(curve(), "finished", "A parabola.")
    figures.show(fig, "plain", "A parabola.")
    assert (assets / "finished.png").read_bytes() != (assets / "plain.png").read_bytes()


SCRIPT = """
import sys
import matplotlib
import matplotlib.pyplot as plt
from nbutils import claims
from nbutils.plotting import figures
sys.path.insert(0, sys.argv[1])
from test_drawing import curve

def pyplot_curve():
    figure = plt.figure(figsize=(1.4, 0.9))
    figure.subplots().plot([0, 1])
    return figure

claims.begin("07-example", profile="quick", source="embedded")
figures.show(curve, "curve", "A parabola.")
figures.show(pyplot_curve, "pyplot-curve", "A line.")
print(matplotlib.rcParams["font.size"], matplotlib.get_backend(), plt.get_fignums())
"""


def test_neither_the_users_matplotlibrc_nor_their_backend_reaches_a_picture(tmp_path):
    (tmp_path / "matplotlibrc").write_text("".join(f"{key}: {value}\n" for key, value in SETTINGS.items()))

    def run(name, **settings):
        """Return what the script prints, and its pictures by file name."""
        own = {key: value for key, value in os.environ.items() if key not in ("MATPLOTLIBRC", "MPLBACKEND")}
        here = {"PYTHONPATH": str(layout.root()), layout.OUT_VARIABLE: str(tmp_path / name)}
        command = [sys.executable, "-c", SCRIPT, os.path.dirname(__file__)]
        out = subprocess.run(command, env=own | here | settings, capture_output=True, text=True, check=True).stdout
        return out.strip(), {file.name: file.read_bytes() for file in (tmp_path / name).rglob("*.png")}

    said, pictures = run("own", MATPLOTLIBRC=str(tmp_path), MPLBACKEND="svg")
    said_plainly, expected = run("plain", MPLBACKEND="agg")
    assert (said, said_plainly) == ("20.0 svg []", "10.0 agg []")
    assert len(expected) == 4
    assert pictures == expected
