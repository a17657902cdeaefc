"""Answers with groups of units replaced, in one matrix product: where nothing but pooling and a linear head follows.

Replacing units S by r adds Σ_{c∈S} (r_c − a_c)·w_c to the logits, a being what the head reads and w its weights. So the
logits of many groups are the product of their masks `[groups, units]` with the effects of single units.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nbutils import batches
from nbutils.batches import Batch
from nbutils.hooks import edit, watch
from nbutils.sites import Site
from nbutils.sweeps.hooked import Answer, items_at_most
from nbutils.sweeps.recording import Mismatch, Outside, is_hooked, reachable, tensors, version_of
from nbutils.sweeps.rows import Fixed, Row, Values

ELEMENTS = 8_000_000  # of a product at a time: [rows, items, classes]

# Each acts on channels separately.
CHANNELWISE = (
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
)


class Pooled:
    """A place from which a linear head reads units, or their pool; the model up to there runs as it is.

    Attributes:
        least: bytes that one item needs.
        of_differences: whether nothing but differences between logits counts: then the first is taken from all, which
            spares one product of two where there are two classes.
    """

    of_differences = False

    def __init__(self, model: nn.Module, place: Site, fixed: Fixed, answer: Answer, least: int) -> None:
        self.model, self.place, self.least = model, place, least
        self._fixed, self._answer = fixed, answer
        self._masks: tuple[Sequence[Row], Tensor] | None = None
        self._hooked = {module for module in model.modules() if is_hooked(module)}
        named = reachable(model)
        self._leaves = {name: module for name, module in named if name and next(module.children(), None) is None}

    @classmethod
    def of(
        cls, model: nn.Module, place: Site, fixed: Fixed, answer: Answer, least: int, sample: Batch
    ) -> Pooled | None:
        """Return the engine of a place, or None where more than pooling and a linear head follows it."""
        if place.axis != 1 or place.module == "":
            return None
        found = cls(model, place, fixed, answer, least)
        try:
            _, effects = found.work(sample, dict.fromkeys([place, *fixed.units], 0.0))
        except Mismatch:
            return None
        found.least += 2 * effects.nbytes // batches.count(sample)
        return found

    def most(self, memory: int) -> int:
        """As `Chain.most`."""
        return min(8 * items_at_most(self.model), memory // max(1, self.least))

    def work(self, inputs: Batch, values: Values) -> tuple[Tensor, Tensor]:
        """Return the answer `[items, classes]`, and what replacing each unit adds to it `[units, classes, items]`.

        Where only differences count, both are of logits less the first, which is left out of what is added.

        Raises:
            Mismatch: more than pooling and a linear head follows the place.
        """
        path, items = _Path(self.place, self._hooked), batches.count(inputs)
        ends = {name: partial(path.leave, module) for name, module in self._leaves.items()}
        starts = {name: partial(path.enter, module) for name, module in self._leaves.items()}
        with (
            edit(self.model, self._fixed.edits(values)),
            edit(self.model, {self.place: path.reach}),
            watch(self.model, ends, inputs=starts),
            path.outside,
        ):
            answered = batches.run(self.model, inputs)
        answer = self._answer(answered, items)
        at, head = path.end(answer)
        value = values[self.place]
        if not isinstance(value, Tensor) or not value.ndim:
            value = at.new_full((1, *at.shape[1:]), float(value))
        before, after = at, value.to(at)
        for pool in path.pools:
            before, after = pool(before), pool(after)
        weight = head.weight.unflatten(1, (at.shape[1], -1))  # [classes, units, places]
        if self.of_differences and len(weight) > 1:
            weight, answer = weight[1:] - weight[:1], answer - answer[:, :1]
        change = after.flatten(2) - before.flatten(2) if before.ndim > 2 else (after - before)[..., None]
        if change.shape[-1] == 1:
            effects = change[:, :, 0].T[:, None] * weight[..., 0].T[..., None]
        else:
            effects = torch.einsum("nup,cup->ucn", change, weight)
        return answer, effects

    def outputs(self, work: tuple[Tensor, Tensor], rows: Sequence[Row]) -> Generator[Tensor, None, None]:
        """As `Chain.outputs`."""
        answer, effects = work
        items, classes = answer.shape
        masks = self._masked(rows, len(effects), effects)
        flat, base = effects.flatten(1), answer.T.flatten()
        still = len(base) - flat.shape[1]
        for some in masks.split(max(1, ELEMENTS // max(1, classes * items))):
            room = base.new_empty(len(some), len(base))
            room[:, :still] = base[:still]
            torch.addmm(base[still:], some, flat, out=room[:, still:])
            yield room.view(-1, classes, items).transpose(1, 2)

    def _masked(self, rows: Sequence[Row], units: int, like: Tensor) -> Tensor:
        """Return which units each row replaces `[rows, units]`, ones and zeros."""
        if self._masks is None or self._masks[0] is not rows:
            lengths = torch.tensor([len(row.units) for row in rows])
            columns = torch.from_numpy(np.fromiter(chain.from_iterable(row.units for row in rows), dtype=np.int64))
            masks = torch.zeros(len(rows), units, dtype=like.dtype)
            masks[torch.arange(len(rows)).repeat_interleave(lengths), columns] = 1
            self._masks = rows, masks.to(like.device)
        return self._masks[1]


class _Path:
    """Follows a tensor from a place through the modules to the head. Each must take the very numbers of the one before.

    What a module takes must be a view of what the one before it put out, in the same order and not written into since:
    then it is that and nothing else. And nothing but views may be taken outside of the modules: a model that looks at
    a number there may go another way when a unit is replaced.

    Attributes:
        outside: sees what runs outside of the modules from the place on.
    """

    def __init__(self, place: Site, hooked: set[nn.Module]) -> None:
        self.place, self._hooked = place, hooked
        self.at: Tensor | None = None
        self.pools: list[nn.Module] = []
        self.head: nn.Linear | None = None
        self._last: tuple[Tensor, int] | None = None
        self._entered: list[nn.Module] = []
        self.outside = Outside()
        self.outside.inside = True

    def reach(self, tensor: Tensor) -> Tensor:
        self.outside.inside = False
        self.at, self._last = tensor, (tensor, version_of(tensor))
        return tensor

    def enter(self, module: nn.Module, *arguments: Any, **keywords: Any) -> None:
        if self._last is not None and self.head is None:
            given = tensors([*arguments, *keywords.values()])
            self.need(len(given) == 1 and _view(given[0], *self._last))
            self._entered.append(module)
            self.outside.inside = True

    def leave(self, module: nn.Module, output: Any) -> None:
        if self._last is None or module not in self._entered:
            return
        self.outside.inside = False
        self.need(isinstance(output, Tensor) and self.head is None)
        last = self._last[0]
        if type(module) is nn.Linear and output.ndim == 2 and module not in self._hooked:
            self.head = module
        elif (
            type(module) in CHANNELWISE
            and module not in self._hooked
            and last.ndim == 2 + int(type(module).__name__[-2])
        ):
            self.pools.append(module)
        else:
            self.need(_view(output, *self._last))
        self._last = output, version_of(output)

    def end(self, answer: Tensor) -> tuple[Tensor, nn.Linear]:
        """Return the tensor at the place and the head."""
        self.need(not self.outside.ran)
        self.need(self._last is not None and answer is self._last[0] and version_of(answer) == self._last[1])
        if self.at is None or self.head is None or self.head.in_features % self.at.shape[1]:
            raise self._broken()
        return self.at, self.head

    def need(self, right: bool) -> None:
        if not right:
            raise self._broken()

    def _broken(self) -> Mismatch:
        return Mismatch(f"more than pooling and a linear head follows {self.place.name}")


def _view(one: Tensor, other: Tensor, version: int) -> bool:
    """Return whether a tensor is all of another, in the same order, items first: the very one, or flattened."""
    if version_of(one) != version or one.data_ptr() != other.data_ptr() or one.dtype != other.dtype:
        return False
    if one.shape == other.shape:
        return one.stride() == other.stride()
    flat = one.is_contiguous() and other.is_contiguous() and one.numel() == other.numel()
    return flat and one.shape[:1] == other.shape[:1] and other.ndim > 1
