"""Many models of one architecture with stacked parameters, trained by one loop.

Not `torch.func.stack_module_state` and `vmap` alone: members lie in one flat buffer, so that one is bit-equal to its
single run in any split, and models whose modules act on the last axis run with batched matrix products.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from nbutils.hooks import watch
from nbutils.seeding import seeded

_REGISTER = 16  # numbers: the widest vector register holds 16 of float32, 8 of float64


class Ensemble:
    """S models of one architecture, their parameters stacked to `[S, ...]`.

    Member *i* starts from `build()` run under the initialisation stream of seed *i*, and stays a function of that seed
    alone: members share no draws and no arithmetic. One seed is an ensemble of one.

    Double precision is the default because training is chaotic. Over the 1,501 steps of the colour cube a difference
    in rounding grew into other networks for most seeds in float32; in float64 it stayed below 1e-8 for 94 of 100
    seeds, and became another network for one. Members are therefore also laid out so that their rounding does not
    depend on the others (`flat`): once `nbutils.seeding.pin` has chosen the matrix kernels, member i is the single run
    of seed i, on the processor to the last bit, on a GPU to rounding. What a model draws itself while it trains
    (dropout) comes from torch's global generator.

    Args:
        build: returns a freshly initialised module; called once per seed.
        seeds: one per member, distinct, 0 or more.
        dtype: of parameters and arithmetic.
        device: of parameters and arithmetic.

    Attributes:
        seeds: the members' seeds.
        variants: names that distinguish members of one seed, `""` where nothing does (see `across`).
        parameters: name -> `[members, ...]`, views of `flat`.
        gradients: likewise, views of `flat.grad`.
        buffers: name -> `[members, ...]`.
        flat: all parameters `[members, width]`, what an element-wise optimizer works on; `flat.grad` likewise.

    Raises:
        ValueError: no seeds, or a seed twice.

    >>> import nbutils as nb, torch
    >>> ensemble = nb.Ensemble(lambda: torch.nn.Linear(2, 3), seeds=[0, 1])
    >>> len(ensemble), tuple(ensemble[1](torch.zeros(4, 2, dtype=torch.float64)).shape)
    (2, (4, 3))
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        seeds: Iterable[int],
        *,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
    ) -> None:
        self.seeds = tuple(operator.index(seed) for seed in seeds)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"an ensemble needs distinct seeds, at least one; got {self.seeds}")
        self.variants: tuple[str, ...] = ("",) * len(self.seeds)
        self.build = build
        self.dtype = dtype
        self.device = torch.device(device)
        members = []
        for seed in self.seeds:
            with seeded(seed, "initialisation"):
                members.append(build().to(dtype=dtype, device=self.device))
        if frozen := [name for name, weight in members[0].named_parameters() if not weight.requires_grad]:
            raise ValueError(
                f"all parameters of an ensemble are trained; {', '.join(frozen[:3])} must not be (requires_grad is "
                "False): make them buffers"
            )
        self._template = members[0]
        stacked, self.buffers = torch.func.stack_module_state(members)
        self._lay_out(self._flatten({name: tensor.detach() for name, tensor in stacked.items()}))

    def _flatten(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return `[members, width]`: each member's parameters in a row, padded to whole vector registers.

        With the padding every number is computed by the same vector instructions wherever its member stands. Without
        it, the last few of an array are computed by scalar ones, which round otherwise, and chaos does the rest.
        """
        rows = torch.cat([tensor.flatten(1) for tensor in tensors.values()], dim=1)
        return torch.nn.functional.pad(rows, (0, -rows.shape[1] % _REGISTER))

    def _lay_out(self, flat: Tensor) -> None:
        """Make `flat` the parameters' memory: `parameters` are views of it."""
        self.flat = flat.contiguous()
        self.flat.grad = torch.zeros_like(self.flat)
        self.parameters: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        start = 0
        for name, like in self._template.named_parameters():
            columns = slice(start, start + like.numel())
            self.parameters[name] = self.flat[:, columns].unflatten(1, like.shape).requires_grad_()
            self.gradients[name] = self.flat.grad[:, columns].unflatten(1, like.shape)
            start = columns.stop
        self._stacked = self._stack()

    def backward(self, loss: Tensor) -> None:
        """Write the gradient of a scalar loss to `flat.grad`; parameters the loss does not reach get 0."""
        gradients = torch.autograd.grad(loss, list(self.parameters.values()), materialize_grads=True)
        torch._foreach_copy_(list(self.gradients.values()), gradients)

    def __getstate__(self) -> dict[str, object]:
        # Views would travel as copies and come apart from the memory they share.
        return {k: v for k, v in vars(self).items() if k not in ("parameters", "gradients", "_stacked")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._lay_out(self.flat)

    def __identity__(self) -> dict[str, object]:
        """Return the ensemble's content for `nbutils.identity`, without traces of running it."""
        return {
            "seeds": self.seeds,
            "variants": self.variants,
            "dtype": self.dtype,
            "initial parameters": self.flat.detach(),
            "buffers": self.buffers,
            "model": copy.deepcopy(self._template).to("meta").train(),  # its own weights are never used
            "builder": self.build,
        }

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
        """Run all members, each on its own batch: stacked, through `vmap`, or one after the other.

        A model that says `one_by_one = True` has its members run in turn, which suits those whose operators gain
        nothing from one more axis.

        Args:
            inputs: `[members, batch, ...]`, or `[1, batch, ...]` for the same batch to all.
            sites: dotted module paths whose outputs to return.
            training: run in training mode.

        Returns:
            Outputs `[members, batch, ...]` and activations, site -> `[members, batch, ...]`.
        """

        seen: dict[str, Tensor] = {}
        inputs = inputs.expand(len(self), *inputs.shape[1:])
        model = self._template if self._stacked is None else self._stacked

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor):
            output = torch.func.functional_call(model, (parameters, buffers), (x,))
            return output, dict(seen)

        keep = torch.contiguous_format if self._stacked is not None else torch.preserve_format

        def see(site: str, output: Tensor) -> None:
            seen[site] = output.clone(memory_format=keep)

        with watch(model, {site: partial(see, site) for site in sites}):
            model.train(training)
            if self._stacked is not None:
                return model(inputs), seen
            if getattr(model, "one_by_one", False):
                results = [one(*state, x) for state, x in zip(self._members(), inputs, strict=True)]
                outputs, seen_by = zip(*results, strict=True)
                return torch.stack(outputs), {site: torch.stack([s[site] for s in seen_by]) for site in sites}
            return torch.vmap(one, randomness="different")(self.parameters, self.buffers, inputs)

    def _members(self) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """Return (parameters, buffers) of each member, views that gradients flow through."""
        # `unbind` rather than one index per member: going back it fills each parameter's gradient once.
        weights, buffers = (
            {name: tensor.unbind() for name, tensor in kind.items()} for kind in (self.parameters, self.buffers)
        )
        return [
            ({name: row[i] for name, row in weights.items()}, {name: row[i] for name, row in buffers.items()})
            for i in range(len(self))
        ]

    def _stack(self) -> nn.Module | None:
        """Return the model with stacked linear layers, or None where only `vmap` can run all members at once.

        A model says `rowwise = True` when its modules act on the last axis only, whatever axes lead. Then one more
        leading axis for the members is all it takes, and the matrix products can be laid out for speed: half the
        time of `vmap` for small networks, the same numbers (a test compares them).
        """
        holders = [m for m in self._template.modules() if next(m.parameters(recurse=False), None) is not None]
        plain = all(type(m) is nn.Linear for m in holders) and not self.buffers
        if not (getattr(self._template, "rowwise", False) and plain):
            return None
        stacked = copy.deepcopy(self._template)
        for name, module in self._template.named_modules():
            if isinstance(module, nn.Linear):
                parent, _, child = name.rpartition(".")
                layer = _StackedLinear(self.parameters[f"{name}.weight"], self.parameters.get(f"{name}.bias"))
                setattr(stacked.get_submodule(parent), child, layer)
        return stacked

    def select(self, members: Sequence[int]) -> Ensemble:
        """Return an ensemble of some members, with copies of their parameters."""
        chosen = copy.copy(self)
        chosen.seeds = tuple(self.seeds[i] for i in members)
        chosen.variants = tuple(self.variants[i] for i in members)
        index = torch.as_tensor(list(members), device=self.device)
        chosen.buffers = {k: v[index].clone() for k, v in self.buffers.items()}
        chosen._template = copy.deepcopy(self._template)
        chosen._lay_out(self.flat.detach()[index])
        return chosen

    def across(self, variants: Sequence[str]) -> Ensemble:
        """Return an ensemble that has each member once per variant: all seeds of the first, all of the next, and so on.

        Members of one seed start from the same weights and meet the same batches, so variants are compared in pairs.

        Args:
            variants: names of the differences in training, distinct and not empty.

        Raises:
            ValueError: no variants, one twice, an empty name, or this ensemble has variants already.
        """
        variants = tuple(variants)
        if not all(variants) or not variants or len(set(variants)) != len(variants) or any(self.variants):
            raise ValueError(
                f"an ensemble without variants, and distinct names for them, are needed; got {self!r} and {variants}"
            )
        repeated = self.select([*range(len(self))] * len(variants))
        repeated.variants = tuple(variant for variant in variants for _ in self.seeds)
        return repeated

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


class _StackedLinear(nn.Module):
    """One linear layer per member: weights `[members, out, in]`, on inputs `[members, batch, in]`.

    The products are formed as W·xᵀ, with the batch on the fastest axis: for widths this small twice as fast as x·Wᵀ.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias  # plain tensors: the ensemble owns them

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return torch.bmm(self.weight, x.transpose(1, 2)).transpose(1, 2)
        return torch.baddbmm(self.bias.unsqueeze(2), self.weight, x.transpose(1, 2)).transpose(1, 2)
