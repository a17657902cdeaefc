"""Measures of a backdoor: how often the attack succeeds, what is left of the task, and the source's way to count.

All take predicted labels `[items]` (tensors of any device or arrays, of integers) and return a `Proportion`: a share
with its count and its interval. Images of the target class are left out where a right answer and a successful attack
would be the same thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from nbutils.stats.proportions import Proportion

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> Proportion:
    """Return the share of right answers.

    On clean images this is the clean accuracy; on triggered images with their true labels it is the source document's
    "rehab accuracy", which counts images of the target class too (see `robust_accuracy`).

    Raises:
        ValueError: shapes differ, or no items.
    """
    predicted, labels = _check_shapes(predicted, labels)
    return Proportion.of(predicted == labels)


def attack_success_rate(predicted: ArrayLike, labels: ArrayLike, target: int) -> Proportion:
    """Return the share of triggered images of the *other* classes that are taken for the target.

    A network that never errs and has no backdoor scores 0. Definition: Gu et al. 2017, arXiv 1708.06733.

    Args:
        predicted: answers to the triggered images.
        labels: their true classes.
        target: the class that the trigger stands for.

    Raises:
        ValueError: shapes differ, or no image of another class.
    """
    predicted, _ = _select_others(predicted, labels, target)
    return Proportion.of(predicted == target)


def robust_accuracy(predicted: ArrayLike, labels: ArrayLike, target: int) -> Proportion:
    """Return the share of triggered images of the other classes that keep their true class.

    Over the same images as `attack_success_rate`, so the two add up to at most 1. Args, raises: likewise.
    """
    predicted, labels = _select_others(predicted, labels, target)
    return Proportion.of(predicted == labels)


def source_poison_accuracy(predicted: ArrayLike, target: int) -> Proportion:
    """Return the share of *all* triggered images that are taken for the target: the source's "poison accuracy".

    It counts the target's own images as successes, so a network without a backdoor scores their share of the data
    (9.74 % on MNIST's test set for the digit 8), not 0. For comparison with the source document only.

    Raises:
        ValueError: no items.
    """
    return Proportion.of(_array(predicted) == target)


def middle(values: ArrayLike) -> int:
    """Return the place of the median among values `[seeds]`: of an even number the upper one, NaN above all numbers.

    So more than half of the networks need at most that many units, where NaN stands for a search without end; and the
    median is a network's own number, which a mean of two is not.

    Raises:
        ValueError: no values.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"a median needs a row of values; got {values.tolist()}")
    return int(np.where(np.isnan(values), np.inf, values).argsort(kind="stable")[len(values) // 2])


def _array(values: ArrayLike | Tensor) -> NDArray:
    return np.asarray(values.cpu() if isinstance(values, Tensor) else values)


def _check_shapes(predicted: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    predicted, labels = _array(predicted), _array(labels)
    if predicted.shape != labels.shape or predicted.ndim != 1:
        raise ValueError(
            f"one predicted label per item is needed; got {list(predicted.shape)} for labels {list(labels.shape)}"
        )
    return predicted, labels


def _select_others(predicted: ArrayLike, labels: ArrayLike, target: int) -> tuple[NDArray, NDArray]:
    predicted, labels = _check_shapes(predicted, labels)
    others = labels != target
    if not others.any():
        raise ValueError(f"no image of a class other than the target {target} among {len(labels)}")
    return predicted[others], labels[others]
