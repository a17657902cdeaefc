"""Many models of one architecture with stacked parameters, trained by one loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from nbutils.hooks import submodule
from nbutils.seeding import seeded


class Ensemble:
    """S models of one architecture, their parameters stacked to `[S, ...]`.

    Member *i* starts from `build()` run under the initialisation stream of seed *i*, and stays a function of that seed
    alone: members share no draws and no arithmetic. One seed is an ensemble of one.

    Double precision is the default because training is chaotic. In float32 the rounding of a differently shaped matrix
    product grows, over 1,501 steps of the colour cube, into parameters that differ by 1; in float64 into 1e-11.

    Args:
        build: returns a freshly initialised module; called once a seed.
        seeds: one a member, distinct, 0 or more.
        dtype: of parameters and arithmetic.
        device: where they live.

    Raises:
        ValueError: no seeds, or a seed twice.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        seeds: Iterable[int],
        *,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
    ) -> None:
        self.seeds = tuple(seeds)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"an ensemble needs distinct seeds, at least one; got {self.seeds}")
        self.build = build
        self.dtype = dtype
        self.device = torch.device(device)
        members = []
        for seed in self.seeds:
            with seeded(seed, "initialisation"):
                members.append(build().to(dtype=dtype, device=self.device))
        self._template = members[0]
        parameters, buffers = torch.func.stack_module_state(members)
        self.parameters: dict[str, Tensor] = {k: v.detach().requires_grad_() for k, v in parameters.items()}
        self.buffers: dict[str, Tensor] = buffers

    def __len__(self) -> int:
        return len(self.seeds)

    def __repr__(self) -> str:
        seeds = f"{self.seeds[0]}…{self.seeds[-1]}" if len(self) > 1 else f"{self.seeds[0]}"
        return f"Ensemble({type(self._template).__name__}, {len(self)} seeds {seeds}, {self.dtype})"

    def __getitem__(self, member: int) -> nn.Module:
        """Return a copy of one member as an ordinary module in eval mode; its weights are its own."""
        if not -len(self) <= member < len(self):
            raise IndexError(f"member {member} of an ensemble of {len(self)}")
        module = copy.deepcopy(self._template).eval()
        state = {name: tensor[member].detach() for name, tensor in (*self.parameters.items(), *self.buffers.items())}
        module.load_state_dict(state, strict=False)  # not strict: non-persistent buffers are no keys of a state dict
        return module

    def __call__(
        self, inputs: Tensor, sites: Sequence[str] = (), *, training: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run all members, each on its own batch.

        Args:
            inputs: `[members, batch, ...]`, or `[1, batch, ...]` for the same batch to all.
            sites: dotted module paths whose outputs to return.
            training: run in training mode.

        Returns:
            Outputs `[members, batch, ...]` and activations, site -> `[members, batch, ...]`.
        """

        seen: dict[str, Tensor] = {}

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor):
            output = torch.func.functional_call(self._template, (parameters, buffers), (x,))
            return output, dict(seen)

        # Plain hooks rather than `capture`: the template's own weights are never used, so nothing needs putting back.
        handles = [
            submodule(self._template, site).register_forward_hook(
                lambda _module, _inputs, output, site=site: seen.__setitem__(site, output.clone())
            )
            for site in sites
        ]
        try:
            self._template.train(training)
            run = torch.vmap(one, randomness="different")
            return run(self.parameters, self.buffers, inputs.expand(len(self), *inputs.shape[1:]))
        finally:
            for handle in handles:
                handle.remove()

    def select(self, members: Sequence[int]) -> Ensemble:
        """Return an ensemble of some members, with copies of their parameters."""
        chosen = copy.copy(self)
        chosen.seeds = tuple(self.seeds[i] for i in members)
        index = torch.as_tensor(list(members), device=self.device)
        chosen.parameters = {k: v.detach()[index].clone().requires_grad_() for k, v in self.parameters.items()}
        chosen.buffers = {k: v[index].clone() for k, v in self.buffers.items()}
        chosen._template = copy.deepcopy(self._template)
        return chosen

    def state(self) -> dict[str, Tensor]:
        """Return parameters and buffers by name, `[members, ...]`, sharing memory."""
        return {k: v.detach() for k, v in (*self.parameters.items(), *self.buffers.items())}

    def load(self, state: dict[str, Tensor]) -> None:
        """Copy a `state()` into this ensemble.

        Raises:
            ValueError: names or shapes differ; the first is named.
        """
        own = self.state()
        if state.keys() != own.keys():
            raise ValueError(f"state has {sorted(state)}, the ensemble {sorted(own)}")
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise ValueError(f"{name} must be {tuple(tensor.shape)}; got {tuple(state[name].shape)}")
            tensor.copy_(state[name])
