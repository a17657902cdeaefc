"""One look per name, told apart by colour and by marker."""

import pytest

from nbutils import layout
from nbutils.plotting import marks, theme


def test_a_name_keeps_its_marker_and_takes_the_themes_colour():
    light = marks.mark("zero")
    with theme.use(theme.DARK):
        dark = marks.mark("zero")
    assert light.color == theme.LIGHT.accents[0]
    assert dark.color == theme.DARK.accents[0]
    assert light[1:] == dark[1:] == ("o", "-")
    with pytest.raises(KeyError, match=r"marks\.toml has no 'nothing'; there are .*zero"):
        marks.mark("nothing")


@pytest.mark.parametrize(
    ("text", "defect"),
    [
        ('[a]\nx = ["blue", "o", "solid"]\ny = ["blue", "s", "solid"]', "'y' and 'x' of \\[a\\] are both 'blue'"),
        ('[a]\nx = ["blue", "o", "solid"]\ny = ["green", "o", "solid"]', "'y' and 'x' of \\[a\\] are both 'o'"),
        ('[a]\nx = ["blue", "o", "solid"]\n[b]\nx = ["green", "s", "solid"]', "'x' has two looks"),
        ('[a]\nx = ["red", "o", "solid"]', "got \\['red'"),
        ("[a]\nx = 3", "got 3"),
    ],
)
def test_looks_that_cannot_be_told_apart_are_refused(tmp_path, text, defect):
    (tmp_path / "marks.toml").write_text(text)
    with pytest.raises(ValueError, match=defect):
        marks.registry(tmp_path / "marks.toml")


def test_the_collections_registry_is_sound_and_sections_may_share_names(tmp_path):
    assert marks.registry(layout.marks())
    (tmp_path / "marks.toml").write_text('[a]\nx = ["blue", "o", "solid"]\n[b]\nx = ["blue", "o", "solid"]')
    assert list(marks.registry(tmp_path / "marks.toml")) == ["x"]
