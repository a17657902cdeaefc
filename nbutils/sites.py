"""Places in a model: what a module puts out or takes in, or some of its units. One `Site` means the same everywhere."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nbutils import contents

# Units lie on axis 1, or on the last axis, of what these classes put out and take in. A subclass that has another
# `forward` (a layer norm over channels, say) may mean another axis: it is asked for.
CHANNELS_FIRST = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.PReLU),
)
FEATURES_LAST = (
    *(nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention),
    *(nn.RNN, nn.LSTM, nn.GRU, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
)
ITEMS_SECOND = (nn.RNN, nn.LSTM, nn.GRU, nn.MultiheadAttention)  # unless `batch_first`

Units = int | range | tuple[int, ...] | None


def submodule(model: nn.Module, name: str) -> nn.Module:
    """Return the module at a dotted path; `""` is the model itself. Aliases count.

    Raises:
        KeyError: there is none; the message lists the nearest names.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        pass
    except RuntimeError:  # of a scripted model
        if name in (found := dict(model.named_modules())):
            return found[name]
    # What `torch.compile` wraps is found by the name that it had.
    names = [candidate.replace("_orig_mod.", "") for candidate, _ in model.named_modules(remove_duplicate=False)]
    names = [candidate for candidate in names if candidate not in ("", "_orig_mod")]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:5]
    raise KeyError(f"no module {name!r} in {type(model).__name__}; nearest: {', '.join(near) or 'it has none'}")


@dataclass(frozen=True)
class Site:
    """What a module puts out or takes in, or a unit of it.

    Args:
        module: dotted path, e.g. `"layer1.0.conv1"`; `""` is the model itself.
        unit: index on `axis`: a channel, neuron or head; several (a slice with a stop, or a sequence) are a *group*
            that counts as one: a head is a group of columns of its output projection's input. None for everything.
        axis: axis of the units; negative ones count from the end. None: as the module says, 1 for convolutions, batch
            norms and pools, the last for linear layers, layer norms, embeddings and attention; of `[items, width]` 1.
        part: `"output"`, or `"input"`: an argument of the module.
        item: which element of a tuple, list, dict or `ModelOutput`; of an input its position or its name. None: the
            tensor itself, or the first tensor of a tuple.
        positions: axes on which positions lie, for means over them. None: those between items and units where units
            lie on the last axis; those after units on axis 1 of three or more, except for `[items, positions, units,
            width]`, given by `axis=2`, where they lie on axis 1.
        call: of a module that runs more than once in a pass of the model the number of the run, from 0; for `edit`
            also `"every"`. None: it runs once, or is refused.

    Raises:
        ValueError: a negative unit, a group of none or with one twice, an open slice, axis 0, another `part`, a
            negative call.

    >>> import nbutils as nb
    >>> nb.Site("conv1", 3)
    Site('conv1', 3)
    >>> nb.Site("h.0.attn.c_proj", slice(0, 16), part="input")
    Site('h.0.attn.c_proj', range(0, 16), part='input')
    """

    module: str
    unit: Units = None
    axis: int | None = None
    _: KW_ONLY
    part: Literal["output", "input"] = "output"
    item: int | str | None = None
    positions: tuple[int, ...] | None = None
    call: int | Literal["every"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit", _units(self.unit))
        if self.positions is not None:
            object.__setattr__(self, "positions", tuple(self.positions))
        if self.part not in ("output", "input"):
            raise ValueError(f"part is 'output' or 'input'; got {self.part!r}")
        if self.axis == 0 or 0 in (self.positions or ()):
            raise ValueError(f"axis 0 is the items, neither units nor positions; got {self}")
        if self.call not in (None, "every") and not _index(self.call):
            raise ValueError(f"call is the number of a run, 0 or more, or 'every'; got {self.call!r}")

    def __repr__(self) -> str:
        given = [repr(self.module)] + [repr(self.unit)] * (self.unit is not None)
        for name, usual in (("axis", None), ("part", "output"), ("item", None), ("positions", None), ("call", None)):
            if getattr(self, name) != usual:
                given.append(f"{name}={getattr(self, name)!r}")
        return f"Site({', '.join(given)})"

    @classmethod
    def of(cls, place: str | Site) -> Site:
        """Return a site; a name stands for the output of a module."""
        if isinstance(place, Site):
            return place
        if isinstance(place, str):
            return cls(place)
        raise TypeError(f"a place in a model is a Site or a module's name; got {place!r}")

    @property
    def whole(self) -> Site:
        """The same place with all of its units."""
        if self.unit is None:
            return self
        return _whole(self.module, self.axis, self.part, self.item, self.positions, self.call)

    @property
    def indices(self) -> tuple[int, ...]:
        """The units' indices; none where the site means everything."""
        return () if self.unit is None else (self.unit,) if isinstance(self.unit, int) else tuple(self.unit)

    @property
    def name(self) -> str:
        """The place in words, for messages."""
        item = "" if self.item is None else f" [{self.item!r}]"
        call = "" if self.call is None else f" ({f'call {self.call}' if self.call != 'every' else 'every call'})"
        return f"{'the input' if self.part == 'input' else 'the output'}{item} of {self.module or 'the model'!r}{call}"

    def on(self, model: nn.Module) -> Site:
        """Return the site as the model's module makes it: with an axis, where the module says which.

        Raises:
            KeyError: no such module; the message lists the nearest names.
            ValueError: a unit that the module says it has not, or a module that puts items on another axis than 0.
        """
        module = submodule(model, self.module)
        if _as(module, ITEMS_SECOND) and not getattr(module, "batch_first", True):
            raise ValueError(
                f"{self.module!r} is a {type(module).__name__} with batch_first=False: items lie on axis 1 there, and "
                "must lie on axis 0; build it with batch_first=True"
            )
        axis, width = _axis(module), _width(module, self.part)
        if self.part == "output" and self.item not in (None, 0):
            axis = width = None  # weights of attention, or states: another tensor than the one that the module says
        if width is not None and self.axis in (None, axis) and any(unit >= width for unit in self.indices):
            raise ValueError(f"{self.name} has units 0 to {width - 1}; got {_told(self.unit)}")
        return self if self.axis is not None or axis is None else replace(self, axis=axis)

    def units_axis(self, tensor: Tensor) -> int:
        """Return the axis of the units in the tensor at this place, counted from the front.

        Raises:
            ValueError: no axis is given and the shape does not say, or there is no such axis.
        """
        if self.axis is None:
            if tensor.ndim == 2:
                return 1
            raise ValueError(
                f"on which axis of {tuple(tensor.shape)}, {self.name}, do units lie? Give Site({self.module!r}, axis=…)"
            )
        return self._front(tensor, self.axis)

    def count(self, tensor: Tensor) -> int:
        """Return the number of units in the tensor at this place.

        Raises:
            ValueError: the tensor has no such axis, or no such unit.
        """
        width = tensor.shape[self.units_axis(tensor)]
        if any(unit >= width for unit in self.indices):
            raise ValueError(f"{self.name} has units 0 to {width - 1} on axis {self.axis}; got {_told(self.unit)}")
        return width

    def each(self, tensor: Tensor) -> list[Site]:
        """Return one site per unit, of all that the tensor at this place has."""
        return [replace(self, unit=unit, axis=self.units_axis(tensor)) for unit in range(self.count(tensor))]

    def select(self, tensor: Tensor) -> Tensor:
        """Return the site's part of a tensor: for one unit a view without their axis, for a group with it; or all."""
        if self.unit is None:
            return tensor
        self.count(tensor)
        axis = self.units_axis(tensor)
        if isinstance(self.unit, int):
            return tensor.select(axis, self.unit)
        if isinstance(self.unit, range) and self.unit.step == 1:
            return tensor.narrow(axis, self.unit.start, len(self.unit))
        return tensor.index_select(axis, torch.tensor(self.indices, device=tensor.device))

    def exchange(self, tensor: Tensor, part: Tensor) -> Tensor:
        """Return a tensor with another part, of the shape that `select` gives; the original stays as it is."""
        if self.unit is None:
            return part
        axis = self.units_axis(tensor)
        index = torch.tensor(self.indices, device=tensor.device)
        # A clone keeps the memory format, on which the last bits of what comes after depend; `index_copy` does not.
        return tensor.clone().index_copy_(axis, index, part.unsqueeze(axis) if isinstance(self.unit, int) else part)

    def position_axes(self, tensor: Tensor) -> tuple[int, ...]:
        """Return the axes on which positions lie, counted from the front.

        Raises:
            ValueError: the tensor has no such axis.
        """
        if self.positions is not None:
            return tuple(self._front(tensor, axis) for axis in self.positions)
        if tensor.ndim < 3:
            return ()
        axis = self.units_axis(tensor)
        return tuple(range(2, tensor.ndim)) if axis == 1 else tuple(range(1, axis))

    def take(self, value: object) -> Tensor:
        """Return the tensor at this place from what a module put out.

        Raises:
            TypeError: there is none, or several and it is not said which; or one that is nested, sparse or quantized.
        """
        return contents.element(value, self.item, self.name)[0]

    def put(self, value: Any, tensor: Tensor) -> Any:
        """Return what a module put out with another tensor at this place; the original stays as it is."""
        return contents.with_element(value, contents.element(value, self.item, self.name)[1], tensor)

    def argument(self, module: nn.Module, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> int | str:
        """Return where among a call's arguments the tensor of an input site is: a position, or a keyword.

        Raises:
            TypeError: there is no tensor, or several keywords hold one and it is not said which.
        """
        return contents.argument(module, args, keywords, self.item, self.name)

    def _front(self, tensor: Tensor, axis: int) -> int:
        if not -tensor.ndim < axis < tensor.ndim:  # -ndim would be the items
            raise ValueError(f"no axis {axis} of units or positions in {tuple(tensor.shape)}, {self.name}")
        return axis % tensor.ndim


@lru_cache(maxsize=4096, typed=True)  # thousands of groups of one place share it
def _whole(module: str, axis: int | None, part: Any, item: Any, positions: Any, call: Any) -> Site:
    return Site(module, None, axis, part=part, item=item, positions=positions, call=call)


def _units(unit: object) -> Units:
    """Return a unit or a group in a form that can be hashed."""
    if unit is None:
        return None
    if isinstance(unit, slice):
        if unit.stop is None or min(unit.start or 0, unit.stop) < 0:
            raise ValueError(f"a slice of units needs a stop, and no negative number; got {unit}")
        unit = range(unit.start or 0, unit.stop, unit.step or 1)
    if isinstance(unit, range | Sequence | Tensor) and not isinstance(unit, str):
        indices = unit.tolist() if isinstance(unit, Tensor) else list(unit)
        if isinstance(indices, list):
            # Plain numbers, as there are in sweeps of thousands of groups, need no look at each.
            plain = set(map(type, indices)) == {int} and min(indices) >= 0
            if len(set(indices)) < len(indices) or not (plain or (indices and all(map(_index, indices)))):
                raise ValueError(f"a group holds one unit or more, indices of 0 or more, each once; got {unit!r}")
            return unit if isinstance(unit, range) else tuple(indices if plain else map(int, indices))
        unit = indices
    if not _index(unit):
        raise ValueError(f"a unit is an index of 0 or more, or a group of them; got {unit!r}")
    return int(unit)  # type: ignore[call-overload]  # an index, as just checked


def _index(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool) and value.__index__() >= 0


def _told(unit: Units) -> str:
    return str(unit) if isinstance(unit, int | range) else ", ".join(map(str, unit or ()))


def _as(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Return whether a module runs as one of some classes does: a subclass with its own `forward` does not."""
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def _axis(module: nn.Module) -> int | None:
    """Return the axis on which a module's units lie; None where it does not say."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) > 1:
        return None  # over channels and places, in whatever order
    for kinds, axis in ((CHANNELS_FIRST, 1), (FEATURES_LAST, -1)):
        if _as(module, kinds):
            return axis
    return -1 if _transposed_linear(module) else None


def _width(module: nn.Module, part: str) -> int | None:
    """Return how many units a module says it has; None where it does not say."""
    names = {"output": ("out_channels", "out_features"), "input": ("in_channels", "in_features")}[part]
    for name in names:
        if isinstance(width := getattr(module, name, None), int):
            return width
    if _transposed_linear(module):
        return module.get_parameter("weight").shape[1 if part == "output" else 0]
    return None


def _transposed_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer with its weight `[in, out]`, as GPT-2 of transformers has them."""
    weight = getattr(module, "weight", None)
    return type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.ndim == 2
