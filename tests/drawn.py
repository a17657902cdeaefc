"""What a figure's axes hold."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.collections import PathCollection


def scatters(ax: Axes) -> list[PathCollection]:
    """Return the scatter plots, in the order of their drawing."""
    return [artist for artist in ax.collections if isinstance(artist, PathCollection)]


def words(ax: Axes) -> list[str]:
    """Return the texts inside the axes."""
    return [text.get_text() for text in ax.texts]
