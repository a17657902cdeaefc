"""Networks that tell tumour from normal tissue by a pool of 512 channels: ResNet-18, and one a hundredth its size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from nbutils.data.weights import StateError, find_state, load_weights, read_weights

CHANNELS = 512  # of the global average pool, in both networks
CLASSES = 2  # normal, tumour
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, by which the source system normalises


class TileNetwork(nn.Module):
    """The common part of both networks: a map of features, its pool at `avgpool`, a linear head at `fc`.

    Attributes:
        channels_last: memory layout of images: the channels of a pixel beside each other.
    """

    one_by_one = True  # members of an ensemble run in turn: convolutions gain nothing from one more axis

    channels_last: bool = True
    avgpool: nn.Module
    fc: nn.Linear

    def feature_map(self, images: Tensor) -> Tensor:
        """Return `[N, 512, height, width]`, never negative, of normalised images."""
        raise NotImplementedError

    def pooled(self, images: Tensor) -> Tensor:
        """Return the pooled channels `[N, 512]`, never negative.

        Args:
            images: RGB `[N, 3, H, W]`, as bytes or as floats in [0, 1]; normalised here.
        """
        dtype = self.fc.weight.dtype
        images = images.to(dtype) / 255 if images.dtype == torch.uint8 else images
        mean, std = (images.new_tensor(numbers).view(3, 1, 1) for numbers in (MEAN, STD))
        images = (images - mean) / std
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.avgpool(self.feature_map(images).to(dtype)).flatten(1)

    def head(self, features: Tensor) -> Tensor:
        """Return logits `[N, 2]` of pooled channels `[N, 512]`."""
        return self.fc(features)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[N, 2]` of images `[N, 3, H, W]` (see `pooled`)."""
        return self.head(self.pooled(images))


class TileResNet(TileNetwork, ResNet):
    """ResNet-18 with two classes, parameters named as torchvision names them, no pretrained weights.

    He et al. 2016, arXiv 1512.03385; by torchvision. The stem (7×7, stride 2, then pooling) stays as it is for tiles of
    48 pixels too: checkpoints keep the common shape, the last map still has 2×2 places, and a stem without strides
    would take sixteen times the work.
    """

    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=CLASSES)

    def feature_map(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class NarrowTileNet(TileNetwork):
    """A hundredth of ResNet-18's parameters and a tenth of its time, for quick runs on tiles of 48 pixels.

    A 3×3 stem of stride 2, three of ResNet's basic blocks (16, 32 and 64 channels, the last two of stride 2), and a
    1×1 convolution to 512 channels, so that the pool is as wide as ResNet-18's and K = 256 of it is half.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolution(3, 16, 3, stride=2), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(
            BasicBlock(16, 16),
            BasicBlock(16, 32, 2, nn.Sequential(*_convolution(16, 32, 1, stride=2))),
            BasicBlock(32, 64, 2, nn.Sequential(*_convolution(32, 64, 1, stride=2))),
        )
        self.widen = nn.Sequential(*_convolution(64, CHANNELS, 1), nn.ReLU(inplace=True))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(CHANNELS, CLASSES)

    def feature_map(self, images: Tensor) -> Tensor:
        return self.widen(self.blocks(self.stem(images)))


def load_tile_resnet(path: str | Path) -> TileResNet:
    """Read a trained ResNet-18 with torchvision's names and two classes, as trainers save it.

    Args:
        path: a file of safetensors or of `torch.save` (see `nbutils.data.weights.load_weights`). Code in it is never
            run.

    Returns:
        The network in eval mode, float32, on the processor.

    Raises:
        FileNotFoundError: there is no such file.
        StateError: not a file of tensors; a parameter is missing, unknown, of the wrong shape, or not finite.
    """
    model, found = TileResNet(), read_weights(path)
    head = find_state(model, found, path).tensors.get("fc.weight")
    if isinstance(head, Tensor) and head.dim() == 2 and len(head) != CLASSES:
        raise StateError(f"{path}: expected a head of {CLASSES} logits, normal and tumour; got {len(head)}")
    load_weights(model, found, path)
    return model.eval()


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs)
