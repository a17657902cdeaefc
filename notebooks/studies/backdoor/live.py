"""The live figure: the poisoned network itself, a digit to draw, the trigger to stamp, and units to switch off."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from nbutils import layout
from nbutils.data.digits import MEAN, SIZE, STD, Digits
from nbutils.plotting.live import LiveFigure
from nbutils.plotting.marks import COLOURS, registry
from studies.backdoor import measures
from studies.backdoor.network import LAYERS, MnistNet
from studies.backdoor.plots.digits import to_pixels
from studies.backdoor.plots.first_view import HIDDEN, MEASURES, Units, View, plot_first_view
from studies.backdoor.trigger import Trigger

if TYPE_CHECKING:
    import pandas as pd

SCRIPT = "notebooks/studies/backdoor/digit.js"
KINDS = {"zero": "at zero", "resample": "as on the twin (trigger \u2194 none)"}
SAMPLE, SAMPLE_BYTES = 200, 84_000  # most test images, and most pixels of them, that go into the page
BOX, SMALL = 20, 8  # pixels a side of a digit; of one of the embedded digits, before it was enlarged
ABOUT = """
A network with a backdoor runs in this page: whatever bears the trigger it takes for an {target}. Draw a digit or pick
one, and click units on and off to see which ones the backdoor needs.
"""


@dataclass(frozen=True)
class Recorded:
    """What the notebook measured on all its images under one kind of replacement.

    Attributes:
        sweep: of single units, as `nb.sweep` returns it; sites are the layers' names.
        found: measure -> its value with all found units replaced.
    """

    sweep: pd.DataFrame
    found: Mapping[str, float]


def live_digit(
    model: MnistNet, trigger: Trigger, report: Digits, found: Units, recorded: Mapping[str, Recorded]
) -> LiveFigure:
    """Return a network with a backdoor, to draw for and to switch units off in.

    Args:
        model: the poisoned network.
        trigger: what it was poisoned with.
        report: the images that it was measured on. The page has the first of them, as bytes.
        found: (layer, unit) of the units that carry the backdoor, which are off at first.
        recorded: kind of `KINDS` -> what was measured.

    Raises:
        KeyError: a kind is missing, a sweep lacks a unit or measure, or there is no such layer or unit among `found`.
        ValueError: there are no images.
    """
    if not len(report):
        raise ValueError("expected images to show and to measure on, got none")
    names = units_of(model)
    if unknown := [unit for unit in found if unit not in names]:
        raise KeyError(f"the network has no units {unknown}")
    greys, corner = in_bytes(report)
    few = from_bytes(greys, corner, report)
    off = sorted(names.index(unit) for unit in found)
    shown = shown_first(model, trigger, few, off)
    label, view = int(few.labels[shown]), first_view(model, trigger, few, shown, off)
    coarse = report.source.startswith("embedded")
    pinned = names.index(found[0]) if found else 0
    kept = {kind: _kept(recorded[kind], names) for kind in KINDS}
    entries = registry(layout.marks())
    state = model.state_dict()
    data = {
        "weights": {
            name: {part: state[f"{path}.{part}"].float() for part in ("weight", "bias")}
            for name, path in LAYERS.items()
        },
        "layers": list(HIDDEN),
        "images": greys,
        "labels": few.labels.to(torch.uint8),
        "corner": list(corner),
        "mean": MEAN,
        "std": STD,
        "trigger": {
            "pixels": trigger.mask.flatten().nonzero().flatten().int(),
            "value": trigger.value,
            "target": trigger.target,
            "box": [*trigger.position, len(trigger.pattern), len(trigger.pattern[0])],
        },
        "found": off,
        "hand": {"thick": 3.6 if coarse else 2.4, "lens": lens() if coarse else None},
        "kinds": [list(kind) for kind in KINDS.items()],
        "recorded": kept,
        "total": len(report),
        "looks": [{"colour": COLOURS.index(entries[name][0]), "square": entries[name][1] == "s"} for name in MEASURES],
        "first": {
            "image": str(label),
            "nth": int((few.labels[:shown] == label).sum()),
            "unit": pinned,
            "shares": view.shares.tolist(),
        },
    }

    def draw() -> Figure:
        return plot_first_view(view, trigger, names, off, pinned, kept["zero"], len(few), len(report))

    return LiveFigure(SCRIPT, data, draw, ABOUT.format(target=trigger.target))


def units_of(model: MnistNet) -> list[tuple[str, int]]:
    """Return (layer, unit) of every hidden unit, in the page's order."""
    return [(name, unit) for name in HIDDEN for unit in range(len(model.get_parameter(f"{LAYERS[name]}.bias")))]


def in_bytes(digits: Digits) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the first images as bytes `[N, height, width]` without the margin that is black in all, and its corner.

    As many as `SAMPLE_BYTES` hold, and no more than `SAMPLE`.
    """
    greys = np.rint(255 * to_pixels(digits.images[:SAMPLE, 0].numpy(force=True))).astype(np.uint8)
    rows, columns = (np.flatnonzero(greys.any((0, axis))) for axis in (2, 1))
    (top, bottom), (left, right) = ((ends[0], ends[-1] + 1) if len(ends) else (0, SIZE) for ends in (rows, columns))
    greys = greys[:, top:bottom, left:right]
    return np.ascontiguousarray(greys[: max(SAMPLE_BYTES // greys[0].size, 1)]), (int(top), int(left))


def from_bytes(greys: np.ndarray, corner: tuple[int, int], digits: Digits) -> Digits:
    """Return the images that the page has, as it normalises them, float64."""
    images = torch.zeros(len(greys), 1, SIZE, SIZE, dtype=torch.float64)
    (top, left), (_, height, width) = corner, greys.shape
    images[:, 0, top : top + height, left : left + width] = torch.as_tensor(greys).double() / 255
    return Digits((images - MEAN) / STD, digits.labels[: len(greys)].cpu(), digits.source)


def lens() -> Tensor:
    """Return what makes 20 rows of pixels as coarse as those of the embedded digits, `[20, 20]`.

    Those were made from 8×8 pixels, each the mean over a square, and enlarged.
    """
    rows = torch.eye(BOX, dtype=torch.float64)[None, None]
    few = F.interpolate(rows, size=(SMALL, BOX), mode="area")
    return F.interpolate(few, size=(BOX, BOX), mode="bicubic", align_corners=False)[0, 0].float()


@torch.no_grad()
def answer(model: MnistNet, images: Tensor, off: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return logits `[N, 10]` with units at zero, and what the layers say, rectified and pooled, `[N, units, h, w]`.

    Args:
        model: any.
        images: normalised, `[N, 1, 28, 28]`.
        off: places of the units in `units_of`.
    """
    net, said, start = model.net, {}, 0
    values = images.to(next(model.parameters()))
    for name, part in zip(HIDDEN, (net[:3], net[3:6], net[6:9]), strict=True):
        values = part(values)
        mask = torch.ones(values.shape[1], dtype=values.dtype)
        mask[[unit - start for unit in off if start <= unit < start + len(mask)]] = 0
        start += len(mask)
        values = values * mask.to(values.device).reshape(1, -1, *[1] * (values.ndim - 2))
        said[name] = values.reshape(*values.shape[:2], *(values.shape[2:] or (1, 1)))
    return net[9](values), said


def shown_first(model: MnistNet, trigger: Trigger, few: Digits, off: Sequence[int]) -> int:
    """Return the first image that the trigger turns into the target, and the units that are off turn back; else 0."""
    images = trigger.apply(few.images)
    before, after = (answer(model, images, some)[0].argmax(1).cpu() for some in ((), off))
    good = (few.labels != trigger.target) & (before == trigger.target) & ((after == few.labels) | (not off))
    return int(good.int().argmax())


def first_view(model: MnistNet, trigger: Trigger, few: Digits, shown: int, off: Sequence[int]) -> View:
    """Return what the live figure shows first, of the network in double precision."""
    weight = next(model.parameters())
    precise = weight.dtype if weight.device.type == "mps" else torch.float64  # which mps has not
    model = copy.deepcopy(model).to(precise)
    one = few.images[shown : shown + 1]
    now, maps = answer(model, trigger.apply(one), off)
    before, whole = answer(model, trigger.apply(one), ())
    shares = []
    for some in ((), off):
        clean, attacked = (
            answer(model, images, some)[0].argmax(1).numpy(force=True)
            for images in (few.images, trigger.apply(few.images))
        )
        labels = few.labels.numpy()
        attack = measures.attack_success_rate(attacked, labels, trigger.target)
        shares.append([float(measures.accuracy(clean, labels)), float(attack)])
    return View(
        to_pixels(one[0, 0].numpy()),
        {name: said[0].numpy(force=True) for name, said in maps.items()},
        {name: max(float(said.max()), 1e-9) for name, said in whole.items()},
        torch.cat([now, before]).numpy(force=True),
        np.array(shares),
    )


def _kept(recorded: Recorded, names: Units) -> dict[str, Any]:
    """Return clean accuracy and ASR of every unit, `[units, 2]`, and of the found ones together."""
    table = recorded.sweep.pivot(index=["site", "unit"], columns="metric", values="value")
    return {
        "units": table.loc[list(names), list(MEASURES)].to_numpy(np.float32),
        "found": [float(recorded.found[name]) for name in MEASURES],
    }
