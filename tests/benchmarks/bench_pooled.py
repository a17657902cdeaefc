"""The whole sweep of pooled channels against running ResNet-18 again for each ablation.

One thread on every side. Seconds are processor time of this process, so that other work on the machine counts less.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from nbutils.ablation.edits import edits
from nbutils.ablation.types import AblationType
from nbutils.hooks import edit
from nbutils.seeding import generator
from nbutils.sites import Site
from studies.shortcut import controls, pooled
from studies.shortcut.features import extract
from studies.shortcut.networks import CHANNELS, TileResNet
from studies.shortcut.sweeps import mean_of, measured, sweep

TILES = 800  # as many as one set of the study
RUN_AGAIN = 3  # ablations that are run through the network, and extrapolated


def measure() -> list[dict[str, object]]:
    """Time both and compare what they put out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _sweep()
    finally:
        torch.set_num_threads(threads)


def _sweep() -> list[dict[str, object]]:
    model, images = network(), tiles(TILES, 48)
    labels = (torch.arange(TILES) % 2).long()
    features = extract(model, images)
    items = pooled.Pool(features, labels, {"slide": torch.arange(TILES) % 10})
    scores = torch.rand(2, CHANNELS, generator=generator(0, "scores"))
    orders = controls.rankings(*scores, model.fc)
    chosen = controls.Controls(orders)
    twins = pooled.twins(items)
    ablations = {
        "zero": (AblationType.ZERO, None),
        "mean": mean_of(items),
        "resample": (AblationType.RESAMPLE, twins),
        "same-label resample": (AblationType.RESAMPLE, pooled.twins(items, same_label=True)),
    }
    work = lambda: sweep(model.fc, {"id": items}, items, chosen, ablations)  # noqa: E731
    ours, frame = min((timed(work) for _ in range(3)), key=first)
    count = len(frame[frame.measure == "accuracy"])
    values = twins(items)
    masks = controls.random_masks(CHANNELS, 64, RUN_AGAIN, generator(0, "masks"))
    seconds, again = timed(lambda: torch.stack([_hooked(model, images, mask, values) for mask in masks]))
    answers = {"logits": _Answers()}
    measured(model.fc, items, controls.channel_sets("random", masks), answers, ablations["resample"])
    found = torch.stack(answers["logits"].seen[1:])
    apart = int((found.argmax(-1) != again.argmax(-1)).sum())
    head, _ = timed(lambda: [model.fc(torch.where(mask, values, features)).argmax(1) for mask in masks.repeat(50, 1)])
    what = f"{len(controls.KS)} K × {len(orders) + 2} controls × {len(ablations)} ablations, 200 draws"
    return [
        row(
            f"{count} ablations of {TILES} tiles, the network run for each",
            ours,
            seconds / RUN_AGAIN * count,
            "s",
            f"{what}; extrapolated from {RUN_AGAIN}; {apart} of {RUN_AGAIN * TILES} answers differ, "
            f"logits by {(found - again).abs().max():.1g} at most",
        ),
        row(
            "the same, the head alone run for each",
            ours,
            head / 50 / RUN_AGAIN * count,
            "s",
            "extrapolated from 150",
        ),
    ]


class _Answers:
    """A metric that keeps what it is given: of the unmodified head, then of every set of channels."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, output: Tensor, items: pooled.Pool) -> Tensor:
        self.seen.append(output.clone())
        return output[:, 0]


def network() -> TileResNet:
    """Return an untrained network whose statistics are those of the tiles and whose logits are centred."""
    torch.manual_seed(0)
    model = TileResNet()
    images = tiles(128, 48)
    with torch.no_grad():
        for _ in range(20):
            model(images)
        model.eval()
        gap = model(images).diff(dim=1).median() / 2
        model.fc.bias += torch.stack([gap, -gap])
    return model


def tiles(count: int, size: int) -> Tensor:
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=generator(0, "bench tiles", size))
    return (torch.nn.functional.interpolate(coarse, size=size, mode="bilinear") * 255).to(torch.uint8)


@torch.no_grad()
def _hooked(model: TileResNet, images: Tensor, mask: Tensor, values: Tensor) -> Tensor:
    found, sites = [], [Site("avgpool", unit) for unit in mask.nonzero()[:, 0].tolist()]
    for part in torch.arange(len(images)).split(128):
        with edit(model, edits(sites, {"avgpool": values[part][..., None, None]})):
            found.append(model(images[part]))
    return torch.cat(found)


def timed(work: Callable):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def first(run: tuple[float, object]) -> float:
    return run[0]


def row(name, ours: float, reference: float, unit: str, note: str, ratio: float | None = None) -> dict[str, object]:
    ratio = reference / ours if ratio is None else ratio
    return {"name": name, "ours": ours, "reference": reference, "ratio": ratio, "unit": unit, "note": note}
