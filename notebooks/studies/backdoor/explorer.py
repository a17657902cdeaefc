"""The explorer of notebook 02: units to ablate, what replaces them, and what changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nbutils.plotting.distributions import draw_change
from nbutils.plotting.expect import expect_keys
from nbutils.plotting.explorers import Result, View, redrawn
from nbutils.plotting.labels import FONT_SIZE, name_rows
from nbutils.plotting.marks import mark
from studies.backdoor.plots.digits import draw_digits

if TYPE_CHECKING:
    import ipywidgets

UNIT_KEYS = ("before", "after", "images", "answers_before", "answers_after", "labels")
MAX_EXAMPLES = 12


def view_units(view: Result) -> Figure:
    """Draw what ablation does: each measure before (open) and after (filled), and examples whose answer changes.

    Args:
        view: `before` and `after`, measure (names of the registry) -> share in [0, 1]; `images` `[N, height, width]`,
            normalised, with `answers_before`, `answers_after` and `labels` `[N]`, where N may be 0.

    Raises:
        KeyError: one of these is missing, or a measure is, here or in the registry.
        ValueError: the shapes differ.
    """
    expect_keys(view, UNIT_KEYS)
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
    fig = Figure(figsize=(9.0, 3.0))
    fig.set_layout_engine("none")
    ax = fig.add_axes((0.175, 0.2, 0.225, 0.68))
    for row, name in enumerate(before):
        look = mark(name)
        draw_change(ax, row, before[name], after[name], colour=look.color, marker=look.marker)
        ax.text(0.02, row - 0.28, f"{before[name]:.1%} → {after[name]:.1%}", fontsize=FONT_SIZE)
    name_rows(ax, list(before), above=0.65, fontsize=FONT_SIZE)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xlabel("open: before, filled: after", fontsize=FONT_SIZE)
    ax.set_ylabel("measure", fontsize=FONT_SIZE)
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
    """Return a list of units per layer and a choice of ablation, above what ablating the chosen ones does.

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

    def sites() -> dict[str, tuple[int, ...]]:
        return {layer: tuple(units.value) for layer, units in lists.items() if units.value}

    def chosen_now() -> str:
        named = ", ".join(f"{layer} {' '.join(map(str, units))}" for layer, units in sites().items())
        return f"{named or 'no units'} ablated ({ablation.value})"

    def view(said: str) -> View:
        found = evaluate(sites(), ablation.value)
        numbers = ", ".join(f"{name} {value:.1%}" for name, value in found["after"].items())
        alt = f"Measures before and after: {numbers}. Examples whose answer changes."
        return View(said, alt, lambda: view_units(found))

    status, picture = redrawn([ablation, *lists.values()], chosen_now, view)
    return ipywidgets.VBox([ablation, ipywidgets.HBox(list(lists.values())), hint, status, picture])
