"""Pictures of where a backdoor lies under different recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from nbutils.plotting.distributions import MARKERS
from nbutils.plotting.expect import expect_columns
from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.theme import LINE_STYLES, current

if TYPE_CHECKING:
    import pandas as pd

LEARNT = 0.5  # ASR from which a network has a backdoor at all
FIRST = 3  # look of the first rate: those before it are the measures'


def plot_localisation(table: pd.DataFrame) -> Figure:
    """Plot among how many channels a backdoor is spread: a panel per training set, a line per poison rate.

    Lines join the medians, of an even number the upper one, where the median network has a backdoor (ASR of one half or
    more). Dots are networks, open where there is none.

    Args:
        table: a row per network: `set` (a panel each), `drift`, `rate`, `asr`, `carriers`.

    Raises:
        KeyError: a column is missing.
    """
    expect_columns(table, ("set", "drift", "rate", "asr", "carriers"))
    theme = current()
    sets, drifts, rates = (list(table[name].unique()) for name in ("set", "drift", "rate"))
    drifts.sort()
    fig = Figure(figsize=(min(1.2 + 2.6 * len(sets), 9.0), 3.5), layout="constrained")
    axes = fig.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, sets, strict=True):
        for place, rate in enumerate(rates):
            rows = table[(table["set"] == name) & (table["rate"] == rate)]
            x = np.array([drifts.index(drift) for drift in rows.drift]) + 0.16 * (place - (len(rates) - 1) / 2)
            learnt, colour = rows.asr.to_numpy() >= LEARNT, theme.accents[FIRST + place]
            marker, style = MARKERS[FIRST + place], LINE_STYLES[place % len(LINE_STYLES)]
            for some, face in ((learnt, colour), (~learnt, theme.paper)):
                ax.scatter(
                    x[some], rows.carriers[some], s=30, marker=marker, facecolors=face, edgecolors=colour, zorder=3
                )
            median = rows.groupby("drift")[["asr", "carriers"]].quantile(0.5, interpolation="higher")
            middle = median.carriers[median.asr >= LEARNT]
            at = np.array([drifts.index(drift) for drift in middle.index]) + 0.16 * (place - (len(rates) - 1) / 2)
            line = {"color": colour, "linestyle": style, "linewidth": 1.6, "marker": marker, "markersize": 5.5}
            ax.plot(at, middle, label=f"poison rate {rate:g}", **line)
        ax.set_title(name, fontsize=FONT_SIZE)
        ax.set_xticks(range(len(drifts)), [f"{drift:g}" for drift in drifts])
        ax.set_xlim(-0.5, len(drifts) - 0.5)
        ax.grid(axis="y")
    axes[0].set_yscale("log", base=2)
    ticks = [1, 2, 4, 8, 16, 32]
    axes[0].set_yticks(ticks, [str(tick) for tick in ticks])
    axes[0].set_ylim(0.85, max(16.0, 1.25 * float(np.nanmax(table.carriers))))
    axes[0].set_ylabel("effective number of carriers in conv2")
    axes[0].legend(fontsize=8, loc="lower left", frameon=False, handlelength=3)
    fig.supxlabel("weight of the drift penalty", fontsize="medium")
    return fig
