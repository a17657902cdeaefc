import copy
import math
import string
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbutils import layout
from nbutils.schedules import Dopesheet, DopesheetError, MinimumJerk, SmoothParameter, Timeline
from nbutils.schedules.dopesheet import MAX_STEP, MAX_VALUES
from nbutils.schedules.timing import TIMINGS

COLOR_CUBE = {
    0: {"lr": 1e-8, "anchor": 0, "anti-anchor": 0, "anti-subspace": 0.25},
    10: {"lr": 0.01},
    248: {"separate": 0.01, "anchor": 0.1, "anti-anchor": 0.05},
    750: {"lr": 0.1, "separate": 0.001, "anchor": 0.1, "anti-subspace": 0.003},
    1425: {"lr": 0.1, "separate": 0, "anchor": 0, "anti-anchor": 0, "anti-subspace": 0},
    1500: {"lr": 0.05},
}


def timeline(text: str) -> Timeline:
    return Timeline(Dopesheet.from_text(text))


def test_the_color_cube_sheet_resolves_to_the_published_table():
    sheet = Dopesheet.from_csv(layout.dopesheet("01-color-cube"))
    assert {keyframe.step: dict(keyframe.values) for keyframe in sheet.keyframes} == COLOR_CUBE
    resolved = Timeline(sheet)
    assert len(resolved) == 1501
    assert resolved.parameters == ("lr", "separate", "anchor", "anti-anchor", "anti-subspace")
    for step, values in COLOR_CUBE.items():
        assert resolved[step].items() >= values.items()
    assert resolved[0]["separate"] == 0.01, "the first keyed value holds from step 0"
    assert resolved[1500]["anchor"] == 0, "the last keyed value holds to the end"
    assert resolved.phase(0) == resolved.phase(1500) == "Train"


def test_the_frame_holds_every_step_and_cannot_change_the_timeline():
    resolved = timeline("STEP,a\n0,0\n4,4\n")
    frame = resolved.frame()
    assert frame.index.tolist() == [0, 1, 2, 3, 4]
    assert frame.to_dict("index") == {step: resolved[step] for step in range(5)}
    frame.loc[2, "a"] = 99
    assert resolved[2] == {"a": 2.0}


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        ("", [0, 10 / 64 - 15 / 256 + 6 / 1024, 0.5, 10 * 27 / 64 - 15 * 81 / 256 + 6 * 243 / 1024, 1]),
        (":linear:linear", [0, 0.25, 0.5, 0.75, 1]),
        (":linear:step", [0, 0, 0, 0, 1]),
        (":linear:step-end", [0, 0, 0, 0, 1]),
    ],
)
def test_timings_pass_through_values_computed_by_hand(suffix, expected):
    values = timeline(f"STEP,a{suffix}\n0,0\n4,1\n").frame()["a"]
    np.testing.assert_allclose(values, expected, rtol=1e-15)


def test_log_space_passes_the_geometric_mean_half_way():
    values = timeline("STEP,a:log,b\n0,1e-8,1e-8\n10,1e-2,1e-2\n")[5]
    assert values["a"] == pytest.approx(1e-5, rel=1e-12)
    assert values["b"] == pytest.approx(5e-3, rel=1e-5), "the same keys in linear space pass the arithmetic mean"


@given(
    st.lists(st.floats(-1e300, 1e300), min_size=2, max_size=6),
    st.sampled_from(sorted(TIMINGS)),
    st.sampled_from(["linear", "log"]),
)
def test_keys_are_reached_exactly_and_never_overshot(keys, timing, space):
    keys = [abs(key) + 1e-300 for key in keys] if space == "log" else keys
    sheet = f"STEP,a:{space}:{timing}\n" + "".join(f"{7 * i},{key!r}\n" for i, key in enumerate(keys))
    values = timeline(sheet).frame()["a"].to_numpy()
    assert values[::7].tolist() == keys
    assert values.min() == min(keys)
    assert values.max() == max(keys)


def test_relative_steps_count_from_the_absolute_rows_around_them():
    sheet = Dopesheet.from_text("STEP,a\n-40,1\n100,\n+5,\n+0.25,\n-.5,\n-10,\n200,\n+7,\n")
    assert [keyframe.step for keyframe in sheet.keyframes] == [60, 100, 105, 125, 150, 190, 200, 207]
    halves = Dopesheet.from_text("STEP,a\n0,1\n+0.25,\n-.25,\n10,\n")
    assert [keyframe.step for keyframe in halves.keyframes] == [0, 3, 8, 10], "2.5 and 7.5 both round up"


def test_phases_last_and_actions_do_not():
    resolved = timeline("ACTION,STEP,PHASE\nsave validate,2,warm up\n,4,\nsave,6,train\n")
    assert [resolved.phase(step) for step in range(7)] == ["", "", *["warm up"] * 4, "train"]
    assert [resolved.actions(step) for step in (1, 2, 3, 6)] == [(), ("save", "validate"), (), ("save",)]
    assert resolved[3] == {}


@pytest.mark.parametrize("step", [-1, 5])
def test_steps_off_the_timeline_are_refused(step):
    resolved = timeline("STEP,a\n4,1\n")
    assert resolved[4] == {"a": 1.0}
    for call in (resolved.__getitem__, resolved.phase, resolved.actions):
        with pytest.raises(IndexError, match=f"from 0 to 4, got {step}"):
            call(step)


BAD_SHEETS = {
    "empty file": ("", 1, None, "STEP"),
    "only blank lines": ("\n,,\n", 1, None, "STEP"),
    "no STEP column": ("PHASE,lr\nTrain,1\n", 1, "STEP", "STEP column"),
    "semicolons": ("STEP;lr\n0;1\n", 1, "STEP", "STEP column"),
    "no rows": ("\nSTEP,lr\n", 2, "STEP", "at least one row"),
    "NUL": ("STEP,lr\n0,\0\n", 2, None, "text"),
    "broken quotes": ('STEP,lr\n0,1\n"1"2,3\n', 3, None, "comma-separated"),
    "unclosed quote": ('STEP,lr\n0,1\n1,"2\n\n\n', 3, None, "comma-separated"),
    "cell beyond the reader's limit": ("STEP,lr\n0," + "1" * 200_000 + "\n", 2, None, "comma-separated"),
    "duplicate column": ("STEP,lr,lr\n0,1,1\n", 1, "lr", "once"),
    "duplicate parameter": ("STEP,lr,lr:log\n0,1,1\n", 1, "lr:log", "once"),
    "nameless column": ("STEP,lr,\n0,1,\n", 1, "number 3", "a name"),
    "suffix without a name": ("STEP,:log\n0,1\n", 1, ":log", "a name"),
    "unknown space": ("STEP,lr:cubic\n0,1\n", 1, "lr:cubic", "linear or log"),
    "unknown timing": ("STEP,lr:log:ease\n0,1\n", 1, "lr:log:ease", "minjerk or linear or step or step-end"),
    "timing in the place of space": ("STEP,lr:step\n0,1\n", 1, "lr:step", "linear or log"),
    "three suffixes": ("STEP,lr:log:step:x\n0,1\n", 1, "lr:log:step:x", "name:space:timing"),
    "suffix on PHASE": ("STEP,PHASE:log\n0,1\n", 1, "PHASE:log", "PHASE"),
    "parameter never keyed": ("STEP,lr,typo:log\n0,1,\n", 1, "typo:log", "a value in at least one row"),
    "row too short": ("STEP,lr,a\n0,1,1\n1,2\n", 3, "a", "3 cells"),
    "row too long": ("STEP,lr\n0,1,9\n", 2, None, "2 cells"),
    "word in a cell": ("STEP,lr\n0,1\n\n5,fast\n", 4, "lr", "finite number"),
    "nan": ("STEP,lr\n0,nan\n", 2, "lr", "finite number"),
    "inf": ("STEP,lr\n0,-inf\n", 2, "lr", "finite number"),
    "number too large": ("STEP,lr\n0,1e999\n", 2, "lr", "finite number"),
    "digits that are not ASCII": ("STEP,lr\n0,٣\n", 2, "lr", "finite number"),
    "underscore": ("STEP,lr\n0,1_000\n", 2, "lr", "finite number"),
    "zero in log space": ("STEP,lr:log\n0,1\n9,0\n", 3, "lr:log", "above 0"),
    "vanishing in log space": ("STEP,lr:log\n0,1e-999\n", 2, "lr:log", "above 0"),
    "negative in log space": ("STEP,lr:log\n0,-1\n", 2, "lr:log", "above 0"),
    "blank step": ("STEP,lr\n0,1\n,2\n", 3, "STEP", "absolute step"),
    "decimal step": ("STEP,lr\n0,1\n1.5,2\n", 3, "STEP", "absolute step"),
    "step in words": ("STEP,lr\nsoon,1\n", 2, "STEP", "absolute step"),
    "+N before any absolute row": ("STEP,lr\n+5,1\n9,1\n", 2, "STEP", "row above"),
    "-N after the last absolute row": ("STEP,lr\n0,1\n-5,1\n", 3, "STEP", "row below"),
    "fraction before any absolute row": ("STEP,lr\n-0.5,1\n9,1\n", 2, "STEP", "row above"),
    "fraction after the last absolute row": ("STEP,lr\n0,1\n+0.5,1\n", 3, "STEP", "row below"),
    "fraction 0": ("STEP,lr\n0,1\n+0.0,1\n9,1\n", 3, "STEP", "between 0 and 1"),
    "fraction 1": ("STEP,lr\n0,1\n-1.0,1\n9,1\n", 3, "STEP", "between 0 and 1"),
    "fraction above 1": ("STEP,lr\n0,1\n+1.5,1\n9,1\n", 3, "STEP", "between 0 and 1"),
    "duplicate step": ("STEP,lr\n0,1\n5,1\n5,1\n", 4, "STEP", "after 5"),
    "unsorted steps": ("STEP,lr\n0,1\n5,1\n3,1\n", 4, "STEP", "after 5"),
    "unsorted steps around a fraction": ("STEP,lr\n9,1\n+0.5,1\n3,1\n", 4, "STEP", "after 9"),
    "offset past the next row": ("STEP,lr\n0,1\n+7,1\n5,1\n", 4, "STEP", "after 7"),
    "offset of nothing": ("STEP,lr\n3,1\n+0,1\n", 3, "STEP", "after 3"),
    "fraction that rounds onto its end": ("STEP,lr\n0,1\n+0.9,1\n1,1\n", 4, "STEP", "after 1"),
    "negative step": ("STEP,lr\n-5,1\n3,1\n", 2, "STEP", "from 0 to"),
    "step too large": (f"STEP,lr\n{MAX_STEP + 1},1\n", 2, "STEP", "from 0 to 10,000,000"),
    "step of 5,000 digits": ("STEP,lr\n" + "9" * 5000 + ",1\n", 2, "STEP", "from 0 to 10,000,000"),
    "offset too large": (f"STEP,lr\n1,1\n+{MAX_STEP},1\n", 3, "STEP", "from 0 to 10,000,000"),
    "too many values": (
        f"STEP,{','.join('abcdef')}\n0,1,1,1,1,1,1\n{MAX_STEP},,,,,,\n",
        3,
        "STEP",
        f"at most {MAX_VALUES:,}",
    ),
}


@pytest.mark.parametrize(("text", "row", "column", "expected"), BAD_SHEETS.values(), ids=BAD_SHEETS)
def test_a_bad_sheet_names_file_row_column_and_what_belongs_there(text, row, column, expected, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(text.encode())
    with pytest.raises(DopesheetError) as caught:
        Dopesheet.from_csv(path)
    error = caught.value
    assert (error.file, error.row, error.column) == (str(path), row, column)
    assert expected in error.expected
    for part in (str(path), f"row {row}", error.expected, error.got):
        assert part in str(error)
    assert len(str(error)) < len(str(path)) + 300


def test_a_sheet_in_another_encoding_is_refused_by_row(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes("STEP,PHASE,lr\n0,échauffement,1\n".encode("latin-1"))
    with pytest.raises(DopesheetError, match=r"latin\.csv, row 2: expected UTF-8 text, got byte 0xe9"):
        Dopesheet.from_csv(path)
    path.write_bytes("STEP,PHASE,lr\r\n0,échauffement,1\r\n,,\r\n".encode("utf-8-sig"))
    assert Timeline.from_csv(path).phase(0) == "échauffement"


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        Dopesheet.from_csv(tmp_path / "absent.csv")


def test_the_error_survives_the_trip_between_processes():
    error = DopesheetError("a.csv", 3, "lr", "a number", "'x'")
    again = copy.copy(error)  # rebuilds it as a process pool does
    assert str(again) == str(error) == "a.csv, row 3, column lr: expected a number, got 'x'"
    assert again.row == 3


def assert_resolves_or_explains(read, source: str) -> None:
    complaint = None
    try:
        sheet = read()
    except DopesheetError as error:
        complaint = error
    if complaint is not None:
        assert complaint.file == source
        assert str(complaint).startswith(f"{source}, row {complaint.row}")
        return
    steps = [keyframe.step for keyframe in sheet.keyframes]
    assert all(isinstance(step, int) for step in steps)
    assert steps[0] >= 0
    assert all(before < after for before, after in pairwise(steps))
    if steps[-1] < 10_000:
        values = Timeline(sheet).frame().to_numpy()
        assert values.shape == (steps[-1] + 1, len(sheet.parameters))
        assert np.isfinite(values).all()


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_resolve_or_raise_the_one_error(tmp_path, content):
    path = tmp_path / "sheet.csv"
    path.write_bytes(b"STEP,a\n" + content)
    assert_resolves_or_explains(lambda: Dopesheet.from_csv(path), str(path))


@given(st.text(alphabet=st.characters() | st.sampled_from('STEP,a:log\n"0123456789+-.e'), max_size=200))
def test_any_text_resolves_or_raises_the_one_error(text):
    assert_resolves_or_explains(lambda: Dopesheet.from_text(text, source="any"), "any")


NUMBERS = st.one_of(st.just(""), st.floats(1e-9, 1e9).map(repr))
COLUMNS = ["a", "b:log", "c:linear:step", "d:log:linear", "PHASE", "ACTION"]
ODD_STEPS = ["", "+", "-.5", "+0.25", "-3", "+700", "0", "1e3", "10000001", "+0.", "+1.0", "nan"]
ODD_CELLS = ["x", "1,", '"', "0x1", "0", "-1", "inf", "nan", "1e999"]
ODD_COLUMNS = ["a", "a:log", "e:cubic", "STEP", "", ":", "f"]


@st.composite
def almost_valid_sheets(draw) -> str:
    """Draw a good sheet, then spoil at most one cell of it (which may leave it good)."""
    header = ["STEP", *draw(st.lists(st.sampled_from(COLUMNS), max_size=4, unique=True))]
    steps = sorted(draw(st.sets(st.integers(1, 3000), min_size=1, max_size=4)))
    between = [draw(st.sampled_from(["+1", "-1", "+0.5", "-0.25", None])) for _ in steps]
    rows = [relative_or_not for pair in zip(between, map(str, steps), strict=True) for relative_or_not in pair]
    table = [header, ["0", *["0.5"] * (len(header) - 1)]]
    table += [[step, *(draw(NUMBERS) for _ in header[1:])] for step in rows if step is not None]
    if draw(st.booleans()):
        row = draw(st.integers(0, len(table) - 1))
        column = draw(st.integers(0, len(header) - 1))
        odd = ODD_COLUMNS if row == 0 else ODD_STEPS if column == 0 else ODD_CELLS
        table[row][column] = draw(st.sampled_from(odd))
    return "\n".join(",".join(cells) for cells in table)


@given(almost_valid_sheets())
def test_almost_valid_sheets_resolve_or_raise_the_one_error(text):
    assert_resolves_or_explains(lambda: Dopesheet.from_text(text, source="almost"), "almost")


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=8, unique=True),
    st.text(string.ascii_letters, min_size=1),
)
def test_a_valid_sheet_always_resolves(steps, name):
    steps.sort()
    text = f"STEP,{name}_\n" + "".join(f"{step},{math.sqrt(step)!r}\n" for step in steps)
    assert [keyframe.step for keyframe in Dopesheet.from_text(text).keyframes] == steps


def test_minimum_jerk_starts_in_the_given_state_and_ends_at_rest():
    movement = MinimumJerk(start=2, target=-1, duration=4, velocity=0.7, acceleration=-0.3)
    assert movement.state(0) == (2, 0.7, -0.3)
    assert movement.state(1e-9) == pytest.approx((2, 0.7, -0.3), abs=1e-7)
    assert movement.state(4 - 1e-9) == pytest.approx((-1, 0, 0), abs=1e-7)
    assert movement.state(4) == movement.state(9) == (-1, 0, 0)
    assert movement.at(np.array([-1.0, 0.0, 4.0, 9.0])).tolist() == [2, 2, -1, -1]


def test_the_states_of_a_movement_are_derivatives_of_its_value():
    movement = MinimumJerk(start=2, target=-1, duration=4, velocity=0.7, acceleration=-0.3)
    h = 1e-4
    for time in (0.5, 1.7, 3.9):
        value, velocity, acceleration = movement.state(time)
        before, here, after = movement.at(np.array([time - h, time, time + h]))
        assert value == pytest.approx(here)
        assert velocity == pytest.approx((after - before) / (2 * h), abs=1e-6)
        assert acceleration == pytest.approx((after - 2 * here + before) / h**2, abs=1e-5)


def test_from_rest_it_is_the_published_polynomial():
    tau = np.linspace(0, 1, 11)
    expected = 10 * tau**3 - 15 * tau**4 + 6 * tau**5
    np.testing.assert_allclose(MinimumJerk(0, 1, 1).at(tau), expected, atol=1e-14)
    np.testing.assert_allclose(TIMINGS["minjerk"](tau), expected, atol=1e-14)


def jumps(path: np.ndarray, at: int) -> tuple[float, float, float]:
    """Return the largest jump of value, first and second difference around an index."""
    derivatives = [path, np.diff(path), np.diff(path, 2)]
    near = slice(at - 5, at + 5)
    return tuple(np.abs(np.diff(derivative))[near].max() for derivative in derivatives)


def test_retargeting_keeps_value_velocity_and_acceleration_continuous():
    h = 1e-3

    def path(start) -> np.ndarray:
        parameter = start(0.0)
        parameter.retarget(1.0, 1.0)
        first = [parameter.advance(h) for _ in range(400)]
        parameter.retarget(-2.0, 0.8)
        return np.array(first + [parameter.advance(h) for _ in range(800)])

    class Linear(SmoothParameter):
        def retarget(self, value, duration):
            self.start, self.slope, self.time = self.value, (value - self.value) / duration, 0.0

        @property
        def value(self):
            return self.start + self.slope * self.time if hasattr(self, "slope") else 0.0

        def advance(self, time):
            self.time += time
            return self.value

    smooth, linear = path(SmoothParameter), path(Linear)
    assert smooth[-1] == -2.0
    bounds = 5 * h, 50 * h**2, 500 * h**3  # what a C2 path of these speeds may change in one tick
    assert all(jump < bound for jump, bound in zip(jumps(smooth, 399), bounds, strict=True))
    assert jumps(linear, 399)[0] < bounds[0], "linear retargeting is continuous in value"
    assert jumps(linear, 399)[1] > 10 * bounds[1], "but not in velocity"


def test_a_refused_target_leaves_the_movement_under_way():
    parameter = SmoothParameter(0.0)
    parameter.retarget(1.0, 10)
    parameter.advance(5)
    for value, duration in ((math.nan, 1), (1, 0), (1, -1), (1, math.inf)):
        with pytest.raises(ValueError, match="expected a"):
            parameter.retarget(value, duration)
    with pytest.raises(ValueError, match="at least 0"):
        parameter.advance(-1)
    assert parameter.value == 0.5
    assert parameter.advance(5) == 1.0


def test_the_first_steps_are_those_of_the_whole():
    whole = timeline("STEP,PHASE,ACTION,a\n0,one,start,0\n4,two,save,4\n8,,end,8\n")
    part = whole.first(5)
    assert len(part) == 5
    assert [part[step] for step in range(5)] == [whole[step] for step in range(5)]
    assert (part.phase(3), part.phase(4), part.actions(4)) == ("one", "two", ("save",))
    with pytest.raises(IndexError):
        part[5]
    for wrong in (0, 10):
        with pytest.raises(ValueError, match=f"1 to 9 steps, got {wrong}"):
            whole.first(wrong)


def test_a_section_is_one_phase_from_step_0():
    sheet = Timeline.from_csv(layout.dopesheet("02-poisoned-mnist"))
    sections = {name: sheet.section(name) for name in ("clean", "poison", "rehabilitate")}
    assert [len(section) for section in sections.values()] == [1900] * 3
    for (name, section), drift in zip(sections.items(), (0, 1000, 500), strict=True):
        assert {(section[step]["lr"], section[step]["drift"]) for step in range(1900)} == {(1e-3, drift)}
        assert section.phase(0) == section.phase(1899) == name
        assert section.frame().index[[0, -1]].tolist() == [0, 1899]
    with pytest.raises(IndexError):
        sections["clean"][1900]
    resolved = timeline("STEP,PHASE,ACTION,a\n0,one,,0\n4,two,save,4\n6,one,,\n8,,,8\n")
    assert resolved.section("two").actions(0) == ("save",)
    for wrong, count in (("three", 0), ("one", 2)):
        with pytest.raises(KeyError, match=f"expected one phase '{wrong}', got {count}; .*one, two, one"):
            resolved.section(wrong)
