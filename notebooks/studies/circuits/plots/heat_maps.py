"""Heat maps: scores of edges by ablation type, and attention patterns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike
    from torch import Tensor

_ROWS = 40  # most rows of a heat map that can be read
_WRITTEN = 220  # most cells of a heat map that carry their number


def plot_edge_scores(scores: pd.DataFrame, *, rows: int = _ROWS, quantity: str = "effect", digits: int = 2) -> Figure:
    """Plot scores as a heat map, one row per edge and one column per ablation type, strongest edges first.

    The colours are symmetric about 0, which has the colour of the paper; the numbers carry the sign in greyscale.

    Args:
        scores: indexed by edge, a column per type.
        rows: most edges to draw: those that are strongest under some type.
        quantity: what the scores are, with its unit.
        digits: decimals of the numbers in the cells.

    Raises:
        ValueError: no scores, or scores that are not finite.
    """
    values = scores.to_numpy(dtype=float)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"expected finite scores of one or more edges, got a table {scores.shape}")
    theme = current()
    order = np.argsort(-np.abs(values).max(axis=1), kind="stable")[:rows]
    values = values[order]
    limit = np.abs(values).max() or 1.0
    colours = LinearSegmentedColormap.from_list("scores", [theme.accents[0], theme.paper, theme.accents[1]])
    fig = Figure(figsize=(min(2.6 + 0.78 * values.shape[1], 9.06), 1.7 + 0.235 * len(values)), layout="constrained")
    ax = fig.subplots()
    image = ax.imshow(values, cmap=colours, vmin=-limit, vmax=limit, aspect="auto")
    ax.set_yticks(range(len(values)), [str(scores.index[i]) for i in order], fontsize=FONT_SIZE - 1)
    names = [
        str(column)
        .replace("tokenwise ", "tokenwise\n")
        .replace(", ", ",\n")
        .replace(" over ", "\nover ")
        .replace(" and ", "\nand ")
        for column in scores.columns
    ]
    ax.set_xticks(range(values.shape[1]), names, fontsize=FONT_SIZE - 1)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if values.size <= _WRITTEN:
        _write_numbers(ax, values, limit, colours, digits)
    bar = fig.colorbar(image, ax=ax, location="bottom", shrink=0.7, aspect=40, pad=0.02)
    bar.set_label(quantity, fontsize=FONT_SIZE)
    bar.outline.set_visible(False)
    return fig


def plot_attention(patterns: Mapping[str, ArrayLike | Tensor], tokens: Sequence[int]) -> Figure:
    """Plot what heads attend to on one prompt, one panel per head: rows attend, columns are attended to.

    Args:
        patterns: name -> weights `[from, to]` in [0, 1]; the more, the darker on paper.
        tokens: the prompt, at both axes.
    """
    shades = LinearSegmentedColormap.from_list("attention", [current().paper, current().ink])
    fig = Figure(figsize=(9, 2.9))
    axes = fig.subplots(1, len(patterns), sharey=True, squeeze=False)[0]
    for ax, (name, pattern) in zip(axes, patterns.items(), strict=True):
        ax.imshow(pattern, cmap=shades, vmin=0, vmax=1)
        ax.set_title(name)
        ax.set_xticks(range(len(tokens)), tokens, fontsize=7)
        ax.set_yticks(range(len(tokens)), tokens, fontsize=7)
        ax.set_xlabel("to")
        ax.set_ylabel("from")
    return fig


def _write_numbers(ax: Axes, values: np.ndarray, limit: float, colours: Colormap, digits: int) -> None:
    """Write each value `[rows, columns]` in its cell, in white or black as its colour asks."""
    for (row, column), value in np.ndenumerate(values):
        strong = _luminance(colours((value / limit + 1) / 2)) < 0.36
        ax.text(
            column,
            row,
            f"{value:+.{digits}f}".replace("-", "−") if round(value, digits) else "0",
            ha="center",
            va="center",
            fontsize=FONT_SIZE - 2,
            color="#ffffff" if strong else "#1b1b1b",
        )


def _luminance(colour: tuple[float, float, float, float]) -> float:
    return float(np.dot(np.power(to_rgb(colour), 2.2), (0.2126, 0.7152, 0.0722)))
