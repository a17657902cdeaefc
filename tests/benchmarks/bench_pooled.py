"""The whole sweep of pooled channels against running ResNet-18 again for each ablation; and the ways to its features.

One thread on every side. Seconds are processor time of this process, so that other work on the machine counts less.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from nbutils.hooks import edit
from nbutils.interventions import pooled
from nbutils.models.features import extract
from nbutils.models.tile_resnet import CHANNELS, TileResNet
from nbutils.seeding import generator

TILES = 800  # as many as one set of the study
SIZES = (48, 96)  # pixels
EXTRACTED = {48: 400, 96: 200}  # tiles whose features are timed
RUN_AGAIN = 3  # ablations that are run through the network, and extrapolated


def measure() -> list[dict[str, object]]:
    """Time both and compare what they put out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [*_sweep(), *_features()]
    finally:
        torch.set_num_threads(threads)


def _sweep() -> list[dict[str, object]]:
    model, images = network(), tiles(TILES, 48)
    labels = (torch.arange(TILES) % 2).long()
    features = extract(model, images)
    items = pooled.Pool(features, labels, {"slide": torch.arange(TILES) % 10})
    scores = torch.rand(2, CHANNELS, generator=generator(0, "scores"))
    orders = pooled.rankings(*scores, model.fc)
    ours, frame = min(
        (_timed(lambda: pooled.sweep(model.fc, {"id": items}, items, orders)) for _ in range(3)), key=_first
    )
    ablations = len(frame[frame.measure == "accuracy"])
    values = pooled.replacement("resample", items, items)
    masks = pooled.random_masks(CHANNELS, 64, RUN_AGAIN, generator(0, "masks"))
    seconds, again = _timed(lambda: torch.stack([_hooked(model, images, mask, values) for mask in masks]))
    found = pooled.logits(model.fc, items, values, masks)
    apart = int((found.argmax(-1) != again.argmax(-1)).sum())
    head, _ = _timed(
        lambda: [model.fc(pooled.ablate(features, mask, values)).argmax(1) for mask in masks.repeat(50, 1)]
    )
    what = f"{len(pooled.KS)} K × {len(orders) + 2} controls × {len(get_args(pooled.Ablation))} ablations, 200 draws"
    return [
        _row(
            f"{ablations} ablations of {TILES} tiles, the network run for each",
            ours,
            seconds / RUN_AGAIN * ablations,
            "s",
            f"{what}; extrapolated from {RUN_AGAIN}; {apart} of {RUN_AGAIN * TILES} answers differ, "
            f"logits by {(found - again).abs().max():.1g} at most",
        ),
        _row(
            "the same, the head alone run for each",
            ours,
            head / 50 / RUN_AGAIN * ablations,
            "s",
            "extrapolated from 150",
        ),
    ]


def _features() -> list[dict[str, object]]:
    rows = []
    model = network()
    for size in SIZES:
        images = tiles(EXTRACTED[size], size)
        plain, reference = min((_timed(lambda images=images: _plain(model, images)) for _ in range(2)), key=_first)
        for precision in ("float32", "bfloat16"):
            spent, features = min(
                (_timed(lambda images=images, p=precision: extract(model, images, precision=p)) for _ in range(2)),
                key=_first,
            )
            change = ((features - reference).abs().max() / reference.std()).item()
            head = [model.fc(some).argmax(1) for some in (features, reference)]
            rows.append(
                _row(
                    f"features, {size} px, channels last, {precision}",
                    len(images) / spent,
                    len(images) / plain,
                    "tiles/s",
                    f"reference: plain float32; a feature changes by {change:.1g} SD at most, "
                    f"{int((head[0] != head[1]).sum())} of {len(images)} answers change",
                    ratio=plain / spent,
                )
            )
    return rows


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
    found = []
    for part in torch.arange(len(images)).split(128):
        put = {"avgpool": lambda x, part=part: pooled.ablate(x.flatten(1), mask, values[part])[..., None, None]}
        with edit(model, put):
            found.append(model(images[part]))
    return torch.cat(found)


@torch.no_grad()
def _plain(model: TileResNet, images: Tensor) -> Tensor:
    """Return the features as torchvision's module computes them by itself, rows of pixels after one another."""
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    parts = [model.feature_map((part.float() / 255 - mean) / std).mean((2, 3)) for part in images.split(128)]
    return torch.cat(parts)


def _timed(work: Callable):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _first(run: tuple[float, object]) -> float:
    return run[0]


def _row(name, ours: float, reference: float, unit: str, note: str, ratio: float | None = None) -> dict[str, object]:
    ratio = reference / ours if ratio is None else ratio
    return {"name": name, "ours": ours, "reference": reference, "ratio": ratio, "unit": unit, "note": note}
