"""Grids of small images side by side, with labels, captions and frames: what the pictures of this study are made of.

Images are `[height, width]`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from nbutils.plotting.expect import expect_shape
from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from numpy.typing import ArrayLike

GAP = 0.08  # between images, of their width
CAPTION_SIZE = FONT_SIZE - 1  # points
FRAME = 2.2  # width of a heavy one, points
WIDEST = 9.06  # inches: 870 pixels on screen


@dataclass(frozen=True)
class Grid:
    """Places of the images of a grid, in pixels of theirs from the upper left.

    Attributes:
        rows, columns: images.
        height, width: pixels per image.
        inches: width of an image on paper.
        lines: lines of text below each image.
    """

    rows: int
    columns: int
    height: int
    width: int
    inches: float
    lines: int = 0

    @classmethod
    def of(cls, images: np.ndarray, inches: float, lines: int = 0) -> Grid:
        """Return the grid of images `[rows, columns, height, width]`."""
        rows, columns, height, width = images.shape
        return cls(rows, columns, height, width, inches, lines)

    @property
    def line(self) -> float:
        """Height of a line of text."""
        return 1.2 * CAPTION_SIZE / 72 * self.width / self.inches

    @property
    def gap(self) -> int:
        """Space between columns."""
        return max(1, round(GAP * self.width))

    @property
    def below(self) -> int:
        """Space below each row."""
        return round((self.lines + 0.7) * self.line) if self.lines else self.gap

    @property
    def left(self) -> np.ndarray:
        """Left edge of each column."""
        return np.arange(self.columns) * (self.width + self.gap)

    @property
    def top(self) -> np.ndarray:
        """Upper edge of each row."""
        return np.arange(self.rows) * (self.height + self.below)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the whole in inches, the space after the last column and row included."""
        pixels = self.columns * (self.width + self.gap), self.rows * (self.height + self.below)
        return pixels[0] * self.inches / self.width, pixels[1] * self.inches / self.width


@dataclass(frozen=True)
class Labels:
    """Texts around the images of a grid.

    Attributes:
        rows: written to the left of the rows; one per row, or none.
        columns: written above the columns; likewise.
        captions: for each row and column the text below the image, in one or more lines; none where empty.
    """

    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    captions: Sequence[Sequence[str]] = ()

    @property
    def lines(self) -> int:
        """Lines of the longest caption."""
        return count_lines(text for row in self.captions for text in row)

    def check(self, rows: int, columns: int) -> None:
        """Check that the texts fit a grid.

        Raises:
            ValueError: their numbers do not.
        """
        for name, labels, count in (("row", self.rows, rows), ("column", self.columns, columns)):
            if len(labels) not in (0, count):
                raise ValueError(f"expected {count} {name} labels, got {len(labels)}")
        if len(self.captions) and [len(row) for row in self.captions] != [columns] * rows:
            given = list(map(len, self.captions))
            raise ValueError(f"expected captions for {rows} rows of {columns} images, got {given}")


NO_LABELS = Labels()


def draw_images(
    ax: Axes,
    images: ArrayLike,
    *,
    inches: float,
    cmap: str | Colormap = "gray",
    norm: Normalize | None = None,
    labels: Labels = NO_LABELS,
    marked: Collection[tuple[int, int]] = (),
    outline: ArrayLike | None = None,
) -> AxesImage:
    """Draw a grid of images into one pair of axes, each with a thin frame.

    Args:
        ax: axes to draw in; a pixel is a unit, rows run downwards.
        images: `[rows, columns, height, width]`; an image with a NaN is left out.
        inches: width of an image; sets the room for captions.
        cmap: colours of the scaled values.
        norm: scales values to [0, 1]; they are in [0, 1] when not given.
        labels: texts around the images.
        marked: (row, column) of images in a heavy frame.
        outline: pixels `[height, width]`, booleans, outlined in every image.

    Returns:
        The one picture of them all, for a colour bar.

    Raises:
        ValueError: shapes or numbers of labels do not fit.
    """
    images = np.asarray(images, dtype=float)
    if images.ndim != 4:
        raise ValueError(f"expected images of shape [rows, columns, height, width], got {list(images.shape)}")
    grid = Grid.of(images, inches, labels.lines)
    labels.check(grid.rows, grid.columns)
    mosaic = _paste(grid, images)
    picture = ax.imshow(
        np.ma.masked_invalid(mosaic),
        cmap=cmap,
        norm=norm or Normalize(0, 1),
        extent=(0, mosaic.shape[1], mosaic.shape[0], 0),
        interpolation="nearest",
    )
    edges = trace_edges(outline, (grid.height, grid.width)) if outline is not None else np.empty((0, 2, 2))
    for row, column in np.argwhere(np.isfinite(images).all(axis=(2, 3))).tolist():
        heavy = (row, column) in marked
        caption = labels.captions[row][column] if len(labels.captions) else None
        _frame(ax, grid, row, column, heavy=heavy, caption=caption)
        if len(edges):
            _outline(ax, edges + np.array([grid.left[column], grid.top[row]]))
    _set_axes(ax, grid, labels)
    return picture


def _paste(grid: Grid, images: np.ndarray) -> np.ndarray:
    """Return one picture of all images of a grid, NaN between them and in place of incomplete ones."""
    left, top = grid.left, grid.top
    mosaic = np.full((top[-1] + grid.height, left[-1] + grid.width), np.nan)
    for row, column in np.argwhere(np.isfinite(images).all(axis=(2, 3))):
        place = slice(top[row], top[row] + grid.height), slice(left[column], left[column] + grid.width)
        mosaic[place] = images[row, column]
    return mosaic


def _frame(ax: Axes, grid: Grid, row: int, column: int, *, heavy: bool, caption: str | None) -> None:
    """Frame the image at a place of a grid, and write its caption below."""
    theme = current()
    left, top = grid.left[column], grid.top[row]
    # A heavy frame lies around its image, because triggers stand in a corner.
    margin = FRAME / 2 / 72 * grid.width / grid.inches if heavy else 0
    ax.add_patch(
        Rectangle(
            (left - margin, top - margin),
            grid.width + 2 * margin,
            grid.height + 2 * margin,
            facecolor="none",
            edgecolor=theme.accents[1] if heavy else theme.muted,
            linewidth=FRAME if heavy else 0.6,
            clip_on=False,
        )
    )
    if caption is not None:
        ax.text(
            left + grid.width / 2,
            top + grid.height + 0.35 * grid.line,
            caption,
            fontsize=CAPTION_SIZE,
            linespacing=1.1,
            horizontalalignment="center",
            verticalalignment="top",
            fontweight="bold" if heavy else "normal",
        )


def _outline(ax: Axes, edges: np.ndarray) -> None:
    # Black around it, or in grey it would vanish on grey.
    around = withStroke(linewidth=2.4, foreground="black")
    ax.add_collection(LineCollection(list(edges), colors=current().accents[1], linewidths=1.0, path_effects=[around]))


def _set_axes(ax: Axes, grid: Grid, labels: Labels) -> None:
    left, top = grid.left, grid.top
    ax.set_xlim(left[0], left[-1] + grid.width + grid.gap)
    ax.set_ylim(top[-1] + grid.height + grid.below, top[0])
    ax.set_yticks(top + grid.height / 2 if len(labels.rows) else [], labels.rows, fontsize=FONT_SIZE)
    ax.set_xticks(left + grid.width / 2 if len(labels.columns) else [], labels.columns, fontsize=CAPTION_SIZE)
    ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)


def break_images(images: ArrayLike, columns: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Break a list of images into rows.

    Args:
        images: `[N, height, width]`, or `[rows, columns, height, width]`, which stays as it is.
        columns: most images per row.

    Returns:
        Images `[rows, columns, height, width]`, NaN in the places left over, and the shape `[N]` or
        `[rows, columns]` of what came.

    Raises:
        ValueError: another shape, no image, or a value that is not finite.
    """
    images = np.asarray(images, dtype=float)
    if images.ndim == 4:
        return expect_shape("images", images, ("rows", "columns", "height", "width")), images.shape[:2]
    images = expect_shape("images", images, ("N", "height", "width"))
    if not len(images):
        raise ValueError("expected at least one image, got none")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    grid = np.full((rows * columns, *images.shape[1:]), np.nan)
    grid[: len(images)] = images
    return grid.reshape(rows, columns, *images.shape[1:]), images.shape[:1]


def break_captions(texts: Sequence[str], images: np.ndarray) -> list[list[str]]:
    """Return texts, row by row, as captions of images `[rows, columns, ...]`, empty in the places left over."""
    rows, columns = images.shape[:2]
    texts = [*texts, *[""] * (rows * columns - len(texts))] if len(texts) else []
    return [texts[start : start + columns] for start in range(0, len(texts), columns)]


def count_lines(texts: Iterable[str]) -> int:
    """Return the lines of the longest text, 0 where there is none."""
    return max((text.count("\n") + 1 for text in texts), default=0)


def make_figure(
    grids: Sequence[Grid],
    row_labels: Sequence[str] = (),
    *,
    above: bool = True,
    below: float = 0.0,
    right: float = 0.0,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes of the exact size of grids, one below the other.

    The layout engines measure axes before images give them their shape, and cut off labels.

    Args:
        grids: of one width.
        row_labels: labels to leave room for on the left.
        above: leave room for a line of labels above each grid.
        below, right: inches to leave free there.
    """
    left = _room(row_labels)
    line = 0.24 if above else 0.05
    width = left + grids[0].size[0] + right
    height = sum(line + grid.size[1] for grid in grids) + below + 0.03
    fig = Figure(figsize=(width, height))
    fig.set_layout_engine("none")

    def place(grid: Grid, x: float, y: float) -> Axes:
        return fig.add_axes((x / width, 1 - (y + grid.size[1]) / height, grid.size[0] / width, grid.size[1] / height))

    axes, y = [], 0.0
    for grid in grids:
        axes.append(place(grid, left, y + line))
        y += line + grid.size[1]
    return fig, axes


def fit(columns: int, pixels: int, row_labels: Sequence[str] = (), *, right: float = 0.0, most: float) -> float:
    """Return the inches an image may be wide in a figure of `make_figure`, so that it is at most `WIDEST`.

    Args:
        columns: images side by side.
        pixels: their width in pixels of theirs.
        row_labels, right: as for `make_figure`.
        most: inches for an image where there is room enough.
    """
    room = WIDEST - _room(row_labels) - right
    return min(most, room / columns / (1 + max(1, round(GAP * pixels)) / pixels))


def _room(row_labels: Sequence[str]) -> float:
    """Return the inches that labels of rows take."""
    letters = max((len(line) for label in row_labels for line in label.split("\n")), default=0)
    return 0.1 + letters * 0.56 * FONT_SIZE / 72 + (0.1 if letters else 0)


def add_colour_bar(fig: Figure, picture: AxesImage, axes: Sequence[Axes], label: str) -> None:
    """Add a colour bar to the right of axes, in the room that `make_figure` leaves there."""
    width = fig.get_figwidth()
    boxes = [ax.get_position() for ax in axes]
    low, high = min(box.y0 for box in boxes), max(box.y1 for box in boxes)
    # Short of the full height, so that the numbers at its ends stay in the figure.
    room = 0.06 / fig.get_figheight()
    bar = fig.add_axes((boxes[0].x1 + 0.05 / width, low + room, 0.12 / width, high - low - 2 * room))
    fig.colorbar(picture, cax=bar)
    bar.tick_params(labelsize=CAPTION_SIZE)
    bar.set_ylabel(label, fontsize=CAPTION_SIZE)


def trace_edges(mask: ArrayLike, shape: tuple[int, int]) -> np.ndarray:
    """Return the borders `[segments, end, xy]` between true and false pixels; a pixel spans 0 to 1 from its corner.

    Raises:
        ValueError: the mask has another shape `[height, width]`.
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != shape:
        raise ValueError(f"expected an outline of shape {list(shape)}, got {list(mask.shape)}")
    y, x = np.nonzero(np.diff(np.pad(mask, 1)[:, 1:-1], axis=0))  # between row y - 1 and row y
    across = np.stack([np.column_stack([x, y]), np.column_stack([x + 1, y])], axis=1)
    y, x = np.nonzero(np.diff(np.pad(mask, 1)[1:-1], axis=1))
    upright = np.stack([np.column_stack([x, y]), np.column_stack([x, y + 1])], axis=1)
    return np.concatenate([across, upright]).astype(float)
