"""The live figure: every unit's rank under one stand-in against its rank under another, or by what is read off."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from nbutils.plotting.canvases import PIXELS_PER_INCH, canvases
from nbutils.plotting.live import LiveFigure
from nbutils.plotting.theme import current
from studies.across.plots import SHORT
from studies.across.predictors import league
from studies.across.standins import rank_agreement

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

SCRIPT = "notebooks/studies/across/units.js"
ABOUT = """
Every unit of a network is replaced, and ranked by what that does to the loss: across by one stand-in, up by another. If
the stand-in did not matter, all would lie on the diagonal. Tap another stand-in, and watch which units move; tap a unit
to see where it ranks under each.
"""
ORDER = (
    "zero",
    "optimal",
    "mean",
    "batch, mean over tokens",
    "batch, tokenwise mean",
    "tokenwise mean, clean",
    "tokenwise mean, clean and corrupt",
    "tokenwise mean, corrupt",
    "resample",
)
"""Stand-ins from above: the further below, the more of the twin."""
FAR, TOP = 4, 10  # a unit moves by more than a 4th of the ranking; the strongest 10th
PLACES = 6  # decimals, relative to the largest effect: what differs by less is tied

# Pixels, and points of type, of the two panels.
PLANE, ROWS, GAP = (488, 480), (370, 480), 12
PLOT = (58, 478, 26, 438)  # left, right, top and bottom of the plane
FIRST_ROW, ROW, TYPE = 54, 23, 9.0
RANKS, EFFECTS, ALIKE = (168, 218), 284, (298, 332)  # from where to where ranks and agreement are drawn


@dataclass(frozen=True)
class Network:
    """One network's tables.

    Attributes:
        label: what the choice calls it.
        quantity: the unit of its effects, such as nats.
        effects: a row per unit: `layer`, `unit`, and what ablating it adds to the loss, a column per stand-in.
        read: what is read off each unit, a column per predictor.
    """

    label: str
    quantity: str
    effects: pd.DataFrame
    read: pd.DataFrame


class Comparison(NamedTuple):
    """How two rankings of units agree.

    Attributes:
        alike: name -> agreement with the ranking across; τ-b of stand-ins over all units, Spearman's correlation of
            what is read off within layers.
        ranks: of each unit, 1 the weakest, `[2, units]`: across and up; within layers where something is read off.
        among: how many are ranked together, `[units]`.
        far: which units move by more than a quarter of the ranking.
        shared: how many are among the strongest tenth both ways.
        strongest: how many a tenth is.
    """

    alike: dict[str, float]
    ranks: NDArray[np.float64]
    among: NDArray[np.int64]
    far: NDArray[np.bool_]
    shared: int
    strongest: int

    @property
    def places(self) -> NDArray[np.float64]:
        """The share of units that each unit outranks, half of those that it ties with: `[2, units]`."""
        return (self.ranks - 0.5) / self.among

    @property
    def moved(self) -> int:
        """The unit whose place changes most."""
        across, up = self.places
        return int(np.abs(up - across).argmax())


def compare(network: Network, across: str, up: str) -> Comparison:
    """Return how the ranking of a network's units under a stand-in agrees with another, or with what is read off.

    Args:
        across: a stand-in.
        up: a stand-in or a predictor.

    Raises:
        KeyError: there is none of that name.
    """
    from scipy.stats import rankdata

    effects = network.effects.set_index(["layer", "unit"])[list(ORDER)]
    alike = rank_agreement(effects, across, PLACES).tau.to_dict() | league(network.read, effects[across]).to_dict()
    groups = {"all": np.arange(len(effects))}
    if up in network.read:
        groups = effects.groupby(level="layer", sort=False).indices
        one, other = effects[across].abs().to_numpy(), network.read[up].abs().to_numpy()
    else:
        one, other = _tied(effects[across]), _tied(effects[up])
    ranks, among = np.zeros((2, len(effects))), np.zeros(len(effects), dtype=int)
    for rows in groups.values():
        ranks[:, rows] = rankdata(one[rows]), rankdata(other[rows])
        among[rows] = len(rows)
    strongest = -(-len(effects) // TOP)
    first = [set(np.argsort(-place, kind="stable")[:strongest].tolist()) for place in (ranks - 0.5) / among]
    far = np.abs(ranks[1] - ranks[0]) > among / FAR
    return Comparison(alike, ranks, among, far, len(first[0] & first[1]), strongest)


def _tied(effects: ArrayLike) -> NDArray[np.float64]:
    """Return sizes relative to the largest, equal where they differ by less than a millionth of it."""
    sizes = np.abs(np.asarray(effects, dtype=float))
    return (sizes / max(sizes.max(), 1e-30)).round(PLACES)


def live_units(
    networks: Sequence[Network], *, shown: str, across: str = "zero", up: str = "resample", agree: float = 0.7
) -> LiveFigure:
    """Return networks whose units are ranked twice.

    Args:
        networks: with all of `ORDER`, and the same predictors.
        shown: the label of the one shown first.
        across, up: what is compared first.
        agree: agreement from which two rankings are called alike.

    Raises:
        ValueError: two networks have one label, or none that of `shown`; a network lacks units, a stand-in or a
            predictor, or has one that is not finite.
    """
    labels = [network.label for network in networks]
    if len(set(labels)) < len(labels) or shown not in labels:
        raise ValueError(f"expected networks with labels of their own, {shown!r} among them; got {labels}")
    predictors = list(networks[0].read)
    for network in networks:
        if not set(ORDER) <= set(network.effects) or list(network.read) != predictors:
            raise ValueError(f"{network.label}: expected effects under {', '.join(ORDER)}, and {', '.join(predictors)}")
        tables = network.effects[list(ORDER)], network.read
        if len({len(table) for table in tables}) > 1 or not all(np.isfinite(table).all(axis=None) for table in tables):
            raise ValueError(f"{network.label}: expected a finite number for every unit and column")
    if across not in ORDER or up not in (*ORDER, *predictors):
        raise ValueError(f"expected two of {', '.join((*ORDER, *predictors))}; got {across!r}, {up!r}")
    first = next(network for network in networks if network.label == shown)
    data = {
        "networks": [_packed(network) for network in networks],
        "standIns": [{"name": name, "label": SHORT[name]} for name in ORDER],
        "predictors": predictors,
        "first": {"network": shown, "across": across, "up": up},
        "agree": agree,
    }
    return LiveFigure(SCRIPT, data, lambda: plot_first_view(first, across, up), ABOUT)


def plot_first_view(network: Network, across: str, up: str) -> Figure:
    """Plot what the live figure shows first: ranks across and up, and the unit that moves most under every stand-in."""
    found = compare(network, across, up)
    fig, (plane, rows) = canvases([PLANE, ROWS], gap=GAP)
    _draw_plane(plane, found, across, up)
    _draw_rows(rows, network, found, across, up)
    return fig


def _draw_plane(ax: Axes, found: Comparison, across: str, up: str) -> None:
    theme, point = current(), 72 / PIXELS_PER_INCH
    left, right, top, bottom = PLOT
    x, y = left + found.places[0] * (right - left), bottom - found.places[1] * (bottom - top)
    wide, tall = (right - left) / FAR, (bottom - top) / FAR
    band = [(left, bottom), (left + wide, bottom), (right, top + tall), (right, top), (right - wide, top)]
    band.append((left, bottom - tall))
    ax.add_patch(Polygon(band, facecolor=theme.muted, alpha=0.13, linewidth=0))
    line: dict[str, Any] = {"color": theme.muted, "linewidth": point}
    ax.plot([left, right, right, left, left], [top, top, bottom, bottom, top], linestyle="-", **line)
    ax.plot([left, right], [bottom, top], linestyle=":", **line)
    edge = found.strongest / len(x)
    ax.plot([right - edge * (right - left)] * 2, [top, bottom], linestyle=":", **line)
    ax.plot([left, right], [top + edge * (bottom - top)] * 2, linestyle=":", **line)
    size, rises = (7 if len(x) < 200 else 5) ** 2 * point**2, found.places[1] > found.places[0]
    for chosen, marker, colour in (
        (~found.far, "o", theme.accents[0]),
        (found.far & rises, "^", theme.accents[1]),
        (found.far & ~rises, "v", theme.accents[1]),
    ):
        ax.scatter(x[chosen], y[chosen], s=size, marker=marker, color=colour, linewidth=0, zorder=3)
    ring: dict[str, Any] = {"facecolors": "none", "edgecolors": theme.ink, "linewidth": 2 * point, "zorder": 4}
    ax.scatter([x[found.moved]], [y[found.moved]], s=(15 * point) ** 2, **ring)
    text: dict[str, Any] = {"va": "center", "fontsize": TYPE}
    ax.text(right, 10, "dots: units; triangles: moved by more than a quarter", ha="right", **text)
    ax.text(left, bottom + 13, "weakest", ha="left", **text)
    ax.text(right, bottom + 13, "strongest tenth", ha="right", **text)
    ax.text((left + right) / 2, bottom + 31, f"→ {_ranked(across, up)}", ha="center", **text)
    rotated: dict[str, Any] = {"rotation": 90, "ha": "center", "fontsize": TYPE}
    ax.text(left - 13, bottom, "weakest", va="bottom", **rotated)
    ax.text(left - 13, top, "strongest tenth", va="top", **rotated)
    ax.text(left - 32, (top + bottom) / 2, f"↑ {_ranked(up, up)}", va="center", **rotated)


def _ranked(name: str, up: str) -> str:
    within = "" if up in ORDER else ", within its layer"
    return (f"rank under {SHORT[name]}" if name in ORDER else name) + within


def _draw_rows(ax: Axes, network: Network, found: Comparison, across: str, up: str) -> None:
    theme, point = current(), 72 / PIXELS_PER_INCH
    text: dict[str, Any] = {"va": "center", "fontsize": TYPE}
    unit = found.moved
    own = network.effects.iloc[unit]
    middle = (RANKS[0] + EFFECTS) / 2
    for x, where, head, told in (
        (18, "left", "stand-in", "tap one to compare"),
        (middle, "center", named(own.layer, own.unit), ""),
        ((ALIKE[0] + ROWS[0] - 4) / 2, "center", "all units", "τ with →"),
    ):
        ax.text(x, 8, head, ha=where, fontweight="bold", **text)
        ax.text(x, 25, told, ha=where, **text)
    ax.text(sum(RANKS) / 2, 25, "rank", ha="center", **text)
    ax.text(EFFECTS, 25, "effect", ha="right", **text)
    rows = rows_of(list(network.read))
    bottom = FIRST_ROW + ROW * (len(rows) - 0.5)
    line: dict[str, Any] = {"color": theme.muted, "linewidth": point, "linestyle": ":"}
    for ends in (RANKS, ALIKE):
        for x in ends:
            ax.plot([x, x], [FIRST_ROW - ROW / 2, bottom], **line)
    dot: dict[str, Any] = {"s": (8 * point) ** 2, "color": theme.ink, "linewidth": 0, "zorder": 3}
    ranks = places_of(network, unit)
    for i, name in enumerate(rows):
        y = FIRST_ROW + ROW * i
        if name is None:
            blank: dict[str, Any] = {"facecolor": theme.paper, "linewidth": 0, "zorder": 2}
            ax.fill_between([RANKS[0] - 2, ROWS[0]], y - ROW / 2 + 2, y + ROW / 2 - 2, **blank)
            ax.text(18, y, "read off instead", ha="left", fontweight="bold", **text)
            ax.text(sum(RANKS) / 2, y, "in its layer", ha="center", **text)
            ax.text(ROWS[0] - 4, y, "Spearman", ha="right", **text)
            continue
        if name in (across, up):
            top, end = y - ROW / 2 + 1.5, y + ROW / 2 - 1.5
            frame: dict[str, Any] = {"color": theme.ink, "linewidth": 1.4 * point, "linestyle": "-"}
            ax.plot([1, ROWS[0] - 1, ROWS[0] - 1, 1, 1], [top, top, end, end, top], **frame)
            ax.text(5, y, "→" if name == across else "↑", ha="left", **text)
        ax.text(18, y, SHORT.get(name, name), ha="left", **text)
        ax.scatter([RANKS[0] + ranks[name] * (RANKS[1] - RANKS[0])], [y], **dot)
        if name in network.effects:
            ax.text(EFFECTS, y, signed(own[name]), ha="right", **text)
        alike = found.alike[name]
        if np.isfinite(alike):
            reach = ALIKE[0] + np.clip(alike, 0, 1) * (ALIKE[1] - ALIKE[0])
            ax.plot([ALIKE[0], reach], [y, y], color=theme.ink, linewidth=2 * point, linestyle="-")
            ax.scatter([reach], [y], **dot)
        ax.text(ROWS[0] - 4, y, plain(alike), ha="right", **text)
    for x, words in zip((*RANKS, *ALIKE), ("weak", "strong", "0", "1"), strict=True):
        ax.text(x, bottom + 8, words, ha="center", **text)


def rows_of(predictors: Sequence[str]) -> list[str | None]:
    """Return the rows from above: the stand-ins, a head, and what is read off."""
    return [*ORDER, None, *predictors]


def places_of(network: Network, unit: int) -> dict[str, float]:
    """Return the share of units that one outranks, by stand-in of all, by what is read off of its layer."""
    from scipy.stats import rankdata

    layers = network.effects.layer.to_numpy()
    own = np.flatnonzero(layers == layers[unit])
    found = {name: (rankdata(_tied(network.effects[name]))[unit] - 0.5) / len(layers) for name in ORDER}
    place = int(np.flatnonzero(own == unit)[0])
    return found | {
        name: (rankdata(values.abs().to_numpy()[own])[place] - 0.5) / len(own) for name, values in network.read.items()
    }


def named(layer: str, unit: int) -> str:
    """Return what the figure calls a unit; `blocks.2` within a module's name is block 2."""
    return re.sub(r".*blocks[.]([0-9]+)[.].*", r"block \1", layer) + f", unit {unit}"


def signed(value: float) -> str:
    """Return an effect as the figure writes it: two digits and its sign."""
    size = abs(value)
    if size < 1e-12:
        return "0"
    if size >= 9.95:
        words = f"{size:.1f}"
    elif size >= 0.000995:
        words = f"{size:#.2g}"
    else:
        words = re.sub(r"e([+-])0*", r"e\1", f"{size:.1e}")
    return ("+" if value > 0 else "−") + words.replace("-", "−")


def plain(value: float) -> str:
    """Return an agreement as the figure writes it."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−") if np.isfinite(value) else "–"


def _packed(network: Network) -> dict[str, Any]:
    layers = list(dict.fromkeys(network.effects.layer))
    columns: Mapping[str, Any] = {
        "effects": network.effects[list(ORDER)].to_numpy(dtype=float).T,
        "read": network.read.to_numpy(dtype=float).T,
    }
    return {
        "label": network.label,
        "quantity": network.quantity,
        "layers": [named(layer, 0).removesuffix(", unit 0") for layer in layers],
        "layerOf": network.effects.layer.map({layer: i for i, layer in enumerate(layers)}).to_numpy(dtype=np.int32),
        "unit": network.effects.unit.to_numpy(dtype=np.int32),
        **columns,
    }
