"""Pictures of digits with a network's answers below them.

Digits are in normalised units, as `nbutils.data.digits` has them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from nbutils.data.digits import MEAN, STD
from nbutils.plotting.expect import expect_shape
from studies.backdoor.plots.grids import (
    Grid,
    Labels,
    break_captions,
    break_images,
    count_lines,
    draw_images,
    fit,
    make_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


def draw_digits(
    ax: Axes,
    images: ArrayLike,
    *,
    inches: float,
    captions: Sequence[str],
    marked: Collection[int] = (),
    columns: int = 10,
) -> None:
    """Draw digits with captions, in rows.

    Args:
        ax: axes to draw in.
        images: normalised, `[N, height, width]`.
        inches: width of an image.
        captions: texts `[N]` below the images.
        marked: indices of images in a heavy frame.
        columns: images per row.

    Raises:
        ValueError: shapes or numbers of texts do not fit.
    """
    grid_images, _ = break_images(expect_shape("images", images, (len(captions), "height", "width")), columns)
    draw_images(
        ax,
        to_pixels(grid_images),
        inches=inches,
        labels=Labels(captions=break_captions(captions, grid_images)),
        marked={divmod(int(place), grid_images.shape[1]) for place in marked},
    )


def plot_digits(
    images: ArrayLike,
    *,
    answers: ArrayLike | None = None,
    wanted: ArrayLike | None = None,
    captions: Sequence[str] = (),
    columns: int = 10,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    outline: ArrayLike | None = None,
) -> Figure:
    """Plot digits with a network's answers below them: ✓ right, ✗ wrong and in a heavy frame.

    Args:
        images: normalised, `[rows, columns, height, width]`, or `[N, height, width]`, which is broken into rows.
        answers: predicted classes, `[rows, columns]` or `[N]`.
        wanted: the right ones, likewise.
        captions: texts in place of the answers, row by row.
        columns: images per row, of a list of images.
        row_labels, column_labels: names of the rows and columns.
        outline: pixels `[height, width]`, booleans, to outline, such as those of a trigger.

    Raises:
        ValueError: shapes or numbers of texts do not fit, or `wanted` is given without `answers`.
    """
    grid_images, shape = break_images(images, columns)
    texts, wrong = _write_answers(answers, wanted, shape)
    texts = list(captions) or texts
    if len(texts) not in (0, np.prod(shape)):
        raise ValueError(f"expected {np.prod(shape)} captions, got {len(texts)}")
    inches = fit(grid_images.shape[1], grid_images.shape[3], row_labels, most=0.82)
    grid = Grid.of(grid_images, inches, count_lines(texts))
    fig, (ax,) = make_figure([grid], row_labels, above=bool(len(column_labels)))
    draw_images(
        ax,
        to_pixels(grid_images),
        inches=grid.inches,
        labels=Labels(row_labels, column_labels, break_captions(texts, grid_images)),
        marked={divmod(int(place), grid.columns) for place in wrong},
        outline=outline,
    )
    return fig


def to_pixels(normalised: ArrayLike) -> np.ndarray:
    """Return normalised images as pixels in [0, 1]; a trigger on a stroke is whiter than white and is cut."""
    return np.clip(np.asarray(normalised, dtype=float) * STD + MEAN, 0, 1)


def _write_answers(
    answers: ArrayLike | None, wanted: ArrayLike | None, shape: tuple[int, ...]
) -> tuple[list[str], np.ndarray]:
    """Return the answers as texts, one after the other, and the places of the wrong ones."""
    none = np.empty(0, dtype=int)
    if answers is None:
        if wanted is not None:
            raise ValueError("expected answers to compare with the wanted classes, got none")
        return [], none
    answers = expect_shape("answers", answers, shape).astype(int).ravel()
    if wanted is None:
        return [str(answer) for answer in answers], none
    right = answers == expect_shape("wanted", wanted, shape).ravel()
    texts = [f"{'✓' if good else '✗'} {answer}" for good, answer in zip(right, answers, strict=True)]
    return texts, np.flatnonzero(~right)
