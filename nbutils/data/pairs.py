"""Clean and corrupt inputs that correspond item by item, and a loader that gives them in batches with keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from torch import Tensor

from nbutils import batches
from nbutils.batches import Batch


@dataclass(frozen=True)
class Pairs:
    """The inputs that an ablation compares: clean ones, and the same with one thing changed.

    Attributes:
        clean: inputs, a batch of any kind (`nbutils.batches`): a tensor `[N, ...]`, a tuple or a mapping of them.
        corrupt: likewise; item i is item i of `clean`, corrupted.
        labels: `[N]`, the true classes.
        target: the class that the corruption is meant to bring about, or None.

    Raises:
        ValueError: shapes that do not correspond.

    >>> import nbutils as nb, torch
    >>> pairs = nb.Pairs(torch.ones(5, 2), torch.zeros(5, 2), labels=torch.arange(5))
    >>> len(pairs), len(pairs[:2])
    (5, 2)
    """

    clean: Batch
    corrupt: Batch
    labels: Tensor
    target: int | None = None

    def __post_init__(self) -> None:
        shapes = batches.shapes(self.clean), batches.shapes(self.corrupt)
        if shapes[0] != shapes[1] or self.labels.shape != (batches.count(self.clean, least=0),):
            raise ValueError(
                f"clean and corrupt must have one shape and labels [N]; got {shapes[0]}, {shapes[1]} and "
                f"{tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, items: slice | Tensor) -> Pairs:
        """Return some of the pairs: a slice, indices, or a mask `[N]`."""
        clean, corrupt = (batches.select(inputs, items) for inputs in (self.clean, self.corrupt))
        return Pairs(clean, corrupt, self.labels[items], self.target)


class Paired(Protocol):
    """What a loader can take apart: `Pairs`, or anything else with clean and corrupt inputs, item by item."""

    @property
    def clean(self) -> Batch: ...

    @property
    def corrupt(self) -> Batch: ...

    def __len__(self) -> int: ...

    def __getitem__(self, items: slice) -> Self: ...


P = TypeVar("P", bound=Paired)


@dataclass(frozen=True, eq=False)
class PairBatch(Generic[P]):
    """Some of the pairs.

    Attributes:
        key: number of the batch; ablations are keyed by it.
        pairs: the batch, of the kind that the loader was given.
    """

    key: int
    pairs: P

    @property
    def clean(self) -> Batch:
        """The clean inputs."""
        return self.pairs.clean

    @property
    def corrupt(self) -> Batch:
        """The corrupt inputs."""
        return self.pairs.corrupt

    def __len__(self) -> int:
        return len(self.pairs)


@dataclass(frozen=True, eq=False)
class PairLoader(Generic[P]):
    """Give pairs in batches, in order, always the same; the last batch holds what is left, however few.

    A batch is cut out when its turn comes. Pairs that read themselves from disk by slices are therefore never all in
    memory.

    Args:
        pairs: what to give.
        batch_size: items per batch, 1 or more.

    Raises:
        ValueError: no pairs, or a batch size below 1.

    >>> import nbutils as nb, torch
    >>> pairs = nb.Pairs(torch.ones(5, 2), torch.zeros(5, 2), labels=torch.arange(5))
    >>> [(batch.key, len(batch)) for batch in nb.PairLoader(pairs, batch_size=2)]
    [(0, 2), (1, 2), (2, 1)]
    """

    pairs: P
    batch_size: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more; got {self.batch_size}")
        if not len(self.pairs):
            raise ValueError("a loader needs at least one pair; got none")

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.pairs) // self.batch_size)

    def __iter__(self) -> Iterator[PairBatch[P]]:
        for key in range(len(self)):
            start = key * self.batch_size
            yield PairBatch(key, self.pairs[start : start + self.batch_size])
