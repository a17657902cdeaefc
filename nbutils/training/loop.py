"""The training loop itself: the parts of a run, and its state between two steps."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from nbutils import __version__, progress
from nbutils.identity import Identifier
from nbutils.training import checkpoints
from nbutils.training.ensemble import Ensemble
from nbutils.training.objective import Objective, ParameterTerm, Term

if TYPE_CHECKING:
    from nbutils.schedules.timeline import Timeline


class Batches(Protocol):
    """The source of batches. Draws are a function of (seed, block), so a resumed run sees the same ones."""

    block: int  # steps drawn at a time

    def draw(self, seed: int, block: int) -> dict[str, Tensor]:
        """Draw a block of steps for one member: small tensors `[block, ...]`, e.g. indices."""

    def batch(self, drawn: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Turn the draws of one step `[members, ...]` into `input`, `target` and labels `[members, batch, ...]`."""


VALIDATE = "validate "  # begins the name of a term's row that was measured on the validation batch

Step = Callable[[Mapping[str, Tensor], Mapping[str, float]], tuple[Tensor, dict[str, Tensor]]]


class Rule(Protocol):
    """A learning rule other than the gradient of the objective."""

    def bind(self, ensemble: Ensemble, objective: Objective) -> Step:
        """Return a function of a batch and the schedule's values, called once per step.

        It writes the direction of descent to `ensemble.flat.grad`, and returns the total loss
        `[members]` and its parts by name, all detached.
        """

    def select(self, members: Sequence[int]) -> Rule:
        """Return the rule for some of the members."""


@dataclass(frozen=True)
class Failure:
    """A member that left the run: its loss or gradient was not finite at `step`; its weights are those it had there."""

    seed: int
    step: int
    loss: float
    variant: str = ""


@dataclass(frozen=True)
class Validation:
    """A batch to measure losses on during training, in eval mode; it draws nothing and changes nothing.

    Args:
        batch: `input` and `target` `[items, ...]`, and labels `[items]`: the same for all members.
        every: steps between measurements, from step 0; the last step is one as well.

    Raises:
        ValueError: `every` below 1.
    """

    batch: Mapping[str, Tensor]
    every: int = 150

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be 1 or more; got {self.every}")


@dataclass(frozen=True)
class Plan:
    """The parts of a run; the names are those of `nbutils.training.fit.fit`."""

    ensemble: Ensemble
    batches: Batches
    objective: Objective
    timeline: Timeline
    rule: Rule | None
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]
    log_every: int
    validation: Validation | None = None

    def select(self, members: Sequence[int]) -> Plan:
        """Return the run of some of the members."""
        return dataclasses.replace(
            self,
            ensemble=self.ensemble.select(members),
            objective=self.objective.select(members),
            rule=self.rule and self.rule.select(members),
        )

    def identity(self, identifier: Identifier) -> dict[str, Any]:
        """Describe the run as JSON: what must agree for a checkpoint to continue it, the telling parts first.

        Raises:
            UnidentifiedError: a part has no content to tell it by; the message names it.
        """
        ensemble, frame = self.ensemble.__identity__(), self.timeline.frame()
        optimizer = self.optimizer([self.ensemble.flat])
        groups = [
            {name: value for name, value in group.items() if name not in ("params", "lr")}
            | {"params": [tuple(tensor.shape) for tensor in group["params"]]}
            for group in optimizer.param_groups
        ]

        def told(name: str, *parts: object) -> str:
            kind = getattr(parts[0], "__qualname__", type(parts[0]).__qualname__)
            return f"{kind} {identifier.of(parts, name)}"

        return {
            "version": f"nbutils {__version__}, Python {sys.version_info.major}.{sys.version_info.minor}",
            "seeds": list(self.ensemble.seeds),
            "variants": list(self.ensemble.variants),
            "parameters": {name: list(tensor.shape) for name, tensor in self.ensemble.state().items()},
            "dtype": str(self.ensemble.dtype),
            "model": told("model", ensemble["model"], type(self.ensemble)),
            "initial parameters": identifier.of(ensemble["initial parameters"], "initial parameters"),
            "buffers": identifier.of(ensemble["buffers"], "buffers"),
            "builder": told("builder", ensemble["builder"]),
            "batches": told("batches", self.batches),
            "loss": [self.objective.name, told("loss", self.objective.loss)],
            "terms": [
                f"{term.name}@{_place(term)}: {told(term.name, term.loss, term)}" for term in self.objective.terms
            ],
            "objective": told("objective", self.objective),
            "rule": told("rule", self.rule),
            "optimizer": told("optimizer", type(optimizer), groups, self.optimizer),
            "timeline": [len(self.timeline), *frame.columns, identifier.of(frame.to_numpy(), "timeline")],
            "log_every": self.log_every,
        } | ({} if self.validation is None else {"validation": told("validation", self.validation)})


class Loop:
    """The state of a run between two steps: the content of a checkpoint."""

    def __init__(self, plan: Plan) -> None:
        self.ensemble, self.batches, self.objective = plan.ensemble, plan.batches, plan.objective
        self.timeline, self.log_every, self.validation = plan.timeline, plan.log_every, plan.validation
        self.learn: Step = self._descend if plan.rule is None else plan.rule.bind(plan.ensemble, plan.objective)
        self.optimizer = plan.optimizer([plan.ensemble.flat])
        self.step = 0
        self.failures: list[Failure] = []
        self.rows: list[tuple[int, str, Tensor]] = []  # (step, term, values [members]), made a table at the end

    def run(self, path: Path | None, identity: Mapping[str, Any], every: int, label: str | None) -> None:
        """Train to the end.

        Args:
            path: of the checkpoint, if any.
            identity: of the plan as it was before the loop was made.
            every: steps between checkpoints.
            label: of the progress bar; None for no bar.
        """
        if path and path.exists():
            self._restore(path, identity)
        steps = len(self.timeline)
        # Freeing one large block makes glibc keep what is freed later (its thresholds adapt to the largest) instead of
        # handing each step's buffers back to the system and having them cleared anew: a third of the time otherwise.
        large = torch.empty(24 * 2**20, dtype=torch.uint8)
        del large
        drawn: dict[str, Tensor] = {}
        with progress.bar(steps, label) if label is not None else nullcontext() as bar:
            if bar is not None:
                bar.update(self.step)
            while self.step < steps:
                block, offset = divmod(self.step, self.batches.block)
                if offset == 0 or not drawn:
                    draws = [self.batches.draw(seed, block) for seed in self.ensemble.seeds]
                    drawn = {key: torch.stack([draw[key] for draw in draws], dim=1) for key in draws[0]}
                if self.validation and (self.step % self.validation.every == 0 or self.step == steps - 1):
                    self._validate(self.validation.batch)
                self._train_step({key: value[offset] for key, value in drawn.items()})
                self.step += 1
                if bar is not None:
                    bar.update(1)
                if path and (self.step % every == 0 or self.step == steps):
                    self._save(path, identity)

    def _train_step(self, drawn: dict[str, Tensor]) -> None:
        weights = self.timeline[self.step]
        batch = self.batches.batch(drawn, self.ensemble.dtype)
        batch = {name: tensor.to(self.ensemble.device) for name, tensor in batch.items()}
        # Batch normalisation changes its buffers on the way forward, before anyone knows that a member failed.
        buffers = {name: buffer.clone() for name, buffer in self.ensemble.buffers.items()}
        total, values = self.learn(batch, weights)
        # A gradient can overflow where the loss did not; either way the weights of this step are the last good ones.
        # Sums first: a finite sum has finite terms, and takes a twentieth of the time of asking each.
        gradient = self.ensemble.flat.grad
        if gradient is None:
            raise ValueError("no gradient to descend along: a rule writes it to `ensemble.flat.grad`")
        finite = total.isfinite() & gradient.sum(1).isfinite()
        if not finite.all():
            finite = total.isfinite() & gradient.isfinite().all(1)
            self._freeze(total, finite)
        frozen = self._frozen()
        weights_before = self.ensemble.flat.detach()[frozen]  # a copy, as a mask makes it
        for group in self.optimizer.param_groups:
            group["lr"] = weights["lr"]
        self.optimizer.step()
        if self.failures:
            self.ensemble.flat.detach()[frozen] = weights_before
            for name, buffer in self.ensemble.buffers.items():
                buffer[frozen] = buffers[name][frozen]
        if self.step % self.log_every == 0 or self.step == len(self.timeline) - 1:
            for name, value in {"total": total, **values}.items():
                self.rows.append((self.step, name, value.detach().double().cpu()))

    def _validate(self, batch: Mapping[str, Tensor]) -> None:
        """Keep the losses on a batch for all members, before this step changes their weights."""
        members, device, dtype = len(self.ensemble), self.ensemble.device, self.ensemble.dtype
        batch = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype).expand(
                members, *tensor.shape
            )
            for name, tensor in batch.items()
        }
        with torch.no_grad():
            output, activations = self.ensemble(batch["input"], self.objective.sites)
            weights = self.timeline[self.step]
            state = self.ensemble.parameters
            total, values = self.objective(output, batch, activations, weights, state, phase="validate")
        for name, value in {"total": total, **values}.items():
            self.rows.append((self.step, f"{VALIDATE}{name}", value.double().cpu()))

    def _descend(self, batch: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        output, activations = self.ensemble(batch["input"], self.objective.sites, training=True)
        total, values = self.objective(output, batch, activations, weights, self.ensemble.parameters)
        self.ensemble.backward(total.masked_fill(self._frozen(), 0.0).sum())
        return total.detach(), values

    def _freeze(self, total: Tensor, finite: Tensor) -> None:
        gone = {(failure.seed, failure.variant) for failure in self.failures}
        for (seed, variant), loss, well in zip(self._names(), total.tolist(), finite.tolist(), strict=True):
            if (seed, variant) not in gone and not well:
                self.failures.append(Failure(seed, self.step, loss, variant))

    def _frozen(self) -> Tensor:
        """Return which members have failed: the optimizer and the forward pass must leave no trace in them."""
        gone = {(failure.seed, failure.variant) for failure in self.failures}
        return torch.tensor([name in gone for name in self._names()], device=self.ensemble.device)

    def _names(self) -> list[tuple[int, str]]:
        return list(zip(self.ensemble.seeds, self.ensemble.variants, strict=True))

    def seed_rows(self) -> list[tuple[int, str, int, str, float]]:
        """Return the history: (seed, variant, step, term, value)."""
        return [
            (seed, variant, step, term, value)
            for step, term, values in self.rows
            for (seed, variant), value in zip(self._names(), values.tolist(), strict=True)
        ]

    def _save(self, path: Path, identity: Mapping[str, Any]) -> None:
        tensors = {f"ensemble/{name}": tensor for name, tensor in self.ensemble.state().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
        if self.rows:
            tensors["history"] = torch.stack([values for _, _, values in self.rows])
        where = {
            "step": self.step,
            "failures": [dataclasses.astuple(failure) for failure in self.failures],
            "history": [(step, term) for step, term, _ in self.rows],
        }
        checkpoints.write(path, tensors, identity, where)

    def _restore(self, path: Path, identity: Mapping[str, Any]) -> None:
        tensors, where = checkpoints.read(path, identity)
        try:
            self._set(tensors, where)
        except (ValueError, KeyError, IndexError, TypeError) as error:  # whole, but not what `_save` writes
            raise checkpoints.CheckpointError(
                f"{path} does not hold this run ({type(error).__name__}: {error}); delete it to start again"
            ) from None

    def _set(self, tensors: dict[str, Tensor], where: dict[str, Any]) -> None:
        self.ensemble.load(_under("ensemble/", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer/", tensors).items():
            if tensor.shape not in ((), self.ensemble.flat.shape):
                raise ValueError(f"{name} is {tuple(tensor.shape)}")
            index, key = name.split("/", 1)
            state.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.step = where["step"]
        self.failures = [Failure(*failure) for failure in where["failures"]]
        self.rows = [(step, str(term), tensors["history"][i]) for i, (step, term) in enumerate(where["history"])]
        steps = [self.step, *(failure.step for failure in self.failures), *(step for step, _, _ in self.rows)]
        if not all(isinstance(step, int) and 0 <= step <= len(self.timeline) for step in steps):
            raise ValueError(f"steps {steps} of {len(self.timeline)}")
        if any(failure.seed not in self.ensemble.seeds for failure in self.failures):
            raise ValueError(f"failures {self.failures}")
        if any(values.shape != (len(self.ensemble),) for _, _, values in self.rows):
            raise ValueError(f"a history of {tuple(tensors['history'].shape)}")


def _place(term: Term | ParameterTerm) -> str:
    return f"{term.site}/{term.label}" if isinstance(term, Term) else "parameters"


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
