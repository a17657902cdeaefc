"""What pairs of stand-ins show together: one half of a square for each quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.theme import current

if TYPE_CHECKING:
    import pandas as pd


def plot_pairs(
    panels: Mapping[str, pd.DataFrame], formats: Sequence[str], *, labels: Mapping[str, str], worse: Sequence[int]
) -> Figure:
    """Plot symmetric tables over stand-ins side by side, the lower half of each; the stronger the colour, the worse.

    The diagonal is of one stand-in alone. A cell that is NaN stays empty but for a dash.

    Args:
        panels: title -> table, stand-ins by stand-ins.
        formats: of the numbers, one per panel, as for `format`.
        labels: stand-in -> a short name.
        worse: +1 where large numbers are worse, −1 where small ones are; one per panel.

    Raises:
        ValueError: panels without a format and a direction each.
    """
    if not len(panels) == len(formats) == len(worse):
        raise ValueError(f"a format and a direction per panel; got {len(panels)}, {len(formats)} and {len(worse)}")
    theme = current()
    shades = LinearSegmentedColormap.from_list("pairs", [theme.paper, theme.accents[0]])
    fig = Figure(figsize=(9.06, 4.3), layout="constrained")
    axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, table), form, sign in zip(axes, panels.items(), formats, worse, strict=True):
        values = np.where(np.tri(len(table), dtype=bool), table.to_numpy(dtype=float), np.nan)
        low, high = np.nanmin(values), np.nanmax(values)
        shade = (values - low) / ((high - low) or 1.0)
        shade = shade if sign > 0 else 1 - shade
        ax.imshow(shade, cmap=shades, vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(table.to_numpy(dtype=float)):
            if column <= row:
                text = "–" if np.isnan(value) else format(value, form).replace("-", "−")
                colour = max((theme.ink, theme.paper), key=partial(_contrast, shades(shade[row, column])))
                ax.text(column, row, text, ha="center", va="center", fontsize=FONT_SIZE - 1, color=colour)
        names = [labels.get(name, name) for name in table.columns]
        ax.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=FONT_SIZE)
        ax.set_yticks(range(len(names)), names, fontsize=FONT_SIZE)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(title, fontsize=FONT_SIZE + 1)
    return fig


def _contrast(one: tuple[float, float, float, float], other: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2, with a plain power for the sRGB curve)."""
    dark, light = sorted(np.power(rgb, 2.2) @ (0.2126, 0.7152, 0.0722) for rgb in (to_rgb(one), to_rgb(other)))
    return float((light + 0.05) / (dark + 0.05))
