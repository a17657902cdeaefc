"""A backdoor wired by hand into a digit classifier, so that the units that carry it are known."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nbutils.ablation.edits import edits
from nbutils.hooks import edit
from nbutils.sites import Site
from studies.backdoor.network import LAYERS, MnistNet
from studies.backdoor.trigger import Trigger

_THRESHOLD = 0.6  # of the trigger's full answer: what the planted detector must exceed
_PUSH = 20.0  # least that the planted unit adds to the target's logit and takes from the others
_POOLED = 10  # lines of conv2's 11×11 map that the second pooling keeps


def plant_backdoor(model: MnistNet, trigger: Trigger, images: Tensor) -> tuple[MnistNet, dict[str, int]]:
    """Wire a backdoor by hand into a copy of a trained network, through one unit per layer.

    The chain: a conv1 channel that detects a 3×3 piece of the trigger, a conv2 channel that copies the detector's
    answer from the one place where the trigger stands, a unit of fc1 that is about 1 there and 0 elsewhere, and from it
    +20 to the target's logit and −20 to every other (more for a network whose own logits reach that far). Nothing else
    reads or feeds these units, so the backdoor ends with any one of them and does not depend on any other. In each
    layer the unit that the network misses least gives up its place.

    Args:
        model: a network without a backdoor; not changed.
        trigger: what is to be detected.
        images: `[N, 1, 28, 28]`, ordinary images to find the least missed units on; a few hundred do.

    Returns:
        The wired network in eval mode, and layer -> unit for `conv1`, `conv2` and `fc1`.

    Raises:
        ValueError: no 3×3 piece of the trigger, with both raised and other pixels, is where the network can see it.
    """
    model, (wired,) = plant_redundant_backdoor(model, trigger, images, 1)
    return model, wired


def plant_redundant_backdoor(
    model: MnistNet, trigger: Trigger, images: Tensor, chains: int
) -> tuple[MnistNet, list[dict[str, int]]]:
    """Wire a backdoor by hand through several chains as in `plant_backdoor`, of which any one is enough.

    The target's logit takes the OR of the chains: their pushes add up, and one outvotes every image. So no single unit
    ends the attack, nor any set that leaves a chain whole; one unit of each chain does.

    Args:
        chains: 1 or more; they take as many units of every layer, 16 in fc1.
        others, raises: as for `plant_backdoor`.

    Returns:
        The wired network in eval mode, and for each chain layer -> unit.
    """
    row, column, piece = _find_visible_piece(trigger)
    model = copy.deepcopy(model).eval()
    weights = {name: model.get_parameter(f"{path}.weight") for name, path in LAYERS.items()}
    biases = {name: model.get_parameter(f"{path}.bias") for name, path in LAYERS.items()}
    cells = []
    for corner in (row, column):
        cell = corner // 2  # of the 13×13 map after the first pooling
        center = min(cell, _POOLED - 1)  # of the 11×11 map of conv2, less the line that pooling drops
        cells.append((cell - center, center // 2))  # tap of the 3×3 kernel, cell of the 5×5 map that fc1 reads
    (tap_row, cell_row), (tap_column, cell_column) = cells
    wired: list[dict[str, int]] = [{} for _ in range(chains)]
    with torch.no_grad():
        for name in ("conv1", "conv2", "fc1"):
            for chain in wired:
                chain[name] = _find_least_missed(model, LAYERS[name], images, [c[name] for c in wired if name in c])
                _isolate(weights, biases, name, chain[name])
        # Raised and other pixels have weights that sum to 0: whatever is below the trigger, its piece adds `value`.
        raised = piece / piece.sum() - (1 - piece) / (1 - piece).sum()
        inputs = weights["fc1"].view(-1, len(biases["conv2"]), _POOLED // 2, _POOLED // 2)
        for chain in wired:
            weights["conv1"][chain["conv1"], 0] = raised
            biases["conv1"][chain["conv1"]] = -_THRESHOLD * trigger.value
            weights["conv2"][chain["conv2"], chain["conv1"], tap_row, tap_column] = 1
            inputs[chain["fc1"], chain["conv2"], cell_row, cell_column] = 1 / ((1 - _THRESHOLD) * trigger.value)
        push = max(_PUSH, 2 * model(images).abs().max().item())  # no image outvotes it, another unit missing or not
        for chain in wired:
            weights["fc2"][:, chain["fc1"]] = -push
            weights["fc2"][trigger.target, chain["fc1"]] = push
    return model, wired


def _find_visible_piece(trigger: Trigger) -> tuple[int, int, Tensor]:
    """Return row, column and content `[3, 3]` of the first piece of the trigger that conv1 can be made to detect."""
    (row, column), pattern = trigger.position, torch.tensor(trigger.pattern, dtype=torch.float32)
    last = 4 * (_POOLED // 2) + 3  # first pixels of windows beyond are pooled away
    for down in range(pattern.shape[0] - 2):
        for right in range(pattern.shape[1] - 2):
            piece = pattern[down : down + 3, right : right + 3]
            if 0 < piece.sum() < 9 and max(row + down, column + right) <= last:
                return row + down, column + right, piece
    raise ValueError(f"{trigger} has no visible 3×3 piece with both raised and other pixels")


def _find_least_missed(model: MnistNet, layer: str, images: Tensor, taken: Sequence[int] = ()) -> int:
    """Return the unit of a layer, none of those taken, whose removal moves the logits least."""
    before = model(images)
    moved = []
    for unit in range(len(model.get_parameter(f"{layer}.bias"))):
        with edit(model, edits([Site(layer, unit)])):
            moved.append((model(images) - before).square().mean())
    for unit in taken:
        moved[unit] = torch.full_like(before[0, 0], torch.inf)
    return int(torch.stack(moved).argmin())


def _isolate(weights: dict[str, nn.Parameter], biases: dict[str, nn.Parameter], name: str, unit: int) -> None:
    """Silence a unit, and cut it off from the layer that reads it."""
    weights[name][unit] = 0
    biases[name][unit] = 0
    names = list(weights)
    reader = weights[names[names.index(name) + 1]]
    # A convolution's channels are runs of columns for a linear layer that reads its flattened map.
    reader.view(len(reader), len(biases[name]), -1)[:, unit] = 0
