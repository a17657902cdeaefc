"""What a sweep would find, predicted from gradients: attribution of units, and the baselines that it must beat."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from nbutils import batches as kinds
from nbutils.ablation.edits import stand_in
from nbutils.ablation.gradients import differentiating
from nbutils.ablation.running import running
from nbutils.ablation.types import AblationType
from nbutils.ablation.values import gather
from nbutils.batches import Batch
from nbutils.hooks import edit
from nbutils.seeding import generator
from nbutils.sites import Site
from nbutils.sweeps.driver import told
from nbutils.sweeps.protocol import Measurement, Metric, Step
from nbutils.sweeps.units import Sites, named_sites

if TYPE_CHECKING:
    import pandas as pd

Method = Literal["gradient", "integrated", "magnitude", "random"]
METHODS: tuple[Method, ...] = ("gradient", "integrated", "magnitude", "random")


def attribute(
    model: nn.Module,
    sites: Sites,
    batches: Iterable[Any],
    metric: Metric | Mapping[str, Metric],
    ablation: AblationType = AblationType.ZERO,
    *,
    method: Method = "gradient",
    steps: int = 8,
    **options: Any,
) -> pd.DataFrame:
    """Predict what `sweep` finds, the change of each metric when each unit is replaced, from a few passes for all.

    `"gradient"`: Σ (replacement − activation) · gradient over a unit's places, at the intact model: the change to first
    order, by one forward pass for all sites and a backward pass for each metric. Molchanov et al. 2016, arXiv
    1611.06440; between inputs Nanda 2023, "Attribution patching".
    `"integrated"`: the same with the gradient averaged on the straight way from the activations to the replacements of
    all rows of a place together, by the midpoint rule. Where rows do not overlap, their sum is, but for the rule's
    error, the change when the place's rows are replaced together; a single row's is its own. Sundararajan et al. 2017,
    arXiv 1703.01365; of a layer Dhamdhere et al. 2018, arXiv 1805.12233.
    `"magnitude"`: the mean size of the unit's activation, and `"random"`: a number in [0, 1). Baselines that know
    neither the metric nor the replacement, without a sign.

    Args:
        model: any module; it runs in eval mode and is left as it was.
        sites, batches, metric, ablation: as for `sweep`; a metric needs a gradient: `nb.accuracy` has none, and that of
            `nb.divergence` is 0 at the intact model, so that only `"integrated"` takes it.
        method: of the four.
        steps: points of `"integrated"`, 1 or more: a forward and a backward pass each for every place and batch.
        options: `inputs`, `reference`, `where` and `output`, as for `sweep`; `seed` of `"random"`.

    Returns:
        The frame of a sweep, row by row: `site`, `unit`, `metric`, `value` (the change that is predicted), `n`.

    Raises:
        KeyError: no such module.
        TypeError: an activation without gradients.
        ValueError: as for `sweep`; a metric without a gradient, or a method that does not exist.

    >>> import nbutils as nb, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False))
    >>> _ = torch.nn.init.eye_(model[0].weight)
    >>> nb.attribute(model, ["0"], [torch.tensor([[1.0, 2, 3]])], lambda output, batch: output.sum(1)).value.tolist()
    [-1.0, -2.0, -3.0]
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(map(repr, METHODS))}; got {method!r}")
    if steps < 1:
        raise ValueError(f"steps must be 1 or more; got {steps}")
    seed = options.pop("seed", 0)
    measurement = Measurement(batches, metric, ablation, **options)
    if method == "gradient" and measurement.against_intact:
        raise ValueError(
            "a divergence from the intact model is least there: its gradient is 0, and predicts nothing; use "
            "method='integrated'"
        )
    with differentiating(model):
        rows = _rows(model, sites, measurement)
        if method in ("gradient", "integrated"):
            return _frame(rows, *_attributed(model, rows, measurement, steps if method == "integrated" else 0))
        if method == "random":
            drawn = torch.rand(len(rows), generator=generator(seed, "random unit scores"), dtype=torch.float64).tolist()
        else:
            drawn = _magnitudes(model, rows, measurement)
        return _frame(rows, dict.fromkeys(measurement.metrics, drawn), _counted(model, measurement))


@dataclass(frozen=True)
class _Row:
    """A unit or a group: its site, the label of the site that it was asked for by, and what the frame says for it."""

    label: Hashable
    site: Site
    shown: int | str


def _rows(model: nn.Module, sites: Sites, measurement: Measurement) -> list[_Row]:
    """Return the rows of a sweep; a site without a unit stands for each of its units."""
    chosen = {label: site.on(model) for label, site in named_sites(sites).items()}
    found: dict[Site, Tensor] = {}
    with running(model, [site.whole for site in chosen.values()], found.__setitem__) as run:
        run(next(measurement.steps()).inputs)
    rows = []
    for label, site in chosen.items():
        tensor = found[site.whole]
        if site.unit is None:
            rows += [_Row(label, unit, unit.indices[0]) for unit in site.each(tensor)]
        else:
            site.count(tensor)
            site = replace(site, axis=site.units_axis(tensor))
            rows.append(_Row(label, site, site.unit if isinstance(site.unit, int) else told(site.unit)))
    return rows


def _attributed(
    model: nn.Module, rows: Sequence[_Row], measurement: Measurement, steps: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the attributions of each metric's mean `[rows]`, and how many items it is the mean of."""
    members: dict[Site, list[Site]] = {}
    for site in dict.fromkeys(row.site for row in rows):
        members.setdefault(site.whole, []).append(site)
    totals = {name: dict.fromkeys((row.site for row in rows), 0.0) for name in measurement.metrics}
    counts = dict.fromkeys(measurement.metrics, 0)
    # Without a way to go, all places at once; else one after the other, the others being as they are.
    goes = [(list(members), 0.0)] if not steps else [([p], (i + 0.5) / steps) for p in members for i in range(steps)]
    fixed = (
        None if measurement.ablation.needs == "batch" else measurement.dataset_values(model, [row.site for row in rows])
    )
    for step in measurement.steps():
        values = fixed
        if values is None:
            values = gather(
                model, list(members), measurement.ablation, [cast("Batch", step.source)], where=measurement.where
            )
        answers = _Answers(model, measurement, step)
        for n, (places, at) in enumerate(goes):
            shifts = {place: _Shift(place, members[place], values[place], at) for place in places}
            for name, (found, items) in answers.gradients(shifts).items():
                counts[name] += items if not n else 0
                for shift, gradient in zip(shifts.values(), found, strict=True):
                    for site, part in shift.parts(gradient):
                        totals[name][site] += part / max(1, steps)
    means = {name: [totals[name][row.site] / max(1, counts[name]) for row in rows] for name in totals}
    return means, counts


class _Answers:
    """What a model answers to a batch, some way from the activations to their replacements."""

    def __init__(self, model: nn.Module, measurement: Measurement, step: Step) -> None:
        self.model, self.measurement, self.step = model, measurement, step
        self.intact: Tensor | None = None
        if measurement.against_intact:
            with torch.no_grad():
                self.intact = measurement.answer(kinds.run(model, step.inputs), step.items)

    def gradients(self, shifts: Mapping[Site, _Shift]) -> dict[str, tuple[list[Tensor], int]]:
        """Return of each metric its gradient at each place, summed over the items that count, and their number."""
        output = self._output(shifts)
        leaves = [shift.leaf for shift in shifts.values()]
        found = {}
        for name, (values, counts) in self.measurement.evaluate(output, self.step.batch, self.intact).items():
            if output.requires_grad and not values.requires_grad:
                raise ValueError(
                    f"metric {name!r} has no gradient: attribution needs one that changes smoothly, e.g. "
                    "nb.cross_entropy or nb.logit_difference"
                )
            parts: Sequence[Tensor | None] = [None] * len(leaves)
            if values.requires_grad:
                total = values.masked_fill(~counts, 0.0).sum()
                parts = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
            for shift, part in zip(list(shifts.values()), parts, strict=True):
                if part is None:
                    self._check_idle(shift, output.detach())
            zeros = [torch.zeros_like(leaf) if part is None else part for leaf, part in zip(leaves, parts, strict=True)]
            found[name] = zeros, int(counts.sum())
        return found

    def _output(self, shifts: Mapping[Site, _Shift]) -> Tensor:
        for shift in shifts.values():
            shift.ran = 0
        with edit(self.model, shifts):
            output = self.measurement.answer(kinds.run(self.model, self.step.inputs), self.step.items)
        for shift in shifts.values():
            shift.check()
        return output

    def _check_idle(self, shift: _Shift, output: Tensor) -> None:
        """Raise a ValueError where what has no gradient changes the answer all the same."""
        other = _Shift(shift.place, shift.members, shift.value, 1.0)
        if not torch.equal(self._output({shift.place: other}).detach(), output):
            raise ValueError(
                f"from {shift.place.name} to the model's answer there is no gradient, and what lies there changes it: "
                "nothing can be attributed"
            )


class _Shift:
    """Edit at a whole place: some way from the activation to its replacement, with a gradient there."""

    def __init__(self, place: Site, members: Sequence[Site], value: Tensor, share: float) -> None:
        self.place, self.members, self.value, self.share = place, members, value, share
        self.ran = 0
        self.way = self.leaf = torch.empty(0)

    def __call__(self, tensor: Tensor) -> Tensor:
        self.ran += 1
        if not tensor.is_floating_point():
            raise TypeError(f"{self.place.name} is {tensor.dtype}: only floating-point numbers have gradients")
        way = stand_in(self.value.to(tensor), tensor) - tensor.detach()
        if self.share:
            kept = torch.zeros_like(way)  # units that no row replaces stay
            for site in self.members:
                kept = site.exchange(kept, site.select(way))
            way = kept
        self.way = way
        self.leaf = torch.zeros_like(tensor).requires_grad_()
        return tensor + self.share * self.way + self.leaf if self.share else tensor + self.leaf

    def check(self) -> None:
        """Raise a ValueError unless the place was met once."""
        if self.ran != 1:
            raise ValueError(
                f"{self.place.module!r} must run once in a forward pass, so that it is clear which tensor is meant; "
                f"it ran {self.ran} times"
            )

    def parts(self, gradient: Tensor) -> Iterator[tuple[Site, float]]:
        """Yield what falls to each site: the sum of way times gradient over its places."""
        product = (self.way * gradient).double()
        single = [site for site in self.members if isinstance(site.unit, int)]
        if single:  # all units in one reduction
            sums = product.movedim(single[0].units_axis(product), 0).flatten(1).sum(1).tolist()
            yield from ((site, sums[site.indices[0]]) for site in single)
        for site in self.members:
            if not isinstance(site.unit, int):
                yield site, site.select(product).sum().item()


class _Size(AblationType):
    """The mean size over a dataset and its positions."""

    needs = "dataset"

    def reduce(self, output: Tensor, site: Site, where: Tensor | None = None) -> Any:
        return AblationType.MEAN.reduce(output.abs(), site, where)


def _magnitudes(model: nn.Module, rows: Sequence[_Row], measurement: Measurement) -> list[float]:
    wholes = dict.fromkeys(row.site.whole for row in rows)
    inputs = (step.inputs for step in measurement.steps())
    sizes = gather(model, wholes, _Size(), inputs, where=measurement.where)
    return [row.site.select(sizes[row.site.whole]).mean().item() for row in rows]


def _counted(model: nn.Module, measurement: Measurement) -> dict[str, int]:
    """Return how many items count for each metric."""
    counts = dict.fromkeys(measurement.metrics, 0)
    with torch.no_grad():
        for step in measurement.steps():
            output = measurement.answer(kinds.run(model, step.inputs), step.items)
            intact = output if measurement.against_intact else None
            for name, (_, counting) in measurement.evaluate(output, step.batch, intact).items():
                counts[name] += int(counting.sum())
    return counts


def _frame(rows: Sequence[_Row], values: Mapping[str, Sequence[float]], counts: Mapping[str, int]) -> pd.DataFrame:
    import pandas as pd

    found = [
        (row.label, row.shown, name, value[i] if counts[name] else float("nan"), counts[name])
        for i, row in enumerate(rows)
        for name, value in values.items()
    ]
    return pd.DataFrame(found, columns=["site", "unit", "metric", "value", "n"])
