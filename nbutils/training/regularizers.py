"""Losses on the weights of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor


class ParameterDrift:
    """Mean absolute distance of all parameters of a member from where they were: mean |θ − θ_ref|.

    Source document: "Poisoned MNIST", which holds the poisoned weights near the clean ones by it.

    Args:
        reference: name -> `[members, ...]`, e.g. `ensemble.state()`; copied, so the ensemble may train on.
    """

    def __init__(self, reference: Mapping[str, Tensor]) -> None:
        self.reference = {name: tensor.detach().clone() for name, tensor in reference.items()}

    def __call__(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the drift of each member `[members]` from parameters by name, `[members, ...]`.

        Raises:
            ValueError: parameters and reference have other names or shapes.
        """
        if parameters.keys() != self.reference.keys():
            raise ValueError(f"the reference has {sorted(self.reference)}; got parameters {sorted(parameters)}")
        moved: list[Tensor] = []
        count = 0
        for name, tensor in parameters.items():
            reference = self.reference[name]
            if reference.shape != tensor.shape:
                raise ValueError(f"the reference of {name} is {tuple(reference.shape)}; got {tuple(tensor.shape)}")
            moved.append((tensor - reference.to(tensor)).abs().flatten(1).sum(1))
            count += tensor[0].numel()
        return reduce(torch.add, moved) / count

    def select(self, members: Sequence[int]) -> ParameterDrift:
        """Return the drift of some of the members."""
        return ParameterDrift({name: tensor[list(members)] for name, tensor in self.reference.items()})
