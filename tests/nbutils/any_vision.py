"""Networks for images: of torchvision, reduced, and some that do more than their layers usually do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from any_models import (
    IMAGE,
    TOKENS,
    Case,
    Fn,
    Place,
    images,
    known,
    layer,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as vision
from torchvision.models import convnext, efficientnet, mobilenetv3


def convolutions() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 5, 3), nn.Hardswish(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 4)),
    )


def unet() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        low = self.down(x).relu_()
        middle = F.gelu(self.middle(low))
        return self.out(torch.cat([self.up(middle), x], 1))

    return Fn(
        forward,
        down=nn.Conv2d(2, 6, 3, stride=2, padding=1),
        middle=nn.Conv2d(6, 6, 3, padding=1, groups=6),
        up=nn.ConvTranspose2d(6, 4, 2, stride=2),
        out=nn.Conv2d(6, 2, 1),
    )


def mobilenet() -> nn.Module:
    block = partial(mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=1.0)
    blocks = [block(8, 3, 16, 8, True, "HS", stride=1), block(8, 3, 16, 16, True, "RE", stride=2)]
    return mobilenetv3.MobileNetV3(blocks, 16, num_classes=4)


def efficient() -> nn.Module:
    blocks = [efficientnet.MBConvConfig(2, 3, 2, 8, 8, 1), efficientnet.FusedMBConvConfig(2, 3, 1, 8, 16, 1)]
    return efficientnet.EfficientNet(blocks, dropout=0.2, stochastic_depth_prob=0.5, num_classes=4, last_channel=16)


def convnext_small() -> nn.Module:
    blocks = [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 1)]
    return vision.ConvNeXt(blocks, stochastic_depth_prob=0.5, num_classes=4)


def resnet() -> nn.Module:
    return vision.ResNet(vision.resnet.BasicBlock, [1, 1, 1, 1], num_classes=4)


def googlenet() -> nn.Module:
    return vision.GoogLeNet(num_classes=4, aux_logits=True, init_weights=False)


def densenet() -> nn.Module:
    return vision.DenseNet(4, (2, 2), 8, drop_rate=0.2, num_classes=4)


def swin() -> nn.Module:
    return vision.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=4)


def vit() -> nn.Module:
    return vision.VisionTransformer(32, 8, 2, 2, 8, 12, num_classes=4)


def volume() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv3d(1, 4, 2), nn.InstanceNorm3d(4, affine=True), nn.PReLU(4), nn.Dropout3d(), nn.AvgPool3d(2)),
        *(nn.Flatten(), nn.LazyLinear(3)),
    )


def built(make: Callable[[], nn.Module], *sample: Tensor) -> Callable[[], nn.Module]:
    """Run once, so that lazy parts know their sizes."""

    def build() -> nn.Module:
        model = make()
        model(*sample)
        return model

    return build


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Doubled(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.flatten(1).mean(1, keepdim=True)


def unusual() -> nn.Module:
    """A chain of layers, each of which does more than its kind usually does."""
    return Doubled(
        *(
            nn.Conv2d(2, 6, 3, padding=1, padding_mode="circular", stride=2),
            nn.ReLU(),
            Standardized(6, 4, 3, padding=1),
        ),
        *(nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(4, 4, 3, groups=2, dilation=2, padding="same")),
        *(nn.ReLU(), nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Linear(36, 4)),
    )


def normed_images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.LayerNorm([5, 4, 4]), nn.GELU(), nn.Flatten(), nn.Linear(80, 3))


L0, S0 = "encoder.layers.encoder_layer_0", "features.1.0"

CASES = [
    Case(
        "convolutions, batch norm, in-place activations",
        convolutions,
        partial(images, size=12),
        (layer("0", 1, IMAGE), layer("1", 1, IMAGE), Place("2", 1, IMAGE), known("3", 1, IMAGE), layer("4", 1, IMAGE)),
    ),
    Case(
        "U-net",
        unet,
        partial(images, channels=2, size=8),
        (layer("down", 1, IMAGE), layer("middle", 1, IMAGE), known("up", 1, IMAGE), known("out", 1, IMAGE, "input")),
    ),
    Case(
        "ResNet",
        resnet,
        partial(images, size=16),
        (
            *(layer("layer1.0.conv1", 1, IMAGE), layer("layer2.0.downsample.1", 1, IMAGE), Place("layer3.0", 1, IMAGE)),
            *(layer("layer4.0.bn2", 1, IMAGE), known("avgpool", 1, IMAGE), Place("layer1.0.relu", 1, IMAGE, calls=2)),
        ),
    ),
    Case(
        "DenseNet",
        densenet,
        images,
        (
            *(layer("features.denseblock1.denselayer1.conv2", 1, IMAGE), Place("features.denseblock1", 1, IMAGE)),
            *(layer("features.denseblock2.denselayer2.norm1", 1, IMAGE), Place("features.transition1", 1, IMAGE)),
        ),
    ),
    Case(
        "MobileNetV3",
        mobilenet,
        images,
        (
            *(layer("features.1.block.1.0", 1, IMAGE), Place("features.1.block.1", 1, IMAGE)),
            *(layer("features.2.block.2.fc1", 1, IMAGE), Place("features.2.block.2", 1, IMAGE)),
            *(Place("features.2.block.2.scale_activation", 1, IMAGE), layer("features.3.1", 1, IMAGE)),
        ),
    ),
    Case(
        "EfficientNet",
        efficient,
        images,
        (
            *(layer("features.1.0.block.0.1", 1, IMAGE), Place("features.1.0.block.1", 1, IMAGE)),
            *(Place("features.2", 1, IMAGE), layer("classifier.1", 1)),
        ),
    ),
    Case(
        "ConvNeXt",
        convnext_small,
        images,
        (
            *(layer("features.1.0.block.0", 1, IMAGE), layer("features.1.0.block.2", 3, (1, 2))),
            *(
                layer("features.1.0.block.3", 3, (1, 2)),
                Place("features.1.0", 1, IMAGE),
                Place("features.0.1", 1, IMAGE),
            ),
        ),
    ),
    Case(
        "GoogLeNet",
        googlenet,
        images,
        (
            *(layer("inception3a.branch2.1.conv", 1, IMAGE), Place("inception3a", 1, IMAGE)),
            *(layer("fc", 1), Place("aux1.fc1", 1, calls=0)),
        ),
    ),
    Case(
        "Swin",
        swin,
        images,
        (
            *(Place(f"{S0}.attn", 3, (1, 2)), layer(f"{S0}.mlp.0", 3, (1, 2)), layer("features.0.2", 3, (1, 2))),
            *(Place(f"{S0}", 3, (1, 2)), Place(f"{S0}.attn.qkv", 3, (1, 2), calls=0), layer("head", 1)),
        ),
    ),
    Case(
        "vision transformer",
        vit,
        images,
        (
            *(
                layer(f"{L0}.mlp.0", 2, TOKENS),
                layer(f"{L0}.ln_1", 2, TOKENS),
                known(f"{L0}.self_attention", 2, TOKENS),
            ),
            *(layer("conv_proj", 1, IMAGE), Place(L0, 2, TOKENS), known("heads.head", 1, part="input")),
            Place(f"{L0}.self_attention.out_proj", 2, TOKENS, calls=0),
        ),
    ),
    Case(
        "Conv3d, lazy",
        built(volume, torch.randn(2, 1, 5, 5, 5)),
        lambda n: torch.randn(n, 1, 5, 5, 5),
        (layer("0", 1, (2, 3, 4)), known("1", 1, (2, 3, 4)), known("2", 1, (2, 3, 4)), known("4", 1, (2, 3, 4))),
    ),
    Case(
        "unusual chain",
        unusual,
        partial(images, channels=2, size=12),
        (
            *(layer("0", 1, IMAGE), Place("2", 1, IMAGE), layer("5", 1, IMAGE), known("4", 1, IMAGE)),
            *(known("5", 1, IMAGE, "input"), known("7", 1, IMAGE), Place("3", 1, IMAGE)),
        ),
    ),
    Case("layer norm of images", normed_images, partial(images, size=6), (Place("1", 1, IMAGE), Place("2", 1, IMAGE))),
    Case(
        "in parallel",
        lambda: nn.DataParallel(convolutions()),
        partial(images, size=12),
        (layer("module.0", 1, IMAGE), Place("module.2", 1, IMAGE)),
    ),
]
