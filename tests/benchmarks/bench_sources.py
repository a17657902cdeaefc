"""Source ablations of a 4-layer transformer against plain hooks, dataset means at 1× and 10× data, folded edge sets.

One thread on every side; the smallest of several times, taken in turn. The plain side registers one forward hook a
source, keeps what it wants of each output, and stacks: what one would write without a library, and what the source
system does.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from memory import peak_gigabytes
from torch import Tensor

from nbutils.ablation.sources import src_ablations
from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairLoader, Pairs
from nbutils.graphs.edge_sets import run_edge_sets
from nbutils.graphs.patch import patch_edges
from nbutils.graphs.residual import ResidualGraph
from studies.circuits.graph import transformer_graph
from studies.circuits.transformer import Transformer

VOCABULARY, LENGTH, BATCH, BATCHES = 50, 24, 32, 4
SMALL, LARGE = 1_000, 10_000  # pairs, whose activations together would take 0.6 and 6 GB
ROUNDS = 7
EDGE_ITEMS = 8


def measure() -> list[dict[str, object]]:
    """Time every ablation type and an edge sweep, and read the peak memory of dataset means."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [*_types(), *_memory(), _folds()]
    finally:
        torch.set_num_threads(threads)


def network(width: int = 64) -> Transformer:
    torch.manual_seed(0)
    return Transformer(VOCABULARY, LENGTH, layers=4, heads=4, width=width, mlp=4 * width, norm=True).eval()


def loader(pairs: int) -> PairLoader:
    made = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(VOCABULARY, (2, pairs, LENGTH), generator=made)
    return PairLoader(Pairs(clean, corrupt, torch.zeros(pairs)), BATCH)


def dataset_mean(pairs: int) -> Tensor:
    data = loader(pairs)
    model = network()
    graph = transformer_graph(model, data.pairs.clean[:1])
    return src_ablations(model, graph.sites, data, AblationType.TOKENWISE_MEAN_CLEAN_AND_CORRUPT, stack=True)


@torch.no_grad()
def plain(model: Transformer, graph: ResidualGraph, data: PairLoader, kind: AblationType) -> Tensor:
    """Return the ablations by one hook a source, means of means included."""
    found: dict[int, Tensor] = {}

    def hook(i: int, site):
        def keep(_module, _inputs, output) -> None:
            part = output if site.unit is None else output.select(site.axis, site.unit)
            repeats = [len(part)] + [1] * (part.ndim - 1)
            if kind is AblationType.RESAMPLE:
                found[i] = part.clone()
            elif kind is AblationType.ZERO:
                found[i] = torch.zeros_like(part)
            elif kind is AblationType.BATCH_ALL_TOK_MEAN:
                found[i] = part.mean((0, 1), keepdim=True).repeat(len(part), part.shape[1], 1)
            elif kind is AblationType.BATCH_TOKENWISE_MEAN:
                found[i] = part.mean(0, keepdim=True).repeat(repeats)
            else:
                mean = part.mean(0, keepdim=True)
                found[i] = found[i] + mean if i in found else mean

        return keep

    handles = [
        model.get_submodule(site.module).register_forward_hook(hook(i, site)) for i, site in enumerate(graph.sites)
    ]
    try:
        if kind.needs != "dataset":
            model(next(iter(data)).clean)
        else:
            runs = [model(inputs) for batch in data for inputs in kind.inputs(batch)]
            found = {i: total / len(runs) for i, total in found.items()}
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([found[i] for i in range(len(graph.sites))])


def _types() -> list[dict[str, object]]:
    model, data = network(), loader(BATCH * BATCHES)
    batch = next(iter(data)).clean
    graph = transformer_graph(model, batch[:1])
    rows = []
    for kind in AblationType:
        sample = data if kind.needs == "dataset" else batch
        ours, reference = _in_turn(
            lambda sample=sample, kind=kind: src_ablations(model, graph.sites, sample, kind, stack=True),
            lambda kind=kind: plain(model, graph, data, kind),
        )
        one, other = src_ablations(model, graph.sites, sample, kind, stack=True), plain(model, graph, data, kind)
        apart = (one - other).abs().max().item()
        note = f"{len(graph.sites)} sources, {BATCH} × {LENGTH} tokens; values differ by {apart:.1g} at most"
        rows.append(_row(f"src_ablations, {kind.name}", 1e3 * ours, 1e3 * reference, "ms", note))
    return rows


def _memory() -> list[dict[str, object]]:
    work = "import bench_sources as b; b.dataset_mean(b.{})"
    small, large = peak_gigabytes(work.format("SMALL")), peak_gigabytes(work.format("LARGE"))
    note = f"ours: {LARGE:,} pairs, reference: {SMALL:,}; ratio 1 is independence"
    return [_row("peak memory of a dataset mean at 10× and 1× data", large, small, "GB", note)]


def _folds() -> dict[str, object]:
    model, data = network(32), loader(EDGE_ITEMS)
    x = data.pairs.clean
    graph = transformer_graph(model, x[:1])
    ablations = src_ablations(model, graph.sites, data.pairs.corrupt, stack=True)
    masks = torch.eye(len(graph.edges))[::4]

    @torch.no_grad()
    def alone() -> Tensor:
        outputs = []
        for mask in masks:
            with patch_edges(model, graph, mask, ablations):
                outputs.append(model(x))
        return torch.stack(outputs)

    ours, reference = _in_turn(lambda: run_edge_sets(model, graph, masks, x, ablations), alone)
    apart = (run_edge_sets(model, graph, masks, x, ablations) - alone()).abs().max().item()
    note = f"{EDGE_ITEMS} prompts; logits differ by {apart:.1g} at most"
    return _row(f"{len(masks)} edge sets folded, against a forward each", ours, reference, "s", note)


def _in_turn(ours: Callable[[], object], reference: Callable[[], object]) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for work, seconds in zip((ours, reference), times, strict=True):
            start = time.process_time()
            work()
            seconds.append(time.process_time() - start)
    return min(times[0]), min(times[1])


def _row(name: str, ours: float, reference: float, unit: str, note: str) -> dict[str, object]:
    return {"name": name, "ours": ours, "reference": reference, "ratio": reference / ours, "unit": unit, "note": note}
