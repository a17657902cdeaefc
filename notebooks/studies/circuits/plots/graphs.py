"""Circuits as graphs: layers from left to right, edges as wide as they are strong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.theme import Theme, current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Point = tuple[float, float]

_WIDEST = 6.0  # points, of the strongest edge
_NODE = (0.27, 0.27)  # half width and half height of a node, in units of a column and of a row
_LANE = 0.17  # half height of what edges use of the gap between two nodes
_PORTS = 0.66  # of a node's height, over which its inputs are spread
_DASHES = (0, (2.2, 1.1))  # of an edge that raises the measure when it is ablated


def draw_circuit(
    ax: Axes,
    edges: pd.DataFrame,
    *,
    top: int | None = None,
    threshold: float = 0.0,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Draw a graph: layers from left to right, a box per node, the strongest edges as wide as they are strong.

    An edge ends at the input it feeds: a node with several (`a0.1.q`, `.k`, `.v`) has a letter for each. Solid: the
    weight is negative, ablating the edge lowers the measure. Dashed: it raises it.

    Args:
        ax: axes to draw in.
        edges: `source`, `destination`, `source_depth`, `destination_depth`, `weight`, as from `ResidualGraph.frame`.
        top: most edges to draw, the strongest; all when not given.
        threshold: size above which weights are drawn.
        labels: node -> what to write in its box.
    """
    theme = current()
    nodes = _arrange(edges)
    size = edges["weight"].abs()
    shown = edges[(size > threshold) & (size > 0)].sort_values("weight", key=abs, ascending=False)
    shown = shown if top is None else shown.head(top)
    ends = {edge.Index: nodes.ends(edge.source, edge.destination) for edge in shown.itertuples()}
    lanes = _choose_lanes(ends, nodes.rows)
    for edge in shown[::-1].itertuples():  # the strongest on top
        path = _route(*ends[edge.Index], lanes[edge.Index])
        _draw_edge(ax, path, max(0.7, _WIDEST * abs(edge.weight) / size.max()), theme, helps=edge.weight < 0)
    used = set(shown["source"]) | set(shown["destination"].map(nodes.owner))
    for name in nodes.place:
        _draw_node(ax, nodes, name, (labels or {}).get(name, name), theme, used=name in used)
    tall = max(nodes.rows.values())
    ax.set_xlim(-_NODE[0] - 0.1, max(nodes.rows) + _NODE[0] + 0.1)
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
        label = f"ablating it raises {quantity}"
        key.append(Line2D([], [], color=theme.accents[1], linewidth=3, linestyle=_DASHES, label=label))
    fig.legend(handles=key, loc="outside lower center", ncols=2, fontsize=FONT_SIZE, handlelength=3)
    return fig


class Drawn(NamedTuple):
    """Where a graph with all its edges is drawn, in columns from the left and rows from the middle upwards.

    Attributes:
        nodes: node -> its middle.
        node: half width and half height of a node.
        inputs: node -> its inputs, from the top: the letter of each, and its height.
        paths: for each edge a start `[2]`, and three points for each cubic piece: `[1 + 3 · pieces, 2]`.
    """

    nodes: dict[str, Point]
    node: Point
    inputs: dict[str, list[tuple[str, float]]]
    paths: list[np.ndarray]


def arrange(edges: pd.DataFrame) -> Drawn:
    """Return where `draw_circuit` draws nodes, and edges if it draws all of them.

    Args:
        edges: as for `draw_circuit`; weights play no part.
    """
    nodes = _arrange(edges)
    ends = {edge.Index: nodes.ends(edge.source, edge.destination) for edge in edges.itertuples()}
    lanes = _choose_lanes(ends, nodes.rows)
    inputs = {
        node: [(port.removeprefix(f"{node}."), y + nodes.port_height(port)) for port in nodes.ports(node)]
        for node, (_, y) in nodes.place.items()
    }
    paths = [np.asarray(_route(*ends[edge], lanes[edge]).vertices) for edge in edges.index]
    return Drawn(dict(nodes.place), _NODE, inputs, paths)


@dataclass(frozen=True)
class _Nodes:
    """Where the boxes of a graph are drawn.

    Attributes:
        place: node -> its middle, in columns from the left and rows from the middle upwards.
        rows: column -> how many nodes it has.
        owner: destination -> the node that it is an input of.
    """

    place: Mapping[str, Point]
    rows: Mapping[int, int]
    owner: Mapping[str, str]

    def ports(self, node: str) -> list[str]:
        """Return the destinations that a node has beside its own name."""
        return [name for name, owner in self.owner.items() if owner == node and name != node]

    def port_height(self, destination: str) -> float:
        """Return how far above the middle of its node an input lies."""
        ports = self.ports(self.owner[destination])
        if len(ports) < 2:
            return 0.0
        return _PORTS * _NODE[1] * (1 - 2 * ports.index(destination) / (len(ports) - 1))

    def ends(self, source: str, destination: str) -> tuple[Point, Point]:
        """Return where an edge starts and where it ends."""
        x, y = self.place[source]
        to, down = self.place[self.owner[destination]]
        return (x + _NODE[0], y), (to - _NODE[0], down + self.port_height(destination))


def _arrange(edges: pd.DataFrame) -> _Nodes:
    """Return the places of all nodes: a column per depth, names in order from the top."""
    owner = {name: _find_owner(name, set(edges["source"])) for name in edges["destination"].unique()}
    depth = dict(zip(edges["destination"].map(owner), edges["destination_depth"], strict=True))
    depth |= dict(zip(edges["source"], edges["source_depth"], strict=True))
    columns: dict[int, list[str]] = {}
    for name, column in sorted(depth.items(), key=lambda item: (item[1], item[0])):
        columns.setdefault(column, []).append(name)
    place = {
        name: (float(column), (len(names) - 1) / 2 - row)
        for column, names in columns.items()
        for row, name in enumerate(names)
    }
    return _Nodes(place, {column: len(names) for column, names in columns.items()}, owner)


def _find_owner(destination: str, sources: set[str]) -> str:
    """Return the node that a destination belongs to: the source of that name, or whose name it continues."""
    parts = destination.split(".")
    names = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((name for name in names if name in sources), destination)


def _draw_edge(ax: Axes, path: Path, width: float, theme: Theme, *, helps: bool) -> None:
    # A rim of paper keeps crossing edges apart.
    ax.add_patch(PathPatch(path, fill=False, edgecolor=theme.paper, linewidth=width + 2.2, capstyle="butt"))
    colour, dashes = (theme.accents[0], "-") if helps else (theme.accents[1], _DASHES)
    ax.add_patch(PathPatch(path, fill=False, edgecolor=colour, linewidth=width, linestyle=dashes, capstyle="butt"))


def _draw_node(ax: Axes, nodes: _Nodes, name: str, label: str, theme: Theme, *, used: bool) -> None:
    """Draw a box with its name and a letter per input; muted where no edge that is drawn touches it."""
    (x, y), ports = nodes.place[name], nodes.ports(name)
    ink = theme.ink if used else theme.muted
    ax.add_patch(
        FancyBboxPatch(
            (x - _NODE[0], y - _NODE[1]),
            2 * _NODE[0],
            2 * _NODE[1],
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=theme.paper,
            edgecolor=ink,
            linewidth=1.2 if used else 0.8,
            zorder=3,
        )
    )
    ax.text(x + 0.05 * bool(ports), y, label, color=ink, ha="center", va="center", fontsize=FONT_SIZE, zorder=4)
    for port in ports:
        at, letter = y + nodes.port_height(port), port.removeprefix(f"{name}.")
        ax.text(x - _NODE[0] + 0.03, at, letter, color=ink, ha="left", va="center", fontsize=FONT_SIZE - 2, zorder=4)


def _choose_lanes(ends: Mapping[int, tuple[Point, Point]], rows: Mapping[int, int]) -> dict[int, list[Point]]:
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
