"""All 112 units of conv1, conv2 and fc1 of the digit network on 20,000 images, one thread on every side.

Seconds are processor time of this process, so that other work on the machine counts less. captum is not a dependency:
its row says so where it cannot be imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from memory import peak_gigabytes
from torch import Tensor

from nbutils.ablation.edits import edits
from nbutils.hooks import edit
from nbutils.sites import Site
from nbutils.sweeps import engines, units
from nbutils.sweeps.measures import Measures
from studies.backdoor.network import LAYERS, MnistNet

IMAGES = 20_000
UNITS = {"conv1": 32, "conv2": 64, "fc1": 16}
TIMED = {"conv1": 5, "conv2": 37, "fc1": 3}  # the plain loop is timed on these units and extrapolated
BATCH = 250  # of the plain loop; 64 is as fast here, 1,000 is slower
CAPTUM_IMAGES = 250


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
    prefix = _timed(lambda: units.measure(model, right(images, labels)))[0]
    parts = ", ".join(f"{layer} {max(0, seconds - prefix):.2g} s" for layer, seconds in alone.items())
    seconds, difference, apart = 0.0, 0.0, 0
    for layer, unit in TIMED.items():
        logits, spent = plain(model, images, Site(LAYERS[layer], unit))
        seconds += spent / len(TIMED)
        difference = max(difference, (logits - ours(model, images, layer)[:, unit]).abs().max().item())
        row = frame[(frame.layer == layer) & (frame.unit == unit)]
        apart = max(apart, abs(round(row.value.item() * IMAGES) - int((logits.argmax(1) == labels).sum())))
    agreement = f"reference: the limit; accuracies differ by {apart} of {IMAGES} items at most"
    extrapolated = f"extrapolated from {len(TIMED)} units"
    last = plain(model, images.to(memory_format=torch.channels_last), Site(LAYERS["conv2"], 37), torch.channels_last)[1]
    peak = peak_gigabytes(
        "import bench_sweep as b; b.sweep(b.network(), b.digits(b.IMAGES), torch.zeros(b.IMAGES, dtype=int), b.UNITS)"
    )
    return [
        _row(f"{count} units, one full hooked forward each", swept, count * seconds, "s", extrapolated),
        _row("the same, channels last", swept, count * last, "s", "extrapolated from 1 unit"),
        _captum(model, images[:CAPTUM_IMAGES], swept),
        _row("where the time goes: the network once", swept, prefix, "s", f"the rest: {parts}; see chains.py"),
        _row("largest difference of logits, of the timed units", difference, 1e-4, "", agreement),
        _row("peak memory of the sweep, whole process", peak, 2.0, "GB", "reference: the limit"),
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
    return units.sweep(model, {name: LAYERS[name] for name in layers}, right(images, labels))


def right(images: Tensor, labels: Tensor) -> Measures:
    return Measures({"x": images}, {"right": ("x", labels)})


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


@torch.no_grad()
def ours(model: MnistNet, images: Tensor, layer: str) -> Tensor:
    """Return `[items, units, classes]`: the logits behind the sweep's counts."""
    site = Site(LAYERS[layer])
    runner = engines.choose(model, [site], images[:1])
    size = runner.plan(units.MEMORY)
    chunks = ([logits for _, _, logits in runner.unit_logits(x, [site], [], {})] for x in images.split(size))
    return torch.cat([torch.cat(chunk).transpose(0, 1) for chunk in chunks])


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
        effect = effect.reshape(len(images), units, -1)[:, :, 0]
        difference = max(difference, (whole - effect - ours(model, images, layer)[:, :, 0]).abs().max().item())
    note = f"extrapolated from {len(images)} images; logits differ by {difference:.1g} at most"
    return _row(name, swept, seconds * IMAGES / len(images), "s", note)


def _timed(work: Callable):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _row(name: str, ours: float, reference: float, unit: str, note: str) -> dict[str, object]:
    return {"name": name, "ours": ours, "reference": reference, "ratio": reference / ours, "unit": unit, "note": note}
