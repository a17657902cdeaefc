"""Clean and corrupt inputs that correspond item by item."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """What an ablation compares: each input, and the same input with one thing changed.

    Attributes:
        clean: `[N, ...]`.
        corrupt: `[N, ...]`; item i is item i of `clean`, corrupted.
        labels: `[N]`, the true classes.
        target: the class that the corruption is meant to bring about, or None.

    Raises:
        ValueError: shapes that do not correspond.
    """

    clean: Tensor
    corrupt: Tensor
    labels: Tensor
    target: int | None = None

    def __post_init__(self) -> None:
        if self.clean.shape != self.corrupt.shape or self.labels.shape != self.clean.shape[:1]:
            raise ValueError(
                "clean and corrupt must have one shape [N, ...] and labels [N]; got "
                f"{tuple(self.clean.shape)}, {tuple(self.corrupt.shape)} and {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, items: slice | Tensor) -> Pairs:
        """Return some of the pairs: a slice, indices, or a mask `[N]`."""
        return Pairs(self.clean[items], self.corrupt[items], self.labels[items], self.target)
