"""A sweep in the source's form."""

from __future__ import annotations

import pandas as pd
import pytest

from studies.shortcut.source_format import source_line, source_rows


def test_rows_have_the_sources_names_and_leave_out_what_was_not_swept():
    sets = {"ID": 0.9, "far": 0.8}
    heads = [(c, s, k, sets[s] - k / 100, 0.01) for c in ("shortcut", "random") for s in sets for k in (0, 4)]
    curves = pd.DataFrame(heads, columns=["control", "set", "k", "mean", "sd"])
    reads = {("hospital", "fixed"): 0.5, ("tumour", "fixed"): 0.6, ("hospital", "refitted"): 0.7}
    probes = pd.DataFrame(
        [(*name, k, value + k / 100) for name, value in reads.items() for k in (0, 4)],
        columns=["target", "probe", "k", "value"],
    )
    none, four = source_rows(curves, probes, (0, 4), kind="hospital", unseen="far")
    assert none == pytest.approx(
        {"k": 0, "shortcut_hosp_probe": 0.5, "shortcut_tumor_probe": 0.6}
        | {"shortcut_head_ood": 0.8, "random_head_ood_mean": 0.8, "random_head_ood_std": 0.01}
        | {"shortcut_head_id": 0.9, "random_head_id_mean": 0.9, "random_head_id_std": 0.01}
    )
    assert source_line(four) == "K=   4 shortcut=0.760 random=0.760±0.010"
    assert source_line(four | {"morphology_head_ood": 0.5}).endswith("±0.010 morphology=0.500")
