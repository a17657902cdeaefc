"""Places in a model where an activation can be read or replaced."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from nbutils.hooks import submodule


@dataclass(frozen=True)
class Site:
    """The output of a module, or one unit of it.

    Args:
        module: dotted module path, e.g. `"net.3"`.
        unit: index on `axis`: a channel, neuron, head or position; None for all of them.
        axis: axis of the output (items are axis 0) on which units lie: 1 for channels and neurons.
    """

    module: str
    unit: int | None = None
    axis: int = 1

    def __post_init__(self) -> None:
        if self.unit is not None and self.unit < 0:
            raise ValueError(f"a unit is an index of 0 or more; got {self}")
        if self.axis == 0:
            raise ValueError(f"axis 0 is the items, not units; got {self}")

    def resolve(self, model: nn.Module) -> nn.Module:
        """Return the module.

        Raises:
            KeyError: there is none; the message lists the nearest names.
            ValueError: a convolution or linear layer that has no such unit.
        """
        module = submodule(model, self.module)
        width = getattr(module, "out_channels", getattr(module, "out_features", None))
        if self.axis == 1 and self.unit is not None and width is not None and self.unit >= width:
            raise ValueError(f"{self.module!r} has units 0 to {width - 1}; got {self.unit}")
        return module

    def count(self, output: Tensor) -> int:
        """Return the number of units in an output of the module.

        Raises:
            ValueError: the output has no such axis, or no such unit.
        """
        if not -output.ndim < self.axis < output.ndim:
            raise ValueError(f"no axis {self.axis} in the output {tuple(output.shape)} of {self.module!r}")
        width = output.shape[self.axis]
        if self.unit is not None and self.unit >= width:
            raise ValueError(f"{self.module!r} has units 0 to {width - 1} on axis {self.axis}; got {self.unit}")
        return width
