"""The 100-seed sweep of notebook 01 against a plain loop that trains one seed after the other."""

from __future__ import annotations

import time

import torch
from memory import peak_gigabytes
from torch import nn

from nbutils import layout
from nbutils.schedules.timeline import Timeline
from nbutils.training.ensemble import Ensemble
from nbutils.training.fit import fit
from nbutils.training.objective import Objective, Term
from studies.color_cube.data import ColorBatches
from studies.color_cube.network import ColorMLP
from studies.color_cube.regularizers import AngularAnchor, AntiAnchor, AxisAlignedSubspace, Separate

SEEDS = 100
PLAIN_SEEDS = 5  # the plain loop is timed on these and extrapolated: seeds take the same time
ORIGINAL_SECONDS = 21.0  # a seed of the source's own code, one thread of a two-core machine; it published 22.9

RED, ANTI_RED = (1.0, 0, 0, 0, 0), (-1.0, 0, 0, 0, 0)
OBJECTIVE = Objective(
    [
        Term("separate", Separate(100.0), "bottleneck"),
        Term("anchor", AngularAnchor(RED), "bottleneck", label="red"),
        Term("anti-anchor", AntiAnchor(ANTI_RED), "bottleneck"),
        Term("anti-subspace", AxisAlignedSubspace((0,), invert=True), "bottleneck"),
    ]
)


def measure() -> list[dict[str, object]]:
    """Time the plain loop, the ensemble here, and the ensemble on all cores, in one run; and the largest process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for both sides: two threads are slower on operators this small
    try:
        timeline = Timeline.from_csv(layout.dopesheet("01-color-cube"))
        plain = SEEDS / PLAIN_SEEDS * _seconds(lambda: [plain_loop(seed, timeline) for seed in range(PLAIN_SEEDS)])
        serial = _seconds(lambda: sweep(timeline, None))
        sweep(timeline, "loky", seeds=4)  # starts the worker processes, which stay for later runs
        parallel = _seconds(lambda: sweep(timeline, "loky"))
    finally:
        torch.set_num_threads(threads)
    note = f"extrapolated from {PLAIN_SEEDS} seeds"
    rows = [
        _row("100 seeds, one process, against a plain float32 loop", serial, plain, note),
        _row("100 seeds, all cores, against a plain float32 loop", parallel, plain, note),
        _row(
            "100 seeds, all cores, against one seed of the original",
            parallel,
            ORIGINAL_SECONDS,
            "a fixed number, not timed here",
        ),
    ]
    peak = peak_gigabytes(
        "import bench_ensemble as b; b.sweep(b.Timeline.from_csv(b.layout.dopesheet('01-color-cube')), None)"
    )
    rows.append(
        {
            "name": "peak memory of the 100-seed run, largest process",
            "ours": peak,
            "reference": 1.5,
            "ratio": 1.5 / peak,
            "unit": "GB",
            "note": "reference: the limit",
        }
    )
    return rows


def sweep(timeline: Timeline, executor: str | None, seeds: int = SEEDS) -> None:
    fit(Ensemble(ColorMLP, range(seeds)), ColorBatches(), OBJECTIVE, timeline, executor=executor)


def plain_loop(seed: int, timeline: Timeline) -> nn.Module:
    """Train one seed as one would write it down: one module, autograd, Adam, a term a line."""
    torch.manual_seed(seed)
    model = ColorMLP()
    colors = ColorBatches().colors(torch.float32)
    probability = ColorBatches().label_probability().float()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-8)
    latents: list[torch.Tensor] = []
    model.bottleneck.register_forward_hook(lambda module, inputs, output: latents.append(output))
    for step in range(len(timeline)):
        weights = timeline[step]
        index = torch.randint(len(colors), (64,))
        x, red = colors[index], (torch.rand(64) < probability[index]).float()
        latents.clear()
        loss = nn.functional.mse_loss(model(x), x)
        z = latents[0]
        if weights["separate"]:
            unit = z / (z.norm(dim=-1, keepdim=True) + 1e-8)
            cosine = unit @ unit.T
            cosine = torch.where(torch.isclose(cosine, torch.ones_like(cosine)), torch.zeros_like(cosine), cosine)
            loss = loss + weights["separate"] * (((cosine + 1) / 2) ** 100).sum(-1).mean()
        if weights["anchor"]:
            away = 1 - nn.functional.cosine_similarity(z, z.new_tensor([RED]))
            loss = loss + weights["anchor"] * (away * red).sum() / (red.sum() + 1e-8)
        if weights["anti-anchor"]:
            towards = nn.functional.cosine_similarity(z, z.new_tensor([ANTI_RED])).clamp_min(0)
            loss = loss + weights["anti-anchor"] * towards.mean()
        if weights["anti-subspace"]:
            loss = loss + weights["anti-subspace"] * z[:, 0].square().mean()
        for group in optimizer.param_groups:
            group["lr"] = weights["lr"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _row(name: str, ours: float, reference: float, note: str) -> dict[str, object]:
    return {"name": name, "ours": ours, "reference": reference, "ratio": reference / ours, "unit": "s", "note": note}
