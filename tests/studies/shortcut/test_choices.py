"""Numbers as parameters give them."""

from __future__ import annotations

import re

import pytest

from studies.shortcut.choices import expect_choices, numbers


@pytest.mark.parametrize("given", ["0,4,64", [0, 4, 64], ("0", 4, 64), " 0, 4 ,64"])
def test_numbers_are_read_from_text_and_lists(given):
    assert numbers(given, int) == [0, 4, 64]


def test_one_number_none_and_no_number():
    assert numbers(0.9, float) == numbers("0.9", float) == [0.9]
    assert numbers(None, float) == []
    for given in ("0,4.5", [0, 4.5], "0,", "four"):
        with pytest.raises(ValueError, match="expected numbers such as"):
            numbers(given, int)


SENSIBLE = {"n_random": 5, "size": 48, "atypia": 0.35, "precision": "float32", "checkpoint": None}


@pytest.mark.parametrize(
    ("counts", "shares", "other", "said"),
    [
        ({"N_SEEDS": [0, 1]}, {}, {}, "N_SEEDS is a whole number of 1 or more, or None; got [0, 1]"),
        ({"MAX_SAMPLES": 0}, {}, {}, "MAX_SAMPLES is a whole number of 1 or more, or None; got 0"),
        ({}, {"MARGIN": 1}, {}, "MARGIN is a share, a number between 0 and 1; got 1"),
        ({}, {}, {"n_random": None}, "N_RANDOM is a whole number of 1 or more; got None"),
        ({}, {}, {"size": 8}, "SIZE is a whole number of 16 pixels or more per side; got 8"),
        ({}, {}, {"atypia": "much"}, "ATYPIA is a number above 0; got 'much'"),
        ({}, {}, {"precision": "float16"}, "PRECISION is 'float32' or 'bfloat16'; got 'float16'"),
        ({}, {}, {"checkpoint": 3}, "CHECKPOINT is a path as text, or None; got 3"),
    ],
)
def test_choices_that_make_no_sense_are_refused_in_a_line(counts, shares, other, said):
    expect_choices({"N_SEEDS": None, "EPOCH": 3}, {"MARGIN": 0.25}, **SENSIBLE)
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        expect_choices(counts, shares, **SENSIBLE | other)
