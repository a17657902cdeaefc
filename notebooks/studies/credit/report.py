"""The source's table of checkpoints, its interpretation, and ours.

Source document: `experiments/perturbation_correlation_audit.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from studies.credit.checkpoints import load_checkpoint
from studies.credit.feedback import Build, feedback_matrices
from studies.credit.network import ResidualMLP

if TYPE_CHECKING:
    import pandas as pd

SEEDS = (42, 123, 456)  # the source's
_PENALISED, _FIRST = "results/dfa_pen_short", "results/vanilla_dfa_early_ckpts"
VANILLA, PENALISED = "vanilla DFA s42", "penalized DFA s42 lam=1e-2"
CASES = [
    (VANILLA, "results/confirmatory/checkpoints_A2/dfa_s42.pt", 42),
    *((f"penalized DFA s{s} lam=1e-2", f"{_PENALISED}/dfa_pen_lam0.01_s{s}.pt", s) for s in SEEDS),
    *((f"vanilla DFA s{s} ep1", f"{_FIRST}/vanilla_dfa_s{s}_ep1.pt", s) for s in SEEDS),
]
"""Label, file and seed of each checkpoint that the source reads."""


def read_cases(
    folder: Path, build: Build, cases: Iterable[tuple[str, str, int]] = tuple(CASES)
) -> dict[str, tuple[ResidualMLP, Tensor]]:
    """Read the checkpoints that are there, and say of each what it is; return networks and feedback by label.

    Args:
        folder: laid out as the source's.
        build: makes the expected network.
        cases: label, file within the folder, and training seed.

    Raises:
        FileNotFoundError: the folder has none of the files; the message names it and the first of them.
        StateError: a file is damaged or of another shape.
    """
    read, cases = {}, list(cases)
    for label, name, seed in cases:
        if not (folder / name).exists():
            print(f"{label:<30} skipped: {name} is not there")
            continue
        found = load_checkpoint(folder / name, build)
        matrices = found.feedback
        print(f"{label:<30} {'bare; matrices from the seed' if matrices is None else 'with its matrices'}")
        read[label] = found.model, feedback_matrices(seed, build) if matrices is None else matrices
    if not read:
        raise FileNotFoundError(f"{folder} has none of the source's {len(cases)} checkpoints, such as {cases[0][1]}")
    return read


def summarised(audits: pd.DataFrame) -> pd.DataFrame:
    """Return the source's table, ρ in float32 by layer, beside the same networks measured exactly.

    Args:
        audits: rows of `studies.credit.audit.audit` with a column `case`.

    Returns:
        One row per case, with columns l0, l1, …, layer mean; means over deep layers (all but the first): deep,
        float32; deep, relative (float32, a step in units of ‖h‖); deep, exact; float32 of the gradient; null SD;
        z, of ρ's limit for many directions; unmoved.
    """
    import pandas as pd

    table = audits.pivot_table(index="case", columns="layer", values="float32_rho", sort=False).add_prefix("l")
    table["layer mean"] = audits.groupby("case", sort=False)["float32_rho"].mean()
    deep = audits[audits["layer"] > 0].groupby("case", sort=False)
    columns = {"deep, float32": "float32_rho", "deep, relative": "relative_rho", "deep, exact": "rho"}
    columns |= {"float32 of the gradient": "float32_ceiling"}
    means = pd.DataFrame({name: deep[column].mean() for name, column in columns.items()})
    means["null SD"] = deep["null_sd"].agg(lambda sd: (sd**2).sum() ** 0.5 / len(sd))
    means["z"] = deep["weighted_cosine"].mean() / means["null SD"]
    means["unmoved"] = deep["unmoved"].mean()
    return table.join(means)


def source_says(vanilla: float, penalized: float) -> str:
    """Return the source's four lines of interpretation, from deep ρ: a fixed threshold of .05 on two sizes.

    Where both exceed it, or only the first, the source prints the two numbers and nothing else.
    """
    lines = [f"vanilla deep rho:   {vanilla:+.4f}", f"penalized deep rho: {penalized:+.4f}"]
    if abs(penalized) > 0.05 and abs(vanilla) < 0.05:
        lines += ["-> the penalized credit is locally useful (rho > 0.05), the vanilla one is not:"]
        lines += ["   a second measure, by perturbation, agrees with the cosine"]
    elif abs(penalized) < 0.05 and abs(vanilla) < 0.05:
        lines += ["-> both show about no perturbation correlation:"]
        lines += ["   the cosine may see an alignment of means that is of no use to single samples"]
    else:
        lines += ["-> (no case of the source's: it prints nothing)", "   "]
    return "\n".join(lines).rstrip()


def we_say(row: Mapping[str, Any]) -> str:
    """Return what follows from a row of `summarised`: sign and size against the null, and what float32 could see."""
    seen, z = row["float32 of the gradient"], row["z"]
    heard = "float32 at a fixed step could not have seen it"
    if seen >= 0.5:
        heard = f"float32 at a fixed step sees {seen:.0%} of a perfect score"
    verdict = "not distinguishable from chance"
    if abs(z) > 1.96:
        verdict = f"{'useful' if z > 0 else 'against the loss'}, beyond chance"
    return f"exact deep ρ {row['deep, exact']:+.4f}, {z:+.1f} null SD: {verdict}; {heard}"
