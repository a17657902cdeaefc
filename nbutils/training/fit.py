"""The one training loop: an ensemble, its batches, an objective, and a schedule."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from nbutils import progress
from nbutils.processes import pool
from nbutils.training import checkpoints
from nbutils.training.ensemble import Ensemble
from nbutils.training.objective import Objective, ParameterTerm, Term
from nbutils.training.optimizers import Adam

if TYPE_CHECKING:
    import pandas as pd

    from nbutils.schedules.timeline import Timeline


class Batches(Protocol):
    """Where batches come from. Draws are a function of (seed, block), so a resumed run sees the same ones."""

    block: int  # steps drawn at a time

    def draw(self, seed: int, block: int) -> dict[str, Tensor]:
        """Draw a block of steps for one member: small tensors `[block, ...]`, e.g. indices."""

    def batch(self, drawn: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Turn the draws of one step `[members, ...]` into `input`, `target` and labels `[members, batch, ...]`."""


Step = Callable[[Mapping[str, Tensor], Mapping[str, float]], tuple[Tensor, dict[str, Tensor]]]


class Rule(Protocol):
    """How members learn, where that is not the gradient of the objective.

    Its `repr` must identify it: a checkpoint compares it.
    """

    def bind(self, ensemble: Ensemble, objective: Objective) -> Step:
        """Return a function of a batch and the schedule's values, called once a step.

        It writes what the optimizer is to descend along to `ensemble.flat.grad`, and returns the total loss
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
class Fit:
    """What training returns.

    Attributes:
        ensemble: the trained ensemble (the one given, trained in place).
        history: tidy: columns seed, step, term, value, and variant where the ensemble has variants. Terms are losses
            before weighting, and `total`.
        failures: members whose loss or gradient became NaN or infinite.
    """

    ensemble: Ensemble
    history: pd.DataFrame
    failures: tuple[Failure, ...]


def adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    """Return Adam with PyTorch's defaults; the learning rate is the schedule's."""
    return Adam(parameters, lr=0.0, fused=True)


def fit(
    ensemble: Ensemble,
    batches: Batches,
    objective: Objective,
    timeline: Timeline,
    *,
    rule: Rule | None = None,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] = adam,
    checkpoint: str | Path | None = None,
    every: int = 250,
    log_every: int = 10,
    executor: Executor | Literal["loky"] | None = None,
    workers: int | None = None,
    label: str = "training",
) -> Fit:
    """Train all members by one loop over the timeline's steps.

    Args:
        ensemble: trained in place.
        batches: draws the members' batches.
        objective: loss and scheduled terms.
        timeline: must have a column `lr` and one a term. Step k trains with `timeline[k]`.
        rule: how members learn; None: by the gradient of the objective.
        optimizer: makes an element-wise optimizer for the ensemble's flat parameters `[members, width]`.
        checkpoint: file to resume from if it is there, and to write every `every` steps and at the end. With an
            executor each worker has its own, with `.part-i-of-n` in the name.
        every: steps between checkpoints; a killed run loses at most this many.
        log_every: steps between rows of the history.
        executor: any PEP 3148 executor splits the seeds over `workers` tasks; `"loky"` makes one process a core of
            this machine. None trains here.
        workers: tasks for the executor; the number of cores by default. One a seed keeps the cores busy to the end
            where members gain nothing from each other (see `Ensemble`).
        label: of the progress bar.

    Returns:
        The ensemble, its history, and members that failed. A member whose loss or gradient is NaN or infinite is
        frozen at the weights it had, and the others go on.

    Raises:
        ValueError: the timeline lacks a parameter, two terms have one name, `every` or `log_every` is below 1, the
            executor is none, or the run cannot be described in a checkpoint.
        CheckpointError: the checkpoint is damaged or belongs to another run.
    """
    for name in ("lr", *(term.name for term in objective.terms)):
        if name not in timeline.parameters:
            raise ValueError(f"the timeline has no column {name!r}; it has {', '.join(timeline.parameters)}")
    names = ["total", objective.name, *(term.name for term in objective.terms)]
    if len(set(names)) < len(names):
        raise ValueError(f"the loss and its terms need names of their own, none of them 'total'; got {names[1:]}")
    for name, number in (("every", every), ("log_every", log_every)):
        if number < 1:
            raise ValueError(f"{name} must be 1 or more; got {number}")
    if not (executor is None or executor == "loky" or hasattr(executor, "submit")):
        raise ValueError(f"executor must be None, 'loky' or a PEP 3148 executor; got {executor!r}")
    if executor is None:
        loop = _Loop(ensemble, batches, objective, timeline, rule, optimizer, log_every)
        return loop.run(Path(checkpoint) if checkpoint else None, every, label)
    workers = min(workers or os.cpu_count() or 1, len(ensemble))
    if executor == "loky":
        executor = pool(min(workers, os.cpu_count() or 1))
    bounds = [len(ensemble) * i // workers for i in range(workers + 1)]
    shares = [list(range(a, b)) for a, b in pairwise(bounds)]
    parts = _parts(checkpoint, workers)
    tasks = [
        executor.submit(
            _train_share,
            ensemble.select(share),
            batches,
            objective.select(share),
            timeline,
            None if rule is None else rule.select(share),
            optimizer,
            part,
            every,
            log_every,
        )
        for share, part in zip(shares, parts, strict=True)
    ]
    with progress.bar(len(ensemble), f"{label} ({workers} processes)") as bar:
        results = []
        for task, share in zip(tasks, shares, strict=True):
            results.append(task.result())
            bar.update(len(share))
    state = {name: torch.cat([result[0][name] for result in results]) for name in results[0][0]}
    ensemble.load({name: tensor.to(ensemble.device) for name, tensor in state.items()})
    history = _tidy([row for result in results for row in result[1]])
    return Fit(ensemble, history, tuple(failure for result in results for failure in result[2]))


def _train_share(ensemble, batches, objective, timeline, rule, optimizer, part, every, log_every):
    """Train some members in a worker; return plain data, which travels cheaper than live objects."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the processes use the cores
    try:
        loop = _Loop(ensemble, batches, objective, timeline, rule, optimizer, log_every)
        loop.run(part, every, label=None)  # the caller shows one bar for all
    finally:
        torch.set_num_threads(threads)  # a thread of the caller's own process is an executor, too
    # Clones, because a view is pickled with all the memory it shares: the whole ensemble, once for every parameter.
    state = {name: tensor.cpu().clone() for name, tensor in ensemble.state().items()}
    return state, loop.seed_rows(), tuple(loop.failures)


def _parts(checkpoint: str | Path | None, workers: int) -> list[Path | None]:
    if checkpoint is None:
        return [None] * workers
    path = Path(checkpoint)
    parts = [path.with_name(f"{path.name}.part-{i + 1}-of-{workers}") for i in range(workers)]
    others = sorted(set(path.parent.glob(f"{path.name}.part-*")) - set(parts))
    if others:
        raise checkpoints.CheckpointError(
            f"{others[0]} is from a run with another number of workers than {workers}; use that number, or delete it"
        )
    return parts


class _Loop:
    """The state of a run between two steps: what a checkpoint holds."""

    def __init__(self, ensemble, batches, objective, timeline, rule, optimizer, log_every) -> None:
        self.ensemble: Ensemble = ensemble
        self.batches: Batches = batches
        self.objective: Objective = objective
        self.timeline: Timeline = timeline
        self.rule: Rule | None = rule
        self.learn: Step = self._descend if rule is None else rule.bind(ensemble, objective)
        self.log_every: int = log_every
        self.optimizer: torch.optim.Optimizer = optimizer([ensemble.flat])
        self.initial = hashlib.sha256(ensemble.flat.detach().cpu().numpy().tobytes()).hexdigest()[:16]
        self.step = 0
        self.failures: list[Failure] = []
        self.rows: list[tuple[int, str, Tensor]] = []  # (step, term, values [members]), made a table at the end

    def run(self, path: Path | None, every: int, label: str | None) -> Fit:
        if path:
            self._identity()  # a run that cannot be described is refused before its work, not after
            if path.exists():
                self._restore(path)
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
                self._train_step({key: value[offset] for key, value in drawn.items()})
                self.step += 1
                if bar is not None:
                    bar.update(1)
                if path and (self.step % every == 0 or self.step == steps):
                    self._save(path)
        return Fit(self.ensemble, _tidy(self.seed_rows()), tuple(self.failures))

    def _train_step(self, drawn: dict[str, Tensor]) -> None:
        weights = self.timeline[self.step]
        batch = self.batches.batch(drawn, self.ensemble.dtype)
        batch = {name: tensor.to(self.ensemble.device) for name, tensor in batch.items()}
        # Batch normalisation changes its buffers on the way forward, before anyone knows that a member failed.
        buffers = {name: buffer.clone() for name, buffer in self.ensemble.buffers.items()}
        total, values = self.learn(batch, weights)
        # A gradient can overflow where the loss did not; either way the weights of this step are the last good ones.
        # Sums first: a finite sum has finite terms, and takes a twentieth of the time of asking each.
        finite = total.isfinite() & self.ensemble.flat.grad.sum(1).isfinite()
        if not finite.all():
            finite = total.isfinite() & self.ensemble.flat.grad.isfinite().all(1)
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
        return [
            (seed, variant, step, term, value)
            for step, term, values in self.rows
            for (seed, variant), value in zip(self._names(), values.tolist(), strict=True)
        ]

    def _identity(self) -> dict[str, object]:
        """Describe the run: everything that must agree for a checkpoint to continue it."""
        frame = self.timeline.frame()
        more = {"variants": self.ensemble.variants} if any(self.ensemble.variants) else {}
        more |= {"rule": _named(self.rule)} if self.rule is not None else {}
        values = hashlib.sha256(frame.to_numpy().tobytes()).hexdigest()[:16]
        return {
            "seeds": self.ensemble.seeds,
            "parameters": {name: list(tensor.shape) for name, tensor in self.ensemble.state().items()},
            "dtype": str(self.ensemble.dtype),
            "model": repr(self.ensemble._template),
            "initial parameters": self.initial,
            "batches": _named(self.batches),
            "loss": f"{self.objective.name}: {_named(self.objective.loss)}",
            "terms": [f"{term.name}@{_place(term)}: {_named(term.loss)}" for term in self.objective.terms],
            "timeline": [len(self.timeline), *frame.columns, values],
            "optimizer": [
                type(self.optimizer).__name__,
                {k: v for k, v in self.optimizer.defaults.items() if k != "lr"},
            ],
            "log_every": self.log_every,
            **more,
        }

    def _save(self, path: Path) -> None:
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
        checkpoints.write(path, tensors, self._identity(), where)

    def _restore(self, path: Path) -> None:
        tensors, where = checkpoints.read(path, self._identity())
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


def _named(thing: object) -> str:
    """Return a name that is the same in the next process.

    Raises:
        ValueError: it has only an address to be told by.
    """
    if isinstance(thing, FunctionType):
        return f"{thing.__module__}.{thing.__qualname__}"
    name = repr(thing)
    if " at 0x" in name:
        raise ValueError(f"a checkpoint cannot name {name}; give it a repr, as a frozen dataclass has")
    return name


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _tidy(rows: Sequence[tuple[int, str, int, str, float]]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=["seed", "variant", "step", "term", "value"])
    return frame if frame["variant"].any() else frame.drop(columns="variant")
