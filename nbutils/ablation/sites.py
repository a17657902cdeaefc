"""Places in a model where an activation can be read or replaced."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from nbutils.hooks import submodule


@dataclass(frozen=True)
class Site:
    """The output of a module, or one unit of it.

    Args:
        module: dotted module path, e.g. `"net.3"`.
        unit: index on `axis`: a channel, neuron, head or position; None for all of them.
        axis: axis of the output (items are axis 0) on which units lie: 1 for channels and neurons, 2 for the heads of
            `[items, positions, heads, width]`.
        positions: axes of the output on which positions lie, for means over them. None goes by the output's shape: none
            for `[items, width]`, the last two for images `[items, channels, rows, columns]` (units on axis 1), else
            axis 1.
    """

    module: str
    unit: int | None = None
    axis: int = 1
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.unit is not None and self.unit < 0:
            raise ValueError(f"a unit is an index of 0 or more; got {self}")
        if self.axis == 0 or 0 in (self.positions or ()):
            raise ValueError(f"axis 0 is the items, neither units nor positions; got {self}")

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
        self._check_axis(output, self.axis)
        width = output.shape[self.axis]
        if self.unit is not None and self.unit >= width:
            raise ValueError(f"{self.module!r} has units 0 to {width - 1} on axis {self.axis}; got {self.unit}")
        return width

    def each(self, output: Tensor) -> list[Site]:
        """Return one site a unit, of all that an output of the module has."""
        return [replace(self, unit=unit) for unit in range(self.count(output))]

    def select(self, output: Tensor) -> Tensor:
        """Return the unit's part of an output, a view `[items, ...]` without the axis of the units; or all of it."""
        if self.unit is None:
            return output
        self.count(output)
        return output.select(self.axis, self.unit)

    def position_axes(self, output: Tensor) -> tuple[int, ...]:
        """Return the axes of an output on which positions lie.

        Raises:
            ValueError: the output has no such axis.
        """
        if self.positions is not None:
            for axis in self.positions:
                self._check_axis(output, axis)
            return tuple(axis % output.ndim for axis in self.positions)
        if output.ndim < 3:
            return ()
        return (2, 3) if output.ndim == 4 and self.axis % 4 == 1 else (1,)

    def _check_axis(self, output: Tensor, axis: int) -> None:
        if not -output.ndim < axis < output.ndim:
            raise ValueError(f"no axis {axis} in the output {tuple(output.shape)} of {self.module!r}")
