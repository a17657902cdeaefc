import pytest
import torch
from torch import nn

from nbutils.ablation.edits import edits
from nbutils.ablation.sources import src_ablations
from nbutils.ablation.types import AblationType
from nbutils.graphs.edge_sets import run_edge_sets
from nbutils.graphs.patch import patch_edges
from nbutils.graphs.residual import Edge, ResidualGraph, residual_graph
from nbutils.hooks import edit
from nbutils.sites import Site
from studies.circuits.graph import transformer_graph
from studies.circuits.transformer import Transformer


class ResidualMLP(nn.Module):
    """h ← h + f(h), four times, then a norm and a head."""

    def __init__(self, blocks=4):
        super().__init__()
        self.num_blocks = blocks
        self.embed = nn.Linear(6, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(10), nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 10)) for _ in range(blocks)
        )
        self.out_ln = nn.LayerNorm(10)
        self.out_head = nn.Linear(10, 3)

    def forward(self, x):
        h = self.embed(x)
        for block in self.blocks:
            h = h + block(h)
        return self.out_head(self.out_ln(h))


def transformer():
    torch.manual_seed(0)
    model = Transformer(9, 6, layers=2, heads=3, width=12, mlp=16, norm=True).double().eval()
    clean, corrupt = torch.randint(9, (2, 5, 6), generator=torch.Generator().manual_seed(1))
    return model, transformer_graph(model, clean), clean, corrupt


def mlp():
    torch.manual_seed(0)
    model = ResidualMLP().double().eval()
    clean, corrupt = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return model, residual_graph(model, clean, embedding="embed", blocks=4), clean, corrupt


@pytest.fixture(params=[transformer, mlp], ids=["transformer", "mlp"])
def case(request):
    return request.param()


def patched(model, graph, edges, inputs, ablations):
    with torch.no_grad(), patch_edges(model, graph, edges, ablations):
        return model(inputs)


def test_edges_lead_from_what_writes_to_what_reads_after_it():
    _, graph, _, _ = transformer()
    heads = [f"a{layer}.{head}" for layer in (0, 1) for head in range(3)]
    assert list(graph.sources) == ["token", "position", *heads[:3], "m0", *heads[3:], "m1"]
    assert len(graph.destinations) == 2 * 9 + 2 + 1
    # Each block's nine head inputs, its MLP, and the logits read what was written before: 2, 5, 6, 9 and 10 sources.
    assert len(graph.edges) == len(set(graph.edges)) == 9 * 2 + 5 + 9 * 6 + 9 + 10
    assert Edge("a0.2", "a1.0.k") in graph.index
    assert Edge("a0.2", "a0.1.k") not in graph.index
    assert Edge("m1", "m1") not in graph.index
    _, small, _, _ = mlp()
    assert len(small.edges) == 1 + 2 + 3 + 4 + 5
    frame = small.frame(weight=torch.arange(15.0))
    assert list(frame.columns) == ["source", "destination", "source_depth", "destination_depth", "weight"]
    assert (frame.source_depth < frame.destination_depth).all()
    assert frame.destination_depth.max() == 5


def test_nothing_patched_is_the_clean_model_and_everything_the_corrupt_one(case):
    model, graph, clean, corrupt = case
    ablations = src_ablations(model, graph.sites, corrupt)
    with torch.no_grad():
        whole, other = model(clean), model(corrupt)
    assert torch.equal(patched(model, graph, [], clean, ablations), whole)
    assert torch.allclose(patched(model, graph, graph.edges, clean, ablations), other, atol=1e-10)
    assert (whole - other).abs().max() > 0.1
    assert torch.equal(model(clean), whole)  # no mask outlives its block
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_node_is_all_its_out_edges(case):
    model, graph, clean, corrupt = case
    for kind in (AblationType.RESAMPLE, AblationType.ZERO):
        ablations = src_ablations(model, graph.sites, corrupt, kind)
        for i, (name, site) in enumerate(graph.sources.items()):
            with torch.no_grad(), edit(model, edits([site], ablations[i : i + 1])):
                node = model(clean)
            by_edges = patched(model, graph, graph.out_edges(name), clean, ablations)
            assert torch.allclose(by_edges, node, atol=1e-10)
            some = patched(model, graph, graph.out_edges(name)[:-1], clean, ablations)
            if kind is AblationType.ZERO:  # positions are those of the corrupt input, too
                assert (some - node).abs().max() > 1e-6


def test_an_edge_changes_what_one_destination_reads_of_one_source(case):
    model, graph, clean, corrupt = case
    ablations = src_ablations(model, graph.sites, corrupt)
    own = src_ablations(model, graph.sites, clean)
    names = list(graph.sources)
    read = {}
    for edge in (graph.edges[3], graph.edges[-2]):
        handles = []
        for name, site in graph.destinations.items():
            handles.append(
                model.get_submodule(site.module).register_forward_pre_hook(
                    lambda _m, x, name=name, site=site: read.__setitem__(name, site.select(x[0]))
                )
            )
        with torch.no_grad():
            model(clean)
            before = dict(read)
        for handle in handles:
            handle.remove()
        handles = []
        with torch.no_grad(), patch_edges(model, graph, [edge], ablations):
            for name, site in graph.destinations.items():
                handles.append(
                    model.get_submodule(site.module).register_forward_pre_hook(
                        lambda _m, x, name=name, site=site: read.__setitem__(name, site.select(x[0]))
                    )
                )
            model(clean)
        i = names.index(edge.source)
        assert torch.allclose(read[edge.destination], before[edge.destination] + ablations[i] - own[i], atol=1e-12)
        siblings = [
            name
            for name in graph.destinations
            if name != edge.destination and graph.destination_depth[name] == graph.destination_depth[edge.destination]
        ]
        assert all(torch.equal(read[name], before[name]) for name in siblings)


def test_units_may_be_named_in_any_order():
    model, graph, clean, corrupt = transformer()
    sources = dict(sorted(graph.sources.items(), reverse=True))
    destinations = dict(sorted(graph.destinations.items(), reverse=True))
    other = ResidualGraph.trace(model, clean, sources, destinations)
    assert set(other.edges) == set(graph.edges)
    assert list(other.sources) != list(graph.sources)
    values = [src_ablations(model, one.sites, corrupt) for one in (graph, other)]
    for edge in graph.edges[::5]:
        by_both = [patched(model, g, [edge], clean, v) for g, v in zip((graph, other), values, strict=True)]
        assert torch.allclose(*by_both, atol=1e-12)
    with pytest.raises(ValueError, match="as one, or unit by unit"):
        ResidualGraph.trace(model, clean, {"pair": Site("blocks.0.attention.heads", (0, 1), axis=2)}, {})


def test_fractions_interpolate_what_is_read(case):
    model, graph, clean, corrupt = case
    ablations = src_ablations(model, graph.sites, corrupt)
    own = src_ablations(model, graph.sites, clean)
    edge = graph.edges[-1]  # into the last destination, so that its reading is all that changes
    for share in (0.0, 0.25, 1.0):
        some = patched(model, graph, graph.mask([edge]) * share, clean, ablations)
        i = list(graph.sources).index(edge.source)
        mixed = ablations.clone()
        mixed[i] = own[i].lerp(ablations[i], share)
        assert torch.allclose(some, patched(model, graph, [edge], clean, mixed), atol=1e-12)
    assert (patched(model, graph, [edge], clean, ablations) - model(clean)).abs().max() > 1e-3


def test_edge_sets_folded_into_one_forward_are_those_run_alone(case):
    model, graph, clean, corrupt = case
    made = torch.Generator().manual_seed(0)
    masks = (torch.rand(7, len(graph.edges), generator=made) < 0.4).double()
    masks[3] = 0
    for ablations in (
        src_ablations(model, graph.sites, corrupt),
        src_ablations(model, graph.sites, corrupt, AblationType.BATCH_TOKENWISE_MEAN)[:, :1],  # one item for all
    ):
        model.train()
        folded = run_edge_sets(model, graph, masks, clean, ablations, fold=3)
        assert model.training
        model.eval()
        alone = torch.stack([patched(model, graph, mask, clean, ablations) for mask in masks])
        assert folded.shape == (7, *model(clean).shape)
        assert torch.allclose(folded, alone, atol=1e-10)
        assert torch.allclose(folded[3], model(clean), atol=1e-12)  # larger batches may round otherwise
        assert (folded[0] - folded[1]).abs().max() > 1e-3


def test_a_patched_edge_leaks_nothing_of_what_it_replaced():
    """Rounding must not tell two inputs apart: x + (ablated − written) would differ by an ulp."""
    torch.manual_seed(0)
    model = Transformer(3, 4, layers=1, heads=1, width=8).eval()
    one, other = torch.zeros(1, 4, dtype=torch.long), torch.full((1, 4), 2)
    graph = transformer_graph(model, one)
    ablations = src_ablations(model, graph.sites, torch.ones(1, 4, dtype=torch.long))
    edges = graph.out_edges("token")
    answers = [patched(model, graph, edges, x, ablations) for x in (one, other)]
    assert torch.equal(*answers)
    token = [src_ablations(model, graph.sites, x)[0] for x in (one, other)]
    position = src_ablations(model, graph.sites, one)[1]
    leaking = [(written + position) + (ablations[0] - written) for written in token]
    assert not torch.equal(*leaking)


def test_unknown_and_impossible_edges_are_named_with_the_nearest(case):
    model, graph, clean, corrupt = case
    ablations = src_ablations(model, graph.sites, corrupt)
    first, last = next(iter(graph.sources)), next(iter(graph.destinations))
    for edges, error, text in (
        ([("m7", "logits")], KeyError, "no source 'm7'; nearest: m"),
        ([("m0", "logit")], KeyError, "no destination 'logit'; nearest: logits"),
        ([("m1", last)], ValueError, f"no edge m1 → {last}.*nearest: .*{last}"),
        (torch.zeros(3), ValueError, f"each of {len(graph.edges)} edges"),
        (torch.full((len(graph.edges),), 1.5), ValueError, r"in \[0, 1\]"),
        (torch.full((len(graph.edges),), torch.nan), ValueError, r"in \[0, 1\]"),
    ):
        with pytest.raises(error, match=text), patch_edges(model, graph, edges, ablations):
            pass
    with pytest.raises(ValueError, match="a row for each"), patch_edges(model, graph, [], ablations[1:]):
        pass
    with pytest.raises(ValueError, match="expected"), patch_edges(model, graph, graph.edges, ablations[:, :4]):
        model(clean)
    with pytest.raises(KeyError, match=f"nearest: .*{first}"):
        graph.out_edges(first + "s")
    with pytest.raises(ValueError, match="one value for each"):
        graph.frame(weight=[1.0])
    with pytest.raises(ValueError, match="fold must be 1"):
        run_edge_sets(model, graph, graph.mask([])[None], clean, ablations, fold=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_graph_that_is_not_the_model_is_refused():
    model, _, clean, _ = mlp()
    with pytest.raises(ValueError, match=r"'m1' must read the sum.*is a source missing"):
        ResidualGraph.trace(
            model,
            clean,
            {"e": Site("embed"), "m1": Site("blocks.1")},
            {"m1": Site("blocks.1"), "logits": Site("out_ln")},
        )
    with pytest.raises(ValueError, match=r"'logits' must read the sum"):  # what the last norm puts out is no stream
        residual_graph(model, clean, embedding="embed", blocks=4, head="out_head")
    with pytest.raises(KeyError, match=r"nearest: blocks\.3"):
        residual_graph(model, clean, embedding="embed", blocks=5)
    with pytest.raises(ValueError, match="two sources are called 'x0'"):
        ResidualGraph.trace(model, clean, {"x{}": Site("embed"), "x0": Site("embed", 0)}, {})
    with pytest.raises(ValueError, match="ran 0 times"):
        model.spare = nn.Linear(10, 10).double()
        ResidualGraph.trace(model, clean, {"spare": Site("spare")}, {})


def test_one_item_does_not_stand_for_all_that_were_ablated(case):
    model, graph, clean, corrupt = case
    with pytest.raises(ValueError, match=r"ablations are of 5 items, where .* reads 1 for each edge set"):
        patched(model, graph, graph.edges, clean[:1], src_ablations(model, graph.sites, corrupt))


def test_a_reader_that_is_left_out_is_noticed_though_what_comes_after_hides_it(case):
    model, graph, clean, _ = case
    kept = {name: site for name, site in graph.destinations.items() if name not in ("a1.0.k", "m2")}
    assert len(kept) == len(graph.destinations) - 1
    with pytest.raises(
        ValueError, match=r"replaced where the destinations read it, .* something else reads the stream"
    ):
        ResidualGraph.trace(model, clean, graph.sources, kept)
    assert ResidualGraph.trace(model, clean, graph.sources, graph.destinations).edges == graph.edges


def test_destinations_that_lie_in_each_other_are_refused():
    model = ResidualMLP()
    sources = {"embedding": Site("embed"), **{f"m{i}": Site(f"blocks.{i}") for i in range(4)}}
    blocks = {f"m{i}": Site(f"blocks.{i}") for i in range(4)}
    ends = {**blocks, "logits": Site("out_ln")}

    def traced(more, way):
        return ResidualGraph.trace(model, torch.randn(5, 6, 6), sources, {**more, **ends}, through=way)

    with pytest.raises(ValueError, match="'again' and 'm1' are one destination, or lie in each other"):
        ResidualGraph.trace(model, torch.randn(5, 6, 6), sources, {**ends, "again": blocks["m1"]})
    way = {"first": "blocks.0.0", "second": "blocks.0.0"}
    ends.pop("m0")
    halves = {"first": Site("blocks.0.1", range(8), -1), "second": Site("blocks.0.1", range(8, 16), -1)}
    assert len(traced(halves, way).edges) == 1 + 1 + 2 + 3 + 4 + 5
    with pytest.raises(ValueError, match="'second' and 'first' are one destination"):
        traced({**halves, "second": Site("blocks.0.1", range(7, 16), -1)}, way)
    with pytest.raises(ValueError, match=r"'first' reads through 'blocks.0.0', which is a destination itself, 'norm'"):
        traced({**halves, "norm": Site("blocks.0.0")}, way)


def test_edges_can_be_ablated_at_some_places_alone():
    """What is read elsewhere is what is written in this run, after patches: not what the clean model writes."""
    model, graph, clean, corrupt = transformer()
    ablations = src_ablations(model, graph.sites, corrupt)
    with torch.no_grad():
        whole = model(clean)
    everywhere = torch.ones(1, 6, dtype=torch.bool)
    last = everywhere & (torch.arange(6) == 5)
    into_logits = [edge for edge in graph.edges if edge.destination == "logits"]

    def at(edges, where):
        with torch.no_grad(), patch_edges(model, graph, edges, ablations, where=where):
            return model(clean)

    assert torch.equal(at(graph.edges, everywhere), patched(model, graph, graph.edges, clean, ablations))
    assert torch.equal(at(graph.edges, ~everywhere), whole)
    some = at(into_logits, last)
    assert torch.equal(some[:, :5], whole[:, :5])
    assert torch.equal(some[:, 5], patched(model, graph, into_logits, clean, ablations)[:, 5])
    early = at([edge for edge in graph.edges if edge.destination.startswith("a0")], everywhere & ~last)
    assert (early[:, 5] - whole[:, 5]).abs().max() > 1e-3  # what was changed before reaches the place that was not
    each = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    masks = torch.stack([torch.zeros(len(graph.edges)), torch.ones(len(graph.edges))])
    folded = run_edge_sets(model, graph, masks, clean, ablations, where=each)
    assert torch.allclose(folded[0], whole, atol=1e-12)
    assert torch.allclose(folded[1], at(graph.edges, each), atol=1e-12)
    with pytest.raises(ValueError, match=r"booleans \(5, 6\); got torch.bool \(6,\)"):
        at(graph.edges, last[0])
