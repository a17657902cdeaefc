import dataclasses

import pytest
import torch
from torch import nn

from nbutils.ablation.running import answer
from nbutils.ablation.sources import batch_src_ablations
from nbutils.ablation.types import AblationType
from nbutils.data.pairs import PairLoader, Pairs
from nbutils.graphs import edge_sets
from nbutils.graphs.patch import patch_edges
from nbutils.graphs.prefix import PrefixWarning
from nbutils.graphs.residual import ResidualGraph
from nbutils.graphs.scores import (
    EdgeTask,
    attribution_scores,
    circuit_masks,
    evaluate,
    exact_scores,
    greedy_pruning,
    greedy_scores,
    integrated_gradients,
    magnitude_scores,
    mask_gradients,
    random_scores,
)
from nbutils.sites import Site
from studies.circuits.answers import answer_accuracy, logit_difference
from studies.circuits.graph import transformer_graph
from studies.circuits.sequences import reversal
from studies.circuits.transformer import Transformer

PROMPTS = reversal(4, 5, count=7)
LOADER = PairLoader(PROMPTS, 3)


@pytest.fixture(params=[AblationType.RESAMPLE, AblationType.ZERO, AblationType.TOKENWISE_MEAN_CLEAN])
def case(request):
    torch.manual_seed(0)
    model = Transformer(5, 4, layers=2, heads=2, width=12).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.6  # further from linear than at the start
    return EdgeTask(model, transformer_graph(model, PROMPTS.clean), LOADER, request.param, logit_difference)


def parts(task):
    return task.model, task.graph, task.pairs, task.values, task.metric


@pytest.mark.parametrize("kind", list(AblationType), ids=str)
def test_a_task_takes_its_values_from_the_inputs_that_are_its_types_own(kind):
    model = Transformer(5, 4, layers=1, heads=2, width=12).eval()
    graph = transformer_graph(model, PROMPTS.clean)
    which = None if kind.needs != "batch" else "corrupt" if kind is AblationType.RESAMPLE else "clean"
    expected = batch_src_ablations(model, graph.sites, LOADER, kind, which)
    task = EdgeTask(model, graph, LOADER, kind, logit_difference)
    assert task.values is task.values  # taken once
    given = EdgeTask(model, graph, LOADER, expected, logit_difference)
    for batch in LOADER:
        assert torch.equal(task.of(batch), expected[batch.key])
        assert given.of(batch) is expected[batch.key]
    assert torch.equal(exact_scores(task), exact_scores(given))
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.pairs = LOADER


def test_the_exact_score_is_the_effect_of_each_edge_alone(case):
    model, graph, loader, ablations, metric = parts(case)
    model.train()
    scores = exact_scores(case, fold=5)
    assert model.training
    for i in (0, len(graph.edges) // 2, len(graph.edges) - 1):
        changes = []
        for batch in loader:
            with torch.no_grad():
                before = metric(model(batch.clean), batch)
                with patch_edges(model, graph, [graph.edges[i]], ablations[batch.key]):
                    changes.append(metric(model(batch.clean), batch) - before)
        assert scores[i].item() == pytest.approx(torch.cat(changes).mean().item(), abs=1e-9)
    assert scores.abs().max() > 1e-2


def test_edge_attribution_is_the_gradient_of_the_mask_at_0(case):
    scores = attribution_scores(case)
    at_0, at_1 = mask_gradients(case, at=[0.0, 1.0])
    assert (scores - at_0).abs().max() < 1e-9  # a gradient by the chain rule, and one by autograd through the patch
    assert (scores - at_1).abs().max() > 1e-3
    graph = case.graph
    for i in (4, 30):  # and the slope of the metric itself
        small = torch.zeros(2, len(graph.edges), dtype=torch.float64)
        small[1, i] = 1e-5
        clean, moved = evaluate(case, small).mean(1)
        assert ((moved - clean) / 1e-5).item() == pytest.approx(scores[i].item(), abs=1e-4)


def test_integrated_gradients_add_up_to_the_whole_difference(case):
    graph = case.graph
    ends = torch.stack([torch.zeros(len(graph.edges)), torch.ones(len(graph.edges))])
    clean, ablated = evaluate(case, ends).mean(1)
    assert integrated_gradients(case, steps=60).sum().item() == pytest.approx((ablated - clean).item(), abs=0.01)
    assert abs(attribution_scores(case).sum() - (ablated - clean)) > 0.05  # one point does not do it
    with pytest.raises(ValueError, match="steps must be 1"):
        integrated_gradients(case, steps=0)


def test_greedy_pruning_is_the_slow_recomputation_one_edge_after_the_other(case):
    model, graph, loader, ablations, metric = parts(case)
    fast, path = greedy_pruning(case, threshold=0.01, fold=6)
    slow, slow_path = greedy_pruning(case, threshold=0.01, fold=1)
    assert torch.equal(fast, slow)
    assert path[["source", "destination", "kept"]].equals(slow_path[["source", "destination", "kept"]])
    assert (path.fall - slow_path.fall).abs().max() < 1e-9
    assert len(path) == len(graph.edges)
    assert 0 < fast.sum() < len(graph.edges)
    gone: list[tuple[str, str]] = []  # by plain patches, without folds and without masks
    for row in path.itertuples():
        values = []
        for edges in (gone, [*gone, (row.source, row.destination)]):
            found = []
            for batch in loader:
                with torch.no_grad(), patch_edges(model, graph, edges, ablations[batch.key]):
                    found.append(metric(model(batch.clean), batch))
            values.append(torch.cat(found).mean().item())
        assert row.fall == pytest.approx(values[0] - values[1], abs=1e-9)
        assert row.kept == (row.fall >= 0.01)
        if not row.kept:
            gone.append((row.source, row.destination))
    assert torch.equal(graph.mask(gone), fast)
    depths = path.destination.map(graph.destination_depth)
    assert depths.is_monotonic_decreasing
    with pytest.raises(ValueError, match="above 0"):
        greedy_pruning(case, threshold=0)


def test_greedy_scores_are_the_thresholds_that_edges_survive(case):
    thresholds = [0.001, 0.01, 0.1]
    scores = greedy_scores(case, thresholds)
    assert set(scores.tolist()) <= {0.0, *thresholds}
    strict, _ = greedy_pruning(case, threshold=0.1)
    assert torch.equal(scores == 0.1, strict == 0)


def test_baselines_know_nothing_of_the_task(case):
    model, graph, *_ = parts(case)
    magnitude = magnitude_scores(case)
    with torch.no_grad():
        norms = model.embedding(PROMPTS.clean).flatten(1).norm(dim=1).mean()
    of_tokens = [magnitude[graph.index[edge]] for edge in graph.out_edges("token")]
    assert all(score.item() == pytest.approx(norms.item()) for score in of_tokens)
    assert len(magnitude.unique()) == len(graph.sources)
    assert torch.equal(random_scores(graph, 1), random_scores(graph, 1))
    assert not torch.equal(random_scores(graph, 1), random_scores(graph, 2))


def test_circuits_keep_the_edges_of_the_largest_scores():
    masks = circuit_masks(torch.tensor([0.1, -3.0, 2.0, 2.0]), [0, 1, 2, 4])
    assert masks.tolist() == [[1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]]
    with pytest.raises(ValueError, match="keeps 0 to 4 edges"):
        circuit_masks(torch.zeros(4), [5])


def test_ablations_of_another_loader_are_refused(case):
    model, graph, loader, ablations, _ = parts(case)
    with pytest.raises(KeyError, match="no ablations for batch 2"):
        exact_scores(EdgeTask(model, graph, loader, {0: ablations[0], 1: ablations[1]}, answer_accuracy))


@pytest.mark.parametrize("metric", [lambda o, b: o.mean(), lambda o, b: o[:1].flatten(1).mean(1), lambda o, b: 1.0])
def test_a_metric_gives_one_number_per_item(metric):
    model = Transformer(10, 5, layers=1, heads=1, width=4)
    task = EdgeTask(model, transformer_graph(model, PROMPTS.clean), LOADER, AblationType.ZERO, metric)
    for score in (exact_scores, attribution_scores, integrated_gradients):
        with pytest.raises(ValueError, match=r"one number per item, shape \(3,\)"):
            score(task)


# From the first place that is patched ---------------------------------------------------------------------------------


class Branch(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm, self.into, self.out = norm, nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, stream):
        return self.out(torch.tanh(self.into(self.norm(stream))))


class Parallel(nn.Module):
    """Two branches a block that read the same stream; one norm for all of them; blocks that put out a tuple."""

    class Block(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.a, self.b = Branch(norm), Branch(norm)

        def forward(self, stream):
            return stream + self.a(stream) + self.b(stream), None

    def __init__(self):
        super().__init__()
        norm = nn.LayerNorm(6)
        self.embed, self.head = nn.Linear(3, 6), nn.Linear(6, 4)
        self.blocks = nn.ModuleList(self.Block(norm) for _ in range(4))

    def forward(self, x):
        stream = self.embed(x)
        for block in self.blocks:
            stream, _ = block(stream)
        stream += 0.0  # in place: what a block gives back must be a copy
        logits = self.head(stream)
        return {"squared": logits**2, "logits": logits}


def parallel_task(**more):
    torch.manual_seed(1)
    model = Parallel().double().eval()
    branches = {f"{letter}{i}": Site(f"blocks.{i}.{letter}", axis=-1) for i in range(4) for letter in "ab"}
    pairs = Pairs(torch.randn(8, 3).double(), torch.randn(8, 3).double(), torch.zeros(8))
    graph = ResidualGraph.trace(
        model, pairs.clean, {"embed": Site("embed"), **branches}, {**branches, "logits": Site("head")}
    )
    return EdgeTask(model, graph, PairLoader(pairs, 5), AblationType.RESAMPLE, lambda o, b: o[:, 0] - o[:, 1], **more)


def one_by_one(task):
    scores = []
    for edge in task.graph.edges:
        changes = []
        for batch in task.pairs:
            with torch.no_grad():
                before = task.measure(answer(task.model, batch.clean), batch)
                with patch_edges(task.model, task.graph, [edge], task.of(batch)):
                    changes.append(task.measure(answer(task.model, batch.clean), batch) - before)
        scores.append(torch.cat(changes).mean())
    return torch.stack(scores)


@pytest.mark.parametrize("fold", [1, 4, None])
def test_what_precedes_the_first_patched_place_is_answered_and_nothing_changes(fold):
    task = parallel_task()
    calls = []
    task.values  # noqa: B018  # taken before calls are counted
    inner = task.model.blocks[0].a.into
    original = inner.forward
    inner.forward = lambda x: calls.append(len(x)) or original(x)
    scores = exact_scores(task, fold=fold)
    del inner.forward
    # A few for the order, the clean runs and the comparisons; not once for each edge and batch.
    assert len(calls) < 25 < 2 * len(task.graph.edges)
    assert (scores - one_by_one(task)).abs().max() < 1e-12
    assert scores.abs().min() > 1e-6


def test_a_transformer_is_answered_as_well(case, monkeypatch):
    monkeypatch.setattr(edge_sets, "WORTH", 1 << 30)
    full, greedy = exact_scores(case), greedy_pruning(case, 0.05)[0]
    monkeypatch.setattr(edge_sets, "WORTH", 1)
    assert (exact_scores(case) - full).abs().max() < 1e-12
    assert torch.equal(greedy_pruning(case, 0.05)[0], greedy)


def test_a_model_that_passes_something_by_is_noticed_and_runs_in_full():
    task = parallel_task()
    first, last, left = task.model.blocks[0], task.model.blocks[3], []
    plain, ending = first.forward, last.forward

    def leave(stream):
        left.append(1.0)  # for the last block, beside what it puts out
        return plain(stream)

    def take(stream):
        out, none = ending(stream)
        return stream + (out - stream) * (left.pop() if left else 7.0), none

    scores = one_by_one(task)
    first.forward, last.forward = leave, take
    with pytest.warns(PrefixWarning, match="outputs differ by .*whole model runs for each edge set"):
        found = exact_scores(task)
    assert (found - scores).abs().max() < 1e-12
    with pytest.MonkeyPatch.context() as patch:  # and without the comparison they would have been wrong
        patch.setattr(edge_sets.EdgeSets, "_check", lambda *_arguments: None)
        assert (exact_scores(task) - scores).abs().max() > 1e-3


def test_a_model_whose_order_depends_on_its_inputs_runs_in_full():
    task = parallel_task()
    block = task.model.blocks[1]

    def either(stream):
        branches = (block.a, block.b) if len(stream) < 4 else (block.b, block.a)
        return stream + sum(branch(stream) for branch in branches), None

    scores = one_by_one(task)
    block.forward = either
    with pytest.warns(PrefixWarning, match="order in which modules run depends on the inputs"):
        assert (exact_scores(task) - scores).abs().max() < 1e-12


def test_a_model_that_mixes_the_items_of_a_batch_answers_to_one_edge_set_at_a_time():
    task = parallel_task()
    plain = task.model.forward

    def mixing(x):  # as what is normalised over a batch
        logits = plain(x)["logits"]
        return {"logits": logits / logits.abs().mean()}

    task.model.forward = mixing
    scores, points = one_by_one(task), [0.1, 0.9]
    with pytest.warns(edge_sets.FoldWarning, match="Parallel mixes the items of a batch"):
        assert (exact_scores(task, fold=4) - scores).abs().max() < 1e-12
    with pytest.warns(edge_sets.FoldWarning):
        assert (mask_gradients(task, points) - mask_gradients(task, points, fold=1)).abs().max() < 1e-12
    with pytest.MonkeyPatch.context() as patch:  # and without the comparison they would have been wrong
        patch.setattr(edge_sets.EdgeSets, "_folded", lambda *arguments: arguments[-1])
        assert (exact_scores(task, fold=4) - scores).abs().max() > 1e-3


def test_memory_bounds_what_is_done_at_a_time_and_changes_nothing():
    task = parallel_task()
    free = exact_scores(task)
    with pytest.raises(
        ValueError, match=r"memory=10 bytes is less than one edge set needs; give at least \d+"
    ) as error:
        exact_scores(task, memory=10)
    least = int(str(error.value).split()[-1])
    for memory in (least, 3 * least, 10 * least):
        assert (exact_scores(task, memory=memory) - free).abs().max() < 1e-12
    with pytest.raises(ValueError, match="fold must be 1 or more; got 0"):
        exact_scores(task, fold=0)


def test_scores_by_gradients_in_inference_mode_and_of_metrics_that_have_none():
    task = parallel_task()
    expected = attribution_scores(task), integrated_gradients(task, steps=2)
    task = parallel_task()
    with torch.inference_mode():
        exact_scores(task)  # takes the task's values
        found = attribution_scores(task), integrated_gradients(task, steps=2)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    right = dataclasses.replace(task, metric=lambda logits, _batch: (logits.argmax(1) == 0).double())
    assert exact_scores(right).abs().max() > 0
    for score in (attribution_scores, integrated_gradients):
        with pytest.raises(ValueError, match="a metric that is a differentiable function of the logits"):
            score(right)


def test_points_on_the_way_one_at_a_time_or_folded(case):
    points = [0.1, 0.5, 0.8]
    assert (mask_gradients(case, points, fold=1) - mask_gradients(case, points, fold=3)).abs().max() < 1e-12
    with pytest.raises(ValueError, match="fold must be 1"):
        mask_gradients(case, points, fold=0)


class Median(AblationType):
    needs = "batch"

    def inputs(self, batch):
        return [batch.corrupt]

    def reduce(self, output, site, where=None):
        return output.median(0, keepdim=True).values


class LargestOfAll(AblationType):
    needs = "dataset"

    def reduce(self, output, site, where=None):
        return output.max(0, keepdim=True).values

    def combine(self, total, part):
        return torch.maximum(total, part)

    def finish(self, total):
        return total


@pytest.mark.parametrize("kind", [Median(), LargestOfAll()], ids=lambda kind: kind.name)
def test_a_type_of_ones_own_in_every_score(kind):
    task = parallel_task()
    task = dataclasses.replace(task, ablation=kind)
    assert (exact_scores(task) - one_by_one(task)).abs().max() < 1e-12
    assert (attribution_scores(task) - mask_gradients(task)[0]).abs().max() < 1e-9
    assert integrated_gradients(task, steps=2).isfinite().all()


def test_the_answer_of_several_can_be_chosen():
    chosen = parallel_task(item="squared")
    assert not torch.allclose(exact_scores(chosen), exact_scores(parallel_task()))
    assert (attribution_scores(chosen) - mask_gradients(chosen)[0]).abs().max() < 1e-9
