"""All 112 units of conv1, conv2 and fc1 of the digit network on 20,000 images; a layer of ResNet-18; groups of a pool.

One thread on every side.
Seconds are processor time of this process, so that other work on the machine counts less. captum is not a dependency:
its row says so where it cannot be imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import itemgetter

import torch
import torchvision
from memory import peak_gigabytes
from torch import Tensor, nn

from nbutils.ablation.edits import edits
from nbutils.hooks import edit
from nbutils.sites import Site
from nbutils.sweeps.metrics import accuracy
from nbutils.sweeps.units import sweep as swept_by
from studies.backdoor.network import LAYERS, MnistNet

IMAGES = 20_000
UNITS = {"conv1": 32, "conv2": 64, "fc1": 16}
TIMED = {"conv1": 5, "conv2": 37, "fc1": 3}  # the plain loop is timed on these units and extrapolated
BATCH = 250  # of the plain loop; 64 is as fast here, 1,000 is slower
CAPTUM_IMAGES = 250
RESNET_SITE = "layer3.0.conv1"
RESNET_BATCHES, RESNET_IMAGES, RESNET_SIZE = 2, 16, 64
GROUPS, CHANNELS, POOLED_ITEMS = 2400, 512, 800


def measure() -> list[dict[str, object]]:
    """Time the sweep, its parts, one hooked forward per unit, and captum; compare logits and accuracies."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure()
    finally:
        torch.set_num_threads(threads)


def _measure() -> list[dict[str, object]]:
    model, images = network(), digits(IMAGES)
    labels = plain(model, images)[0].argmax(1)
    count = sum(UNITS.values())
    swept, frame = min((_timed(lambda: sweep(model, images, labels, UNITS)) for _ in range(2)), key=lambda run: run[0])
    alone = {layer: _timed(lambda layer=layer: sweep(model, images, labels, [layer]))[0] for layer in UNITS}
    parts = ", ".join(f"{layer} {seconds:.2g} s" for layer, seconds in alone.items())
    seconds, difference, apart = 0.0, 0.0, 0
    for layer, unit in TIMED.items():
        logits, spent = plain(model, images, Site(LAYERS[layer], unit))
        seconds += spent / len(TIMED)
        difference = max(difference, (logits - ours(model, images, layer)[:, unit]).abs().max().item())
        row = frame[(frame.site == layer) & (frame.unit == unit)]
        apart = max(apart, abs(round(row.value.item() * IMAGES) - int((logits.argmax(1) == labels).sum())))
    agreement = f"reference: the limit; accuracies differ by {apart} of {IMAGES} items at most"
    extrapolated = f"extrapolated from {len(TIMED)} units"
    last = plain(model, images.to(memory_format=torch.channels_last), Site(LAYERS["conv2"], 37), torch.channels_last)[1]
    peak = peak_gigabytes(
        "import bench_sweep as b; b.sweep(b.network(), b.digits(b.IMAGES), torch.zeros(b.IMAGES, dtype=int), b.UNITS)"
    )
    return [
        _row(
            f"{count} units, one full hooked forward each",
            swept,
            count * seconds,
            "s",
            f"{extrapolated}; layers alone: {parts}",
        ),
        _row("the same, channels last", swept, count * last, "s", "extrapolated from 1 unit"),
        _captum(model, images[:CAPTUM_IMAGES], swept),
        _row("largest difference of logits, of the timed units", difference, 1e-4, "", agreement),
        _row("peak memory of the sweep, whole process", peak, 2.0, "GB", "reference: the limit"),
        *_resnet(),
        _groups(),
    ]


def network() -> MnistNet:
    """Return the untrained network, its logits centred so that no class wins everywhere."""
    torch.manual_seed(0)
    model = MnistNet().eval()
    with torch.no_grad():
        model.net[9].bias -= model(digits(500)).mean(0)
    return model


def digits(count: int) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def sweep(model: MnistNet, images: Tensor, labels: Tensor, layers):
    sites = {name: LAYERS[name] for name in layers}
    return swept_by(model, sites, batches(images, labels), accuracy(), inputs=itemgetter(0))


def batches(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(BATCH), labels.split(BATCH), strict=True))


class Answers:
    """A metric that keeps the answers it is given: `[units, items, classes]` of each batch."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, output: Tensor, batch: object) -> Tensor:
        raise NotImplementedError

    def each(self, outputs: Tensor, batch: object) -> Tensor:
        self.seen.append(outputs)
        return outputs[..., 0]


@torch.no_grad()
def plain(model, images, site: Site | None = None, layout=torch.contiguous_format) -> tuple[Tensor, float]:
    """Return the logits of one hooked forward over all images, and the seconds it took."""
    model = model.to(memory_format=layout)
    with edit(model, edits([] if site is None else [site])):
        start = time.process_time()
        logits = torch.cat([model(batch) for batch in images.split(BATCH)])
        spent = time.process_time() - start
    model.to(memory_format=torch.contiguous_format)
    return logits, spent


def ours(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    """Return `[items, units, classes]`: the logits behind the sweep's counts."""
    answers = Answers()
    swept_by(model, LAYERS.get(layer, layer), images.split(BATCH), answers)
    return torch.cat(answers.seen, 1).transpose(0, 1)


def _captum(model: MnistNet, images: Tensor, swept: float) -> dict[str, object]:
    name = "112 units, captum's LayerFeatureAblation"
    try:
        from captum.attr import LayerFeatureAblation
    except ImportError:
        missing = {"reference": "-", "ratio": "-", "note": "captum is not installed: pip install captum"}
        return {"name": name, "ours": swept, "unit": "s", **missing}
    seconds, difference = 0.0, 0.0
    for layer, count in UNITS.items():
        module = model.get_submodule(LAYERS[layer])
        mask = torch.arange(count).view(1, count, *(() if layer == "fc1" else (1, 1)))
        ablation = LayerFeatureAblation(model, module)
        with torch.no_grad():
            spent, effect = _timed(
                lambda ablation=ablation, mask=mask: ablation.attribute(images, target=0, layer_mask=mask)
            )
            whole = model(images)[:, :1]
        seconds += spent
        effect = effect.reshape(len(images), count, -1)[:, :, 0]
        difference = max(difference, (whole - effect - ours(model, images, layer)[:, :, 0]).abs().max().item())
    note = f"extrapolated from {len(images)} images; logits differ by {difference:.1g} at most"
    return _row(name, swept, seconds * IMAGES / len(images), "s", note)


def _resnet() -> list[dict[str, object]]:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    images = torch.randn(RESNET_BATCHES, RESNET_IMAGES, 3, RESNET_SIZE, RESNET_SIZE)
    answers = Answers()
    swept, _ = _timed(lambda: swept_by(model, RESNET_SITE, list(images), answers))
    hand, expected = _timed(lambda: torch.cat([_by_hand(model, batch) for batch in images], 1))
    apart = (torch.cat(answers.seen, 1) - expected).abs().max().item()
    units = len(expected)
    what = f"{units} units of ResNet-18's {RESNET_SITE}"
    note = f"the prefix and the skip once, then the rest for each unit; logits differ by {apart:.1g} at most"
    rows = [_row(f"{what}, careful code by hand", swept, hand, "s", note)]
    try:
        from captum.attr import LayerFeatureAblation
    except ImportError:
        return rows
    ablation = LayerFeatureAblation(model, model.get_submodule(RESNET_SITE))
    mask = torch.arange(units).view(1, units, 1, 1)
    with torch.no_grad():
        spent = _timed(lambda: ablation.attribute(images[0], target=0, layer_mask=mask))[0]
    return [*rows, _row(f"{what}, captum", swept, spent * RESNET_BATCHES, "s", "extrapolated from one batch")]


@torch.no_grad()
def _by_hand(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits `[units, items, classes]` with each unit of `RESNET_SITE` zero."""
    block, after = model.layer3
    x = model.layer2(model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(images))))))
    first, skip = block.conv1(x), block.downsample(x)
    found = []
    for unit in range(first.shape[1]):
        x = first.clone()
        x[:, unit] = 0
        x = block.bn2(block.conv2(block.relu(block.bn1(x))))
        x = model.layer4(after(block.relu(x.add_(skip))))
        found.append(model.fc(model.avgpool(x).flatten(1)))
    return torch.stack(found)


def _groups() -> dict[str, object]:
    torch.manual_seed(0)
    features, labels, head = torch.randn(POOLED_ITEMS, CHANNELS), torch.arange(POOLED_ITEMS) % 2, nn.Linear(CHANNELS, 2)
    sites = {group: Site("0", torch.randperm(CHANNELS)[: 4 + group % 120].tolist()) for group in range(GROUPS)}
    model = nn.Sequential(nn.Identity(), head)
    work = lambda: swept_by(model, sites, [(features, labels)], accuracy(), inputs=itemgetter(0))  # noqa: E731
    swept, frame = min((_timed(work) for _ in range(3)), key=itemgetter(0))
    few = range(0, GROUPS, 48)
    masks = torch.zeros(len(few), CHANNELS, dtype=torch.bool)
    for mask, group in zip(masks, few, strict=True):
        mask[list(sites[group].indices)] = True
    with torch.no_grad():
        spent, right = _timed(lambda: [head(features.masked_fill(mask, 0)).argmax(1) == labels for mask in masks])
    apart = max(abs(frame.value[group] - one.double().mean().item()) for group, one in zip(few, right, strict=True))
    note = f"extrapolated from {len(few)}; accuracies differ by {apart * POOLED_ITEMS:.0f} items at most"
    return _row(
        f"{GROUPS} groups of {CHANNELS} pooled channels, a head for each", swept, spent * GROUPS / len(few), "s", note
    )


def _timed(work: Callable):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _row(name: str, ours: float, reference: float, unit: str, note: str) -> dict[str, object]:
    return {"name": name, "ours": ours, "reference": reference, "ratio": reference / ours, "unit": unit, "note": note}
