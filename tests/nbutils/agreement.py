"""Compare what the package says of a place in a model with hooks written out by hand, or note that it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from any_models import Case, Place
from torch import Tensor, nn

import nbutils as nb

Kind = nb.AblationType
DATASET = {
    Kind.TOKENWISE_MEAN_CLEAN: ("clean",),
    Kind.TOKENWISE_MEAN_CORRUPT: ("corrupt",),
    Kind.TOKENWISE_MEAN_CLEAN_AND_CORRUPT: ("clean", "corrupt"),
    Kind.MEAN: ("clean",),
}
KINDS = (*Kind, Kind.MEAN)
CLEAR = (ValueError, TypeError, KeyError)


def call(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return model(batch)
    return model(**batch) if isinstance(batch, Mapping) else model(*batch)


def items(batch: Any, chosen: slice) -> Any:
    if isinstance(batch, Tensor):
        return batch[chosen]
    if isinstance(batch, Mapping):
        return {name: items(value, chosen) for name, value in batch.items()}
    return tuple(items(value, chosen) for value in batch) if isinstance(batch, tuple) else batch


def hand_hook(model: nn.Module, place: Place, change: Callable[[Tensor], Tensor]) -> Any:
    """Register a hook that exchanges the tensor at a place. Plain PyTorch, nothing of the package."""
    module = model.get_submodule(place.module)
    if place.part == "input":

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if isinstance(place.item, str) and place.item in kwargs:
                return args, {**kwargs, place.item: change(kwargs[place.item])}
            index = place.item or 0
            return (*args[:index], change(args[index]), *args[index + 1 :]), kwargs

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return change(output)
        key = place.item if place.item is not None else 0
        if isinstance(output, Mapping):
            changed = copy.copy(output)
            key = key if isinstance(key, str) else next(iter(output))
            changed[key] = change(output[key])
            return changed
        parts = list(output)
        parts[key] = change(parts[key])
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)

    return module.register_forward_hook(after)


class ByHand:
    """Answers and activations by plain hooks on a copy of the model, in eval mode, without fused attention."""

    def __init__(self, case: Case, model: nn.Module, clean: Any, corrupt: Any) -> None:
        self.case, self.inputs = case, {"clean": clean, "corrupt": corrupt}
        self.model = case.plain(model)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        modes = {module: module.training for module in self.model.modules()}
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            self.model.eval()
            with torch.no_grad():
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for module, mode in modes.items():
                module.training = mode

    def activation(self, place: Place, inputs: str, run: int = 0) -> Tensor:
        kept: list[Tensor] = []
        with self._quiet():
            handle = hand_hook(self.model, place, lambda x: (kept.append(x.clone()), x)[1])
            call(self.model, self.inputs[inputs])
            handle.remove()
        assert len(kept) == place.calls, f"{self.case}: {place} was met {len(kept)} times"
        return kept[run]

    def gradient(self, place: Place, score: Callable[[Any], Tensor]) -> Tensor:
        """Return the gradient of a score of the model's output at a place: that of zeros which are added there."""
        with self._quiet(), torch.enable_grad():
            added = torch.zeros_like(self.activation(place, "clean"), requires_grad=True)
            handle = hand_hook(self.model, place, lambda x: x + added)
            try:
                return torch.autograd.grad(score(call(self.model, self.inputs["clean"])), added)[0]
            finally:
                handle.remove()

    def value(self, place: Place, kind: Any, run: int = 0, counts: Tensor | None = None) -> Tensor | float:
        """Return what stands in for the whole activation, computed from its definition.

        Args:
            counts: of means: which positions of each item count `[items, positions]`.
        """
        if kind is Kind.ZERO:
            return 0.0
        if kind is Kind.RESAMPLE:
            return self.activation(place, "corrupt", run)
        sources = DATASET.get(kind, ("clean",))
        if kind.name.startswith("BATCH"):
            sources = ("corrupt",)  # the batch that the values are taken from, as for resampling
        x = torch.cat([self.activation(place, source, run) for source in sources])
        x = x.to(torch.promote_types(x.dtype, torch.float64))
        axes = (0, *place.positions) if kind.name in ("BATCH_ALL_TOK_MEAN", "MEAN") else (0,)
        if counts is None:
            return x.mean(axes, keepdim=True)
        share = counts.repeat(len(sources), 1).double().reshape(*x.shape[:2], *[1] * (x.ndim - 2))
        return (x * share).sum(axes, keepdim=True) / share.sum(axes, keepdim=True)

    def answer(
        self,
        place: Place | None = None,
        units: Any = None,
        value: Tensor | float = 0.0,
        run: int | Literal["every"] = "every",
    ) -> Tensor:
        """Return the model's answer to the clean inputs with units at a place replaced, by index assignment."""
        runs = iter(range(1000))

        def change(x: Tensor) -> Tensor:
            if next(runs) != run and run != "every":
                return x
            x, new = x.clone(), torch.as_tensor(value).to(x).expand_as(x)
            x = x.contiguous()
            index = (slice(None),) * place.axis + (slice(None) if units is None else units,)
            x[index] = new[index]
            return x

        with self._quiet():
            handle = place and hand_hook(self.model, place, change)
            try:
                return self.case.answer(call(self.model, self.inputs["clean"])).clone()
            finally:
                if handle:
                    handle.remove()


def metric(case: Case) -> Callable[[Tensor, Any], Tensor]:
    """Return a number per item, of a model's answer."""

    def score(answer: Tensor, _batch: Any) -> Tensor:
        flat = case.part(answer).float()
        flat = flat.reshape(len(flat), -1)
        return flat.square().mean(1) + flat[:, 0]

    return score


def state(model: nn.Module) -> list[Any]:
    """Return what a call may not change: modes, hooks, weights and buffers, random numbers."""
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    own = [("forward" in vars(module), module.training) for module in model.modules()]
    tensors = [tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers())]
    return [hooks, own, torch.backends.mha.get_fastpath_enabled(), torch.get_rng_state().tolist(), tensors]


def same_state(a: list[Any], b: list[Any]) -> bool:
    return a[:-1] == b[:-1] and all(torch.equal(x, y) for x, y in zip(a[-1], b[-1], strict=True))
