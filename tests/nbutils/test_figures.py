"""Figures: two looks, equal bytes, a description that travels, a manifest that tells the truth."""

from __future__ import annotations

import hashlib
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from nbutils import claims, layout
from nbutils.plotting import figures, table, theme

ALT = "Two lines; the second rises faster."


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """Begin results and return the folder for its figures."""
    monkeypatch.setenv(layout.OUT_VARIABLE, str(tmp_path))
    monkeypatch.setattr(claims, "_results", None)
    claims.begin("07-example", profile="quick", source="embedded")
    return tmp_path / "07-example"


def lines():
    fig, ax = plt.subplots(figsize=(4, 2))
    ax.plot([0, 1, 2], label="slow")
    ax.plot([0, 2, 4], label="fast")
    ax.legend()
    ax.set_title("growth")
    return fig


def finished():
    with theme.use(theme.LIGHT):
        return lines()


def pixels(path):
    """Return a picture as `[height, width, 3]`, 0 to 255."""
    return np.asarray(Image.open(path).convert("RGB"))


def corner(path):
    return tuple(pixels(path)[0, 0] / 255)


@pytest.mark.parametrize("make", [lambda: lines, finished], ids=["function", "finished figure"])
def test_both_looks_are_written_and_two_calls_write_equal_bytes(assets, make):
    fig = make()
    before = plt.get_fignums()
    figures.show(fig, "growth", ALT)
    first = {path.name: path.read_bytes() for path in assets.iterdir()}
    assert sorted(first) == ["growth.dark.png", "growth.png", "manifest.json"]
    figures.show(fig, "growth", ALT)
    assert {path.name: path.read_bytes() for path in assets.iterdir()} == first
    assert corner(assets / "growth.png") == pytest.approx(to_rgb(theme.LIGHT.paper), abs=0.01)
    assert corner(assets / "growth.dark.png") == pytest.approx(to_rgb(theme.DARK.paper), abs=0.01)
    assert all(len(first[name]) < 30_000 for name in first)
    assert set(plt.get_fignums()) <= set(before)  # closed, or the notebook would show it twice


def test_a_finished_figure_is_recoloured_to_what_the_function_draws(assets):
    figures.show(lines, "drawn", ALT)
    figures.show(finished(), "finished", ALT)
    drawn, recoloured, light = (pixels(assets / f"{name}.png") for name in ("drawn.dark", "finished.dark", "finished"))
    assert np.abs(drawn.astype(int) - recoloured).mean() < 1
    assert np.abs(drawn.astype(int) - light).mean() > 50


def test_the_manifest_describes_the_files(assets):
    figures.show(lines, "growth", ALT)
    figures.show(lines, "again", "The same two lines.")
    entries = figures.manifest("07-example")
    assert entries == json.loads((assets / "manifest.json").read_text())
    assert {name: entry["alt"] for name, entry in entries.items()} == {
        "growth": ALT,
        "again": "The same two lines.",
    }
    for entry in entries.values():
        for look in ("light", "dark"):
            content = (assets / entry[look]["file"]).read_bytes()
            assert entry[look]["sha256"] == hashlib.sha256(content).hexdigest()
            assert entry[look]["bytes"] == len(content)
    assert entries["growth"]["light"]["sha256"] != entries["growth"]["dark"]["sha256"]


def test_a_figure_carries_its_caption_and_its_data(assets, monkeypatch):
    displayed = []
    monkeypatch.setattr(figures, "_display", lambda *output: displayed.append(output))
    frame = pd.DataFrame({"r": [0.1 + 0.2, 1e-7 / 3], "plan": ["a,b", "c"]}, index=pd.Index([4, 7], name="seed"))
    figures.show(lines, "growth", ALT, caption="Growth\nunder $\\lambda$.", data=frame)
    figures.show(lines, "bare", ALT)
    entry, bare = (figures.manifest("07-example")[name] for name in ("growth", "bare"))
    assert entry["caption"] == displayed[0][3] == "Growth under $\\lambda$."
    content = (assets / entry["data"]["file"]).read_bytes()
    assert content == b'seed,r,plan\n4,0.3,"a,b"\n7,3.33333e-08,c\n'
    assert entry["data"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert not {"caption", "data"} & set(bare)
    with pytest.raises(ValueError, match="empty caption"):
        figures.show(lines, "growth", ALT, caption=" ")
    with pytest.raises(TypeError, match="the data of a figure are a data frame, got list"):
        figures.show(lines, "growth", ALT, data=[1])
    with pytest.raises(ValueError, match=r"figure 'growth' \(data\) takes"):
        figures.show(lines, "growth", ALT, data=pd.DataFrame({"x": np.arange(100_000)}))


def test_a_table_shows_its_caption(monkeypatch):
    displayed = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: displayed.append(bundle))
    frame = pd.DataFrame({"r": [0.5]})
    for one in (frame, frame.style):
        table.show_table(one, "by-seed", "r < 1, by seed")
        assert '<caption id="table-by-seed">r &lt; 1, by seed</caption>' in displayed[-1]["text/html"]
        assert displayed[-1]["text/plain"].startswith("r < 1, by seed\n")
    for wrong, name, caption in [(frame, "By Seed", "x"), (frame, "by-seed", " "), ([1], "by-seed", "x")]:
        with pytest.raises(ValueError if wrong is frame else TypeError):
            table.show_table(wrong, name, caption)


@pytest.mark.parametrize(
    ("name", "alt", "message"),
    [("growth", " \n", "alt text"), ("../growth", ALT, "name"), ("Growth", ALT, "name"), ("", ALT, "name")],
)
def test_a_figure_needs_a_description_and_a_plain_name(assets, name, alt, message):
    with pytest.raises(ValueError, match=message):
        figures.show(lines, name, alt)
    assert not assets.exists()


def test_a_figure_that_is_too_large_is_refused_before_anything_is_written(assets):
    def noise():
        fig, ax = plt.subplots(figsize=(9, 9))
        ax.imshow(np.random.default_rng(0).uniform(size=(1000, 1000, 3)))
        return fig

    with pytest.raises(ValueError, match=r"figure 'noise' \(light\) takes \d+ bytes"):
        figures.show(noise, "noise", ALT)
    assert not assets.exists()


def test_patches_of_many_colours_keep_them_and_lines_take_a_palette(assets):
    # 1,000 colours, each a patch of 8 by 8 pixels: more than a palette holds.
    axis = np.linspace(0, 1, 10)
    cube = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(25, 40, 3)

    def patches():
        fig = plt.figure(figsize=(320 / 120, 200 / 120), layout="none")
        fig.add_axes((0, 0, 1, 1)).imshow(cube)
        fig.axes[0].axis("off")
        return fig

    figures.show(patches, "patches", ALT)
    shown = pixels(assets / "patches.png")[4::8, 4::8]
    assert np.abs(shown - cube * 255).max() <= 1

    figures.show(lines, "growth", ALT)
    assert Image.open(assets / "growth.png").mode == "P"


def test_beside_a_photograph_lines_keep_their_colours_and_paper_stays_white(assets):
    def beside():
        fig = plt.figure(figsize=(9, 5), layout="none")
        fig.add_axes((0, 0, 0.3, 0.3)).imshow(np.random.default_rng(0).uniform(0.2, 0.8, (150, 150, 3)))
        for i, accent in enumerate(theme.LIGHT.accents):
            fig.add_artist(plt.Line2D([0.1, 0.15], [0.4 + i / 20] * 2, color=accent, linestyle="-", linewidth=1.5))
        return fig

    figures.show(beside, "beside", ALT)
    assert Image.open(assets / "beside.png").mode == "P"
    shown = pixels(assets / "beside.png")
    for colour in (*theme.LIGHT.accents, theme.LIGHT.paper):
        rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        assert (np.abs(shown - rgb).max(axis=-1) <= 8).sum() > 30, colour


def test_show_takes_figures_only(assets):
    with pytest.raises(TypeError, match="got ndarray"):
        figures.show(lambda: np.zeros(3), "growth", ALT)


def turning() -> go.Figure:
    return go.Figure(go.Scatter(y=np.arange(3.0)))


@pytest.fixture
def displayed(monkeypatch):
    outputs = []
    monkeypatch.setattr(figures, "_display", lambda *output: outputs.append(output))
    return outputs


def test_a_plotly_figure_is_displayed_beside_its_twin_of_matplotlib(assets, displayed):
    figures.show(turning, "turn", ALT, twin=lines)
    figures.show(lines, "growth", ALT)
    entries, (twinned, plain) = figures.manifest("07-example"), displayed
    assert [entries["turn"][look]["sha256"] for look in ("light", "dark")] == [
        entries["growth"][look]["sha256"] for look in ("light", "dark")
    ]
    assert {mime: twinned[0][mime] for mime in plain[0]} == plain[0]
    assert twinned[0][figures.PLOTLY]["layout"]["template"]["layout"]["paper_bgcolor"] == theme.LIGHT.paper
    assert twinned[1] == {**plain[1], figures.PLOTLY: {"alt": ALT}}


def test_a_plotly_figure_without_a_twin_says_that_it_has_no_picture(assets, displayed):
    with pytest.warns(UserWarning, match="figure 'turn' has no picture for where scripts do not run; give it a twin"):
        figures.show(turning(), "turn", ALT)
    assert set(displayed[0][0]) == {"text/plain", figures.PLOTLY}
    assert not assets.exists()  # a manifest must not list files that are not there


@pytest.mark.parametrize(("fig", "twin"), [(turning, turning), (turning, "turn.png"), (lines, lines)])
def test_a_twin_is_a_matplotlib_figure_beside_one_of_plotly(assets, fig, twin):
    with pytest.raises(TypeError, match=r"got one of plotly|got str|needs no twin"):
        figures.show(fig, "turn", ALT, twin=twin)
    assert not assets.exists()


def test_use_restores_what_was_before_even_after_an_exception():
    before = plt.rcParams["figure.facecolor"], pio.templates.default, theme.current()

    def fail():
        with theme.use(theme.DARK):
            assert plt.rcParams["figure.facecolor"] == theme.DARK.paper
            assert theme.current() is theme.DARK
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert before == (plt.rcParams["figure.facecolor"], pio.templates.default, theme.current())


def contrast(first, second):
    """Return the contrast ratio of two colours (WCAG 2.2), 1 to 21."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("look", [theme.LIGHT, theme.DARK], ids=lambda look: look.name)
def test_colours_stand_out_from_the_paper(look):
    assert contrast(look.ink, look.paper) >= 7
    assert min(contrast(colour, look.paper) for colour in (look.muted, *look.accents)) >= 3
    assert contrast("#f0e442", theme.LIGHT.paper) < 3  # yellow on white would fail
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in look.accents)
    assert len(set(look.accents)) == len(theme.LINE_STYLES)
