"""Models that were not written for the package, small, and what is true of places in them: axes, positions, calls.

The axes are stated here by hand: the tests compare what the package makes of a model with them, never the other way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Place:
    """What is true of a place.

    Attributes:
        module, part, item: where, as for `Site`.
        axis: of the units, from the front.
        positions: axes of the positions.
        said: the module is of a class whose axis of units is known.
        given: the positions are not those that `Site` takes by itself.
        weights: `zero_weights` must take it: a layer whose weights are its units'.
        calls: how often a tensor is there for hooks to meet, in a pass.
        refused: no function may take it, but for zeros.
        shared: axis 0 has length 1, whatever the number of items.
        integers: it holds no numbers that have a mean.
    """

    module: str
    axis: int
    positions: tuple[int, ...] = ()
    part: str = "output"
    item: int | str | None = None
    said: bool = False
    given: bool = False
    weights: bool = False
    calls: int = 1
    refused: bool = False
    shared: bool = False
    integers: bool = False


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and places in it.

    Attributes:
        build: makes the model.
        batch: number of items -> a batch of inputs.
        key: which tensor of what the model puts out is its answer.
        part: what of the answer is compared and measured: a tensor `[items, ...]`.
        plain: model -> the same without what hides its modules (compilation), for hooks written by hand.
        close: how far two answers may be apart, of the largest.
        mixed: an item's answer depends on the other items.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[int], Any]
    places: tuple[Place, ...]
    key: int | str | None = None
    part: Callable[[Tensor], Tensor] = field(default=lambda answer: answer)
    plain: Callable[[nn.Module], nn.Module] = field(default=lambda model: model)
    close: float = 1e-5
    mixed: bool = False

    def answer(self, output: Any) -> Tensor:
        """Return what is compared, of what the model puts out."""
        return self.part(output if self.key is None else output[self.key])

    def __str__(self) -> str:
        return self.name


ITEMS = 4  # of a batch; some models have an axis of the same length, which is not the items


IMAGE, TOKENS = (2, 3), (1,)  # positions of [items, channels, height, width], and of [items, tokens, features]


layer = partial(Place, said=True, weights=True)


known = partial(Place, said=True)


def images(items: int, channels: int = 3, size: int = 32) -> Tensor:
    return torch.randn(items, channels, size, size)


def ids(items: int, length: int = 6, words: int = 20) -> Tensor:
    return torch.randint(1, words, (items, length))


def vectors(items: int, width: int = 5) -> Tensor:
    return torch.randn(items, width)


def sequences(items: int, length: int = 6, width: int = 8) -> Tensor:
    return torch.randn(items, length, width)


def masked(items: int) -> dict[str, Tensor]:
    """Tokens and which of them count; the first item has them all."""
    lengths = torch.tensor([6, 4, 5, 3]).repeat(-(-items // 4))[:items]
    return {"input_ids": ids(items), "attention_mask": (torch.arange(6) < lengths[:, None]).long()}


class Fn(nn.Module):
    """Parts, and a `forward` as a function of them and of the inputs."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = forward

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.run(self, *inputs, **keywords)


def spread(model: nn.Module) -> nn.Module:
    """Give weights, biases and statistics sizes at which every unit shows in the answer."""
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.ndim > 1:
                tensor.normal_(std=1.4 * tensor[0].numel() ** -0.5)
            else:
                tensor.uniform_(-1, 1).add_(0.3)
        for name, tensor in model.named_buffers():
            if name.endswith("running_mean"):
                tensor.normal_(std=0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
    return model
