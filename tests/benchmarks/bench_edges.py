"""Edge scores of a transformer of 4 layers × 8 heads × width 128 on 64 prompts, against auto-circuit's way.

One thread on every side; seconds are processor time of this process, so that other work on the machine counts less.
auto-circuit's way is written out here on the same model, because the package needs another: one tensor holds what all
sources wrote, and whatever reads the stream adds to it mask · (ablated − written), of all sources before it, in every
pass. Exact scores take one full pass an edge in it, or as in its ACDC one from the first layer that changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from memory import peak_gigabytes
from torch import Tensor

from nbutils.ablation.sources import src_ablations
from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairBatch, PairLoader, Pairs
from nbutils.graphs.edge_sets import run_edge_sets
from nbutils.graphs.scores import EdgeTask, attribution_scores, evaluate, integrated_gradients, mask_gradients
from studies.circuits.graph import transformer_graph
from studies.circuits.transformer import Transformer

VOCABULARY, LENGTH, PROMPTS = 50, 16, 64
LAYERS, HEADS, WIDTH = 4, 8, 128
EVERY = 2  # exact scores run every other edge
TIMED = 40  # edges that auto-circuit's way is timed on, and extrapolated
STEPS = 8
ROUNDS = 3


def measure() -> list[dict[str, object]]:
    """Time exact patching, attribution and integrated gradients, compare the scores, and read the peak memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [*_exact(), *_gradients(), *_memory()]
    finally:
        torch.set_num_threads(threads)


def task() -> EdgeTask:
    torch.manual_seed(0)
    model = Transformer(VOCABULARY, LENGTH, layers=LAYERS, heads=HEADS, width=WIDTH, mlp=4 * WIDTH, norm=True).eval()
    clean, corrupt = torch.randint(VOCABULARY, (2, PROMPTS, LENGTH), generator=torch.Generator().manual_seed(0))
    loader = PairLoader(Pairs(clean, corrupt, torch.zeros(PROMPTS)), PROMPTS)
    return EdgeTask(model, transformer_graph(model, clean[:2]), loader, AblationType.RESAMPLE, difference)


def difference(logits: Tensor, _batch: PairBatch) -> Tensor:
    """Return the logit of one token over another at the last place."""
    return logits[:, -1, 0] - logits[:, -1, 1]


def exact(case: EdgeTask) -> Tensor:
    """Return the logits with every other edge ablated alone `[sets, items, ...]`."""
    masks = torch.eye(len(case.graph.edges))[::EVERY]
    (batch,) = case.pairs
    return run_edge_sets(case.model, case.graph, masks, batch.clean, case.of(batch))


class Wrapped:
    """Auto-circuit's way: masks at what reads the stream, and one tensor of what all sources wrote in this pass."""

    def __init__(self, case: EdgeTask) -> None:
        self.case, self.model, graph = case, case.model, case.graph
        (batch,) = case.pairs
        self.batch = batch
        self.ablated = src_ablations(case.model, graph.sites, batch.corrupt, stack=True)
        self.clean = src_ablations(case.model, graph.sites, batch.clean, stack=True)
        self.written = self.clean
        self.rows: dict[str, list[int]] = {}
        for i, site in enumerate(graph.sites):
            self.rows.setdefault(site.module, []).append(i)
        self.before: dict[str, int] = {}  # destination's module -> how many sources precede it
        self.place: dict[str, tuple[str, int]] = {}
        units: dict[str, int] = {}
        for name, site in graph.destinations.items():
            self.before[site.module] = sum(edge.destination == name for edge in graph.edges)
            self.place[name] = site.module, site.unit or 0
            units[site.module] = units.get(site.module, 0) + 1
        self.masks = {module: torch.zeros(units[module], count) for module, count in self.before.items()}
        self.streams: list[Tensor] = []

    def at(self, i: int) -> tuple[str, tuple[int, int]]:
        """Return the module and the place in its mask of an edge."""
        edge = self.case.graph.edges[i]
        module, unit = self.place[edge.destination]
        return module, (unit, list(self.case.graph.sources).index(edge.source))

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Wrap what writes and what reads."""
        self.written = self.clean.clone()
        handles = []
        for module, rows in self.rows.items():
            handles.append(self.model.get_submodule(module).register_forward_hook(partial(self._write, rows)))
        for module in self.before:
            handles.append(self.model.get_submodule(module).register_forward_pre_hook(partial(self._read, module)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _write(self, rows: list[int], _module, _inputs, output: Tensor) -> None:
        parts = output.unbind(2) if len(rows) > 1 else [output]
        self.written[rows[0] : rows[-1] + 1] = torch.stack(list(parts))

    def _read(self, name: str, _module, inputs):
        x, count, mask = inputs[0].clone(), self.before[name], self.masks[name]
        change = self.ablated[:count] - self.written[:count]
        heads = x.ndim == 4
        x += torch.einsum("ds,sbpw->bpdw" if heads else "ds,sbpw->bpw", mask, change)
        return (x, *inputs[1:])

    @torch.no_grad()
    def edges(self, chosen: list[int], start: bool = False) -> Tensor:
        """Return the logits with each of some edges ablated alone; with `start`, from the layer of its destination."""
        x, results = self.batch.clean, []
        streams = self._streams()
        with self.patched():
            for i in chosen:
                module, place = self.at(i)
                self.masks[module][place] = 1.0
                if start:
                    layer = int(module.split(".")[1]) if module.startswith("blocks") else LAYERS
                    results.append(self._from(layer, streams[layer]))
                    self.written.copy_(self.clean) if layer < LAYERS else None
                else:
                    results.append(self.model(x))
                self.masks[module][place] = 0.0
        return torch.stack(results)

    def _streams(self) -> list[Tensor]:
        stream = self.model.embedding(self.batch.clean) + self.model.positions(self.batch.clean)
        found = [stream]
        for block in self.model.blocks:
            found.append(block(found[-1]))
        return found

    def _from(self, layer: int, stream: Tensor) -> Tensor:
        for block in self.model.blocks[layer:]:
            stream = block(stream)
        return self.model.unembed(self.model.norm(self.model.unembed_input(stream)))

    def gradient(self, points: list[float]) -> Tensor:
        """Return the gradient of the masks, averaged over points `[edges]`."""
        (batch,) = self.case.pairs
        self.ablated = src_ablations(self.model, self.case.graph.sites, batch.corrupt, stack=True)
        total = {module: torch.zeros_like(mask) for module, mask in self.masks.items()}
        for point in points:
            self.masks = {m: torch.full_like(mask, point).requires_grad_() for m, mask in self.masks.items()}
            with self.patched():
                value = difference(self.model(batch.clean), batch).mean()
            for module, grad in zip(total, torch.autograd.grad(value, list(self.masks.values())), strict=True):
                total[module] += grad / len(points)
        self.masks = {module: torch.zeros_like(mask) for module, mask in self.masks.items()}
        return torch.stack([total[module][place] for module, place in map(self.at, range(len(self.case.graph.edges)))])


def some(case: EdgeTask) -> Tensor:
    """Return the metric with some edges ablated alone, which takes the memory that all of them take."""
    return evaluate(case, torch.eye(len(case.graph.edges))[::20])


def _exact() -> list[dict[str, object]]:
    case = task()
    wrapped = Wrapped(case)
    every = list(range(0, len(case.graph.edges), EVERY))
    chosen = every[:: max(1, len(every) // TIMED)]
    scale = len(every) / len(chosen)
    works: list[Callable[[], Tensor]] = [
        lambda: exact(case),
        lambda: wrapped.edges(chosen),
        lambda: wrapped.edges(chosen, start=True),
    ]
    (ours, logits), (full, plain), (started, _) = _in_turn(works, rounds=1)
    apart = (logits[:: max(1, len(every) // TIMED)] - plain).abs().max().item()
    effect = (logits - logits.mean(0)).abs().max().item()
    note = (
        f"{len(every)} of {len(case.graph.edges)} edges; logits differ by {apart:.1g}, edges move them by {effect:.1g}"
    )
    more = f"extrapolated from {len(chosen)} edges"
    return [
        _row("exact, against a full pass an edge", ours, full * scale, "s", f"{note}; {more}"),
        _row("exact, against a pass from the edge's layer", ours, started * scale, "s", more),
    ]


def _gradients() -> list[dict[str, object]]:
    case = task()
    wrapped = Wrapped(case)
    points = [(i + 0.5) / STEPS for i in range(STEPS)]
    (ours, scores), (theirs, gradient) = _in_turn(
        [lambda: attribution_scores(task_of(case)), lambda: wrapped.gradient([0.0])]
    )
    apart = (scores - gradient).abs().max().item()
    (path, along), (theirs_path, gradient) = _in_turn(
        [lambda: integrated_gradients(task_of(case), steps=STEPS), lambda: wrapped.gradient(points)], rounds=2
    )
    far = (along - gradient).abs().max().item()
    folded, _ = _timed(lambda: mask_gradients(task_of(case), points, fold=STEPS))
    return [
        _row(
            "attribution", ours, theirs, "s", f"scores differ by {apart:.1g}, the largest is {scores.abs().max():.1g}"
        ),
        _row(f"integrated gradients, {STEPS} points", path, theirs_path, "s", f"scores differ by {far:.1g}"),
        _row("integrated gradients, against all points folded", path, folded, "s", "both ours"),
    ]


def task_of(case: EdgeTask) -> EdgeTask:
    """Return a task that has not taken its ablations."""
    return EdgeTask(case.model, case.graph, case.pairs, case.ablation, case.metric)


def _memory() -> list[dict[str, object]]:
    works = {
        "the model and its ablations": "b.task().values",
        "exact": "b.some(b.task())",
        "attribution": "b.attribution_scores(b.task())",
        "integrated gradients": "b.integrated_gradients(b.task(), steps=b.STEPS)",
    }
    wrapped = {
        "exact": "w = b.Wrapped(b.task()); w.edges([0, 1600])",
        "attribution": "b.Wrapped(b.task()).gradient([0.0])",
        "integrated gradients": "b.Wrapped(b.task()).gradient([0.5])",
    }
    peak = {name: peak_gigabytes(f"import bench_edges as b; {work}") for name, work in works.items()}
    theirs = {name: peak_gigabytes(f"import bench_edges as b; {work}") for name, work in wrapped.items()}
    start = peak["the model and its ablations"]
    note = f"whole process; {start:.2f} GB with the model and its ablations alone"
    return [_row(f"peak memory, {name}", peak[name], theirs[name], "GB", note) for name in wrapped]


def _in_turn(works: list[Callable[[], Tensor]], rounds: int = ROUNDS) -> list[tuple[float, Tensor]]:
    times = [[_timed(work) for work in works] for _ in range(rounds)]
    return [min(column, key=lambda run: run[0]) for column in zip(*times, strict=True)]


def _timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _row(name: str, ours: float, reference: float, unit: str, note: str) -> dict[str, object]:
    return {"name": name, "ours": ours, "reference": reference, "ratio": reference / ours, "unit": unit, "note": note}
