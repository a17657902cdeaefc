"""Sentences about a recorded run take every number from it, and are left out where it lacks one."""

import string

from studies.backdoor.recorded import PARAGRAPHS, paragraphs


def test_sentences_are_filled_in_from_the_record_or_left_out():
    templates = [template for group in PARAGRAPHS.values() for template in group]
    names = {name for template in templates for _, name, _, _ in string.Formatter().parse(template) if name}
    whole = paragraphs(dict.fromkeys(names, 0.123))
    assert whole.count("**") == 2 * len(PARAGRAPHS)
    assert "{" not in whole
    few = paragraphs({"minority.low_rate": 0.01, "minority.low_asr": 0.002})
    assert few == "**What fell short.** At a poison rate of 0.01 ASR is 0.002."
    assert paragraphs({}) == ""
