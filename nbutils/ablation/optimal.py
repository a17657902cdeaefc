"""Optimal ablation: the constant with which a model's answers stay closest to its own.

Li and Janson 2024, "Optimal ablation for interpretability", arXiv 2409.09951.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nbutils import batches as kinds
from nbutils.ablation.edits import stand_in
from nbutils.ablation.gradients import differentiating
from nbutils.ablation.running import answer
from nbutils.ablation.types import AblationType, Where, member
from nbutils.ablation.values import gather, mask_of
from nbutils.batches import Batch
from nbutils.data.pairs import PairLoader
from nbutils.hooks import capture, edit
from nbutils.sites import Site
from nbutils.training.optimizers import Adam

Loss = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class Optimal(AblationType):
    """The constant that takes a site's place with the least loss: a* = argmin E[loss(model with a there)].

    Every site has a constant of its own, found with that site alone replaced: a unit a number, a module or a group of
    units (a head) a vector, the same for all items and positions. The search starts at the mean and keeps the best that
    it meets, so on the batches that it is given a constant never loses more than the mean does. It is Adam's, without
    random numbers: the same batches give the same constants.

    Args:
        loss: what the constant is to keep small. `"kl"`: the KL divergence of the answer from the intact model's, for
            logits `[items, classes]` or `[items, positions, classes]`, over the positions that `where` lets count.
            `"squared"`: the squared difference from it, for answers of any shape. Or a callable (answer, batch) -> one
            number per item `[items]`, lower for a better answer; of a `PairLoader` the batch is its `PairBatch`.
        steps: of gradient descent, each over all batches, 0 or more.
        rate: of the first step, in standard deviations of the activation; it falls to 0 by half a cosine.
        tokenwise: a constant for each position, not one for all: batches then must have one length.
        fold: sites of one module that are searched in one forward pass, 1 or more; what they find is the same.

    Raises:
        ValueError: choices out of range.

    >>> import nbutils as nb, torch
    >>> model, x = torch.nn.Identity(), torch.tensor([[0.0], [1.0], [2.0], [3.0], [99.0]])
    >>> median = nb.Optimal(loss=lambda answer, batch: (answer - batch)[:, 0].abs())
    >>> nb.gather(model, [""], median, [x])[""].round().tolist(), nb.gather(model, [""], nb.AblationType.MEAN, [x])[""]
    ([[2.0]], tensor([[21.]]))
    """

    name, value = "OPTIMAL", "optimal"
    needs = "dataset"

    loss: Literal["kl", "squared"] | Loss = "kl"
    steps: int = 100
    rate: float = 0.1
    tokenwise: bool = False
    fold: int = 16

    def __post_init__(self) -> None:
        if self.loss not in ("kl", "squared") and not callable(self.loss):
            raise ValueError(f"loss is 'kl', 'squared' or a callable (answer, batch) -> [items]; got {self.loss!r}")
        if self.steps < 0 or not self.rate > 0 or self.fold < 1:
            raise ValueError(
                f"steps must be 0 or more, rate above 0, fold 1 or more; got {self.steps}, {self.rate}, {self.fold}"
            )

    def fit(
        self, model: nn.Module, sites: Sequence[Site], batches: Sequence[Batch] | PairLoader, where: Where | None
    ) -> dict[Site, Tensor]:
        """Return the constant of each site, `[1, ...]`.

        Raises:
            TypeError: a model that does not answer with one tensor.
            ValueError: an activation of integers, answers or losses that do not fit, or that have no gradient.
        """
        mean = AblationType.TOKENWISE_MEAN_CLEAN if self.tokenwise else AblationType.MEAN
        starts = gather(model, sites, mean, batches, where=where)
        spreads = gather(model, sites, _Spread(self.tokenwise), batches, where=where)
        for site in sites:
            if not starts[site].is_floating_point():
                raise ValueError(f"{site.name} is {starts[site].dtype}: only of floating-point numbers is there a best")
        places: dict[Site, list[Site]] = {}
        for site in sites:
            places.setdefault(site.whole, []).append(site)
        data = _Data(self, batches, where)
        found: dict[Site, Tensor] = {}
        with differentiating(model):
            for whole, here in places.items():
                fold = self.fold if len(here) > 1 and data.follows_the_items(model, whole) else 1
                for first in range(0, len(here), fold):
                    some = here[first : first + fold]
                    search = _Search(self, model, some, [starts[site] for site in some], [spreads[s] for s in some])
                    found |= dict(zip(some, search.best(data), strict=True))
        return found


OPTIMAL = member(Optimal())


@dataclass(frozen=True)
class _Spread(AblationType):
    """The standard deviation, over what the mean is taken over."""

    needs = "dataset"
    tokenwise: bool = False

    def reduce(self, output: Tensor, site: Site, where: Tensor | None = None) -> tuple[Tensor, ...]:
        over = AblationType.TOKENWISE_MEAN_CLEAN if self.tokenwise else AblationType.MEAN
        total, count = over.reduce(output, site, where)
        return total, over.reduce(output.double().square(), site, where)[0], count

    def finish(self, total: tuple[Tensor, ...]) -> Tensor:
        first, second, count = total
        return (second / count - (first / count).square()).clamp(min=0).sqrt()


@dataclass(frozen=True, eq=False)
class _Data:
    """The batches of a search, run through once for every step."""

    kind: Optimal
    batches: Sequence[Batch] | PairLoader
    where: Where | None

    def __iter__(self) -> Iterator[tuple[Batch, Any, Tensor | None]]:
        """Yield inputs, the batch that a loss is told, and which positions count."""
        if isinstance(self.batches, PairLoader):
            for pairs in self.batches:
                for inputs in self.kind.inputs(pairs):
                    yield inputs, pairs, mask_of(self.where, inputs)
        else:
            for batch in self.batches:
                yield batch, batch, mask_of(self.where, batch)

    def follows_the_items(self, model: nn.Module, whole: Site) -> bool:
        """Return whether a place has the items on axis 0, and not one row that all of them share."""
        inputs = next(iter(self))[0]
        with capture(model, whole) as seen, torch.no_grad():
            kinds.run(model, inputs)
        return len(seen[whole]) == kinds.count(inputs)


class _Search:
    """Gradient descent on the constants of some sites of one place, each in a copy of the batch of its own."""

    def __init__(
        self, kind: Optimal, model: nn.Module, sites: list[Site], starts: list[Tensor], spreads: list[Tensor]
    ) -> None:
        self.kind, self.model, self.starts, self.spreads = kind, model, starts, spreads
        self.whole, self.sites = sites[0].whole, [site.on(model) for site in sites]

    def best(self, data: _Data) -> list[Tensor]:
        """Return the best constant of each site."""
        # In standard deviations from the mean: the rate then suits activations of any size.
        moved = [torch.zeros_like(start, dtype=_precise(start.dtype), requires_grad=True) for start in self.starts]
        optimizer = Adam(moved, lr=self.kind.rate, eps=1e-12)  # losses near the least are small, their gradients too
        kept, lowest = list(self.starts), [math.inf] * len(moved)
        for step in range(self.kind.steps + 1):
            with torch.no_grad():
                values = [(a + z * b).to(a.dtype) for a, z, b in zip(self.starts, moved, self.spreads, strict=True)]
            losses, gradients = self._descent([value.requires_grad_() for value in values], data)
            if not step and not all(map(math.isfinite, losses)):
                raise ValueError(f"the loss with the mean at {self.whole.name} is not finite: {losses}")
            for i, loss in enumerate(losses):
                if loss < lowest[i]:
                    kept[i], lowest[i] = values[i].detach(), loss
            for z, spread, gradient in zip(moved, self.spreads, gradients, strict=True):
                z.grad = gradient.to(z) * spread
            optimizer.param_groups[0]["lr"] = (
                self.kind.rate * (1 + math.cos(math.pi * step / (self.kind.steps + 1))) / 2
            )
            optimizer.step()
        return kept

    def _descent(self, values: list[Tensor], data: _Data) -> tuple[list[float], list[Tensor]]:
        """Return the mean loss of each site over all batches, and its gradient."""
        totals, counted = torch.zeros(len(values), dtype=torch.float64), 0
        gradients = [torch.zeros_like(value) for value in values]
        for inputs, told, mask in data:
            losses, count = self._losses(values, inputs, told, mask)
            totals += losses.detach().double().cpu()
            counted += count
            if losses.requires_grad:
                found = torch.autograd.grad(losses.sum(), values, allow_unused=True)
                gradients = [g if f is None else g + f for g, f in zip(gradients, found, strict=True)]
        return (totals / counted).tolist(), [gradient / counted for gradient in gradients]

    def _losses(self, values: list[Tensor], inputs: Batch, told: Any, mask: Tensor | None) -> tuple[Tensor, int]:
        """Return the loss of each site on a batch, summed `[sites]`, and of how many numbers it is the sum."""
        copies, items = len(self.sites), kinds.count(inputs)
        out = self._answer(values, inputs)
        if not out.requires_grad and not torch.equal(out, self._answer(self._aside(values), inputs)):
            raise ValueError(
                f"from {self.whole.name} to the model's answer there is no gradient: no descent is possible"
            )
        if not out.ndim or len(out) != copies * items:
            raise ValueError(f"a model answers with items on axis 0, {copies * items}; it answered {tuple(out.shape)}")
        outs = out.unflatten(0, (copies, items))
        if callable(self.kind.loss):
            parts = torch.stack([_of_items(self.kind.loss(one, told), items) for one in outs])
        else:
            with torch.no_grad():
                intact = answer(self.model, inputs)
            parts = (_divergence if self.kind.loss == "kl" else _difference)(outs, intact)
            if mask is not None and parts.ndim == 3 and parts.shape[1:] == mask.shape:
                parts = parts.masked_fill(~mask.to(parts.device), 0.0)
                return parts.flatten(1).sum(1), int(mask.sum())
        if out.requires_grad and not parts.requires_grad:
            raise ValueError("the loss has no gradient: write it without argmax, detach or item")
        return parts.flatten(1).sum(1), parts[0].numel()

    def _answer(self, values: list[Tensor], inputs: Batch) -> Tensor:
        with edit(self.model, {self.whole: lambda tensor: self._put(tensor, values)}):
            return answer(self.model, kinds.repeat(inputs, len(values)) if len(values) > 1 else inputs)

    def _aside(self, values: list[Tensor]) -> list[Tensor]:
        return [value.detach() + spread for value, spread in zip(values, self.spreads, strict=True)]

    def _put(self, tensor: Tensor, values: list[Tensor]) -> Tensor:
        parts = tensor.chunk(len(values)) if len(values) > 1 else (tensor,)
        replaced = [
            site.exchange(part, stand_in(value.to(part), site.select(part)))
            for site, part, value in zip(self.sites, parts, values, strict=True)
        ]
        return torch.cat(replaced)


def _divergence(outs: Tensor, intact: Tensor) -> Tensor:
    """Return the KL divergence of answers from the intact one: `[sites, items, ..., classes]` -> without classes."""
    if intact.ndim not in (2, 3) or intact.shape[-1] < 2:
        raise ValueError(
            "loss='kl' needs logits, [items, classes] or [items, positions, classes] with two classes or more; the "
            f"model answers {tuple(intact.shape)}: say loss='squared', or a callable (answer, batch) -> [items]"
        )
    log_p, log_q = intact.log_softmax(-1), outs.log_softmax(-1)
    terms = log_p.exp() * (log_p - log_q)
    return torch.where(log_p.isneginf(), 0.0, terms).sum(-1)  # a class that cannot be adds nothing


def _difference(outs: Tensor, intact: Tensor) -> Tensor:
    return (outs - intact).square().flatten(2).sum(2)


def _of_items(losses: object, items: int) -> Tensor:
    if not isinstance(losses, Tensor) or losses.shape != (items,):
        told = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
        raise ValueError(f"a loss gives one number per item, shape ({items},); it gave {told}")
    return losses


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
