"""The sweep of one network in the form of the source document "M6": the same keys, lines and file names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def source_rows(
    curves: pd.DataFrame, probes: pd.DataFrame, ks: Sequence[int], *, kind: str, unseen: str
) -> list[dict[str, float]]:
    """Return one mapping per K, by the source's names, rounded to six digits after the point.

    Args:
        curves: accuracies of the head: `control`, `set`, `k`, `mean`, `sd`. Absent controls and sets are left
            out; `ID` are the known hospitals.
        probes: accuracies of probes on the shortcut channels' ablation: `target`, `probe`, `k`, `value`.
        ks: numbers of channels.
        kind: target of the probe for hospitals.
        unseen: set of the unseen hospital.

    Raises:
        KeyError: no fixed probe for a K.
    """
    heads = curves.set_index(["control", "set", "k"])
    read = probes.set_index(["target", "probe", "k"])["value"]
    rows = []
    for k in ks:
        row = {"shortcut_hosp_probe": read[kind, "fixed", k], "shortcut_tumor_probe": read["tumour", "fixed", k]}
        for where, word in ((unseen, "ood"), ("ID", "id")):
            for control in ("shortcut", "morphology", "random"):
                if (control, where, k) not in heads.index:
                    continue
                found = heads.loc[(control, where, k)]
                if control == "random":
                    row |= {f"random_head_{word}_mean": found["mean"], f"random_head_{word}_std": found["sd"]}
                else:
                    row |= {f"{control}_head_{word}": found["mean"]}
        rows.append({"k": k} | {name: round(float(number), 6) for name, number in row.items()})
    return rows


def source_line(row: dict[str, float]) -> str:
    """Return the line that the source prints for one K: accuracies on the unseen hospital."""
    random = f"random={row['random_head_ood_mean']:.3f}±{row['random_head_ood_std']:.3f}"
    line = f"K={row['k']:>4} shortcut={row['shortcut_head_ood']:.3f} {random}"
    return line + (f" morphology={row['morphology_head_ood']:.3f}" if "morphology_head_ood" in row else "")


def source_name(epoch: int) -> str:
    """Return the name, without suffix, that the source gives its files of an epoch."""
    return f"m6_neuron_ablation_ep{epoch:05d}"
