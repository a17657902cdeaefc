"""Explorers: widgets that redisplay a picture which the next cell of the notebook also draws without them.

The figures are ordinary matplotlib and plotly figures, redrawn on every change; no widget holds results.
Store notebooks without widget state.
"""

from __future__ import annotations

import html
import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

from nbutils.interventions.pooled import MATCHED, RANDOM
from nbutils.plotting import shortcuts
from nbutils.plotting import theme as themes
from nbutils.plotting.circuits import draw_circuit, draw_faithfulness
from nbutils.plotting.color_cubes import plot_cube_slices
from nbutils.plotting.credit import plot_predictions
from nbutils.plotting.distributions import MARKERS
from nbutils.plotting.figures import PLOTLY, SCREEN_PIXELS_PER_INCH
from nbutils.plotting.images import draw_digits
from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.latents import latent_sphere

if TYPE_CHECKING:
    import ipywidgets
    import pandas as pd
    import plotly.graph_objects as go
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

Result = Mapping[str, Any]
KEYS = ("recon", "truth", "latents", "rgb")
UNIT_KEYS = ("before", "after", "images", "answers_before", "answers_after", "labels")
CIRCUIT_KEYS = ("edges", "curve", "kept")
MAX_EXAMPLES = 12


def view_cube(result: Result) -> Figure:
    """Draw the colour cube of an evaluation: outer patches reconstructed, inner ones true.

    Args:
        result: `recon` and `truth` `[S, V, H, 3]`, `latents` `[N, K]`, `rgb` `[N, 3]`, optionally `title`.

    Raises:
        KeyError: one of these is missing.
    """
    _expect_keys(result, KEYS)
    return plot_cube_slices(result["recon"], result["truth"], result.get("title", ""))


def view_sphere(result: Result) -> go.Figure:
    """Draw the latents of an evaluation on a sphere to turn.

    Args:
        result: as for `view_cube`.

    Raises:
        KeyError: a part of the result is missing.
    """
    _expect_keys(result, KEYS)
    return latent_sphere(result["latents"], result["rgb"])


def color_cube_explorer(
    evaluate: Callable[[int, str, float], Result], seeds: Sequence[int], plans: Sequence[str]
) -> ipywidgets.VBox:
    """Return controls for seed, intervention and strength above the colour cube and the latents they give.

    The next cell should show the same without a kernel: `view_cube` and `view_sphere` of `evaluate(...)`.

    Args:
        evaluate: takes a seed, an intervention and a strength in [0, 1]; returns the arrays of `view_cube`.
        seeds: the seeds to choose from; the first is shown first.
        plans: the interventions to choose from; the first is shown first.

    Raises:
        ValueError: there are no seeds or no plans.
    """
    import ipywidgets

    if not len(seeds) or not len(plans):
        raise ValueError(f"expected at least one seed and one plan, got {len(seeds)} and {len(plans)}")
    seed = ipywidgets.Dropdown(options=list(seeds), description="Seed")
    plan = ipywidgets.Dropdown(options=list(plans), description="Intervention")
    # Not while the handle moves: an evaluation takes longer than a frame.
    strength = ipywidgets.FloatSlider(
        value=1.0, min=0.0, max=1.0, step=0.05, description="Strength", continuous_update=False
    )
    status, cube, sphere = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.Output()

    def redraw(_: object = None) -> None:
        chosen = f"seed {seed.value}, {plan.value}, strength {strength.value:.2f}"
        try:
            result = evaluate(seed.value, plan.value, strength.value)
            picture, latents = _png(lambda: view_cube(result)), json.loads(view_sphere(result).to_json())
        except Exception as error:  # a callback's exception would vanish in the log, with a stale picture left
            status.value = f'<p role="alert">{html.escape(f"{chosen}: {type(error).__name__}: {error}")}</p>'
            cube.value, sphere.outputs = "", ()
            return
        status.value = f'<p role="status">{html.escape(chosen)}</p>'
        cube.value = _image(picture, f"Slices of the colour cube, reconstructed around true colours: {chosen}")
        text = f"Latents on the unit sphere: {chosen}"
        sphere.outputs = (
            {"output_type": "display_data", "data": {PLOTLY: latents, "text/plain": text}, "metadata": {}},
        )

    for control in (seed, plan, strength):
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([ipywidgets.HBox([seed, plan, strength]), status, cube, sphere])


def view_units(view: Result) -> Figure:
    """Draw what ablation does: each measure before (open) and after (filled), and examples whose answer changes.

    Args:
        view: `before` and `after`, measure -> share in [0, 1]; `images` `[N, height, width]`, normalised, with
            `answers_before`, `answers_after` and `labels` `[N]`, where N may be 0.

    Raises:
        KeyError: one of these is missing, or a measure is.
        ValueError: the shapes differ.
    """
    _expect_keys(view, UNIT_KEYS)
    before, after, labels = view["before"], view["after"], np.asarray(view["labels"])
    if missing := [name for name in before if name not in after]:
        raise KeyError(f"expected the same measures after as before, got none called {missing}")
    first, then = np.asarray(view["answers_before"]), np.asarray(view["answers_after"])
    images = np.asarray(view["images"], dtype=float)
    if images.ndim != 3 or not first.shape == then.shape == labels.shape == images.shape[:1]:
        raise ValueError(
            "expected images [N, height, width] with two answers and a label each, "
            f"got {[list(array.shape) for array in (images, first, then, labels)]}"
        )
    theme = themes.current()
    fig = plt.figure(figsize=(9.0, 3.0), layout="none")
    ax = fig.add_axes((0.16, 0.2, 0.24, 0.68))
    for row, name in enumerate(before):
        colour = theme.accents[row % len(theme.accents)]
        ax.plot([before[name], after[name]], [row, row], color=colour, linestyle="-", linewidth=2.2)
        dots = {"s": 60, "marker": MARKERS[row % len(MARKERS)], "edgecolors": colour, "clip_on": False}
        ax.scatter(before[name], row, facecolors=theme.paper, linewidths=1.6, zorder=3, **dots)
        ax.scatter(after[name], row, facecolors=colour, zorder=4, **dots)
        ax.text(0.02, row - 0.28, f"{before[name]:.1%} → {after[name]:.1%}", fontsize=FONT_SIZE)
    ax.set_yticks(range(len(before)), list(before), fontsize=FONT_SIZE)
    ax.set_ylim(len(before) - 0.5, -0.65)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.set_xlabel("open: before, filled: after", fontsize=FONT_SIZE)
    right = fig.add_axes((0.44, 0.05, 0.55, 0.83))
    if not len(images):
        right.text(0.5, 0.5, "no answer changes", ha="center", va="center", transform=right.transAxes)
        right.set_axis_off()
        return fig
    shown = min(len(images), MAX_EXAMPLES)
    texts = [f"{a} → {'✓' if b == label else '✗'} {b}" for a, b, label in zip(first, then, labels, strict=True)]
    wrong = np.flatnonzero(then[:shown] != labels[:shown])
    draw_digits(right, images[:shown], inches=0.72, captions=texts[:shown], marked=wrong, columns=MAX_EXAMPLES // 2)
    right.set_title(f"{shown} of {len(images)} examples whose answer changes", fontsize=FONT_SIZE, loc="left")
    right.set_anchor("NW")
    return fig


def unit_explorer(
    evaluate: Callable[[Mapping[str, tuple[int, ...]], str], Result],
    units_by_layer: Mapping[str, int],
    ablations: Sequence[str],
    *,
    chosen: Mapping[str, Sequence[int]] | None = None,
) -> ipywidgets.VBox:
    """Return a list of units for each layer and a choice of ablation, above what ablating the chosen ones does.

    The next cell should show the same without a kernel: `view_units` of `evaluate(...)`.

    Args:
        evaluate: takes layer -> units (only layers of which some are chosen) and an ablation; returns the view of
            `view_units`.
        units_by_layer: how many units each layer has.
        ablations: the ablations to choose from; the first is shown first.
        chosen: layer -> units shown first; none when not given.

    Raises:
        ValueError: there are no layers or no ablations, or a unit chosen does not exist.
    """
    import ipywidgets

    if not units_by_layer or not len(ablations):
        raise ValueError(f"expected at least one layer and one ablation, got {units_by_layer!r} and {ablations!r}")
    chosen = chosen or {}
    for layer, units in chosen.items():
        if not set(units) <= set(range(units_by_layer.get(layer, 0))):
            raise ValueError(f"expected units of {dict(units_by_layer)}, got {list(units)} of {layer!r}")
    ablation = ipywidgets.Dropdown(options=list(ablations), description="Ablation")
    # A list for each layer rather than one that changes with the layer: what is chosen is always in sight.
    lists = {
        layer: ipywidgets.SelectMultiple(
            options=range(count), value=tuple(chosen.get(layer, ())), description=layer, rows=8
        )
        for layer, count in units_by_layer.items()
    }
    hint = ipywidgets.HTML("<small>Click a unit; Ctrl- or ⌘-click for several, or to let one go.</small>")
    status, picture = ipywidgets.HTML(), ipywidgets.HTML()

    def redraw(_: object = None) -> None:
        sites = {layer: tuple(units.value) for layer, units in lists.items() if units.value}
        named = ", ".join(f"{layer} {' '.join(map(str, units))}" for layer, units in sites.items())
        text = f"{named or 'no units'} ablated ({ablation.value})"
        try:
            view = evaluate(sites, ablation.value)
            numbers = ", ".join(f"{name} {value:.1%}" for name, value in view["after"].items())
            data = _png(lambda: view_units(view))
        except Exception as error:  # as in `color_cube_explorer`
            status.value = f'<p role="alert">{html.escape(f"{text}: {type(error).__name__}: {error}")}</p>'
            picture.value = ""
            return
        status.value = f'<p role="status">{html.escape(text)}</p>'
        picture.value = _image(data, f"Measures before and after: {numbers}. Examples whose answer changes.")

    for control in (ablation, *lists.values()):
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([ablation, ipywidgets.HBox(list(lists.values())), hint, status, picture])


def view_circuit(view: Result) -> Figure:
    """Draw a circuit of the strongest edges, and how faithful circuits of all sizes are.

    Args:
        view: `kept`, how many edges this one keeps; `edges`, all of them, as for `draw_circuit`; `curve`, a row a size,
            as from `faithfulness_curve`, one of them of this size.

    Raises:
        KeyError: one of these is missing.
        ValueError: the curve has no circuit of this size.
    """
    _expect_keys(view, CIRCUIT_KEYS)
    theme, curve, kept = themes.current(), view["curve"], view["kept"]
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.2), width_ratios=(2, 3), layout="constrained")
    draw_faithfulness(left, curve.assign(method="this"))
    value = _kept(view).ratio_of_means
    # A value beyond the axis is marked where it leaves it.
    inside = np.clip(value, *left.get_ylim())
    left.scatter(kept, inside, s=80, marker="D", facecolors=theme.paper, edgecolors=theme.ink, zorder=5, clip_on=False)
    left.set_ylabel("faithfulness (ratio of means)", fontsize=FONT_SIZE)
    left.set_title(f"{kept} edges: {value:.2f}", fontsize=FONT_SIZE)
    draw_circuit(right, view["edges"], top=kept)
    return fig


def _kept(view: Result) -> Any:
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
        edges: how many the whole graph has.
        kept: edges kept first.

    Raises:
        ValueError: there are no ablations, or a number of edges outside 0 to `edges`.
    """
    import ipywidgets

    if not len(ablations) or not 0 <= kept <= edges:
        raise ValueError(f"expected ablations, and 0 to {edges} edges kept; got {ablations!r} and {kept}")
    ablation = ipywidgets.Dropdown(options=list(ablations), description="Ablation")
    count = ipywidgets.IntSlider(value=kept, min=0, max=edges, description="Edges kept", continuous_update=False)
    status, picture = ipywidgets.HTML(), ipywidgets.HTML()

    def redraw(_: object = None) -> None:
        text = f"{count.value} of {edges} edges kept, the others ablated ({ablation.value})"
        try:
            view = evaluate(ablation.value, count.value)
            row = _kept(view)
            data = _png(lambda: view_circuit(view))
        except Exception as error:  # as in `color_cube_explorer`
            status.value = f'<p role="alert">{html.escape(f"{text}: {type(error).__name__}: {error}")}</p>'
            picture.value = ""
            return
        found = f"faithfulness {row.ratio_of_means:.2f}, single prompts from {row.low:.2f} to {row.high:.2f}"
        status.value = f'<p role="status">{html.escape(f"{text}: {found}")}</p>'
        picture.value = _image(data, f"Faithfulness by number of edges, and the circuit of {text}: {found}.")

    for control in (ablation, count):
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([ipywidgets.HBox([ablation, count]), status, picture])


def view_ablation(curves: pd.DataFrame, control: str, k: int) -> Figure:
    """Draw what ablating K channels does to each set: accuracy before (open) and after (filled), over random channels.

    Args:
        curves: `control`, `set`, `k`, `mean`, `low`, `high`, as `plot_dose_response` takes them; K = 0 is there. The
            range of `matched random` is drawn as a bar, that of `random` where there is none.
        control: by which channels are chosen.
        k: how many.

    Raises:
        KeyError: a column is missing, or the curves lack this control or K.
    """
    _expect_columns(curves, ("control", "set", "k", "mean", "low", "high"))
    sets = list(dict.fromkeys(curves["set"]))
    table = curves.set_index(["control", "set", "k"])
    chance = MATCHED if (curves["control"] == MATCHED).any() else RANDOM
    needed = [(name, group, number) for group in sets for name, number in ((control, 0), (control, k), (chance, k))]
    if missing := [key for key in needed if key not in table.index]:
        raise KeyError(f"the sweep has no {missing[0]}")
    theme = themes.current()
    colour, _, marker = shortcuts.style(control)
    fig, ax = plt.subplots(figsize=(7.0, 1.1 + 0.6 * len(sets)), layout="constrained")
    for row, group in enumerate(sets):
        before, after = (table.loc[(control, group, number), "mean"] for number in (0, k))
        low, high = table.loc[(chance, group, k), ["low", "high"]]
        ax.barh(row, high - low, left=low, height=0.44, color=theme.muted, alpha=0.35, linewidth=0)
        ax.plot([before, after], [row, row], color=colour, linestyle="-", linewidth=2.2)
        dots = {"s": 60, "marker": marker, "edgecolors": colour, "clip_on": False}
        ax.scatter(before, row, facecolors=theme.paper, linewidths=1.6, zorder=3, **dots)
        ax.scatter(after, row, facecolors=colour, zorder=4, **dots)
        ax.annotate(
            f"{before:.1%} → {after:.1%}",
            (1.03, row),
            xycoords=ax.get_yaxis_transform(),
            fontsize=FONT_SIZE,
            va="center",
            annotation_clip=False,
        )
    ax.set_yticks(range(len(sets)), sets)
    ax.set_ylim(len(sets) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.set_title(f"{k} channels by {control}")
    ax.set_xlabel(f"accuracy; open: none ablated, filled: {k}; bar: {k} {chance} channels", fontsize=FONT_SIZE)
    return fig


def view_stain(images: ArrayLike, probabilities: ArrayLike, *, labels: Sequence[str]) -> Figure:
    """Draw tiles with the probability of tumour that a network gives them.

    Args:
        images: `[N, height, width, 3]`, in [0, 1].
        probabilities: `[N]`.
        labels: the tiles' own.

    Raises:
        ValueError: the numbers do not correspond.
    """
    images, probabilities = np.asarray(images), np.asarray(probabilities)
    if images.ndim != 4 or not len(images) == len(probabilities) == len(labels) > 0:
        raise ValueError(
            f"expected tiles [N, height, width, 3] with a probability and a label each, "
            f"got {list(images.shape)}, {list(probabilities.shape)} and {len(labels)} labels"
        )
    names = [f"{label}\nP(tumour) {p:.2f}" for label, p in zip(labels, probabilities, strict=True)]
    return shortcuts.plot_tile_sheet(images[None], row_labels=[""], column_labels=names)


def shortcut_explorer(
    curves: pd.DataFrame,
    recolour: Callable[[float], tuple[ArrayLike, ArrayLike]],
    *,
    labels: Sequence[str],
    first: tuple[str, int] = ("shortcut", 64),
) -> ipywidgets.VBox:
    """Return a slider for K and a choice of control above what ablation does, and a slider that turns tiles' stain.

    Nothing is computed for the first: the curves are a recorded sweep. The next cell should show the same without a
    kernel: `view_ablation` and `view_stain`.

    Args:
        curves: as for `view_ablation`.
        recolour: takes a share, 0 the tiles' own stain and 1 another one; returns what `view_stain` takes.
        labels: of the tiles.
        first: control and K shown first; the nearest K of the sweep.

    Raises:
        KeyError: a column is missing, or the curves lack the first control.
    """
    import ipywidgets

    _expect_columns(curves, ("control", "set", "k", "mean", "low", "high"))
    ks, controls = sorted(curves["k"].unique().tolist()), list(dict.fromkeys(curves["control"]))
    if first[0] not in controls:
        raise KeyError(f"no control {first[0]!r} in the sweep; there are {', '.join(controls)}")
    control = ipywidgets.Dropdown(options=controls, value=first[0], description="Control")
    k = ipywidgets.SelectionSlider(
        options=ks, value=min(ks, key=lambda own: abs(own - first[1])), description="K", continuous_update=False
    )
    share = ipywidgets.FloatSlider(value=0.0, min=0.0, max=1.5, step=0.1, description="Stain", continuous_update=False)
    hint = ipywidgets.HTML("<small>Stain: 0 is the tiles' own, 1 the other one, beyond 1 farther still.</small>")
    parts = []
    for controls_of, draw, text in (
        (
            (control, k),
            lambda: view_ablation(curves, control.value, k.value),
            lambda: f"{k.value} channels ablated by {control.value}",
        ),
        ((share,), lambda: view_stain(*recolour(share.value), labels=labels), lambda: f"stain at {share.value:.1f}"),
    ):
        status, picture = ipywidgets.HTML(), ipywidgets.HTML()

        def redraw(_: object = None, *, draw=draw, text=text, status=status, picture=picture) -> None:
            try:
                data = _png(draw)
            except Exception as error:  # as in `color_cube_explorer`
                status.value = f'<p role="alert">{html.escape(f"{text()}: {type(error).__name__}: {error}")}</p>'
                picture.value = ""
                return
            status.value = f'<p role="status">{html.escape(text())}</p>'
            picture.value = _image(data, f"The same as the next cell shows: {text()}")

        for one in controls_of:
            one.observe(redraw, names="value")
        redraw()
        parts += [ipywidgets.HBox(list(controls_of)), status, picture]
    return ipywidgets.VBox([*parts, hint])


def _expect_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    if missing := [column for column in columns if column not in frame]:
        raise KeyError(f"expected columns {', '.join(columns)}, got none called {missing}")


def credit_explorer(
    evaluate: Callable[[int, float, str], Result],
    layers: Sequence[int],
    epsilons: Sequence[float],
    precisions: Sequence[str] = ("float32", "float64"),
) -> ipywidgets.VBox:
    """Return controls for layer, step and precision above the scatter of predicted against true changes of the loss.

    The next cell should show the same without a kernel: `nbutils.plotting.credit.plot_predictions`.

    Args:
        evaluate: takes a layer, ε and a precision; returns `predicted` and `actual`, arrays of one shape, and `rho`.
        layers: the layers to choose from; the first is shown first.
        epsilons: the steps to choose from; the first is shown first.
        precisions: the precisions to choose from; the first is shown first.

    Raises:
        ValueError: there is nothing to choose from.
    """
    import ipywidgets

    if not len(layers) or not len(epsilons) or not len(precisions):
        raise ValueError(
            f"expected at least one layer, step and precision, got {len(layers)}, {len(epsilons)}, {len(precisions)}"
        )
    layer = ipywidgets.Dropdown(options=list(layers), description="Layer")
    epsilon = ipywidgets.Dropdown(options=[(f"{value:g}", value) for value in epsilons], description="ε")
    precision = ipywidgets.Dropdown(options=list(precisions), description="Precision")
    status, picture = ipywidgets.HTML(), ipywidgets.HTML()

    def redraw(_: object = None) -> None:
        chosen = f"layer {layer.value}, ε = {epsilon.value:g}, {precision.value}"
        try:
            result = evaluate(layer.value, epsilon.value, precision.value)
            data = _png(lambda: plot_predictions({chosen: result}))
        except Exception as error:  # as in `color_cube_explorer`
            status.value = f'<p role="alert">{html.escape(f"{chosen}: {type(error).__name__}: {error}")}</p>'
            picture.value = ""
            return
        rho = result["rho"]
        status.value = f'<p role="status">{html.escape(f"{chosen}: ρ = {rho:+.4f}")}</p>'
        picture.value = _image(data, f"Predicted against true change of the loss: {chosen}")

    for control in (layer, epsilon, precision):
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([ipywidgets.HBox([layer, epsilon, precision]), status, picture])


def _expect_keys(result: Result, keys: Sequence[str]) -> None:
    if missing := [key for key in keys if key not in result]:
        raise KeyError(f"expected {', '.join(keys)} from evaluate, got none called {missing}")


def _image(png: bytes, alt: str) -> str:
    data = b64encode(png).decode()
    return (
        f'<img style="max-width:100%;height:auto" alt="{html.escape(alt, quote=True)}" '
        f'src="data:image/png;base64,{data}">'
    )


def _png(draw: Callable[[], Figure]) -> bytes:
    out = BytesIO()
    with themes.use(themes.current()):
        fig = draw()
        try:
            fig.savefig(out, format="png", dpi=SCREEN_PIXELS_PER_INCH)  # the size at which `show` displays
        finally:
            plt.close(fig)
    return out.getvalue()
