"""Controls above a scatter of predicted against true changes of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nbutils.plotting.explorers import View, redrawn
from studies.credit.plots import plot_predictions

if TYPE_CHECKING:
    import ipywidgets

    from studies.credit.perturbation import PerturbationCorrelation


def credit_explorer(
    evaluate: Callable[[int, float, str], PerturbationCorrelation],
    layers: Sequence[int],
    epsilons: Sequence[float],
    precisions: Sequence[str] = ("float32", "float64"),
) -> ipywidgets.VBox:
    """Return controls for layer, step and precision above the scatter of predicted against true changes of the loss.

    Args:
        evaluate: measures at a layer, with a step ε, in a precision.
        layers: the layers to choose from; the first is shown first.
        epsilons: the steps to choose from; the first is shown first.
        precisions: the precisions to choose from; the first is shown first.

    Raises:
        ValueError: no layers, steps or precisions.
    """
    import ipywidgets

    if not len(layers) or not len(epsilons) or not len(precisions):
        raise ValueError(
            f"expected at least one layer, step and precision, got {len(layers)}, {len(epsilons)}, {len(precisions)}"
        )
    layer = ipywidgets.Dropdown(options=list(layers), description="Layer")
    epsilon = ipywidgets.Dropdown(options=[(f"{value:g}", value) for value in epsilons], description="ε")
    precision = ipywidgets.Dropdown(options=list(precisions), description="Precision")
    controls = [layer, epsilon, precision]

    def view(chosen: str) -> View:
        result = evaluate(layer.value, epsilon.value, precision.value)
        alt = f"Predicted against true change of the loss: {chosen}"
        return View(f"{chosen}: ρ = {result.rho:+.4f}", alt, lambda: plot_predictions({chosen: result}))

    status, picture = redrawn(controls, lambda: f"layer {layer.value}, ε = {epsilon.value:g}, {precision.value}", view)
    return ipywidgets.VBox([ipywidgets.HBox(controls), status, picture])
