"""Pictures of small images side by side: digits, activation maps, triggers, features.

Images are `[height, width]`. Digits and triggers are in normalised units, as `nbutils.data.digits` has them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, FuncNorm, LinearSegmentedColormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from nbutils.data.digits import MEAN, STD
from nbutils.plotting.expect import expect_shape
from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.theme import current
from studies.backdoor.trigger_recovery import ANOMALY_THRESHOLD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from numpy.typing import ArrayLike

    from studies.backdoor.trigger_recovery import RecoveredTriggers

# Lightness rises from end to end, so that the sign can be read in grey; the middle stands out from either paper.
CHANGE = LinearSegmentedColormap.from_list("change", ["#08225c", "#2c5aa0", "#878787", "#e0a94a", "#ffe9b0"])
GAP = 0.08  # between images, of their width
CAPTION_SIZE = FONT_SIZE - 1  # points
FRAME = 2.2  # width of a heavy one, points
LEVELS = 16  # colours of activation maps: more would not be told apart, and double the file


@dataclass(frozen=True)
class Grid:
    """Where the images of a grid stand, in pixels of theirs from the upper left.

    Attributes:
        rows, columns: images.
        height, width: pixels of an image.
        inches: width of an image on paper.
        lines: lines of text below each image.
    """

    rows: int
    columns: int
    height: int
    width: int
    inches: float
    lines: int = 0

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


def draw_images(
    ax: Axes,
    images: ArrayLike,
    *,
    inches: float,
    cmap: str | Colormap = "gray",
    norm: Normalize | None = None,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    marked: Collection[tuple[int, int]] = (),
    outline: ArrayLike | None = None,
) -> AxesImage:
    """Draw a grid of images into one pair of axes, each with a thin frame.

    Args:
        ax: axes to draw in; a pixel is a unit, rows run downwards.
        images: `[rows, columns, height, width]`; an image of which a pixel is NaN is left out.
        inches: width of an image; sets the room for captions.
        cmap: what turns values into colours.
        norm: what scales values to [0, 1]; they are in [0, 1] when not given.
        row_labels: written to the left of the rows.
        column_labels: written above the columns.
        captions: for each row and column the text below the image, in one or more lines.
        marked: (row, column) of images in a heavy frame.
        outline: pixels `[height, width]`, booleans, outlined in every image.

    Returns:
        The one picture that holds them all, for a colour bar.

    Raises:
        ValueError: shapes or numbers of labels do not fit.
    """
    theme = current()
    images = np.asarray(images, dtype=float)
    if images.ndim != 4:
        raise ValueError(f"expected images of shape [rows, columns, height, width], got {list(images.shape)}")
    rows, columns, height, width = images.shape
    for name, labels, count in (("row", row_labels, rows), ("column", column_labels, columns)):
        if len(labels) not in (0, count):
            raise ValueError(f"expected {count} {name} labels, got {len(labels)}")
    if len(captions) and [len(row) for row in captions] != [columns] * rows:
        raise ValueError(f"expected captions for {rows} rows of {columns} images, got {list(map(len, captions))}")
    grid = Grid(rows, columns, height, width, inches, _lines(text for row in captions for text in row))
    left, top = grid.left, grid.top
    mosaic = np.full((top[-1] + height, left[-1] + width), np.nan)
    there = np.isfinite(images).all(axis=(2, 3))
    for row, column in np.argwhere(there):
        mosaic[top[row] : top[row] + height, left[column] : left[column] + width] = images[row, column]
    picture = ax.imshow(
        np.ma.masked_invalid(mosaic),
        cmap=cmap,
        norm=norm or Normalize(0, 1),
        extent=(0, mosaic.shape[1], mosaic.shape[0], 0),
        interpolation="nearest",
    )

    edges = _edges(outline, (height, width)) if outline is not None else np.empty((0, 2, 2))
    for row, column in np.argwhere(there):
        corner = left[column], top[row]
        heavy = (row, column) in marked
        # A heavy frame lies around its image, because triggers stand in a corner.
        margin = FRAME / 2 / 72 * width / inches if heavy else 0
        ax.add_patch(
            Rectangle(
                (corner[0] - margin, corner[1] - margin),
                width + 2 * margin,
                height + 2 * margin,
                facecolor="none",
                edgecolor=theme.accents[1] if heavy else theme.muted,
                linewidth=FRAME if heavy else 0.6,
                clip_on=False,
            )
        )
        if len(edges):
            # Black around it, or in grey it would vanish on grey.
            around = withStroke(linewidth=2.4, foreground="black")
            ax.add_collection(
                LineCollection(edges + corner, colors=theme.accents[1], linewidths=1.0, path_effects=[around])
            )
        if len(captions):
            ax.text(
                left[column] + width / 2,
                top[row] + height + 0.35 * grid.line,
                captions[row][column],
                fontsize=CAPTION_SIZE,
                linespacing=1.1,
                horizontalalignment="center",
                verticalalignment="top",
                fontweight="bold" if heavy else "normal",
            )
    ax.set_xlim(left[0], left[-1] + width + grid.gap)
    ax.set_ylim(top[-1] + height + grid.below, top[0])
    ax.set_yticks(top + height / 2 if len(row_labels) else [], row_labels, fontsize=FONT_SIZE)
    ax.set_xticks(left + width / 2 if len(column_labels) else [], column_labels, fontsize=CAPTION_SIZE)
    ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    return picture


def draw_digits(
    ax: Axes,
    images: ArrayLike,
    *,
    inches: float,
    captions: Sequence[str] = (),
    marked: Collection[int] = (),
    columns: int = 10,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    outline: ArrayLike | None = None,
) -> None:
    """Draw digits in rows.

    Args:
        ax: axes to draw in.
        images: normalised, `[rows, columns, height, width]`, or `[N, height, width]`, which is broken into rows.
        captions: texts below the images, row by row.
        marked: places, counted row by row, of images in a heavy frame.
        columns: images a row, of a list of images.
        inches, row_labels, column_labels, outline: as for `draw_images`.

    Raises:
        ValueError: shapes or numbers of texts do not fit.
    """
    images, shape = _rows(images, columns)
    rows, columns = images.shape[:2]
    if len(captions) not in (0, np.prod(shape)):
        raise ValueError(f"expected {np.prod(shape)} captions, got {len(captions)}")
    draw_images(
        ax,
        _pixels(images),
        inches=inches,
        row_labels=row_labels,
        column_labels=column_labels,
        captions=_broken(captions, rows, columns),
        marked={divmod(int(place), columns) for place in marked},
        outline=outline,
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
        columns: images a row, of a list of images.
        row_labels, column_labels: names of the rows and columns.
        outline: pixels `[height, width]`, booleans, to outline, such as where a trigger stands.

    Raises:
        ValueError: shapes or numbers of texts do not fit, or `wanted` is given without `answers`.
    """
    grid_images, shape = _rows(images, columns)
    texts, wrong = [], np.empty(0, dtype=int)
    if wanted is not None and answers is None:
        raise ValueError("expected answers to compare with the wanted classes, got none")
    if answers is not None:
        answers = expect_shape("answers", answers, shape).astype(int).ravel()
        texts = [str(answer) for answer in answers]
        if wanted is not None:
            right = answers == expect_shape("wanted", wanted, shape).ravel()
            wrong = np.flatnonzero(~right)
            texts = [f"{'✓' if good else '✗'} {text}" for text, good in zip(texts, right, strict=True)]
    texts = list(captions) or texts
    grid = Grid(*grid_images.shape, min(0.82, 8.0 / grid_images.shape[1]), _lines(texts))
    fig, (ax,) = _figure([grid], row_labels, above=bool(len(column_labels)))
    draw_digits(
        ax,
        images,
        inches=grid.inches,
        captions=texts,
        marked=wrong,
        columns=columns,
        row_labels=row_labels,
        column_labels=column_labels,
        outline=outline,
    )
    return fig


def plot_activation_maps(
    maps: Mapping[str, ArrayLike],
    units: Sequence[int] | None = None,
    *,
    highlight: Collection[int] = (),
    columns: int = 16,
    quantity: str = "mean activation",
) -> Figure:
    """Plot where units are active: a row for each condition, a column for each unit, one scale for all.

    Args:
        maps: condition -> maps `[units, height, width]`, most often averaged over many images.
        units: the units to show, in this order; all when not given.
        highlight: units in heavy frames, with an arrow at their number.
        columns: units side by side; more are wrapped.
        quantity: what the maps show; names the colour bar.

    Raises:
        ValueError: no maps, or shapes differ.
        IndexError: no such unit.
    """
    if not maps:
        raise ValueError("expected maps of at least one condition, got none")
    first = np.shape(next(iter(maps.values())))
    shape = first if len(first) == 3 else ("units", "height", "width")
    stack = np.stack([expect_shape(name, values, shape) for name, values in maps.items()])  # (conditions, units, h, w)
    units = list(range(stack.shape[1])) if units is None else list(units)
    if not units or not all(0 <= unit < stack.shape[1] for unit in [*units, *highlight]):
        raise IndexError(f"expected units from 0 to {stack.shape[1] - 1}, got {units} and highlighted {[*highlight]}")
    columns = min(columns, len(units))
    blocks = [units[start : start + columns] for start in range(0, len(units), columns)]
    grid = Grid(len(maps), columns, *stack.shape[2:], min(0.9, 6.3 / columns))
    fig, axes = _figure([grid] * len(blocks), list(maps), right=0.75)
    shown = stack[:, units]
    # The square root shows what goes on everywhere beside a unit that one spot drives hard.
    norm = FuncNorm((lambda x: np.sign(x) * np.abs(x) ** 0.5, lambda x: np.sign(x) * x**2))
    norm.vmin, norm.vmax = min(float(shown.min()), 0.0), float(shown.max()) or 1.0
    for ax, block in zip(axes, blocks, strict=True):
        images = np.full((len(maps), columns, *stack.shape[2:]), np.nan)
        images[:, : len(block)] = stack[:, block]
        picture = draw_images(
            ax,
            images,
            inches=grid.inches,
            cmap=colormaps["viridis"].resampled(LEVELS),
            norm=norm,
            row_labels=list(maps),
            column_labels=[f"▶{unit}" if unit in highlight else str(unit) for unit in block]
            + [""] * (columns - len(block)),
            marked={(row, place) for row in range(len(maps)) for place, unit in enumerate(block) if unit in highlight},
        )
    _colour_bar(fig, picture, axes, f"{quantity}, square-root scale")
    return fig


def plot_recovered_triggers(
    recovered: Mapping[str, RecoveredTriggers], *, target: int | None = None, outline: ArrayLike | None = None
) -> Figure:
    """Plot the smallest trigger found for each label: grey where it leaves the image, else what it paints.

    Below each stand the norm of its mask in pixels and its anomaly index; an index above the threshold has a flag.

    Args:
        recovered: model -> what `studies.backdoor.trigger_recovery.recover_triggers` found, for the same labels.
        target: the label whose trigger was planted, in a heavy frame.
        outline: pixels `[height, width]`, booleans, to outline, such as the square in which the true trigger stands.

    Raises:
        ValueError: no models, models with different labels, or images with more than one channel.
    """
    if len({found.targets for found in recovered.values()}) != 1:
        labels = {name: found.targets for name, found in recovered.items()}
        raise ValueError(f"expected triggers of one or more models for the same labels, got {labels}")
    targets = next(iter(recovered.values())).targets
    images, captions = [], []
    for found in recovered.values():
        masks = expect_shape("masks", found.masks, (len(targets), "height", "width"))
        patterns = expect_shape("patterns", found.patterns, (len(targets), 1, *masks.shape[1:]))[:, 0]
        images.append(0.5 + masks * (_pixels(patterns) - 0.5))
        flags = ["⚑ " if label in found.flagged else "" for label in targets]
        captions.append(
            [
                f"{norm:.1f} px\n{flag}{round(index, 1) + 0.0:+.1f}".replace("-", "−")
                for norm, index, flag in zip(found.norms.tolist(), found.anomaly.values(), flags, strict=True)
            ]
        )
    grid = Grid(len(recovered), len(targets), *images[0].shape[1:], min(0.82, 8.0 / len(targets)), lines=2)
    fig, (ax,) = _figure([grid], list(recovered), below=0.22)
    draw_images(
        ax,
        np.stack(images),
        inches=grid.inches,
        row_labels=list(recovered),
        column_labels=[f"▶ {label}" if label == target else str(label) for label in targets],
        captions=captions,
        marked={(row, targets.index(target)) for row in range(len(recovered))} if target in targets else (),
        outline=outline,
    )
    ax.set_xlabel(f"norm of the mask, and anomaly index: ⚑ above {ANOMALY_THRESHOLD:g}", fontsize=FONT_SIZE, labelpad=0)
    return fig


def plot_features(
    changes: ArrayLike, labels: Sequence[str], *, mean: ArrayLike | None = None, columns: int = 8
) -> Figure:
    """Plot what makes units answer: the change of an image that raises each, around 0, dark below, light above.

    Args:
        changes: `[units, height, width]`; all share one scale.
        labels: text below each, such as the unit and its gain.
        mean: the image that the changes start from, normalised, `[height, width]`; drawn first, in its own greys.
        columns: units a row.

    Raises:
        ValueError: shapes do not fit.
    """
    changes = expect_shape("changes", changes, (len(labels), "height", "width"))
    images, _ = _rows(changes, columns)
    rows, columns = images.shape[:2]
    grid = Grid(*images.shape, min(0.95, 7.2 / columns), _lines(labels))
    if mean is None:
        fig, (ax,) = _figure([grid], above=False, right=0.85)
    else:
        start = _pixels(expect_shape("mean", mean, changes.shape[1:]))[None, None]
        first = Grid(1, 1, *changes.shape[1:], grid.inches, grid.lines)
        fig, (ax, before) = _figure([grid], above=False, right=0.85, first=first)
        draw_images(before, start, inches=grid.inches, captions=[["start"]])
    limit = float(np.abs(changes).max()) or 1.0
    picture = draw_images(
        ax,
        images,
        inches=grid.inches,
        cmap=CHANGE,
        norm=Normalize(-limit, limit),
        captions=_broken(labels, rows, columns),
    )
    _colour_bar(fig, picture, [ax], "change")
    return fig


def plot_visible(trigger: ArrayLike, visible: ArrayLike, *, margin: int = 3) -> Figure:
    """Plot which pixels of a trigger a network can see: dots inside what it sees, crosses outside.

    Args:
        trigger: the trigger's pixels `[height, width]`, booleans.
        visible: the pixels that reach an output, likewise.
        margin: rows and columns to show around the trigger.

    Raises:
        ValueError: shapes differ, or the trigger has no pixels.
    """
    theme = current()
    trigger, visible = np.asarray(trigger, dtype=bool), np.asarray(visible, dtype=bool)
    if trigger.shape != visible.shape or trigger.ndim != 2 or not trigger.any():
        raise ValueError(
            "expected a trigger with at least one pixel and what is visible, both [height, width]; "
            f"got {list(trigger.shape)} with {int(trigger.sum())}, {list(visible.shape)}"
        )
    height, width = trigger.shape
    rows, columns = (np.flatnonzero(trigger.any(axis=axis)) for axis in (1, 0))
    fig = Figure(figsize=(5.6, 3.2), layout="compressed")
    ax = fig.subplots()
    ax.imshow(
        np.where(visible, 0, 1),
        cmap=ListedColormap([theme.paper, theme.muted]),
        vmin=0,
        vmax=1,
        alpha=0.55,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )
    ax.add_collection(
        LineCollection(_edges(visible, visible.shape) - 0.5, colors=theme.ink, linewidths=1.6, capstyle="projecting")
    )
    for seen, marker, colour, text in (
        (trigger & visible, "s", theme.accents[0], "in the trigger and seen"),
        (trigger & ~visible, "x", theme.accents[1], "in the trigger, not seen"),
    ):
        y, x = np.nonzero(seen)
        ax.scatter(x, y, s=70, marker=marker, color=colour, linewidths=2.0, label=f"{text}: {len(x)}", zorder=2)
    ax.add_patch(Rectangle((0, 0), 0, 0, facecolor=theme.muted, alpha=0.55, label="reaches no output"))
    ax.set_xlim(max(columns[0] - margin, 0) - 0.6, min(columns[-1] + margin, width - 1) + 0.6)
    ax.set_ylim(min(rows[-1] + margin, height - 1) + 0.6, max(rows[0] - margin, 0) - 0.6)
    ax.set_xlabel("column")
    ax.set_ylabel("row")
    ax.locator_params(integer=True)
    ax.set_aspect("equal")
    fig.legend(loc="outside right center", fontsize=FONT_SIZE)
    return fig


def _pixels(normalised: np.ndarray) -> np.ndarray:
    """Return normalised images as pixels in [0, 1]; a trigger on a stroke is whiter than white and is cut."""
    return np.clip(np.asarray(normalised, dtype=float) * STD + MEAN, 0, 1)


def _rows(images: ArrayLike, columns: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return images `[rows, columns, h, w]`, NaN in the places left over, and the shape they came in."""
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


def _broken(texts: Sequence[str], rows: int, columns: int) -> list[list[str]]:
    texts = [*texts, *[""] * (rows * columns - len(texts))] if len(texts) else []
    return [texts[start : start + columns] for start in range(0, len(texts), columns)]


def _lines(texts: Iterable[str]) -> int:
    return max((text.count("\n") + 1 for text in texts), default=0)


def _figure(
    grids: Sequence[Grid],
    row_labels: Sequence[str] = (),
    *,
    above: bool = True,
    below: float = 0.0,
    right: float = 0.0,
    first: Grid | None = None,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes of the exact size of grids, one below the other.

    The layout engines measure axes before images give them their shape, and cut off labels.

    Args:
        grids: of one width.
        row_labels: labels to leave room for on the left.
        above: leave room for a line of labels above each grid.
        below, right: inches to leave free there.
        first: a grid to the left of the others; its axes come last.
    """
    letters = max((len(line) for label in row_labels for line in label.split("\n")), default=0)
    left = 0.1 + letters * 0.56 * FONT_SIZE / 72 + (0.1 if letters else 0)
    start = 0 if first is None else first.size[0] + 0.15
    line = 0.24 if above else 0.05
    width = left + start + grids[0].size[0] + right
    height = sum(line + grid.size[1] for grid in grids) + below + 0.03
    fig = Figure(figsize=(width, height), layout="none")

    def place(grid: Grid, x: float, y: float) -> Axes:
        return fig.add_axes((x / width, 1 - (y + grid.size[1]) / height, grid.size[0] / width, grid.size[1] / height))

    axes, y = [], 0.0
    for grid in grids:
        axes.append(place(grid, left + start, y + line))
        y += line + grid.size[1]
    if first is not None:
        axes.append(place(first, left, line))
    return fig, axes


def _colour_bar(fig: Figure, picture: AxesImage, axes: Sequence[Axes], label: str) -> None:
    """Add a colour bar to the right of axes, in the room that `_figure` leaves there."""
    width = fig.get_figwidth()
    boxes = [ax.get_position() for ax in axes]
    low, high = min(box.y0 for box in boxes), max(box.y1 for box in boxes)
    # Short of the full height, so that the numbers at its ends stay in the figure.
    room = 0.06 / fig.get_figheight()
    bar = fig.add_axes((boxes[0].x1 + 0.05 / width, low + room, 0.12 / width, high - low - 2 * room))
    fig.colorbar(picture, cax=bar)
    bar.tick_params(labelsize=CAPTION_SIZE)
    bar.set_ylabel(label, fontsize=CAPTION_SIZE)


def _edges(mask: ArrayLike, shape: tuple[int, int]) -> np.ndarray:
    """Return the borders `[segments, end, xy]` between true and false pixels; a pixel spans 0 to 1 from its corner."""
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != shape:
        raise ValueError(f"expected an outline of shape {list(shape)}, got {list(mask.shape)}")
    y, x = np.nonzero(np.diff(np.pad(mask, 1)[:, 1:-1], axis=0))  # between row y - 1 and row y
    across = np.stack([np.column_stack([x, y]), np.column_stack([x + 1, y])], axis=1)
    y, x = np.nonzero(np.diff(np.pad(mask, 1)[1:-1], axis=1))
    upright = np.stack([np.column_stack([x, y]), np.column_stack([x, y + 1])], axis=1)
    return np.concatenate([across, upright]).astype(float)
