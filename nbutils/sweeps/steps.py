"""Networks of convolutions, linear layers, ReLU and max-pooling, read as lists of steps by a traced run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from nbutils.hooks import watch
from nbutils.sweeps.recording import Outside, reachable

Step = Callable[[Tensor], Tensor]
LINEAR = (nn.Conv2d, nn.Linear)
BETWEEN = (nn.ReLU, nn.MaxPool2d, nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)


@dataclass(frozen=True)
class Affine:
    """A convolution, or a linear layer (flattening included), on activations `[groups, channels, positions, items]`.

    A convolution puts its positions out in the order of the pooling that follows, `[place in the window, window]`, and
    does not compute those that no window reads.
    """

    weight: Tensor  # [out, in · kernel]
    bias: Tensor  # [out, 1]
    index: Tensor | None = None  # [kernel · positions out]: input positions, the one past the last being padding
    padded: bool = False
    places: Tensor | None = None  # [positions out]: where each of them lies in the module's own output, flattened
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
class Pool:
    window: int

    def __call__(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.window, -1)).amax(2)


def read(model: nn.Module, sample: Tensor) -> list[tuple[str, Step]] | None:
    """Return a model as steps, the linear ones with their module's path; None where it is no chain of such steps.

    Args:
        model: in eval mode.
        sample: one input `[1, ...]`.
    """
    with torch.inference_mode(False), torch.no_grad():
        leaves = _trace(model, sample.clone())  # an inference tensor would not count its changes
    if not leaves or type(leaves[-1][1]) is not nn.Linear:
        return None
    steps: list[tuple[str, Step]] = []
    at = 0
    while at < len(leaves):
        path, module, shape = leaves[at]
        at += 1
        if type(module) is nn.Conv2d:
            pool = _pool_after(leaves, at)
            step = _convolution(module, shape, pool)
            if step is None:
                return None
            steps.append((path, step))
            if pool is not None:
                steps.append(("", Pool(_pair(pool.kernel_size)[0] * _pair(pool.kernel_size)[1])))
        elif type(module) is nn.Linear and len(shape) == 1:
            bias = module.weight.new_zeros(module.out_features) if module.bias is None else module.bias
            steps.append((path, Affine(module.weight.detach(), bias.detach()[:, None])))
        elif type(module) is nn.ReLU:
            steps.append(("", torch.relu))
        elif not (
            type(module) in (nn.Identity, nn.Dropout, nn.Dropout2d)
            or (type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1))
        ):
            return None
    return steps


Leaf = tuple[str, nn.Module, tuple[int, ...]]


def _pool_after(leaves: list[Leaf], at: int) -> nn.MaxPool2d | None:
    """Take the pooling that follows a convolution out of the list.

    A ReLU and the pooling after it change places: the same values, and fewer to clip.
    """
    while at < len(leaves) and isinstance(leaves[at][1], nn.ReLU | nn.Identity | nn.Dropout2d):
        at += 1
    module = leaves[at][1] if at < len(leaves) else None
    if not isinstance(module, nn.MaxPool2d) or not _plain(module):
        return None
    del leaves[at]
    return module


def _trace(model: nn.Module, sample: Tensor) -> list[Leaf] | None:
    """Return (path, module, input shape without items) of each leaf in the order they run.

    None where the model does anything but pass each leaf's output on to the next: the tensors must be the very same
    objects, unchanged in between, and nothing runs outside of the leaves, which might decide on the way to go.
    """
    if any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules()):
        return None
    leaves: list[Leaf] = []
    passed: list[tuple[Tensor, int]] = [(sample, sample._version)]
    broken, outside = False, Outside()
    # A model without modules below it is no chain of them.
    found = {path: module for path, module in reachable(model) if path and next(module.children(), None) is None}

    def before(*inputs: object, **keywords: object) -> None:
        nonlocal broken
        outside.inside = True
        x, version = passed[-1]
        broken |= bool(keywords) or len(inputs) != 1 or inputs[0] is not x or x._version != version

    def after(path: str, output: object) -> None:
        nonlocal broken
        outside.inside = False
        if isinstance(output, Tensor) and not broken:
            leaves.append((path, found[path], tuple(passed[-1][0].shape[1:])))
            passed.append((output, output._version))
        else:
            broken = True

    with watch(model, {path: partial(after, path) for path in found}, inputs=dict.fromkeys(found, before)), outside:
        output = model(sample)
    x, version = passed[-1]
    modules = [module for _, module, _ in leaves]
    if broken or outside.ran or output is not x or x._version != version or len(set(modules)) < len(modules):
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


def _convolution(module: nn.Conv2d, shape: tuple[int, ...], pool: nn.MaxPool2d | None) -> Affine | None:
    if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str) or len(shape) != 3:
        return None
    axes, places, wide = [], [], 0
    for axis in (0, 1):
        size, kernel, stride = shape[1 + axis], module.kernel_size[axis], module.stride[axis]
        out = (size + 2 * module.padding[axis] - module.dilation[axis] * (kernel - 1) - 1) // stride + 1
        if pool is None:
            positions = torch.arange(out)[None]
        else:
            window, step = _pair(pool.kernel_size)[axis], _pair(pool.stride)[axis]
            positions = torch.arange(window)[:, None] + step * torch.arange((out - window) // step + 1)
        places.append(positions)
        wide = out  # of the last axis
        taps = torch.arange(kernel) * module.dilation[axis] - module.padding[axis]
        axes.append(taps[:, None, None] + stride * positions)  # [kernel, place in the window, window]
    rows, columns = axes[0][:, None, :, None, :, None], axes[1][None, :, None, :, None, :]
    inside = (rows >= 0) & (rows < shape[1]) & (columns >= 0) & (columns < shape[2])
    index = torch.where(inside, rows * shape[2] + columns, shape[1] * shape[2]).flatten().to(module.weight.device)
    place = places[0][:, None, :, None] * wide + places[1][None, :, None, :]
    weight = module.weight.detach()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()
    return Affine(weight.flatten(1), bias[:, None], index, not bool(inside.all()), place.flatten().to(weight.device))


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
