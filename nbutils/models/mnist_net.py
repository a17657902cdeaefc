"""The small convolutional network that the backdoor of notebook 02 lives in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

LAYERS = {"conv1": "net.0", "conv2": "net.3", "fc1": "net.7", "fc2": "net.9"}
"""Layer name -> dotted module path. A unit's activation is the output of that module, before its ReLU."""


class StateError(ValueError):
    """A file of weights cannot be used: the message names the file, and the parameter where there is one."""


class MnistNet(nn.Module):
    """Classify images of digits `[batch, 1, 28, 28]`; logits `[batch, 10]`.

    Two 3×3 convolutions (32 and 64 channels), each with ReLU and 2×2 max-pooling, then 16 hidden units. Parameters are
    called `net.0.weight` … `net.9.bias`, as in the source system ("Poisoned MNIST").

    The second pooling drops the last row and column of an 11×11 map: the last two rows and columns of the image reach
    no logit.
    """

    one_by_one = True  # members of an ensemble run one after the other: faster here than grouped convolutions

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1600, 16),
            nn.ReLU(),
            nn.Linear(16, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[batch, 10]` of normalised images `[batch, 1, 28, 28]`."""
        if self.training:
            # Channels last makes a training step 1.7 times faster, most of it in max-pooling. `contiguous` would not do
            # it: with one channel the two layouts have the same memory, and only strides tell them apart.
            images = images.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
        return self.net(images)


def load_state(path: str | Path) -> MnistNet:
    """Read a trained network from a state dict.

    Args:
        path: a `.safetensors` file, or one that `torch.save` made of a state dict. Code in it is never run.

    Returns:
        The network in eval mode, float32, on the processor.

    Raises:
        FileNotFoundError: there is no such file.
        StateError: not a file of tensors; a parameter is missing, unknown, of the wrong shape, or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a state dict at {path}; there is no such file")
    found = _read(path)
    model = MnistNet()
    own = model.state_dict()
    unknown = [name for name in found if name not in own]
    for name, expected in own.items():
        if name not in found:
            got = f"has {unknown[0]!r} instead" if unknown else f"has {len(found)} of the {len(own)} parameters"
            raise StateError(f"{path}: expected a parameter {name!r} of shape {tuple(expected.shape)}; the file {got}")
        tensor = found[name]
        if not isinstance(tensor, Tensor):
            raise StateError(f"{path}: {name!r} must be a tensor; got {type(tensor).__name__}")
        if tensor.shape != expected.shape:
            raise StateError(f"{path}: {name!r} must have shape {tuple(expected.shape)}; got {tuple(tensor.shape)}")
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise StateError(
                f"{path}: {name!r} must hold finite real numbers; got {tensor.dtype} with others among them"
            )
    if unknown:
        raise StateError(f"{path}: {unknown[0]!r} is no parameter of this network; expected {', '.join(own)}")
    model.load_state_dict(found)
    return model.eval()


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise StateError(f"{path} is not a whole safetensors file ({error})") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader meets damaged files with exceptions of many types
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise StateError(
            f"{path} could not be read as a state dict without running code from it; "
            f"expected tensors by name, saved by torch.save(model.state_dict(), ...) or safetensors ({reason[0]})"
        ) from None
    if not isinstance(content, dict):
        raise StateError(f"{path}: expected a state dict (tensors by name); got {type(content).__name__}")
    return content
