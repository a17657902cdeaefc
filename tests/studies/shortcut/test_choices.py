"""Numbers as parameters give them."""

from __future__ import annotations

import pytest

from studies.shortcut.choices import numbers


@pytest.mark.parametrize("given", ["0,4,64", [0, 4, 64], ("0", 4, 64), " 0, 4 ,64"])
def test_numbers_are_read_from_text_and_lists(given):
    assert numbers(given, int) == [0, 4, 64]


def test_one_number_none_and_no_number():
    assert numbers(0.9, float) == numbers("0.9", float) == [0.9]
    assert numbers(None, float) == []
    for given in ("0,4.5", [0, 4.5], "0,", "four"):
        with pytest.raises(ValueError, match="expected numbers such as"):
            numbers(given, int)
