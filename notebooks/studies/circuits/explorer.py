"""The explorer: a circuit of as many edges as one likes, and its faithfulness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from nbutils.plotting import theme as themes
from nbutils.plotting.expect import expect_keys
from nbutils.plotting.explorers import Result, View, redrawn
from nbutils.plotting.labels import FONT_SIZE
from studies.circuits.plots.faithfulness import draw_faithfulness
from studies.circuits.plots.graphs import draw_circuit

if TYPE_CHECKING:
    import ipywidgets


def view_circuit(view: Result) -> Figure:
    """Draw a circuit of the strongest edges, and how faithful circuits of all sizes are.

    Args:
        view: `kept`, how many edges this one keeps; `edges`, all of them, as for `draw_circuit`; `curve`, a row per
            size, as from `faithfulness_curve`, one of them of this size.

    Raises:
        KeyError: one of these is missing.
        ValueError: the curve has no circuit of this size.
    """
    expect_keys(view, ("edges", "curve", "kept"))
    theme, curve, kept = themes.current(), view["curve"], view["kept"]
    fig = Figure(figsize=(9.0, 3.2), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(2, 3))
    draw_faithfulness(left, curve.assign(method="exact"))
    value = _find_row(view).ratio_of_means
    # A value beyond the axis is marked where it leaves it.
    inside = np.clip(value, *left.get_ylim())
    left.scatter(kept, inside, s=80, marker="D", facecolors=theme.paper, edgecolors=theme.ink, zorder=5, clip_on=False)
    left.set_ylabel("faithfulness (ratio of means)", fontsize=FONT_SIZE)
    left.set_title(f"{kept} edges: {value:.2f}", fontsize=FONT_SIZE)
    draw_circuit(right, view["edges"], top=kept)
    return fig


def _find_row(view: Result) -> Any:
    """Return the row of the curve that belongs to the circuit."""
    rows = [row for row in view["curve"].itertuples() if row.edges == view["kept"]]
    if len(rows) != 1:
        raise ValueError(f"expected one row of the curve with {view['kept']} edges, got {len(rows)}")
    return rows[0]


def circuit_explorer(
    evaluate: Callable[[str, int], Result], ablations: Sequence[str], edges: int, *, kept: int = 8
) -> ipywidgets.VBox:
    """Return a choice of ablation and a number of edges, above the circuit they give and its faithfulness.

    The next cell should show the same without a kernel: `view_circuit` of `evaluate(...)`.

    Args:
        evaluate: takes an ablation and a number of edges to keep; returns the view of `view_circuit`.
        ablations: the ablations to choose from; the first is shown first.
        edges: number of edges of the whole graph.
        kept: edges kept at first.

    Raises:
        ValueError: there are no ablations, or a number of edges outside 0 to `edges`.
    """
    import ipywidgets

    if not len(ablations) or not 0 <= kept <= edges:
        raise ValueError(f"expected ablations, and 0 to {edges} edges kept; got {ablations!r} and {kept}")
    ablation = ipywidgets.Dropdown(options=list(ablations), description="Ablation")
    count = ipywidgets.IntSlider(value=kept, min=0, max=edges, description="Edges kept", continuous_update=False)
    controls = [ablation, count]

    def view(chosen: str) -> View:
        result = evaluate(ablation.value, count.value)
        row = _find_row(result)
        found = f"faithfulness {row.ratio_of_means:.2f}, single prompts from {row.low:.2f} to {row.high:.2f}"
        alt = f"Faithfulness by number of edges, and the circuit of {chosen}: {found}."
        return View(f"{chosen}: {found}", alt, lambda: view_circuit(result))

    status, picture = redrawn(
        controls, lambda: f"{count.value} of {edges} edges kept, the others ablated ({ablation.value})", view
    )
    return ipywidgets.VBox([ipywidgets.HBox(controls), status, picture])
