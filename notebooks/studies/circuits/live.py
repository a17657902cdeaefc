"""The live figure: the transformer itself, edges to cut, and how faithful what is left is under every stand-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve
from torch import Tensor, nn

from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairLoader
from nbutils.graphs.residual import ResidualGraph
from nbutils.graphs.task import EdgeTask, evaluate
from nbutils.plotting.canvases import PIXELS_PER_INCH, canvases
from nbutils.plotting.live import LiveFigure
from nbutils.plotting.theme import current
from studies.circuits.answers import logit_difference
from studies.circuits.controls import strongest_edges
from studies.circuits.faithfulness import faithfulness
from studies.circuits.plots.graphs import arrange
from studies.circuits.sequences import Prompts
from studies.circuits.transformer import Transformer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCRIPT = "notebooks/studies/circuits/circuit.js"
ANOTHER = "resample, another prompt"
ABOUT = """
A transformer that continues repeated sequences runs in this page. Some of its edges are kept; the others are cut, and
fed a stand-in. The dots tell how much of its behaviour is left under each: all (1) by one, next to nothing by another.
Try another stand-in, or tap an edge to see what cutting it alone does, and again to cut or restore it.
"""


class StandIn(NamedTuple):
    """What replaces a source in the page.

    Attributes:
        label: what the figure calls it.
        inputs: the prompts on which sources are read; none where constants are given, or zeros.
        over: what is averaged.
    """

    label: str
    inputs: tuple[str, ...] = ()
    over: str = "nothing"


STAND_INS: Mapping[str, StandIn] = {
    "zero": StandIn("zeros"),
    "optimal": StandIn("optimal constant"),
    "batch, mean over tokens": StandIn("mean, positions", ("clean",), "items and positions"),
    "batch, tokenwise mean": StandIn("mean, batch", ("clean",), "items"),
    "tokenwise mean, clean": StandIn("mean, clean", ("clean",), "items"),
    "tokenwise mean, corrupt": StandIn("mean, twins", ("corrupt",), "items"),
    "tokenwise mean, clean and corrupt": StandIn("mean, both", ("clean", "corrupt"), "items"),
    ANOTHER: StandIn("another prompt", ("another",)),
    AblationType.RESAMPLE.value: StandIn("twin", ("corrupt",)),
}
"""Those that see positions first. All prompts are one batch: two of the means are one, but for edges' scores."""

# Pixels, and points of type, of the two panels.
CIRCUIT, ROWS, GAP = (500, 400), (358, 400), 12
TITLE, FIRST_ROW, ROW, TYPE = 16, 62, 36, 9.0
BARS, DOTS = (112, 194), (246, 314)  # from where to where scores and faithfulness are drawn
WIDEST, NARROWEST, CUT_WIDTH = 8.0, 0.9, 1.1
PASSES = 0.9  # from which faithfulness counts
LOW, HIGH = -0.2, 1.2  # of faithfulness; what lies beyond stands at the end
_DASHES, _DOTS = (0, (2.2, 1.1)), (0, (1, 2.5))


@dataclass(frozen=True)
class Network:
    """One trained network.

    Attributes:
        label: what the choice calls it.
        model: without norms and MLPs, causal.
        scores: stand-in -> what each edge's cut does to the logit difference, `[edges]`, in logits.
        constants: the optimal constants of its sources, `[sources, 1, 1, width]`.
    """

    label: str
    model: Transformer
    scores: Mapping[str, Tensor]
    constants: Tensor


def live_circuit(
    networks: Sequence[Network],
    graph: ResidualGraph,
    prompts: Prompts,
    another: Tensor,
    *,
    first: str = AblationType.RESAMPLE.value,
    kept: int = 8,
    pinned: tuple[str, str] | None = None,
) -> LiveFigure:
    """Return networks whose edges can be cut; the first one is shown first.

    Args:
        networks: with one graph.
        graph: as from `transformer_graph`.
        prompts: of the induction task, few: what circuits are measured on, in one batch.
        another: other prompts, tokens as `prompts.clean`.
        first: the stand-in shown first.
        kept: how many edges are kept at first, those of its largest scores.
        pinned: the edge shown first; the one of the largest score where None.

    Raises:
        ValueError: there are no networks, or two have one label; one has norms or MLPs or is not causal; prompts that
            ask for more than one token; other prompts of another shape; no such stand-in, or edge.
    """
    labels = [network.label for network in networks]
    if not labels or len(set(labels)) < len(labels):
        raise ValueError(f"expected networks with labels of their own, got {labels}")
    if len(prompts.positions) != 1 or not all((of.sum(-1) == 1).all() for of in (prompts.right, prompts.wrong)):
        raise ValueError("expected prompts that ask for one token, to be told from one other")
    if another.shape != prompts.clean.shape:
        raise ValueError(f"expected {tuple(prompts.clean.shape)} other tokens, got {tuple(another.shape)}")
    if first not in STAND_INS or not 0 <= kept <= len(graph.edges):
        raise ValueError(f"expected one of {', '.join(STAND_INS)} and 0 to {len(graph.edges)} edges")
    scores = networks[0].scores[first]
    circuit = strongest_edges(graph, scores, kept)
    cut = [i for i, edge in enumerate(graph.edges) if edge not in circuit]
    shown = int(scores.abs().argmax()) if pinned is None else int(graph.mask([pinned]).argmax())
    places = placed(graph)
    data = {
        "networks": [_packed(network) for network in networks],
        "standIns": [{"name": name, **way._asdict()} for name, way in STAND_INS.items()],
        "prompts": {
            name: tokens.int()
            for name, tokens in (("clean", prompts.clean), ("corrupt", prompts.corrupt), ("another", another))
        },
        "right": prompts.right[:, 0].int().argmax(-1).int(),
        "wrong": prompts.wrong[:, 0].int().argmax(-1).int(),
        "asked": prompts.positions[0],
        "sources": list(graph.sources),
        "edges": [list(edge) for edge in graph.edges],
        "places": places,
        "first": {"standIn": first, "cut": ".".join(map(str, cut)), "pinned": shown},
    }

    def draw() -> Figure:
        found = first_view(networks[0], graph, prompts, another, cut)
        return plot_first_view(networks[0].scores, found, places, graph, first, cut, shown)

    return LiveFigure(SCRIPT, data, draw, ABOUT)


def task_of(network: Network, name: str, graph: ResidualGraph, prompts: Prompts, another: Tensor) -> EdgeTask:
    """Return what the page computes under a stand-in, as a task: the logit difference on all prompts in one batch."""
    if name == ANOTHER:
        prompts, name = replace(prompts, corrupt=another), AblationType.RESAMPLE.value
    loader = PairLoader(prompts, len(prompts))
    if name != "optimal":
        kind = next(kind for kind in AblationType if kind.value == name)
        return EdgeTask(network.model, graph, loader, kind, logit_difference)
    values = network.constants.expand(-1, *prompts.clean.shape, -1)
    return EdgeTask(network.model, graph, loader, {batch.key: values for batch in loader}, logit_difference)


def first_view(
    network: Network, graph: ResidualGraph, prompts: Prompts, another: Tensor, cut: Sequence[int]
) -> dict[str, float]:
    """Return the faithfulness (a ratio of means) under every stand-in with some edges cut."""
    masks = torch.zeros(3, len(graph.edges))
    masks[0, list(cut)] = 1
    masks[2] = 1
    return {
        name: faithfulness(*evaluate(task_of(network, name, graph, prompts, another), masks).cpu()).ratio_of_means
        for name in STAND_INS
    }


def placed(graph: ResidualGraph) -> dict[str, Any]:
    """Return where nodes and edges are drawn, in pixels of the circuit's panel."""
    drawn = arrange(graph.frame(weight=[1.0] * len(graph.edges)))
    middles = np.array(list(drawn.nodes.values()))
    (half, tall), rows = drawn.node, max(np.abs(middles[:, 1]).max() + 0.5, 1.0)
    margin = 0.06
    across = CIRCUIT[0] / (middles[:, 0].max() + 2 * (half + margin))
    down = (CIRCUIT[1] - TITLE) / (2 * rows + 0.4)

    def pixels(points: Any) -> np.ndarray:
        x, y = np.asarray(points, float).T
        return np.column_stack([(x + half + margin) * across, TITLE + (rows + 0.2 - y) * down])

    nodes = []
    for name, (x, y) in drawn.nodes.items():
        inputs = [[letter, float(pixels([(x, height)])[0, 1])] for letter, height in drawn.inputs[name]]
        nodes.append({"name": name, "at": pixels([(x, y)])[0].tolist(), "inputs": inputs})
    paths = [pixels(path).astype(np.float32) for path in drawn.paths]
    return {"half": [half * across, tall * down], "nodes": nodes, "paths": paths}


def plot_first_view(
    scores: Mapping[str, Tensor],
    found: Mapping[str, float],
    places: Mapping[str, Any],
    graph: ResidualGraph,
    chosen: str,
    cut: Sequence[int],
    pinned: int,
) -> Figure:
    """Plot what the live figure shows first.

    Args:
        scores: stand-in -> `[edges]`.
        found: stand-in -> faithfulness.
        places: as from `placed`.
        graph: the circuit's.
        chosen: the stand-in whose scores edges show.
        cut: the edges that are cut.
        pinned: the edge whose scores are shown.
    """
    fig, (circuit, rows) = canvases([CIRCUIT, ROWS], gap=GAP)
    _draw_circuit(circuit, scores[chosen].numpy(force=True), places, cut, pinned)
    _draw_rows(rows, scores, found, str(graph.edges[pinned]), chosen, pinned)
    return fig


def _draw_circuit(ax: Axes, scores: np.ndarray, places: Mapping[str, Any], cut: Sequence[int], pinned: int) -> None:
    theme, size = current(), np.abs(scores)
    point = 72 / PIXELS_PER_INCH
    largest = size.max() or 1
    order = sorted(range(len(scores)), key=lambda i: (i not in cut, size[i]))
    for i in order:
        codes = [Curve.MOVETO] + [Curve.CURVE4] * (len(places["paths"][i]) - 1)
        path = Curve(places["paths"][i], codes)
        width = CUT_WIDTH if i in cut else max(NARROWEST, WIDEST * size[i] / largest)
        rim = theme.ink if i == pinned else theme.paper
        looks: dict[str, Any] = {"fill": False, "capstyle": "butt"}
        if i not in cut or i == pinned:
            ax.add_patch(PathPatch(path, edgecolor=rim, linewidth=point * (width + 3), **looks))
        if i == pinned and i in cut:
            ax.add_patch(PathPatch(path, edgecolor=theme.paper, linewidth=point * (width + 0.6), **looks))
        colour, dashes = (theme.accents[0], "-") if scores[i] <= 0 else (theme.accents[1], _DASHES)
        if i in cut:
            colour, dashes = theme.muted, _DOTS
        ax.add_patch(PathPatch(path, edgecolor=colour, linewidth=point * width, linestyle=dashes, **looks))
    half, tall = places["half"]
    for node in places["nodes"]:
        x, y = node["at"]
        box = FancyBboxPatch(
            (x - half, y - tall), 2 * half, 2 * tall, boxstyle="round,pad=0,rounding_size=10", zorder=3
        )
        box.set(facecolor=theme.paper, edgecolor=theme.ink, linewidth=point * 1.4)
        ax.add_patch(box)
        name: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": TYPE, "zorder": 4}
        ax.text(x + 4 * bool(node["inputs"]), y, node["name"], **name)
        for letter, at in node["inputs"]:
            ax.text(x - half + 5, at, letter, ha="left", va="center", fontsize=TYPE - 1, zorder=4)
    title = "edges kept, as wide as their score; dotted: cut"
    ax.text(CIRCUIT[0] / 2, 8, title, ha="center", va="center", fontsize=TYPE)


def _draw_rows(
    ax: Axes, scores: Mapping[str, Tensor], found: Mapping[str, float], edge: str, chosen: str, pinned: int
) -> None:
    theme, point = current(), 72 / PIXELS_PER_INCH
    text: dict[str, Any] = {"va": "center", "fontsize": TYPE}
    ends = np.array([[one.min().item(), one.max().item()] for one in scores.values()])
    low, high = min(ends[:, 0].min(), 0.0), max(ends[:, 1].max(), 0.0)
    span = high - low or 1
    bottom = FIRST_ROW + ROW * (len(STAND_INS) - 0.5)

    def at(value: float) -> float:
        return BARS[0] + (value - low) / span * (BARS[1] - BARS[0])

    def along(value: float) -> float:
        return DOTS[0] + (np.clip(value, LOW, HIGH) - LOW) / (HIGH - LOW) * (DOTS[1] - DOTS[0])

    middle, right = (BARS[0] + BARS[1] + 44) / 2, (DOTS[0] + ROWS[0] - 6) / 2
    for x, align, owner, told in (
        (6, "left", "stand-in", "fed to cut edges"),
        (middle, "center", edge, "cut alone, logits"),
        (right, "center", "this circuit", "faithfulness"),
    ):
        ax.text(x, 8, owner, ha=align, fontweight="bold", **text)
        ax.text(x, 26, told, ha=align, **text)
    line: dict[str, Any] = {"color": theme.muted, "linewidth": point, "linestyle": ":"}
    ax.plot([at(0)] * 2, [FIRST_ROW - ROW / 2, bottom], **line | {"linestyle": "-"})
    for level in (0, 1):
        ax.plot([along(level)] * 2, [FIRST_ROW - ROW / 2, bottom], **line)
        ax.text(along(level), bottom + 10, str(level), ha="center", va="center", fontsize=TYPE - 1)
    passed = sum(value >= PASSES for value in found.values())
    ax.text(6, bottom + 10, f"faithful ({PASSES:g} or more) under {passed} of {len(found)}", ha="left", **text)
    for i, (name, way) in enumerate(STAND_INS.items()):
        y = FIRST_ROW + ROW * i
        if name == chosen:
            frame: dict[str, Any] = {"color": theme.ink, "linewidth": 1.4 * point, "linestyle": "-"}
            top, end = y - ROW / 2 + 2, y + ROW / 2 - 2
            ax.plot([1, ROWS[0] - 1, ROWS[0] - 1, 1, 1], [top, top, end, end, top], **frame)
        ax.text(6, y, way.label, ha="left", **text)
        value = scores[name][pinned].item()
        colour = theme.accents[0] if value <= 0 else theme.accents[1]
        ax.fill_betweenx([y - 7, y + 7], at(0), at(value), color=colour, linewidth=0)
        ax.text(BARS[1] + 44, y, signed(value), ha="right", **text)
        if np.isfinite(found[name]):
            ax.plot([along(0), along(found[name])], [y, y], color=theme.ink, linewidth=2 * point, linestyle="-")
            marker = "o" if LOW <= found[name] <= HIGH else "<" if found[name] < LOW else ">"
            ax.scatter([along(found[name])], [y], s=45, marker=marker, color=theme.ink, zorder=3)
        ax.text(ROWS[0] - 6, y, plain(found[name]), ha="right", **text)


def signed(value: float) -> str:
    """Return a score as the figure writes it: one decimal, two of small ones, and a sign unless it is 0."""
    return "0" if abs(value) < 0.005 else f"{value:+.{2 if abs(value) < 0.095 else 1}f}".replace("-", "−")


def plain(value: float) -> str:
    """Return a faithfulness as the figure writes it."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−") if np.isfinite(value) else "–"


def _packed(network: Network) -> dict[str, Any]:
    model = network.model
    norms = (model.norm, *(block.attention.norm for block in model.blocks))
    plain_blocks = all(block.mlp is None and block.attention.causal for block in model.blocks)
    if not plain_blocks or not all(isinstance(norm, nn.Identity) for norm in norms):
        raise ValueError(f"the page runs causal transformers without norms and MLPs; {network.label!r} is another")
    weights = ("query", "key", "value", "out")
    return {
        "label": network.label,
        "embedding": model.embedding.weight.float(),
        "positions": model.positions.weight.float(),
        "blocks": [
            {name: block.get_submodule("attention").get_parameter(name).float() for name in weights}
            for block in model.blocks
        ],
        "unembed": model.unembed.weight.float(),
        "constants": {"optimal": network.constants[:, 0, 0].float()},
        "scores": torch.stack([network.scores[name] for name in STAND_INS]).float(),
    }
