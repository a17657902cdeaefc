"""The one training loop: an ensemble, its batches, an objective, and a schedule."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nbutils import processes, progress
from nbutils.identity import Identifier
from nbutils.training import checkpoints
from nbutils.training.ensemble import Ensemble
from nbutils.training.loop import VALIDATE, Batches, Failure, Loop, Plan, Rule, Validation
from nbutils.training.objective import Objective
from nbutils.training.optimizers import Adam

if TYPE_CHECKING:
    import pandas as pd

    from nbutils.schedules.timeline import Timeline


@dataclass(frozen=True)
class Fit:
    """The result of training.

    Attributes:
        ensemble: the trained ensemble (the one given, trained in place).
        history: tidy: columns seed, step, term, value, variant where the ensemble has variants, and phase where there
            was a validation batch. Terms are losses before weighting, and `total`.
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
    executor: processes.Where = None,
    workers: int | None = None,
    label: str = "training",
    validation: Validation | None = None,
) -> Fit:
    """Train all members by one loop over the timeline's steps.

    Args:
        ensemble: trained in place.
        batches: draws the members' batches.
        objective: loss and scheduled terms.
        timeline: must have a column `lr` and one per term. Step k trains with `timeline[k]`.
        rule: the learning rule; None: the gradient of the objective.
        optimizer: makes an element-wise optimizer for the ensemble's flat parameters `[members, width]`.
        checkpoint: file to resume from, and to write every `every` steps and at the end. It belongs to this run by
            content (`nbutils.identity`). With an executor each worker has its own, named `.part-i-of-n`.
        every, log_every: steps between checkpoints (a killed run loses at most these), and between rows of the history.
        executor: any PEP 3148 executor, given the seeds as `workers` tasks; `"loky"`: one process per core; None: here.
        workers: tasks for the executor; the number of cores by default. One per seed keeps the cores busy to the end.
        label: of the progress bar.
        validation: a batch to measure losses on during training; training is the same with and without it.

    Returns:
        The ensemble, its history, and failed members: frozen at the weights before a NaN or infinite loss or gradient.

    Raises:
        ValueError: the timeline lacks a parameter, two terms have one name, `every` or `log_every` is below 1, the
            executor is not an executor, or part of a run with a checkpoint has no content to tell it by.
        CheckpointError: the checkpoint is damaged or belongs to another run; the first part that differs is named.

    >>> import nbutils as nb, torch
    >>> from nbutils.training.objective import Objective
    >>> class Batches:
    ...     block = 5
    ...     def draw(self, seed, block):
    ...         return {"x": torch.rand(5, 8, 1, generator=torch.Generator().manual_seed(seed + 1000 * block))}
    ...     def batch(self, drawn, dtype):
    ...         return {"input": drawn["x"].to(dtype), "target": 2 * drawn["x"].to(dtype)}
    >>> timeline = nb.Timeline(nb.Dopesheet.from_text("STEP,lr\\n0,0.1\\n99,0.01\\n"))
    >>> found = nb.fit(nb.Ensemble(lambda: torch.nn.Linear(1, 1), [0, 1]), Batches(), Objective(), timeline)
    >>> bool(found.history.value.iloc[-1] < found.history.value.iloc[0])
    True
    """
    _check(objective, timeline, executor, every=every, log_every=log_every)
    plan = Plan(ensemble, batches, objective, timeline, rule, optimizer, log_every, validation)
    if executor is not None:
        return _split(plan, checkpoint, every, executor, workers, label)
    identity = plan.identity(Identifier()) if checkpoint else {}  # refused, if at all, before the work
    loop = Loop(plan)
    loop.run(Path(checkpoint) if checkpoint else None, identity, every, label)
    return Fit(ensemble, _tidy(loop.seed_rows()), tuple(loop.failures))


def _check(objective: Objective, timeline: Timeline, executor: object, **intervals: int) -> None:
    """Raise a ValueError unless terms have names of their own and columns, and intervals are 1 step or more."""
    for name in ("lr", *objective.columns):
        if name not in timeline.parameters:
            raise ValueError(f"the timeline has no column {name!r}; it has {', '.join(timeline.parameters)}")
    names = ["total", objective.name, *(term.name for term in objective.terms)]
    if len(set(names)) < len(names):
        raise ValueError(f"the loss and its terms need names of their own, none of them 'total'; got {names[1:]}")
    for name, number in intervals.items():
        if number < 1:
            raise ValueError(f"{name} must be 1 or more; got {number}")
    processes.check(executor)


def _split(
    plan: Plan,
    checkpoint: str | Path | None,
    every: int,
    executor: processes.Where,
    workers: int | None,
    label: str,
) -> Fit:
    """Train shares of the members as tasks of an executor."""
    members, cores = len(plan.ensemble), os.cpu_count() or 1
    workers = min(workers or cores, members)
    bounds = [members * i // workers for i in range(workers + 1)]
    shares = [range(a, b) for a, b in pairwise(bounds)]
    identifier, tasks = Identifier(), {}
    for share, part in zip(shares, _parts(checkpoint, workers), strict=True):
        some = plan.select(share)
        tasks[share] = some, part, some.identity(identifier) if part else {}, every
    results: dict[range, _Share] = {}
    steps, notes = len(plan.timeline), progress.Notes()

    def done(bar: Any) -> None:
        told = {share: n for share, (_, n, _) in notes.read().items()} | dict.fromkeys(results, steps)
        bar.n = sum(n * len(share) for share, n in told.items())

    with progress.bar(steps * members, f"{label} ({workers} processes)", asks=done) as bar:

        def keep(share: range, outcome: _Share | Exception) -> None:
            if isinstance(outcome, Exception):
                raise outcome
            results[share] = outcome
            done(bar)
            bar.refresh()

        processes.compute(_train_share, tasks, keep, executor, min(workers, cores), notes)
    states, rows, failures = zip(*(results[share] for share in shares), strict=True)
    state = {name: torch.cat([each[name] for each in states]).to(plan.ensemble.device) for name in states[0]}
    plan.ensemble.load(state)
    return Fit(plan.ensemble, _tidy([row for each in rows for row in each]), sum(failures, ()))


_Row = tuple[int, str, int, str, float]  # seed, variant, step, term, value
_Share = tuple[dict[str, Tensor], list[_Row], tuple[Failure, ...]]


def _train_share(plan: Plan, part: Path | None, identity: Mapping[str, Any], every: int) -> _Share:
    """Train some members in a worker; return plain data, which travels cheaper than live objects."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the processes use the cores
    try:
        loop = Loop(plan)
        loop.run(part, identity, every, "training" if progress.is_told() else None)  # the caller shows one bar for all
    finally:
        torch.set_num_threads(threads)  # a thread of the caller's own process is an executor, too
    # Clones, because a view is pickled with all the memory it shares: the whole ensemble, once for every parameter.
    state = {name: tensor.cpu().clone() for name, tensor in plan.ensemble.state().items()}
    return state, loop.seed_rows(), tuple(loop.failures)


def _parts(checkpoint: str | Path | None, workers: int) -> list[Path | None]:
    if checkpoint is None:
        return [None] * workers
    path = Path(checkpoint)
    parts: list[Path | None] = [path.with_name(f"{path.name}.part-{i + 1}-of-{workers}") for i in range(workers)]
    others = sorted(set(path.parent.glob(f"{path.name}.part-*")) - set(parts))
    if others:
        raise checkpoints.CheckpointError(
            f"{others[0]} is from a run with another number of workers than {workers}; use that number, or delete it"
        )
    return parts


def _tidy(rows: Sequence[_Row]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=["seed", "variant", "step", "term", "value"])
    measured = frame["term"].str.startswith(VALIDATE)
    if measured.any():
        frame["phase"] = measured.map({True: "validate", False: "train"})
        frame["term"] = frame["term"].str.removeprefix(VALIDATE)
    return frame if frame["variant"].any() else frame.drop(columns="variant")
