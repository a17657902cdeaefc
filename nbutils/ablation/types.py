"""What replaces an activation: a frozen object for each way, which says what it needs and how it reduces.

A way of one's own is one class, and an instance of it goes wherever an `AblationType` does (`AblationType`). Source
document of the seven types: the ablation-activations page of auto-circuit.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from nbutils.batches import Batch
from nbutils.data.pairs import PairBatch, PairLoader

if TYPE_CHECKING:
    from nbutils.sites import Site

Where = str | Callable[[Any], Tensor]  # which positions of a batch count: the key of its mask, or a callable of it


# The types of the source document, in its order: what iteration over `AblationType` gives.
SEVEN = (
    *("RESAMPLE", "ZERO", "BATCH_TOKENWISE_MEAN", "BATCH_ALL_TOK_MEAN"),
    *("TOKENWISE_MEAN_CLEAN", "TOKENWISE_MEAN_CORRUPT", "TOKENWISE_MEAN_CLEAN_AND_CORRUPT"),
)


class _Members(type):
    """What `AblationType` offers as a class: iteration over the seven, and look-up of all by name and by value."""

    all: ClassVar[dict[str, AblationType]] = {}

    def __iter__(cls) -> Iterator[AblationType]:
        return iter([_Members.all[name] for name in SEVEN])

    def __len__(cls) -> int:
        return len(SEVEN)

    def __getitem__(cls, name: str) -> AblationType:
        try:
            return _Members.all[name]
        except KeyError:
            raise KeyError(f"no ablation type {name!r}; there are {', '.join(_Members.all)}") from None

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        if cls is not AblationType:
            return super().__call__(*arguments, **keywords)
        (value,) = arguments
        for kind in _Members.all.values():
            if value in (kind, kind.value):
                return kind
        values = ", ".join(repr(kind.value) for kind in _Members.all.values())
        raise ValueError(f"no ablation type has the value {value!r}; there are {values}")


class AblationType(metaclass=_Members):
    """What replaces an activation. Iteration gives the seven of the source document:

    RESAMPLE: the activation on the item's twin, the input that corresponds to it. ZERO: zeros.
    BATCH_TOKENWISE_MEAN: the mean over a batch, at each position (pixel, token) by itself.
    BATCH_ALL_TOK_MEAN: the mean over a batch and its positions; which axes those are, `Site` says.
    TOKENWISE_MEAN_CLEAN, TOKENWISE_MEAN_CORRUPT, TOKENWISE_MEAN_CLEAN_AND_CORRUPT: the mean over all clean inputs of a
    dataset, all corrupt ones, or both, at each position by itself.

    Two more are found by name and by value:

    MEAN: the mean over all clean inputs of a dataset and their positions; batches may differ in length.
    OPTIMAL: the constant with which the model's answers stay closest to its own; its choices are those of `Optimal`.

    A type of one's own is one class. What it needs, which inputs it takes and how it reduces are its attributes and
    methods; parameters are fields of a frozen dataclass. An instance goes wherever an `AblationType` does.

    Attributes:
        needs: "nothing", where the value is `constant`; "batch", where it depends on a batch, and one must say whether
            on its clean or its corrupt inputs; "dataset", where it is one for a whole dataset of pairs.
        name, value: what it is called, in code and in words; the class's name when not given.
        constant: the value of a type that needs nothing.

    >>> import dataclasses, nbutils as nb, torch
    >>> [kind.name for kind in nb.AblationType][:2], nb.AblationType.MEAN.needs
    (['RESAMPLE', 'ZERO'], 'dataset')
    >>> @dataclasses.dataclass(frozen=True)
    ... class BatchQuantile(nb.AblationType):
    ...     q: float = 0.5
    ...     needs = "batch"
    ...     def reduce(self, output, site, where=None):
    ...         return output.quantile(self.q, dim=0, keepdim=True)
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [8.0, 9.0]])
    >>> nb.gather(torch.nn.Identity(), [nb.Site("", 0)], BatchQuantile(0.5), [x])[nb.Site("", 0)].tolist()
    [3.0, 3.0, 3.0]
    """

    __slots__ = ()  # those that have no parameters hold no state: nobody can change them

    RESAMPLE: ClassVar[AblationType]
    ZERO: ClassVar[AblationType]
    BATCH_TOKENWISE_MEAN: ClassVar[AblationType]
    BATCH_ALL_TOK_MEAN: ClassVar[AblationType]
    TOKENWISE_MEAN_CLEAN: ClassVar[AblationType]
    TOKENWISE_MEAN_CORRUPT: ClassVar[AblationType]
    TOKENWISE_MEAN_CLEAN_AND_CORRUPT: ClassVar[AblationType]
    MEAN: ClassVar[AblationType]
    OPTIMAL: ClassVar[AblationType]  # of `nbutils.ablation.optimal`

    needs: Literal["nothing", "batch", "dataset"] = "batch"
    name: str = "AblationType"
    value: str = "AblationType"
    constant: float = 0.0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = vars(cls)
        cls.name = own.get("name", cls.__name__)
        cls.value = own.get("value", cls.name)
        if cls.needs not in ("nothing", "batch", "dataset"):
            raise ValueError(f"{cls.__name__}.needs must be 'nothing', 'batch' or 'dataset'; got {cls.needs!r}")

    def inputs(self, batch: PairBatch) -> list[Batch]:
        """Return the inputs of a batch that the values come from: the clean ones by default."""
        return [batch.clean]

    def reduce(self, output: Tensor, site: Site, where: Tensor | None = None) -> Any:
        """Return what stands in for an output `[items, ...]`, for one that needs a batch: what broadcasts to it.

        For one that needs a dataset: what the outputs of a batch contribute, by default their sum `[1, ...]`, float64,
        and how many items it is of.

        Args:
            output: the tensor at the site.
            site: where; it says which axes are units and positions.
            where: which positions count, booleans that broadcast to the output; None: all.
        """
        if self.needs != "dataset":
            raise NotImplementedError(
                f"{type(self).__name__} must say what stands in for an output: write its `reduce`"
            )
        return _sum_and_count(output, site, (0,), where)

    def combine(self, total: Any, part: Any) -> Any:
        """Return the contributions of some batches and of one more, as one; of a dataset. By default their sums."""
        if total[0].shape != part[0].shape:
            raise ValueError(f"batches differ in shape: {tuple(total[0].shape)} and {tuple(part[0].shape)}")
        return tuple(a + b for a, b in zip(total, part, strict=True))

    def finish(self, total: Any) -> Tensor:
        """Return what stands in, `[1, ...]`, from all contributions; of a dataset. By default their mean.

        Raises:
            ValueError: a position that counts in no item.
        """
        return _mean(*total)

    def fit(
        self, model: nn.Module, sites: Sequence[Site], batches: Sequence[Batch] | PairLoader, where: Where | None
    ) -> dict[Site, Tensor]:
        """Return what stands in at each site; written for a type that needs a dataset and the model that runs on it.

        A type without one goes by `reduce`, `combine` and `finish`.

        Args:
            model: in whatever mode; it must be left as it was.
            sites: places, units among them: each is to be replaced alone.
            batches: the dataset, to be run through as often as one likes.
            where: as for `gather`.

        Returns:
            Site -> its part `[1, ...]`, which broadcasts to any items.
        """
        raise NotImplementedError(f"{type(self).__name__} goes by `reduce`, `combine` and `finish`")

    @property
    def site_by_site(self) -> bool:
        """Whether what stands in is found for each site by itself, by `fit`; else a unit has part of its module's."""
        return type(self).fit is not AblationType.fit

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen; parameters are fields of a @dataclass(frozen=True)")

    def __repr__(self) -> str:
        return f"<AblationType.{self.name}: {self.value!r}>" if self._is_member() else f"{type(self).__name__}()"

    def __str__(self) -> str:
        return f"AblationType.{self.name}" if self._is_member() else repr(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A member is one object in every process.
        return (operator.getitem, (AblationType, self.name)) if self._is_member() else super().__reduce_ex__(protocol)

    def _is_member(self) -> bool:
        return _Members.all.get(self.name) is self


class _Resample(AblationType):
    __slots__ = ()
    name, value = "RESAMPLE", "resample"

    def inputs(self, batch: PairBatch) -> list[Batch]:
        return [batch.corrupt]

    def reduce(self, output: Tensor, site: Site, where: Tensor | None = None) -> Tensor:
        return output  # the twin's own activation, wherever it lies


class _Zero(AblationType):
    __slots__ = ()
    name, value, needs = "ZERO", "zero", "nothing"


class _BatchTokenwiseMean(AblationType):
    __slots__ = ()
    name, value = "BATCH_TOKENWISE_MEAN", "batch, tokenwise mean"

    def reduce(self, output: Tensor, site: Site, where: Tensor | None = None) -> Tensor:
        return _average(output, site, (0,), where)


class _BatchAllTokMean(AblationType):
    __slots__ = ()
    name, value = "BATCH_ALL_TOK_MEAN", "batch, mean over tokens"

    def reduce(self, output: Tensor, site: Site, where: Tensor | None = None) -> Tensor:
        return _average(output, site, (0, *site.position_axes(output)), where)


class _TokenwiseMeanClean(AblationType):
    __slots__ = ()
    name, value, needs = "TOKENWISE_MEAN_CLEAN", "tokenwise mean, clean", "dataset"


class _TokenwiseMeanCorrupt(_TokenwiseMeanClean):
    __slots__ = ()
    name, value = "TOKENWISE_MEAN_CORRUPT", "tokenwise mean, corrupt"

    def inputs(self, batch: PairBatch) -> list[Batch]:
        return [batch.corrupt]


class _TokenwiseMeanCleanAndCorrupt(_TokenwiseMeanClean):
    __slots__ = ()
    name, value = "TOKENWISE_MEAN_CLEAN_AND_CORRUPT", "tokenwise mean, clean and corrupt"

    def inputs(self, batch: PairBatch) -> list[Batch]:
        return [batch.clean, batch.corrupt]


class _Mean(AblationType):
    __slots__ = ()
    name, value, needs = "MEAN", "mean", "dataset"

    def reduce(self, output: Tensor, site: Site, where: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _sum_and_count(output, site, (0, *site.position_axes(output)), where)


def _average(output: Tensor, site: Site, axes: tuple[int, ...], where: Tensor | None) -> Tensor:
    """Return the mean over some axes, which stay with length 1, in the output's precision unless some do not count."""
    return (
        _numbers(output, site).mean(axes, keepdim=True)
        if where is None
        else _mean(*_sum_and_count(output, site, axes, where))
    )


def _sum_and_count(output: Tensor, site: Site, axes: tuple[int, ...], where: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the sum over some axes, which stay with length 1, in double precision, and of how many numbers each is."""
    wide = torch.promote_types(_numbers(output, site).dtype, torch.float64)  # complex numbers stay so
    if where is None:
        count = math.prod(output.shape[axis] for axis in axes)
        return output.sum(axes, keepdim=True, dtype=wide), torch.tensor(count, device=output.device)
    # Not by a product: what does not count may be infinite.
    kept = output.masked_fill(~where, 0.0)
    return kept.sum(axes, keepdim=True, dtype=wide), where.sum(axes, keepdim=True)


def _numbers(output: Tensor, site: Site) -> Tensor:
    """Return an output, of which means are to be taken.

    Raises:
        ValueError: it holds whole numbers or booleans.
    """
    if not (output.is_floating_point() or output.is_complex()):
        raise ValueError(f"{site.name} is {output.dtype}: only of floating-point and complex numbers there is a mean")
    return output


def _mean(total: Tensor, count: Tensor) -> Tensor:
    if not (count > 0).all():
        empty = (count == 0).nonzero()[0].tolist()
        raise ValueError(f"no item counts at {empty} (items first): a mean needs one; cut the inputs to what is used")
    return total / count


def member(kind: AblationType) -> AblationType:
    """Make a type one that `AblationType` has by name and by value; return it."""
    _Members.all[kind.name] = kind
    setattr(AblationType, kind.name, kind)
    return kind


for _kind in (
    _Resample,
    _Zero,
    _BatchTokenwiseMean,
    _BatchAllTokMean,
    _TokenwiseMeanClean,
    _TokenwiseMeanCorrupt,
    _TokenwiseMeanCleanAndCorrupt,
    _Mean,
):
    member(_kind())
