"""Pictures of triggers: the part of the true one that a network sees, and those recovered from networks.

Triggers are in normalised units, as `nbutils.data.digits` has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nbutils.plotting.expect import expect_shape
from nbutils.plotting.labels import FONT_SIZE
from nbutils.plotting.theme import current
from studies.backdoor.plots.digits import to_pixels
from studies.backdoor.plots.grids import Grid, Labels, draw_images, fit, make_figure, trace_edges
from studies.backdoor.trigger_recovery import ANOMALY_THRESHOLD

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from studies.backdoor.trigger_recovery import RecoveredTriggers


def plot_visible(trigger: ArrayLike, visible: ArrayLike, *, margin: int = 3) -> Figure:
    """Plot which pixels of a trigger a network can see: dots for the visible, crosses for the others.

    Args:
        trigger: the trigger's pixels `[height, width]`, booleans.
        visible: the pixels that reach an output, likewise.
        margin: rows and columns to show around the trigger.

    Raises:
        ValueError: shapes differ, or the trigger has no pixels.
    """
    theme = current()
    trigger, visible = np.asarray(trigger, dtype=bool), np.asarray(visible, dtype=bool)
    if trigger.shape != visible.shape or trigger.ndim != 2 or not trigger.any():
        raise ValueError(
            "expected a trigger with at least one pixel and what is visible, both [height, width]; "
            f"got {list(trigger.shape)} with {int(trigger.sum())}, {list(visible.shape)}"
        )
    height, width = trigger.shape
    rows, columns = (np.flatnonzero(trigger.any(axis=axis)) for axis in (1, 0))
    fig = Figure(figsize=(5.6, 3.2), layout="compressed")
    ax = fig.subplots()
    ax.imshow(
        np.where(visible, 0, 1),
        cmap=ListedColormap([theme.paper, theme.muted]),
        vmin=0,
        vmax=1,
        alpha=0.55,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )
    edges = trace_edges(visible, (height, width)) - 0.5
    ax.add_collection(LineCollection(list(edges), colors=theme.ink, linewidths=1.6, capstyle="projecting"))
    for seen, marker, colour, text in (
        (trigger & visible, "s", theme.accents[0], "in the trigger and seen"),
        (trigger & ~visible, "x", theme.accents[1], "in the trigger, not seen"),
    ):
        y, x = np.nonzero(seen)
        ax.scatter(x, y, s=70, marker=marker, color=colour, linewidths=2.0, label=f"{text}: {len(x)}", zorder=2)
    ax.add_patch(Rectangle((0, 0), 0, 0, facecolor=theme.muted, alpha=0.55, label="reaches no output"))
    ax.set_xlim(max(columns[0] - margin, 0) - 0.6, min(columns[-1] + margin, width - 1) + 0.6)
    ax.set_ylim(min(rows[-1] + margin, height - 1) + 0.6, max(rows[0] - margin, 0) - 0.6)
    ax.set_xlabel("column")
    ax.set_ylabel("row")
    ax.locator_params(integer=True)
    ax.set_aspect("equal")
    fig.legend(loc="outside right center", fontsize=FONT_SIZE)
    return fig


def plot_recovered_triggers(
    recovered: Mapping[str, RecoveredTriggers], *, target: int | None = None, outline: ArrayLike | None = None
) -> Figure:
    """Plot the smallest trigger found for each label: grey where it leaves the image, else what it paints.

    Below each stand the norm of its mask in pixels and its anomaly index; an index above the threshold has a flag.

    Args:
        recovered: model -> triggers found by `studies.backdoor.trigger_recovery.recover_triggers`, for the same labels.
        target: the label whose trigger was planted, in a heavy frame.
        outline: pixels `[height, width]`, booleans, to outline, such as the square in which the true trigger stands.

    Raises:
        ValueError: no models, models with different labels, or images with more than one channel.
    """
    if len({found.targets for found in recovered.values()}) != 1:
        labels = {name: found.targets for name, found in recovered.items()}
        raise ValueError(f"expected triggers of one or more models for the same labels, got {labels}")
    targets = next(iter(recovered.values())).targets
    images, captions = [], []
    for found in recovered.values():
        masks = expect_shape("masks", found.masks, (len(targets), "height", "width"))
        patterns = expect_shape("patterns", found.patterns, (len(targets), 1, *masks.shape[1:]))[:, 0]
        images.append(0.5 + masks * (to_pixels(patterns) - 0.5))
        flags = ["⚑ " if label in found.flagged else "" for label in targets]
        captions.append(
            [
                f"{norm:.1f} px\n{flag}{round(index, 1) + 0.0:+.1f}".replace("-", "−")
                for norm, index, flag in zip(found.norms.tolist(), found.anomaly.values(), flags, strict=True)
            ]
        )
    stack = np.stack(images)  # (models, labels, height, width)
    grid = Grid.of(stack, fit(len(targets), stack.shape[3], list(recovered), most=0.82), lines=2)
    fig, (ax,) = make_figure([grid], list(recovered), below=0.22)
    names = [f"▶ {label}" if label == target else str(label) for label in targets]
    draw_images(
        ax,
        stack,
        inches=grid.inches,
        labels=Labels(list(recovered), names, captions),
        marked={(row, targets.index(target)) for row in range(len(recovered))} if target in targets else (),
        outline=outline,
    )
    ax.set_xlabel(f"norm of the mask, and anomaly index: ⚑ above {ANOMALY_THRESHOLD:g}", fontsize=FONT_SIZE, labelpad=0)
    return fig
