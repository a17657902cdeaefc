"""With `DEVICE` set, every network of a notebook runs there: on a GPU where there is one, else on the stand-in."""

from __future__ import annotations

import json
from dataclasses import replace

import cells
import elsewhere
import matplotlib
import pytest

from nbutils import layout
from nbutils.data import digits
from studies.across import networks
from studies.credit import images, perturbation

SHEETS = {
    "01": "STEP,separate,anchor,anti-anchor,anti-subspace,lr\n0,0.1,0.1,0.1,0.1,0.01\n9,,,,,\n",
    "02": "STEP,PHASE,lr,drift:linear:step\n0,clean,0.001,0\n30,poison,,1000\n40,rehabilitate,,500\n"
    "42,minority,,100\n44,repair,,500\n46,,,\n",
    "03": "STEP,PHASE,lr:log,jitter:linear:step\n0,plain,0.001,0\n9,,0.0003,\n10,augmented,0.001,2\n12,,0.0003,\n",
    "05": "STEP,lr\n0,0.01\n4,\n",
}
TINY = {
    "01": {"N_SEEDS": 3, "GRID": 4, "N_RANDOM": 2},
    "02": {"N_SEEDS": 2, "SEARCH": 200, "MOST": 2, "N_RANDOM": 2, "RECOVERY_STEPS": 2, "MASK_STEPS": 2},
    "03": {"N_SEEDS": 2, "N_RANDOM": 2, "SIZE": 24},
    "04": {"EPOCHS": 1, "SEEDS": [42, 123, 456], "FEW_SEEDS": 1, "WIDTH": 8, "BLOCKS": 2, "N_AUDIT": 8}
    | {"DIRECTIONS": 4, "NULL_DRAWS": 5, "LAMBDAS": [0.003, 0.01, 0.03]},
    "05": {"N_SEEDS": 3, "LAYERS": 2, "PROMPTS": 4, "METHOD_PROMPTS": 2, "LOADER_BATCH": 3, "BATCH_SIZE": 4}
    | {"PATH_STEPS": 2, "THRESHOLDS": (0.01, 0.5), "SIZES": (0, 1, 8, 42)},
}
# A head on pooled features works on the processor, where `studies.shortcut.features.extract` leaves them.
ON_THE_PROCESSOR = {"03": {"Linear: ['cpu']", "Sequential: ['cpu']", "Identity: ['cpu']"}}


def _few_tiles(names):
    synthetic = names["synthetic"]
    names["synthetic"] = lambda rhos, *_: synthetic(rhos, 60, 60)


def _some_unit(names):
    names["units"] = names["units"] or [("conv2", 3)]  # trained for a moment, a network may have no backdoor to find


def _few_pairs(names):
    def few(make):
        def made(**choices):
            one = make(**choices)
            return replace(one, pairs=one.pairs[:8])

        return made

    names["MAKERS"] = {name: few(make) for name, make in names["MAKERS"].items()}


AFTER = {
    "02": {'units = table.loc[("anywhere"': _some_unit},
    "03": {"def synthetic(": _few_tiles},
    "05": {"MAKERS = {": _few_pairs},
}


@pytest.fixture
def little(monkeypatch, tmp_path, device):
    """Make data sets small and training short, and write results to a temporary folder."""

    def few_digits(*arguments, load=digits.load):
        splits = load(*arguments)
        return replace(splits, train=splits.train[:600], selection=splits.selection[:220], report=splits.report[:60])

    def few_images(*arguments, load=images.load, **keywords):
        splits = load(*arguments, **keywords)
        return replace(splits, train=splits.train[:192], test=splits.test[:40])

    monkeypatch.setattr(images, "load", few_images)
    for name in ("train_colors", "train_digits", "train_tiles", "train_residual_mlp"):
        train = getattr(networks, name)
        monkeypatch.setattr(networks, name, lambda *a, steps, train=train, **k: train(*a, steps=min(steps, 20), **k))
    if device.type == elsewhere.DEVICE.type:  # it has no forward-mode derivatives

        def derivatives(h, v, loss):
            return perturbation._central_differences(h, v, loss, 1e-6 * h.norm(dim=1, keepdim=True))[0]

        monkeypatch.setattr(perturbation, "_derivatives", derivatives)
    monkeypatch.setenv(layout.OUT_VARIABLE, str(tmp_path))
    monkeypatch.setenv("NBUTILS_SILENT", "1")
    matplotlib.use("agg")
    return few_digits


@pytest.mark.slow
@pytest.mark.parametrize("number", TINY)
def test_every_network_of_a_notebook_runs_on_its_device(number, device, little, monkeypatch, tmp_path, capsys):
    if number == "02":
        monkeypatch.setattr(digits, "load", little)
    (path,) = layout.notebooks(number)
    chosen = TINY[number] | {"DEVICE": str(device), "PROCESSES": 1}
    if number in SHEETS:
        chosen["DOPESHEET"] = str(tmp_path / "sheet.csv")
        (tmp_path / "sheet.csv").write_text(SHEETS[number])
    with cells.strangers(device) as found:
        cells.execute(path, chosen, AFTER.get(number))
    assert set(found) <= ON_THE_PROCESSOR.get(number, set())
    assert f"device {device}" in capsys.readouterr().out
    recorded = json.loads((tmp_path / path.stem / "results.json").read_text(encoding="utf-8"))
    assert recorded["device"].startswith(str(device))
