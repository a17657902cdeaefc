"""Notebook 03 on a network trained elsewhere, and on few tiles: it reaches its results, or refuses at once."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import nbformat
import pytest
import torch
from PIL import Image

from studies.shortcut import plans, readers
from studies.shortcut.drawn_tiles import render
from studies.shortcut.features import extract
from studies.shortcut.networks import TileResNet

pytestmark = pytest.mark.slow

STEM = "03-shortcut-neurons"
CENTRES = {0: 0, 1: 3, 2: 4, 4: 2}  # of the file, by the paper's numbers of hospitals
FEW = ("KS=0,4,64", "N_RANDOM=5", "PROCESSES=1")


def run(out, *parameters):
    command = [sys.executable, "-m", "nbutils", "run", "03", "--out", str(out)]
    return subprocess.run(
        [*command, *(word for value in parameters for word in ("-p", value))], capture_output=True, text=True
    )


def found(out, *parameters):
    """Return the results of a run that must succeed, and all that its cells printed."""
    done = run(out, *parameters)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = [cell for cell in nbformat.read(out / f"{STEM}.ipynb", as_version=4).cells if cell.cell_type == "code"]
    printed = "".join(output.text for cell in cells for output in cell.outputs if output.output_type == "stream")
    return json.loads((out / STEM / "results.json").read_text(encoding="utf-8")), printed


def write_wilds(folder, parts):
    """Write drawn tiles, split of the file -> plan, in the official layout."""
    rows = []
    for split, plan in parts:
        for pixels, tumour, hospital, slide in zip(
            render(plan).pixels.numpy(),
            *(column.tolist() for column in (plan.tumour, plan.hospital, plan.slide)),
            strict=True,
        ):
            patient, x = f"{20 * hospital + slide:03}", 96 * len(rows)
            path = folder / f"patches/patient_{patient}_node_0/patch_patient_{patient}_node_0_x_{x}_y_0.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            rows.append([len(rows), patient, 0, x, 0, tumour, 20 * hospital + slide, CENTRES[hospital], split])
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        file.write(",patient,node,x_coord,y_coord,tumor,slide,center,split\n")
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Return a folder with tiles of hospitals 0, 1, 2 and 4 as Camelyon17-WILDS has them, and a network's state."""
    root = tmp_path_factory.mktemp("mine")
    train = plans.plan(60, slides=range(3), size=96)
    held = plans.plan(120, slides=range(3, 6), first=1000, size=96)
    unseen = plans.plan(60, hospitals=(4,), slides=range(3), first=2000, size=96)
    write_wilds(root / "camelyon17_v1.0", [(0, train), (1, held), (1, unseen)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TileResNet().eval()
    known = extract(model, render(train).images())
    means = torch.stack([known[train.tumour == label].mean(0) for label in (0, 1)])
    with torch.no_grad():  # the nearest of two class means
        model.fc.weight.copy_(means)
        model.fc.bias.copy_(-means.square().sum(1) / 2)
    torch.save(model.state_dict(), root / "net-005.pt")
    return root


def test_a_users_network_on_the_official_layout(mine, tmp_path):
    """K = 0 is the network itself, and the source's lines and files are there."""
    results, printed = found(
        tmp_path, f"CHECKPOINT={mine}/net-{{epoch:03d}}.pt", "EPOCH=5", "DATA=real", f"DATA_ROOT={mine}", *FEW
    )
    unseen = readers.read_wilds(mine / "camelyon17_v1.0").where("test")
    model = TileResNet().eval()
    model.load_state_dict(torch.load(mine / "net-005.pt", weights_only=True))
    with torch.no_grad():
        accuracy = (model(unseen.images()).argmax(1) == unseen.tumour).double().mean().item()
    assert 0.5 < accuracy < 1
    metrics = results["metrics"]
    assert metrics["head_ood_k0"] == pytest.approx(accuracy, abs=1e-5)
    assert (metrics["n_seeds"], metrics["gap_jitter"], metrics["head_ood_k0_rho0"]) == (1, None, None)
    assert (
        metrics["auc_gap_checkpoint_ci_low"] <= metrics["auc_gap_checkpoint"] <= metrics["auc_gap_checkpoint_ci_high"]
    )
    # Of the method and of the ablation, not of a network of which nothing is known beforehand.
    assert {name.split("_")[0] for name in results["claims"]} == {"planted.recovered", "planted", "k0", "matrix"}
    assert all(claim["holds"] for claim in results["claims"].values())

    folder = tmp_path / STEM
    source = json.loads((folder / "m6_neuron_ablation_ep00005.json").read_text(encoding="utf-8"))
    assert source == json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert [row["k"] for row in source["sweep"]] == [0, 4, 64]
    lines = [line.split() for line in printed.splitlines() if line.startswith("K=")]
    assert [float(line[-3].removeprefix("shortcut=")) for line in lines] == [
        round(row["shortcut_head_ood"], 3) for row in source["sweep"]
    ]
    with Image.open(folder / "m6_neuron_ablation_ep00005.png") as picture:
        picture.verify()
    for sentence in ("this schedule is not used", "Nothing is trained", "no other condition"):
        assert sentence in printed


def test_a_users_network_on_few_drawn_tiles_and_fewer_controls(mine, tmp_path):
    results, printed = found(
        tmp_path, f"CHECKPOINT={mine}/net-005.pt", "RHO=0.5", "MAX_SAMPLES=120", "MORPHOLOGY=False", "INCLUDE_ID=False",
        "KS=0,4", "SIZE=16", *FEW[1:],
    )  # fmt: skip
    assert results["source"] == "embedded synthetic tiles"
    assert results["metrics"]["score_vs_counterfactual_spearman"] is not None  # from twins of the same 120 tiles
    assert results["metrics"]["auc_gap_morphology"] is None
    assert "morphology=" not in printed
    assert not list((tmp_path / STEM).glob("m6_*"))  # no epoch to name


def test_networks_trained_here_on_few_tiles_at_one_correlation(tmp_path):
    results, _ = found(tmp_path, "MAX_SAMPLES=120", "RHO=0.9", "N_SEEDS=1", "EPOCH=1", "SIZE=16", *FEW)
    assert [name for name in results["metrics"] if name.startswith("auc_gap_rho")] == [
        f"auc_gap_rho09{end}" for end in ("", "_ci_low", "_ci_high")
    ]
    assert results["metrics"]["gap_jitter"] is not None
    assert "hospital_probe_above_shuffled" not in results["claims"]


def test_a_network_of_one_logit_is_refused_before_anything_is_drawn(mine, tmp_path):
    state = torch.load(mine / "net-005.pt", weights_only=True)
    torch.save(state | {"fc.weight": torch.zeros(1, 512), "fc.bias": torch.zeros(1)}, tmp_path / "one.pt")
    done = run(tmp_path / "out", f"CHECKPOINT={tmp_path}/one.pt")
    assert done.returncode != 0
    assert "code cell 3 " in done.stderr
    assert "one.pt: expected a head of 2 logits, normal and tumour; got 1" in done.stderr
