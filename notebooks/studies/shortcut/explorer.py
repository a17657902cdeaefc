"""The explorer of notebook 03: channels to ablate, and a stain to turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nbutils.plotting import theme as themes
from nbutils.plotting.distributions import draw_change
from nbutils.plotting.expect import expect_columns
from nbutils.plotting.explorers import View, redrawn
from nbutils.plotting.labels import FONT_SIZE, name_rows, note_row
from studies.shortcut import plots as shortcuts
from studies.shortcut.controls import MATCHED, RANDOM
from studies.shortcut.recovery import twin_of

if TYPE_CHECKING:
    import ipywidgets
    import pandas as pd
    from numpy.typing import ArrayLike


def view_ablation(curves: pd.DataFrame, control: str, k: int) -> Figure:
    """Draw what ablating K channels does to each set: accuracy before (open) and after (filled), over random channels.

    Args:
        curves: `control`, `set`, `k`, `mean`, `low`, `high`, as `plot_dose_response` takes them; K = 0 is there. The
            range of the control's random twins is drawn as a bar, that of `random` where there are none.
        control: the choice of channels.
        k: their number.

    Raises:
        KeyError: a column is missing, or the curves lack this control or K.
    """
    expect_columns(curves, ("control", "set", "k", "mean", "low", "high"))
    sets = list(dict.fromkeys(curves["set"]))
    table = curves.set_index(["control", "set", "k"])
    names = [twin_of(control), MATCHED, RANDOM]
    chance = next((name for name in names if (curves["control"] == name).any()), RANDOM)
    needed = [(name, group, number) for group in sets for name, number in ((control, 0), (control, k), (chance, k))]
    if missing := [key for key in needed if key not in table.index]:
        raise KeyError(f"the sweep has no {missing[0]}")
    theme = themes.current()
    look = shortcuts.style(control)
    fig = Figure(figsize=(shortcuts.WIDTH, 1.1 + 0.5 * len(sets)), layout="constrained")
    ax = fig.subplots()
    for row, group in enumerate(sets):
        before, after = (table.loc[(control, group, number), "mean"] for number in (0, k))
        low, high = table.loc[(chance, group, k), ["low", "high"]]
        ax.barh(row, high - low, left=low, height=0.44, color=theme.muted, alpha=0.35, linewidth=0)
        draw_change(ax, row, before, after, colour=look.color, marker=look.marker)
        note_row(ax, row, f"{before:.1%} → {after:.1%}", at=1.03)
    name_rows(ax, sets)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_title(f"{k} channels by {control}")
    said = MATCHED if chance == twin_of(control) else chance
    ax.set_xlabel(f"accuracy; open: none ablated, filled: {k}; bar: {k} {said} channels", fontsize=FONT_SIZE)
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

    expect_columns(curves, ("control", "set", "k", "mean", "low", "high"))
    ks, controls = sorted(curves["k"].unique().tolist()), list(dict.fromkeys(curves["control"]))
    if first[0] not in controls:
        raise KeyError(f"no control {first[0]!r} in the sweep; there are {', '.join(controls)}")
    control = ipywidgets.Dropdown(options=controls, value=first[0], description="Control")
    k = ipywidgets.SelectionSlider(
        options=ks, value=min(ks, key=lambda own: abs(own - first[1])), description="K", continuous_update=False
    )
    share = ipywidgets.FloatSlider(value=0.0, min=0.0, max=1.5, step=0.1, description="Stain", continuous_update=False)
    hint = ipywidgets.HTML("<small>Stain: 0 is the tiles' own, 1 the other one, beyond 1 farther still.</small>")

    def panel(
        controls: Sequence[Any], chosen: Callable[[], str], draw: Callable[[], Figure]
    ) -> list[ipywidgets.Widget]:
        def view(said: str) -> View:
            return View(said, f"The same as the next cell shows: {said}", draw)

        parts = redrawn(controls, chosen, view)
        return [ipywidgets.HBox(list(controls)), *parts]

    ablated = panel(
        [control, k],
        lambda: f"{k.value} channels ablated by {control.value}",
        lambda: view_ablation(curves, control.value, k.value),
    )
    stained = panel(
        [share], lambda: f"stain at {share.value:.1f}", lambda: view_stain(*recolour(share.value), labels=labels)
    )
    return ipywidgets.VBox([*ablated, *stained, hint])
