"""Pooled features by channels last and bfloat16 against plain float32: how fast, and what becomes of every claim.

Speed is that of ResNet-18 on tiles of two sizes, in processor time of one thread. For the claims notebook 03 runs three
times on the same trained networks, and only its passes that take features differ.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from bench_pooled import first, network, row, tiles, timed

from studies.shortcut.features import extract

TILES = {48: 400, 96: 200}  # tiles whose features are timed, by pixels a side
PLAIN = {"precision": "float32", "channels_last": False}
WAYS = {"channels last": {"precision": "float32"}, "channels last, bfloat16": {"precision": "bfloat16"}}


def measure() -> list[dict[str, object]]:
    """Time the ways to features, then compare the claims under them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        speed = _speed()
    finally:
        torch.set_num_threads(threads)
    return [*speed, *_claims()]


def _speed() -> list[dict[str, object]]:
    rows = []
    model = network()
    for size, count in TILES.items():
        images = tiles(count, size)
        plain, reference = min(
            (timed(lambda images=images: extract(model, images, **PLAIN)) for _ in range(2)), key=first
        )
        for name, way in WAYS.items():
            spent, features = min(
                (timed(lambda images=images, way=way: extract(model, images, **way)) for _ in range(2)), key=first
            )
            change = ((features - reference).abs().max() / reference.std()).item()
            head = [model.fc(some).argmax(1) for some in (features, reference)]
            rows.append(
                row(
                    f"features, {size} px, {name}",
                    count / spent,
                    count / plain,
                    "tiles/s",
                    f"reference: plain float32; a feature changes by {change:.1g} SD at most, "
                    f"{int((head[0] != head[1]).sum())} of {count} answers change",
                    ratio=plain / spent,
                )
            )
    return rows


def _claims() -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        plain, *others = (_notebook(Path(folder), way) for way in (PLAIN, *WAYS.values()))
    rows = []
    for name, claim in plain.items():
        missing = {"value": math.nan, "holds": None}  # a run ends at a claim that fails
        values = [float(other.get(name, missing)["value"]) for other in others]
        turned = [
            way for way, other in zip(WAYS, others, strict=True) if other.get(name, missing)["holds"] != claim["holds"]
        ]
        note = "; ".join(f"{way}: {value - claim['value']:+.2g}" for way, value in zip(WAYS, values, strict=True))
        note += "; " + (f"turned by {' and '.join(turned)}" if turned else "same verdict")
        reference = float(claim["value"])
        ratio = values[-1] / reference if reference else math.nan
        rows.append(row(f"claim {name}", values[-1], reference, "", note, ratio=ratio))
    return rows


def _notebook(folder: Path, way: dict[str, object]) -> dict[str, dict[str, object]]:
    """Return the claims of notebook 03 with its features taken in a way; its networks are trained once a folder."""
    options = {"RUNS": folder / "runs", "PRECISION": way["precision"], "CHANNELS_LAST": way.get("channels_last", True)}
    command = [sys.executable, "-m", "nbutils", "run", "03", "--out", str(folder / "out")]
    for name, value in options.items():
        command += ["-p", f"{name}={value}"]
    done = subprocess.run(command, capture_output=True, text=True)  # 1 where a claim fails: that is to be told, too
    if done.returncode not in (0, 1) or not (written := list((folder / "out").glob("*/results.json"))):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    (found,) = written
    claims = json.loads(found.read_text(encoding="utf-8"))["claims"]
    found.unlink()
    return claims
