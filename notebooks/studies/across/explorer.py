"""The explorer: one unit of one network, under every stand-in and by every read-out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from nbutils.plotting import theme as themes
from nbutils.plotting.expect import expect_keys
from nbutils.plotting.explorers import Result, View, redrawn
from nbutils.plotting.labels import name_rows
from studies.across.plots import SHORT, SMALL, TINY, WIDTH

if TYPE_CHECKING:
    import ipywidgets
    import pandas as pd


def unit_result(effects: pd.DataFrame, predicted: pd.DataFrame, stand_in: str, unit: int) -> dict[str, object]:
    """Return what `view_unit` draws.

    Args:
        effects: a row per unit, a column per stand-in.
        predicted: a row per unit, a column per predictor.
        stand_in: whose effects are drawn for all units.
        unit: by its place among them.

    Raises:
        KeyError: no such stand-in.
        ValueError: no such unit.
    """
    if stand_in not in effects:
        raise KeyError(f"no stand-in {stand_in!r}; there are {', '.join(effects)}")
    if not 0 <= unit < len(effects):
        raise ValueError(f"units are 0 to {len(effects) - 1}; got {unit}")
    ranks = {name: float(column.abs().rank(pct=True).iloc[unit]) for name, column in effects.items()}
    read = {name: float(column.abs().rank(pct=True).iloc[unit]) for name, column in predicted.items()}
    return {"sizes": effects[stand_in].to_numpy(), "unit": unit, "stand_in": stand_in, "ranks": ranks, "read": read}


def view_unit(result: Result) -> Figure:
    """Draw the effects of all units, one marked, and where that one stands under each stand-in and read-out.

    Args:
        result: as from `unit_result`.

    Raises:
        KeyError: a part is missing.
    """
    expect_keys(result, ("sizes", "unit", "stand_in", "ranks", "read"))
    theme, sizes, unit = themes.current(), np.abs(result["sizes"]), result["unit"]
    fig = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(1.2, 1))
    order = np.argsort(-sizes, kind="stable")
    left.plot(range(len(sizes)), sizes[order], color=theme.accents[0], linewidth=1.4, linestyle="-")
    place = int(np.flatnonzero(order == unit)[0])
    left.plot([place], [sizes[unit]], "D", color=theme.accents[1], markersize=7, linestyle="none")
    left.set_yscale("symlog", linthresh=max(float(sizes.max()) * 1e-4, 1e-12))
    left.set_xlabel("units, strongest first", fontsize=SMALL)
    left.set_ylabel("size of the effect on the loss", fontsize=SMALL)
    left.set_title(f"unit {unit}: rank {place + 1} of {len(sizes)} ({SHORT[result['stand_in']]})", fontsize=SMALL + 1)
    left.tick_params(labelsize=TINY)
    rows = {**{SHORT[name]: rank for name, rank in result["ranks"].items()}, **result["read"]}
    for number, (label, rank) in enumerate(rows.items()):
        first = number < len(result["ranks"])
        colour, marker = (theme.accents[1], "D") if first else (theme.accents[0], "o")
        right.plot([0, rank], [number, number], color=colour, linewidth=1, linestyle="-")
        right.plot([rank], [number], marker, color=colour, markersize=5, linestyle="none", label=label)
    name_rows(right, list(rows), fontsize=TINY)
    right.set_xlim(0, 1.03)
    right.set_xlabel("share of units that it outranks", fontsize=SMALL)
    right.tick_params(axis="x", labelsize=TINY)
    return fig


def unit_explorer(tables: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], stand_ins: Sequence[str]) -> ipywidgets.VBox:
    """Return choices of network, stand-in and unit above what `view_unit` draws of them.

    The next cell should show the same without a kernel.

    Args:
        tables: network -> effects and predictions, as for `unit_result`.
        stand_ins: to choose from; the first is shown first.

    Raises:
        ValueError: nothing to choose from.
    """
    import ipywidgets

    if not tables or not stand_ins:
        raise ValueError("expected networks and stand-ins to choose from")
    network = ipywidgets.Dropdown(options=list(tables), description="Network")
    kind = ipywidgets.Dropdown(options=list(stand_ins), description="Stand-in")
    unit = ipywidgets.BoundedIntText(value=0, min=0, max=len(next(iter(tables.values()))[0]) - 1, description="Unit")

    def result() -> dict[str, object]:
        effects, predicted = tables[network.value]
        unit.max = len(effects) - 1
        return unit_result(effects, predicted, kind.value, unit.value)

    def view(chosen: str) -> View:
        shown = result()
        told = f"effect {shown['sizes'][shown['unit']]:+.3g} on the loss"  # type: ignore[index]
        return View(f"{chosen}: {told}", f"Effects of all units, and where {chosen} stands: {told}.", _drawn(shown))

    status, picture = redrawn([network, kind, unit], lambda: f"{network.value}, unit {unit.value}, {kind.value}", view)
    return ipywidgets.VBox([ipywidgets.HBox([network, kind, unit]), status, picture])


def _drawn(shown: Result) -> Callable[[], Figure]:
    return lambda: view_unit(shown)
