"""The small convolutional network that the backdoor of notebook 02 lives in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from nbutils.data.weights import fill

LAYERS = {"conv1": "net.0", "conv2": "net.3", "fc1": "net.7", "fc2": "net.9"}
"""Layer name -> dotted module path. A unit's activation is the output of that module, before its ReLU."""


class MnistNet(nn.Module):
    """Classify images of digits `[batch, 1, 28, 28]`; logits `[batch, 10]`.

    Two 3×3 convolutions (32 and 64 channels), each with 2×2 max-pooling and ReLU, then 16 hidden units. Parameters are
    called `net.0.weight` … `net.9.bias`, as in the source system ("Poisoned MNIST"). There ReLU comes before pooling:
    the two commute, in the gradient too, and after it there is a quarter as much to rectify.

    The second pooling drops the last row and column of an 11×11 map: the last two rows and columns of the image reach
    no logit.
    """

    one_by_one = True  # members of an ensemble run one after the other: faster here than grouped convolutions

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1600, 16),
            nn.ReLU(),
            nn.Linear(16, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[batch, 10]` of normalised images `[batch, 1, 28, 28]`."""
        if self.training:
            images = channels_last(images)  # a training step takes 0.6 times as long, most of it max-pooling
        return self.net(images)

    def upto(self, layer: str) -> nn.Sequential:
        """Return the part of the network that ends with a layer, which is shared and not copied: images -> activations.

        Args:
            layer: one of `LAYERS`.
        """
        return self.net[: int(LAYERS[layer].removeprefix("net.")) + 1]


def channels_last(images: Tensor) -> Tensor:
    """Return a copy of images `[batch, 1, height, width]` laid out with channels last, which makes pooling faster.

    `contiguous` would not do it: with one channel the two layouts have the same memory, and only strides tell them
    apart.
    """
    return images.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)


def load_mnist_net(path: str | Path) -> MnistNet:
    """Read a trained network, as trainers save it.

    Args:
        path: a file of safetensors or of `torch.save` (see `nbutils.data.weights.load_weights`). Code in it is never
            run.

    Returns:
        The network in eval mode, float32, on the processor.

    Raises:
        FileNotFoundError: there is no such file.
        StateError: not a file of tensors; a parameter is missing, unknown, of the wrong shape, or not finite.
    """
    return fill(MnistNet(), path)
