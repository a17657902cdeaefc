"""Logits with any one unit replaced, fast: for networks of convolutions, linear layers, ReLU and max-pooling.

`Chain` reads such a network as a list of steps. Up to the next linear step, what follows a layer treats its channels
separately, and that step is linear in each of them: replacing a channel changes the step's output by its weights times
the channel's change. So the network up to there runs once for all units, and only what comes after it runs again,
several units at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from nbutils.hooks import watch
from nbutils.sites import Site

ITEMS = 32  # a row of 128 bytes; larger batches leave the core's own cache
GROUP_BYTES = 2_000_000  # worked on for one group of units: about a core's own cache

Values = Mapping[str, Tensor]  # module path -> what replaces its output, laid out as `Chain.outputs`; absent: zeros
Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Affine:
    """A convolution, or a linear layer (flattening included), on activations `[groups, channels, positions, items]`.

    A convolution puts its positions out in the order of the pooling that follows, `[place in the window, window]`, and
    does not compute those that no window reads.
    """

    weight: Tensor  # [out, in · kernel]
    bias: Tensor  # [out, 1]
    index: Tensor | None = None  # [kernel · positions out]: input positions, the one past the last being padding
    padded: bool = False
    room: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def columns(self, x: Tensor, channels: int) -> Tensor:
        """Return `[groups, channels, kernel, positions out · items]`, good until the next call."""
        groups, items = x.shape[0], x.shape[-1]
        if self.index is not None:
            if self.padded:
                x = torch.cat([x, x.new_zeros(*x.shape[:2], 1, items)], dim=2)
            shape = (*x.shape[:2], len(self.index), items)
            if shape not in self.room:  # fresh pages every time cost more than filling them
                self.room[shape] = x.new_empty(shape)
            x = torch.index_select(x, 2, self.index, out=self.room[shape])
        return x.reshape(groups, channels, self.weight.shape[1] // channels, -1)

    def __call__(self, x: Tensor) -> Tensor:
        groups, items = x.shape[0], x.shape[-1]
        columns = self.columns(x, self.weight.shape[1] if self.index is None else x.shape[1]).flatten(1, 2)
        out = torch.baddbmm(
            self.bias.expand(groups, len(self.weight), columns.shape[-1]),
            self.weight.expand(groups, *self.weight.shape),
            columns,
        )
        return out.view(groups, len(self.weight), -1, items)


@dataclass(frozen=True)
class _Pool:
    window: int

    def __call__(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.window, -1)).amax(2)


class Chain:
    """A model read as steps. Activations are `[groups, channels, positions, items]`.

    Attributes:
        at: module path -> number of its step, for the layers whose units can be replaced.
        least: bytes that one item needs.
    """

    def __init__(self, steps: list[tuple[str, Step]], sample: Tensor) -> None:
        self.steps = [step for _, step in steps]
        self._affine = {at: step for at, step in enumerate(self.steps) if isinstance(step, _Affine)}
        self.at = {steps[at][0]: at for at in self._affine}
        self._next = {at: min((other for other in self._affine if other > at), default=None) for at in self._affine}
        columns, outputs, x = [], [], self._enter(sample)
        for step in self.steps:
            unfolded = step.columns(x, x.shape[1]) if isinstance(step, _Affine) and step.index is not None else None
            columns.append(0 if unfolded is None else unfolded.nbytes)
            x = step(x)
            outputs.append(x.nbytes)
        # Three times: the inputs', the twins', and the changes'.
        self._item_bytes = 3 * (sum(columns) + sum(outputs))
        # Of one unit, from a step's output on; the first step's output is never a unit's.
        self._tail_bytes = [sum(outputs[at:]) + sum(columns[at + 1 :]) for at in range(len(outputs))]
        self.least = self._item_bytes + self._tail_bytes[0]
        self._room = GROUP_BYTES

    @classmethod
    def read(cls, model: nn.Module, sample: Tensor) -> Chain | None:
        """Return the model as a chain, or None where it is not one; `sample` is one input `[1, ...]`."""
        with torch.inference_mode(False), torch.no_grad():
            sample = sample.clone()  # an inference tensor would not count its changes
            leaves = _trace(model, sample)
        steps: list[tuple[str, Step]] = []
        at = 0
        while leaves is not None and at < len(leaves):
            path, module, shape = leaves[at]
            at += 1
            if type(module) is nn.Conv2d:
                # A ReLU and the pooling after it change places: the same values, and fewer to clip.
                between = at
                while between < len(leaves) and isinstance(leaves[between][1], nn.ReLU | nn.Identity | nn.Dropout2d):
                    between += 1
                follower = leaves[between][1] if between < len(leaves) else None
                pool = follower if isinstance(follower, nn.MaxPool2d) and _plain(follower) else None
                step = _convolution(module, shape, pool)
                if step is None:
                    return None
                steps.append((path, step))
                if pool is not None:
                    steps.append(("", _Pool(_pair(pool.kernel_size)[0] * _pair(pool.kernel_size)[1])))
                    del leaves[between]
            elif type(module) is nn.Linear and len(shape) == 1:
                bias = module.weight.new_zeros(module.out_features) if module.bias is None else module.bias
                steps.append((path, _Affine(module.weight.detach(), bias.detach()[:, None])))
            elif type(module) is nn.ReLU:
                steps.append(("", torch.relu))
            elif not (
                type(module) in (nn.Identity, nn.Dropout, nn.Dropout2d)
                or (type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1))
            ):
                return None
        if leaves is None or not steps or type(leaves[-1][1]) is not nn.Linear:
            return None
        return cls(steps, sample)

    def holds(self, site: Site) -> bool:
        """Return whether units of a site can be replaced: channels of a convolution, or neurons of a linear layer."""
        at = self.at.get(site.module)
        if at is None or (site.part, site.item) != ("output", None):
            return False
        return site.axis == 1 or (site.axis == -1 and self._affine[at].index is None)

    def plan(self, memory: int) -> int:
        """Return how many items to take at a time so that no more than `memory` bytes are worked on.

        0 where one item needs more: `least` says how much.
        """
        items = min(ITEMS, memory // self.least)
        self._room = min(GROUP_BYTES, memory - items * self._item_bytes)
        return items

    def outputs(self, x: Tensor, paths: Iterable[str]) -> dict[str, Tensor]:
        """Return the outputs of layers, items on the last axis."""
        kept = self._run(self._enter(x), {}, {})
        return {path: kept[self.at[path]] for path in paths}

    def mean(self, total: Tensor) -> Tensor:
        """Return outputs summed over items, the axis kept."""
        return total.sum(-1, keepdim=True, dtype=torch.float64)

    def logits(self, x: Tensor, fixed: Sequence[Site], values: Values) -> Tensor:
        """Return the logits `[items, classes]` with the units `fixed` replaced."""
        return self._run(self._enter(x), self._fixed(fixed), values)[-1][0, :, 0].T

    def unit_logits(
        self, x: Tensor, sites: Sequence[Site], fixed: Sequence[Site], values: Values
    ) -> Generator[tuple[str, int, Tensor], None, None]:
        """Yield (module path, first unit, logits `[units, items, classes]`) until every unit was replaced once.

        Args:
            x: inputs `[items, ...]`.
            sites: the layers.
            fixed: units that are replaced throughout.
            values: what replaces them.
        """
        pinned = self._fixed(fixed)
        kept = self._run(self._enter(x), pinned, values)
        for site in sites:
            at = self.at[site.module]
            for first, logits in self._replace_each(at, site.module, kept, pinned, values):
                yield site.module, first, logits[:, :, 0].transpose(1, 2)

    def _replace_each(
        self, at: int, path: str, kept: list[Tensor], fixed: dict[int, tuple[str, list[int]]], values: Values
    ) -> Iterator[tuple[int, Tensor]]:
        output, after = kept[at], self._next[at]
        channels, items = output.shape[1], output.shape[-1]
        value = values.get(path, output.new_zeros(1, 1, 1, 1)).expand(1, channels, output.shape[2], -1)
        tail = self._tail_bytes[at if after is None else after]
        group = max(1, min(channels, self._room // (items * tail)))
        if after is None:
            for first in range(0, channels, group):
                units = torch.arange(first, min(first + group, channels))
                x = output.expand(len(units), *output.shape[1:]).clone()
                x[torch.arange(len(units)), units] = value[0, units]
                yield first, self._run(x, fixed, values, at + 1)[-1] if at + 1 < len(self.steps) else x
            return
        step = self._affine[after]
        change = value
        before = output
        for between in self.steps[at + 1 : after]:
            change, before = between(change), between(before)
        columns = step.columns(change - before, channels)[0]  # [channels, kernel, out positions · items]
        weight = step.weight.unflatten(1, (channels, -1)).transpose(0, 1).contiguous()
        base = kept[after].flatten(2)
        room = base.new_empty(group, *base.shape[1:])  # taken once: fresh pages cost more than the sums
        for first in range(0, channels, group):
            count = min(group, channels - first)
            some = slice(first, first + count)
            x = torch.baddbmm(base.expand(count, -1, -1), weight[some], columns[some], out=room[:count])
            x = x.view(count, base.shape[1], -1, items)
            self._pin(x, after, fixed, values)
            yield first, self._run(x, fixed, values, after + 1)[-1] if after + 1 < len(self.steps) else x

    def _run(self, x: Tensor, fixed: dict[int, tuple[str, list[int]]], values: Values, start: int = 0) -> list[Tensor]:
        kept = []
        for at in range(start, len(self.steps)):
            x = self.steps[at](x)
            self._pin(x, at, fixed, values)
            kept.append(x)
        return kept

    @staticmethod
    def _pin(x: Tensor, at: int, fixed: dict[int, tuple[str, list[int]]], values: Values) -> None:
        if at in fixed:  # in place: x is the fresh output of an affine step
            path, units = fixed[at]
            x[:, units] = values[path][:, units] if path in values else 0.0

    def _fixed(self, sites: Sequence[Site]) -> dict[int, tuple[str, list[int]]]:
        found: dict[int, tuple[str, list[int]]] = {}
        for site in sites:
            at = self.at[site.module]
            every = range(len(self._affine[at].weight))
            found.setdefault(at, (site.module, []))[1].extend(every if site.unit is None else site.indices)
        return found

    @staticmethod
    def _enter(x: Tensor) -> Tensor:
        channels = x.shape[1]
        return x.reshape(len(x), -1).T.contiguous().view(1, channels, -1, len(x))


def _trace(model: nn.Module, sample: Tensor) -> list[tuple[str, nn.Module, tuple[int, ...]]] | None:
    """Return (path, module, input shape without items) of each leaf in the order they run.

    None where the model does anything but pass each leaf's output on to the next: the tensors must be the very same
    objects, unchanged in between.
    """
    if any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules()):
        return None
    leaves: list[tuple[str, nn.Module, tuple[int, ...]]] = []
    passed: list[tuple[Tensor, int]] = [(sample, sample._version)]
    broken = False
    # A model without modules below it is no chain of them.
    found = {path: module for path, module in model.named_modules() if path and next(module.children(), None) is None}

    def before(*inputs: object, **keywords: object) -> None:
        nonlocal broken
        x, version = passed[-1]
        broken |= bool(keywords) or len(inputs) != 1 or inputs[0] is not x or x._version != version

    def after(path: str, output: object) -> None:
        nonlocal broken
        if isinstance(output, Tensor) and not broken:
            leaves.append((path, found[path], tuple(passed[-1][0].shape[1:])))
            passed.append((output, output._version))
        else:
            broken = True

    with watch(model, {path: partial(after, path) for path in found}, inputs=dict.fromkeys(found, before)):
        output = model(sample)
    x, version = passed[-1]
    modules = [module for _, module, _ in leaves]
    if broken or output is not x or x._version != version or len(set(modules)) < len(modules):
        return None
    return leaves


def _plain(module: nn.MaxPool2d) -> bool:
    return (
        type(module) is nn.MaxPool2d
        and _pair(module.padding) == (0, 0)
        and _pair(module.dilation) == (1, 1)
        and not module.ceil_mode
        and not module.return_indices
    )


def _convolution(module: nn.Conv2d, shape: tuple[int, ...], pool: nn.MaxPool2d | None) -> _Affine | None:
    if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str) or len(shape) != 3:
        return None
    axes = []
    for axis in (0, 1):
        size, kernel, stride = shape[1 + axis], module.kernel_size[axis], module.stride[axis]
        out = (size + 2 * module.padding[axis] - module.dilation[axis] * (kernel - 1) - 1) // stride + 1
        if pool is None:
            positions = torch.arange(out)[None]
        else:
            window, step = _pair(pool.kernel_size)[axis], _pair(pool.stride)[axis]
            positions = torch.arange(window)[:, None] + step * torch.arange((out - window) // step + 1)
        taps = torch.arange(kernel) * module.dilation[axis] - module.padding[axis]
        axes.append(taps[:, None, None] + stride * positions)  # [kernel, place in the window, window]
    rows, columns = axes[0][:, None, :, None, :, None], axes[1][None, :, None, :, None, :]
    inside = (rows >= 0) & (rows < shape[1]) & (columns >= 0) & (columns < shape[2])
    index = torch.where(inside, rows * shape[2] + columns, shape[1] * shape[2]).flatten().to(module.weight.device)
    weight = module.weight.detach()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()
    return _Affine(weight.flatten(1), bias[:, None], index, padded=not bool(inside.all()))


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
