"""Images with their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

from torch import Tensor

from nbutils.data import arrays


@dataclass(frozen=True, repr=False)
class LabelledImages:
    """Images with their labels.

    Attributes:
        images: `[N, channels, height, width]`, normalised.
        labels: `[N]`.
        source: where they come from, e.g. `"mnist"`.

    Raises:
        ValueError: images of another shape, or another number of labels.
    """

    images: Tensor
    labels: Tensor
    source: str

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"expected images [N, channels, height, width] and labels [N]; "
                f"got {list(self.images.shape)} and {list(self.labels.shape)}"
            )

    @property
    def features(self) -> Tensor:
        """The images as vectors `[N, channels · height · width]`."""
        return self.images.flatten(1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, items: slice | Tensor) -> Self:
        """Return some of the images: a slice, indices, or a mask `[N]`."""
        return type(self)(self.images[items], self.labels[items], self.source)

    @cached_property
    def digest(self) -> str:
        """A fingerprint of the content."""
        return arrays.digest({"images": self.images, "labels": self.labels})[:16]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} from {self.source}, {self.digest})"
