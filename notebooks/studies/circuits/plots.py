"""Pictures of circuits: the graph with its strongest edges, scores by ablation type, faithfulness by size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from nbutils.plotting.distributions import MARKERS
from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.theme import LINE_STYLES, current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Point = tuple[float, float]

_WIDEST = 6.0  # points, of the strongest edge
_NODE = (0.27, 0.27)  # half width and half height of a node, in units of a column and of a row
_LANE = 0.17  # half height of what edges use of the gap between two nodes
_PORTS = 0.66  # of a node's height, over which its inputs are spread
_ROWS = 40  # most rows of a heat map that can be read
_WRITTEN = 220  # most cells of a heat map that carry their number


def draw_circuit(
    ax: Axes,
    edges: pd.DataFrame,
    *,
    top: int | None = None,
    threshold: float = 0.0,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Draw a graph: layers from left to right, a box a node, the strongest edges as wide as they are strong.

    An edge ends at the input it feeds: a node with several (`a0.1.q`, `.k`, `.v`) has a letter for each. Solid: the
    weight is negative, ablating the edge lowers the measure. Dashed: it raises it.

    Args:
        ax: axes to draw in.
        edges: `source`, `destination`, `source_depth`, `destination_depth`, `weight`, as from `ResidualGraph.frame`.
        top: draw at most so many edges, the strongest.
        threshold: draw edges whose weight is larger than this in size.
        labels: node -> what to write in its box.
    """
    theme = current()
    owner = {name: _owner(name, set(edges["source"])) for name in edges["destination"].unique()}
    depth = dict(zip(edges["destination"].map(owner), edges["destination_depth"], strict=True))
    depth |= dict(zip(edges["source"], edges["source_depth"], strict=True))
    columns: dict[int, list[str]] = {}
    for name, column in sorted(depth.items(), key=lambda item: (item[1], item[0])):
        columns.setdefault(column, []).append(name)
    tall = max(map(len, columns.values()))
    place = {
        name: (column, (len(names) - 1) / 2 - row)
        for column, names in columns.items()
        for row, name in enumerate(names)
    }
    inputs = {node: [name for name in owner if owner[name] == node and name != node] for node in set(owner.values())}
    size = edges["weight"].abs()
    shown = edges[(size > threshold) & (size > 0)].sort_values("weight", key=abs, ascending=False)
    shown = shown if top is None else shown.head(top)
    used = set(shown["source"]) | set(shown["destination"].map(owner))
    largest = size.max()
    ends = {}
    for edge in shown.itertuples():
        x, y = place[edge.source]
        to, down = place[owner[edge.destination]]
        ends[edge.Index] = ((x + _NODE[0], y), (to - _NODE[0], down + _port(inputs, owner, edge.destination)))
    lanes = _lanes(ends, {column: len(names) for column, names in columns.items()})
    for edge in shown[::-1].itertuples():  # the strongest on top
        path = _route(*ends[edge.Index], lanes[edge.Index])
        helps = edge.weight < 0
        width = max(0.7, _WIDEST * abs(edge.weight) / largest)
        # A rim of paper keeps crossing edges apart.
        ax.add_patch(PathPatch(path, fill=False, edgecolor=theme.paper, linewidth=width + 2.2, capstyle="butt"))
        ax.add_patch(
            PathPatch(
                path,
                fill=False,
                edgecolor=theme.accents[0 if helps else 1],
                linewidth=width,
                linestyle="-" if helps else (0, (2.2, 1.1)),
                capstyle="butt",
            )
        )
    for name, (x, y) in place.items():
        ink = theme.ink if name in used else theme.muted
        ax.add_patch(
            FancyBboxPatch(
                (x - _NODE[0], y - _NODE[1]),
                2 * _NODE[0],
                2 * _NODE[1],
                boxstyle="round,pad=0,rounding_size=0.08",
                facecolor=theme.paper,
                edgecolor=ink,
                linewidth=1.2 if name in used else 0.8,
                zorder=3,
            )
        )
        ports = inputs.get(name, [])
        label = (labels or {}).get(name, name)
        ax.text(x + 0.05 * bool(ports), y, label, color=ink, ha="center", va="center", fontsize=FONT_SIZE, zorder=4)
        for port in ports:
            at = y + _port(inputs, owner, port)
            letter = port.removeprefix(f"{name}.")
            ax.text(
                x - _NODE[0] + 0.03, at, letter, color=ink, ha="left", va="center", fontsize=FONT_SIZE - 2, zorder=4
            )
    ax.set_xlim(-_NODE[0] - 0.1, max(columns) + _NODE[0] + 0.1)
    ax.set_ylim(-tall / 2 - 0.2, tall / 2 + 0.2)
    ax.axis("off")


def plot_circuit(
    edges: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    top: int | None = None,
    threshold: float = 0.0,
    labels: Mapping[str, str] | None = None,
    quantity: str = "the measure",
) -> Figure:
    """Plot a circuit, or several side by side.

    Args:
        edges: a table as for `draw_circuit`, or title -> table. The widest edge of each panel is its strongest.
        top, threshold, labels: as for `draw_circuit`.
        quantity: what the weights are effects on; named below the panels.

    Raises:
        ValueError: no panels, or a table without one of the columns.
    """
    panels = edges if isinstance(edges, Mapping) else {"": edges}
    if not panels:
        raise ValueError("expected at least one circuit to draw, got none")
    for title, frame in panels.items():
        missing = {"source", "destination", "source_depth", "destination_depth", "weight"} - set(frame.columns)
        if missing:
            raise ValueError(f"the edges {title!r} need the columns {', '.join(sorted(missing))}")
    theme = current()
    across = min(len(panels), 2)
    down = math.ceil(len(panels) / across)
    width = 5.6 if across == 1 else 8.8
    fig = Figure(figsize=(width, 2.9 * down + 0.35), layout="constrained")
    axes = fig.subplots(down, across, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, (title, frame) in zip(axes.flat, panels.items(), strict=False):
        draw_circuit(ax, frame, top=top, threshold=threshold, labels=labels)
        ax.set_title(title)
    weights = np.concatenate([frame["weight"] for frame in panels.values()])
    key = []
    if (weights < 0).any():
        key.append(Line2D([], [], color=theme.accents[0], linewidth=3, label=f"ablating it lowers {quantity}"))
    if (weights > 0).any():
        dashes = (0, (2.2, 1.1))
        label = f"ablating it raises {quantity}"
        key.append(Line2D([], [], color=theme.accents[1], linewidth=3, linestyle=dashes, label=label))
    fig.legend(handles=key, loc="outside lower center", ncols=2, fontsize=FONT_SIZE, handlelength=3)
    return fig


def plot_edge_scores(scores: pd.DataFrame, *, rows: int = _ROWS, quantity: str = "effect", digits: int = 2) -> Figure:
    """Plot scores as a heat map, an edge a row and an ablation type a column, strongest edges first.

    The colours are symmetric about 0, which has the colour of the paper; the numbers carry the sign in greyscale.

    Args:
        scores: indexed by edge, a column a type.
        rows: draw the edges that are strongest under some type, at most so many.
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
    fig = Figure(figsize=(2.6 + 0.78 * values.shape[1], 1.7 + 0.235 * len(values)), layout="constrained")
    ax = fig.subplots()
    image = ax.imshow(values, cmap=colours, vmin=-limit, vmax=limit, aspect="auto")
    ax.set_yticks(range(len(values)), [str(scores.index[i]) for i in order], fontsize=FONT_SIZE - 1)
    names = [
        str(column).replace(", ", ",\n").replace(" over ", "\nover ").replace(" and ", "\nand ")
        for column in scores.columns
    ]
    ax.set_xticks(range(values.shape[1]), names, fontsize=FONT_SIZE - 1)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if values.size <= _WRITTEN:
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
    bar = fig.colorbar(image, ax=ax, location="bottom", shrink=0.7, aspect=40, pad=0.02)
    bar.set_label(quantity, fontsize=FONT_SIZE)
    bar.outline.set_visible(False)
    return fig


def draw_faithfulness(ax: Axes, curves: pd.DataFrame, *, value: str = "ratio_of_means", low: float = -0.6) -> None:
    """Draw faithfulness against the number of edges kept, a line a method, the prompts' spread behind each.

    Args:
        ax: axes to draw in.
        curves: `method`, `edges`, `ratio_of_means`, `mean_of_ratios`, `low`, `high`, as from `faithfulness_curve`.
        value: which of the two to draw.
        low: lower end of the axis; the upper is as far above 1 as that is below 0. What lies beyond is cut off.
    """
    theme = current()
    for level in (0.0, 1.0):
        ax.axhline(level, color=theme.muted, linewidth=0.8, linestyle=":")
    for number, (_, curve) in enumerate(curves.groupby("method", sort=False)):
        colour = theme.accents[number % len(theme.accents)]
        ax.fill_between(curve["edges"], curve["low"], curve["high"], color=colour, alpha=0.10, linewidth=0)
        ax.plot(
            curve["edges"],
            curve[value],
            color=colour,
            linestyle=LINE_STYLES[number % len(LINE_STYLES)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=3.5,
            linewidth=1.6,
        )
    ax.set_ylim(low, 1 - low)
    ax.set_xlabel("edges kept")
    ax.grid(axis="y")


def plot_faithfulness(
    curves: pd.DataFrame, *, panel: str = "ablation", value: str = "ratio_of_means", low: float = -0.6
) -> Figure:
    """Plot faithfulness by circuit size, a panel an ablation type, a line a way to score edges.

    Args:
        curves: as for `draw_faithfulness`, with a column `panel`.
        panel: the column that tells the panels apart.
        value, low: as for `draw_faithfulness`.

    Raises:
        ValueError: no curves, or a column is missing.
    """
    missing = {panel, "method", "edges", "low", "high", value} - set(curves.columns)
    if missing or curves.empty:
        raise ValueError(
            f"faithfulness curves need the columns {', '.join(sorted(missing))}" if missing else "no curves"
        )
    theme = current()
    groups = list(curves.groupby(panel, sort=False))
    across = min(len(groups), 3)
    down = math.ceil(len(groups) / across)
    fig = Figure(figsize=(2.9 * across + 0.6, 2.5 * down + 0.5), layout="constrained")
    axes = fig.subplots(down, across, sharey=True, squeeze=False)
    for ax in axes.flat[len(groups) :]:
        ax.axis("off")
    for ax, (title, group) in zip(axes.flat, groups, strict=False):
        draw_faithfulness(ax, group, value=value, low=low)
        ax.set_title(title, fontsize=FONT_SIZE)
    for ax in axes[:, 0]:
        ax.set_ylabel(f"faithfulness\n({value.replace('_', ' ')})")
    methods = list(dict.fromkeys(curves["method"]))
    key = [
        Line2D(
            [],
            [],
            color=theme.accents[i % len(theme.accents)],
            linestyle=LINE_STYLES[i % len(LINE_STYLES)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            label=method,
        )
        for i, method in enumerate(methods)
    ]
    fig.legend(handles=key, loc="outside lower center", ncols=min(len(key), 5), fontsize=FONT_SIZE, handlelength=3.5)
    return fig


def _owner(destination: str, sources: set[str]) -> str:
    """Return the node that a destination belongs to: the source of that name, or whose name it continues."""
    parts = destination.split(".")
    names = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((name for name in names if name in sources), destination)


def _port(inputs: Mapping[str, list[str]], owner: Mapping[str, str], name: str) -> float:
    """Return how far above the middle of its node an input lies."""
    ports = inputs[owner[name]]
    if len(ports) < 2:
        return 0.0
    return _PORTS * _NODE[1] * (1 - 2 * ports.index(name) / (len(ports) - 1))


def _lanes(ends: Mapping[int, tuple[Point, Point]], rows: Mapping[int, int]) -> dict[int, list[Point]]:
    """Return the points at which each edge passes the columns between its ends, in gaps between nodes.

    It takes the gap nearest to the straight line. Edges that share a gap are spread over it, in the order in which
    they lie at their far ends, so that they do not cross there.
    """
    gaps: dict[tuple[int, float], list[int]] = {}
    for edge, ((x, y), (to, down)) in ends.items():
        for column in range(math.ceil(x), math.floor(to) + 1):
            straight = y + (down - y) * (column - x) / (to - x)
            middles = np.arange(rows[column] + 1) - rows[column] / 2
            gaps.setdefault((column, float(middles[np.abs(middles - straight).argmin()])), []).append(edge)
    found: dict[int, list[Point]] = {edge: [] for edge in ends}
    for (column, middle), edges in sorted(gaps.items()):
        edges.sort(key=lambda edge: (ends[edge][1][1], ends[edge][0][1]))
        for slot, edge in enumerate(edges):
            found[edge].append((column, middle + _LANE * (2 * (slot + 1) / (len(edges) + 1) - 1)))
    return found


def _route(start: Point, end: Point, lanes: list[Point]) -> Path:
    """Return a smooth path that is level at its ends and where it passes a column."""
    points = [start]
    for column, y in lanes:
        points += [(column - _NODE[0], y), (column + _NODE[0], y)]
    points.append(end)
    vertices, codes = [start], [Path.MOVETO]
    for (x, y), (to, down) in pairwise(points):
        reach = 0.5 * (to - x)
        vertices += [(x + reach, y), (to - reach, down), (to, down)]
        codes += [Path.CURVE4] * 3
    return Path(vertices, codes)


def _luminance(colour: tuple[float, float, float, float]) -> float:
    return float(np.dot(np.power(to_rgb(colour), 2.2), (0.2126, 0.7152, 0.0722)))
