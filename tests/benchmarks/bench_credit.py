"""The audit of notebook 04, all layers × 32 directions × 1,024 samples; and an epoch of direct feedback.

One thread on every side; seconds are processor time of this process, so that other work on the machine counts less.
"""

from __future__ import annotations

import time

import torch
from memory import peak_gigabytes

from nbutils.data.labelled import LabelledImages
from nbutils.schedules import Dopesheet, Timeline
from nbutils.training.fit import fit
from studies.credit.audit import signals
from studies.credit.batches import ImageBatches
from studies.credit.feedback import feedback_matrices
from studies.credit.loss import OBJECTIVE, loss_from
from studies.credit.network import ResidualMLP, cast
from studies.credit.perturbation import PerturbationCorrelation, perturbation_correlation, unit_directions
from studies.credit.regimes import Regime, study

SAMPLES, DIRECTIONS, STEP = 1024, 32, 1e-3
TIMED_DIRECTIONS = 4  # the source's loop is timed on these and extrapolated: each direction is the same work
EPOCH, TIMED_STEPS, BATCH = 390, 30, 128


def measure() -> list[dict[str, object]]:
    """Time exact correlations by both exact methods against the source's loop, and the training rules."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure()
    finally:
        torch.set_num_threads(threads)


def _measure() -> list[dict[str, object]]:
    model, inputs, labels = problem()
    audit(model, inputs, labels, "gradient", directions=1)  # imports, first allocations
    audit(model, inputs, labels, "jvp", directions=1)
    backward, ours = min((_timed(lambda: audit(model, inputs, labels, "gradient")) for _ in range(3)), key=_first)
    forward, check = min((_timed(lambda: audit(model, inputs, labels, "jvp")) for _ in range(2)), key=_first)
    loop, rough = _timed(lambda: source_loop(model, inputs, labels, TIMED_DIRECTIONS))
    loop *= DIRECTIONS / TIMED_DIRECTIONS
    apart = max(abs(a - b) for a, b in zip(ours, check, strict=True))
    beside = max(abs(a - b) for a, b in zip(source_loop(model, inputs, labels, 1), rough, strict=True))
    note = f"extrapolated from {TIMED_DIRECTIONS} directions"
    peaks = {
        method: peak_gigabytes(f"import bench_credit as b; b.audit(*b.problem(), {method!r})")
        for method in ("gradient", "jvp")
    }
    seconds = {name: epoch(regime) for name, regime in REGIMES.items()}
    of_epoch = f"extrapolated from {TIMED_STEPS} steps of 2 networks"
    return [
        _row("exact ρ, 4 layers × 32 directions × 1,024, one backward pass", backward, loop, "s", note),
        _row("the same, forward-mode jvp (the independent check)", forward, loop, "s", note),
        _row(
            "largest difference of ρ between the two",
            apart,
            1e-9,
            "",
            f"reference: the limit; fewer directions move the loop's ρ by {beside:.1g}",
        ),
        *(_row(f"peak memory, {name}", peak, 2.0, "GB", "reference: the limit") for name, peak in peaks.items()),
        _row("an epoch of CIFAR-10's size: DFA against BP", seconds["DFA"], seconds["BP"], "s", of_epoch),
        _row("an epoch: DFA against autograd through the whole", seconds["DFA"], epoch(None), "s", of_epoch),
    ]


REGIMES = {"BP": Regime("BP", "backpropagation"), "DFA": Regime("DFA")}


def problem() -> tuple[ResidualMLP, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return ResidualMLP(), torch.randn(SAMPLES, 3072), torch.randint(10, (SAMPLES,))


def audit(model: ResidualMLP, inputs, labels, method: str, directions: int = DIRECTIONS) -> list[float]:
    """Return ρ of direct feedback at every layer."""
    states = signals(model, inputs, labels)
    credits = states.direct(feedback_matrices(0))
    exact = cast(model, torch.float64)
    v = unit_directions(states.hidden[0], directions)
    result = []
    for layer, a in enumerate(credits):
        h, g = states.hidden[layer], states.gradients[layer]
        if method == "gradient":
            found = PerturbationCorrelation.from_gradients(a, g, v)
        else:
            found = perturbation_correlation(h, a, loss_from(exact, layer, labels), directions=v)
        result.append(found.rho)
    return result


@torch.no_grad()
def source_loop(model: ResidualMLP, inputs, labels, directions: int) -> list[float]:
    """Return ρ as the source has it: for each layer and direction two forward passes, in float64."""
    exact = cast(model, torch.float64)
    logits, hidden = exact(inputs.double(), return_hidden=True)
    error = logits.softmax(1)
    error[torch.arange(len(labels)), labels] -= 1
    result = []
    for layer, matrix in enumerate(feedback_matrices(0).double()):
        h, a, loss = hidden[layer], error @ matrix.T, loss_from(exact, layer, labels)
        predicted, actual = [], []
        for _ in range(directions):
            v = torch.randn_like(h)
            v = v / v.norm(dim=1, keepdim=True)
            predicted.append((a * STEP * v).sum(1))
            actual.append(loss(h + STEP * v) - loss(h))
        result.append(torch.corrcoef(torch.stack([torch.cat(predicted), torch.cat(actual)]))[0, 1].item())
    return result


def epoch(regime: Regime | None) -> float:
    """Return the seconds an epoch of 50,000 images takes a network; None: `fit` without a rule."""
    images = LabelledImages(torch.randn(2000, 3, 32, 32), torch.randint(10, (2000,)), "noise")
    ensemble, rule = study(ResidualMLP, [0, 1], [regime or REGIMES["BP"]])
    timeline = Timeline(Dopesheet.from_text(f"STEP,lr,penalty\n0,0.001,0.01\n{TIMED_STEPS - 1},,\n"))
    batches = ImageBatches(images, BATCH)
    work = lambda: fit(ensemble, batches, OBJECTIVE, timeline, rule=rule if regime else None)  # noqa: E731
    return min(_timed(work)[0] for _ in range(2)) * EPOCH / TIMED_STEPS / len(ensemble)


def _timed(work):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _first(pair):
    return pair[0]


def _row(name: str, ours: float, reference: float, unit: str, note: str) -> dict[str, object]:
    return {"name": name, "ours": ours, "reference": reference, "ratio": reference / ours, "unit": unit, "note": note}
