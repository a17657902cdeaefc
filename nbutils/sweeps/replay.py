"""Logits with any one unit replaced, for any model: one forward per unit, from what precedes the layer.

Modules that had finished when the layer began give back what they gave the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nbutils.ablation.edits import Replace, edits
from nbutils.hooks import edit, watch
from nbutils.sites import Site

ITEMS = 256

Values = Mapping[str, Tensor]  # module path -> what replaces its output, laid out as `Replay.outputs`; absent: zeros


class Replay:
    """Any model, run again from its middle.

    Attributes:
        least: bytes that one item needs.
    """

    def __init__(self, model: nn.Module, sample: Tensor) -> None:
        self.model = model
        outputs = [run.output for run in _record(model, sample).values() if run.output is not None]
        # Three times: the outputs kept, those of the twins, and what one forward makes.
        self.least = 3 * sum(output.nbytes for output in outputs)

    def plan(self, memory: int) -> int:
        """As `Chain.plan`."""
        return min(ITEMS, memory // max(1, self.least))

    def outputs(self, x: Tensor, paths: Iterable[str]) -> dict[str, Tensor]:
        """Return the outputs of modules, items on the first axis."""
        runs = _record(self.model, x)
        return {path: _once(runs, path)[1] for path in paths}

    def mean(self, total: Tensor) -> Tensor:
        """Return outputs summed over items, the axis kept."""
        return total.sum(0, keepdim=True, dtype=torch.float64)

    def logits(self, x: Tensor, fixed: Sequence[Site], values: Values) -> Tensor:
        """As `Chain.logits`."""
        with edit(self.model, edits(fixed, values or None)):
            return self.model(x)

    def unit_logits(
        self, x: Tensor, sites: Sequence[Site], fixed: Sequence[Site], values: Values
    ) -> Generator[tuple[str, int, Tensor], None, None]:
        """As `Chain.unit_logits`."""
        with edit(self.model, edits(fixed, values or None)):
            runs = _record(self.model, x)
            for site in sites:
                here, output = _once(runs, site.module)
                before = {
                    run.module: run.output
                    for run in runs.values()
                    if run.output is not None and run.reusable and run.finished < here.started
                }
                for unit in site.on(self.model).each(output):
                    part = Replace(values.get(site.module, 0.0), whole=True).at(unit)(unit.select(output))
                    replaced = unit.exchange(output, part)
                    with _answering({**before, here.module: replaced}):
                        logits = self.model(x)
                    yield site.module, unit.indices[0], logits[None]


@dataclass
class _Run:
    """What a module did in one forward pass; times count the starts and ends of modules."""

    module: nn.Module
    calls: int = 0
    started: int = 0
    finished: int = 0
    output: Tensor | None = None
    hooked: bool = False

    @property
    def reusable(self) -> bool:
        return self.calls == 1 and not self.hooked


def _record(model: nn.Module, x: Tensor) -> dict[str, _Run]:
    """Return what every module below the model did; outputs are copies, safe from later in-place operations."""
    clock = iter(range(1 << 62))
    runs: dict[str, _Run] = {}

    def start(run: _Run, *_inputs: object, **_keywords: object) -> None:
        run.calls += 1
        run.started = next(clock)

    def finish(run: _Run, output: object) -> None:
        run.finished = next(clock)
        run.output = output.clone() if isinstance(output, Tensor) else None

    for path, module in model.named_modules():
        if path:
            # A hooked module would run its hooks again on what it gives back: it is run again as a whole instead.
            runs[path] = _Run(module, hooked=bool(module._forward_hooks or module._forward_pre_hooks))
    ends = {path: partial(finish, run) for path, run in runs.items()}
    with watch(model, ends, inputs={path: partial(start, run) for path, run in runs.items()}):
        model(x)
    return runs


def _once(runs: Mapping[str, _Run], path: str) -> tuple[_Run, Tensor]:
    run = runs[path]
    if run.calls != 1 or run.output is None:
        raise ValueError(
            f"{path!r} must run once in a forward pass and put out a tensor, to have its units replaced; "
            f"it ran {run.calls} times"
        )
    return run, run.output


@contextmanager
def _answering(outputs: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Make modules give back an output without running."""

    def answer(output: Tensor) -> Callable[..., Tensor]:
        return lambda *_args, **_kwargs: output.clone()  # what comes after may write into it

    own = {module: vars(module).get("forward") for module in outputs}
    try:
        for module, output in outputs.items():
            module.forward = answer(output)
        yield
    finally:
        for module, forward in own.items():
            del module.forward
            if forward is not None:
                module.forward = forward
